"""Newton's method on the conditions of rough eigenpairs, for `refine`, under `jit` too.

Source: Peters & Wilkinson (1979) SIAM Rev. 21, 339.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from ._compiled import compiled
from .checks.policy import Policy, tolerance
from .linear_solvers._solve import linear_solve
from .problems._abstract import AbstractProblem, Operators
from .solution import Solution
from .systems.auto import AutoSystem, suited

SILENT = Policy.unchecked()


def newton(
    problem: AbstractProblem,
    rough: Solution,
    operators: Operators,
    linear_solver: lx.AbstractLinearSolver,
    steps: int,
) -> Solution:
    """Return the eigenpairs after some steps, in the form of a solver's output, unchecked."""
    for _ in range(steps):
        polished = _step(problem, rough, operators, linear_solver)
        rough = dataclasses.replace(polished, _rest=rough._rest)
    return rough


@compiled
def _step(
    problem: AbstractProblem,
    rough: Solution,
    operators: Operators,
    linear_solver: lx.AbstractLinearSolver,
) -> Solution:
    rough = problem.normalize(rough, operators, SILENT)
    # eigenvalues that are equal to within their errors form one cluster
    error = jnp.max(rough.stats["residuals"])
    loose = jnp.maximum(10 * error, tolerance(None, rough.vectors.dtype))
    policy = eqx.tree_at(
        lambda policy: policy.degeneracy_rtol, SILENT, loose, is_leaf=lambda leaf: leaf is None
    )
    state = problem.state(problem.normalize(rough, operators, policy))
    residual = problem.conditions(state, *operators)
    linearised = problem.linearise(state, operators, suited(AutoSystem(), linear_solver)).of_rough()
    solve = lambda system, b: linear_solve(system, b, linear_solver, policy)  # noqa: E731
    step = linearised.tangent(residual, solve)
    state = problem.diagonal(jax.tree.map(jnp.add, state, step))
    return as_returned(problem.solution(state), problem.structure(operators))


def as_returned(solution: Solution | tuple[Any, Any], like: Solution) -> Solution:
    """Return the eigenpairs as a solver would, in the problem's dtypes, unknown left vectors 0."""
    values, vectors = solution
    left, shape = None, like.left_vectors
    if shape is not None:
        left = solution.left_vectors if isinstance(solution, Solution) else None
        left = jnp.zeros(shape.shape) if left is None else jnp.asarray(left)
        left = left.astype(shape.dtype)
    values = jnp.asarray(values).astype(like.values.dtype)
    return Solution(values, jnp.asarray(vectors).astype(like.vectors.dtype), left)
