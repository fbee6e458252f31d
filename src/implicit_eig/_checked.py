"""The states that a solution is made of, whose tangents and cotangents are checked.

Identities, beside the separation of the eigenpairs and not around it: what its rounding is can be
told only where all that depends on its result meets.
"""

from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from ._compiled import compiled
from .problems._abstract import AbstractProblem, Operators

Eigensolver = Any  # which is made of these


@compiled
def separate(problem: AbstractProblem, state: PyTree) -> PyTree:
    """Return the state of single eigenpairs."""
    return problem.separate(state)


def single(solve: Eigensolver, whole: PyTree) -> PyTree:
    """Return the state of single eigenpairs, whose tangents and cotangents are checked."""
    whole = _checked(whole, solve=solve, forward=True)
    return _checked(separate(solve.problem, whole), solve=solve, forward=False)


@eqx.filter_custom_jvp
def _checked(state: PyTree, *, solve: Eigensolver, forward: bool, seen: bool = False) -> PyTree:
    """Return the state, whose tangent is checked, or whose cotangent is.

    `seen` says that it belongs to a derivative, whose tangents have been checked.
    """
    return state


@_checked.def_jvp
def _checked_jvp(
    primals: Any, tangents: Any, *, solve: Eigensolver, forward: bool, seen: bool = False
) -> tuple[PyTree, PyTree]:
    (state,), (state_dot,) = primals, tangents
    out = _checked(state, solve=solve, forward=forward, seen=True)
    # inside a derivative that has been checked, a Hermitian block has exact tangents at any gap
    if forward and seen and solve.problem.block_is_hermitian:
        return out, state_dot
    return out, _check(solve, state, state_dot, forward, seen)


@compiled
def _check(
    solve: Eigensolver, state: PyTree, state_dot: PyTree, forward: bool, seen: bool
) -> PyTree:
    check, arrays = solve.pairs_check(state)
    if check is None:
        return state_dot
    if forward:
        block_dot = solve.problem.block(state_dot)
        return check.of_tangent(arrays, state, block_dot, state_dot, seen)
    return check.of_cotangent(arrays, state, state_dot)


@eqx.filter_custom_jvp
def shared(whole: PyTree, theta: Operators, *, solve: Eigensolver, again: bool = False) -> PyTree:
    """Return the state that matrix functions are made of, whose second derivatives are checked."""
    return whole


@shared.def_jvp
def _shared_jvp(
    primals: Any, tangents: Any, *, solve: Eigensolver, again: bool = False
) -> tuple[PyTree, PyTree]:
    (whole, theta), (whole_dot, _) = primals, tangents
    if again:
        whole_dot = solve.problem.watch_joint(whole, theta, solve.policy, whole_dot)
    return shared(whole, theta, solve=solve, again=True), whole_dot
