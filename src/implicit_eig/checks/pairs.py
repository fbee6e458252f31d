"""Check what a derivative makes of single eigenpairs, in both modes.

Inside a cluster only sums over it have derivatives, and next to one those of single eigenpairs are
inexact. Let F(λ, X) be a function, λ̄ and X̄ its cotangents, M = X̄ᵀX, and i, j two eigenpairs.

- In a cluster λ̄ᵢ ≠ λ̄ⱼ shows that F distinguishes its eigenvalues, or, where F also depends on the
  vectors, that it mixes both, as Σ f(λᵢ) xᵢᴴPxᵢ does.
- Such a mixture is smooth, but its gradient needs f′ times the whole of C = XᴴPX, and λ̄ is f′ times
  the diagonal alone. Where M ∝ C has equal diagonal entries and another that couples them, in a
  basis that a symmetry has chosen, λ̄ᵢ = λ̄ⱼ does not show that F is no mixture. Elsewhere it does.
- Next to a cluster, xᵢ and xⱼ have the error ε = `closeness` relative to what distinguishes them.
  It goes into the gradient with the turn Dᵢⱼ of `gauge_defect`, divided by the gap, and with
  λ̄ᵢ − λ̄ⱼ.
- A tangent shows nothing of F. It shows whether the direction separates a cluster: there λ̇ and Ẋ
  are those of no eigenpair, and a function of single ones is wrong, while a sum over the cluster is
  right. Next to a cluster all is inexact, because the vectors' turn is large, even if F cancels it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..operators import diagonal
from .clusters import as_one, loose
from .cotangents import look, watch
from .gauge import EXCUSE, Dependence, differences, distance
from .policy import Objection, Policy, enforce, gauge_check
from .rounding import PRODUCT, VALUE

# Diagonal entries of M count as equal up to this fraction of the entry that couples them.
ALIGNED = 1e-4
# How much larger than the rest of a gradient the part of two near eigenpairs is, at most, in a
# function that is smooth where they meet.
SMOOTH = 1e3
# The power of eps up to which cotangents count as equal where they are differentiated.
AGAIN = 0.75


class PairsCheck(eqx.Module):
    """The checks of one eigensolver: the problem without its arrays, the policy, a tolerance.

    The state has a block `S`, whose diagonal is the eigenvalues.
    """

    problem: Any = eqx.field(static=True)
    policy: Policy = eqx.field(static=True)
    rtol: float = eqx.field(static=True)

    def of_cotangent(self, arrays: Any, state: PyTree, state_dot: PyTree) -> PyTree:
        """Return the tangent of single eigenpairs, whose cotangent is checked."""
        return watch(_OfCotangent(self), state_dot, (arrays, state))

    def of_cotangent_of_values(self, arrays: Any, state: PyTree, values_dot: Array) -> Array:
        """Return the tangent of the eigenvalues alone, whose cotangent is checked."""
        return watch(_OfCotangentOfValues(self), values_dot, (arrays, state))

    def of_tangent(
        self, arrays: Any, state: PyTree, block_dot: Any, tangent: PyTree, seen: bool = False
    ) -> PyTree:
        """Return `tangent`, checked; `block_dot` is Ṡ, of which a cluster's part is judged.

        Where what depends on it was `seen` to treat clusters alike, only near pairs are judged.
        """
        return look(_OfTangent(self, seen), (tangent, block_dot), (arrays, state))[0]

    def given(self, residuals: Any) -> tuple[Any, Array, Array]:
        """Return the problem, the eigenvalues of the state, and their closeness."""
        arrays, state = residuals
        problem = eqx.combine(arrays, self.problem)
        return problem, problem.solution(state).values, problem.closeness(state)

    def values_bar(self, bar: PyTree, values: Array) -> Array:
        """Return the cotangent of the eigenvalues, 0 where there is none."""
        part = _of_values_in(bar)
        if part is None:
            return jnp.zeros_like(values)
        along = diagonal(part) if part.ndim == 2 else part
        return along if jnp.iscomplexobj(values) else along.real

    def judge(self, bar: PyTree, residuals: Any, again: bool = False) -> PyTree:
        """Return `bar`, if the cotangents of the eigenvalues are equal within clusters.

        Second derivatives divide what distinguishes them by the gap, so `again` forgives less.
        """
        _, values, near = self.given(residuals)
        parts = differences(self.values_bar(bar, values), as_one(near), values)
        least = float(jnp.finfo(near.dtype).eps) ** AGAIN
        rtol = min(self.rtol, least) if again else self.rtol
        check = gauge_check(self.policy, Dependence(of_values, rtol))
        return enforce(check, (*parts, values), bar)

    def of_near(self, bar: PyTree, turn: Any, residuals: Any) -> "NearPairs":
        """Return what near pairs have to do with the gradient."""
        problem, values, near = self.given(residuals)
        n, k = problem.solution(residuals[1]).vectors.shape
        kind = problem.block_is_hermitian, problem.smooth_sums, k == n
        return near_pairs(jnp, near, values, self.values_bar(bar, values), turn, *kind)


def near_pairs(
    xp: Any,
    near: Any,
    values: Any,
    values_bar: Any,
    turn: Any,
    hermitian: bool,
    smooth_sums: bool,
    complete: bool,
) -> "NearPairs":
    """Return what near pairs have to do with a gradient, by `jax.numpy` or NumPy.

    Args:
        xp: one of the two.
        near: the `closeness` of the eigenvalues; shape (k, k).
        values: the eigenvalues; shape (k,).
        values_bar: their cotangents; shape (k,).
        turn: the gauge defect between the eigenpairs, shape (k, k), and the size of X̄.
        hermitian: whether the block of a cluster is Hermitian.
        smooth_sums: whether eigenpairs that meet share a block of the conditions.
        complete: whether k = n.
    """

    def inverse(x: Any) -> Any:
        return xp.where(x > 0, 1 / xp.where(x > 0, x, 1), 0)

    near = xp.where(as_one(near), 0, near)
    gap, spread = _apart(values), xp.max(abs(values))
    defect, size = turn
    real = defect > VALUE * float(xp.finfo(gap.dtype).eps) * size
    turned = xp.where((near > 0) & real, defect * inverse(gap), 0)
    unlike = _apart(values_bar)
    smooth = xp.max(abs(values_bar)) + size * inverse(spread)
    alone = xp.asarray(0.0 if smooth_sums else 1.0, near.dtype)
    # near an exceptional point derivatives have higher powers of the distance
    power = xp.asarray(1.0 if hermitian else 3.0, near.dtype)
    # those beyond the k may be far from a near multiplet of all k: at a distance like |λ|
    others = near * gap * inverse(xp.maximum(gap, abs(values)[:, None]))
    others = xp.zeros_like(near) if complete else xp.where(near > 0, others, xp.inf)
    farthest = xp.min(others, axis=1)
    farthest = xp.where(xp.isfinite(farthest), farthest, 0)
    return NearPairs(near, turned, unlike, smooth, values, alone, farthest, power)


def _apart(x: Any) -> Any:
    """Return |xᵢ − xⱼ|, shape (k, k), in JAX or NumPy."""
    return abs(x[:, None] - x[None, :])


def _of_two(text: Callable[[int, int], str]) -> Callable[..., str]:
    """Return the message of an objection to pairs: `text` of the first two of them, in order."""
    return lambda i, j: text(*sorted((int(i[0]), int(j[0]))))


class NearPairs(NamedTuple):
    """Figures of near eigenpairs, 0 for those of a cluster."""

    near: Any  # their closeness, (k, k)
    turned: Any  # their part of the gradient by a turn of the vectors, (k, k)
    unlike: Any  # and by their own tangents
    smooth: Any  # the rest of it
    values: Any
    alone: Any  # 1 where they share no block of the conditions
    farthest: Any  # closeness to the farthest of the k, or to 0, (k,); 0 where all n are known
    power: Any  # errors of first derivatives, in errors of distances


class _OfCotangent(eqx.Module):
    """Judge the cotangent of single eigenpairs."""

    check: PairsCheck

    def __call__(self, state_bar: PyTree, residuals: Any, absent: PyTree) -> PyTree:
        check, (_, state) = self.check, residuals
        problem, values, near = check.given(residuals)
        # eigenpairs that near ones turn into, by how much, and the size of it
        turn = problem.gauge_defect(state, state_bar, ~as_one(near))
        # marks on what the function does not depend on would be lost
        used = jax.tree.map(lambda leaf, gone: None if gone else leaf, state_bar, absent)
        used = _judge(used, turn, residuals, check=check)
        state_bar = eqx.combine(used, state_bar)
        if absent.S:  # the function does not use the eigenvalues
            return state_bar
        figures = problem.inside(state, state_bar), turn[1], near, values
        return enforce(gauge_check(check.policy, _mixed), figures, state_bar)


class _OfCotangentOfValues(eqx.Module):
    """Judge the cotangent of the eigenvalues alone."""

    check: PairsCheck

    def __call__(self, values_bar: Array, residuals: Any, absent: Any) -> Array:
        none = jnp.zeros((), jnp.finfo(values_bar.dtype).dtype)
        return _judge(values_bar, (none, none), residuals, check=self.check)


class _OfTangent(eqx.Module):
    """Judge the tangent of a block."""

    check: PairsCheck
    seen: bool = eqx.field(static=True)

    def __call__(self, tangents: tuple[PyTree, Array], residuals: Any) -> tuple[PyTree, Array]:
        tangent, S_dot = tangents
        _, values, near = self.check.given(residuals)
        check = gauge_check(self.check.policy, _turning if self.seen else _separating)
        return enforce(check, (S_dot, near, values), tangent), S_dot


@eqx.filter_custom_jvp
def _judge(bar: PyTree, turn: Any, residuals: Any, *, check: PairsCheck) -> PyTree:
    """Return a cotangent of a state or of eigenvalues, judged."""
    bar = check.judge(bar, residuals)
    figures = check.of_near(bar, turn, residuals)
    return enforce(gauge_check(check.policy, inexact), tuple(figures), bar)


# A nonlinear function of a cluster's eigenvalues has second derivatives by the block of the
# cluster, of which the eigenvalues are only the diagonal. Its cotangents are equal, but their
# tangents are not. Of near eigenpairs second derivatives have larger errors than the first.
@_judge.def_jvp
def _judge_jvp(primals: Any, tangents: Any, *, check: PairsCheck) -> tuple[PyTree, PyTree]:
    (bar, turn, residuals), (dot, *_) = primals, tangents
    out = check.judge(_judge(bar, turn, residuals, check=check), residuals, again=True)
    figures = check.of_near(bar, turn, residuals)
    out = enforce(gauge_check(check.policy, _inexact_again), tuple(figures), out)
    if dot is None or not eqx.is_array(_of_values_in(dot)):
        return out, dot
    return out, look(check.judge, dot, residuals)


def _of_values_in(bar: PyTree) -> Any:
    """Return the part of a cotangent that belongs to the eigenvalues, or their block."""
    return bar if eqx.is_array(bar) else bar.S


def _mixed(inside: Any, size: Any, near: Any, values: Any) -> Iterator[Objection]:
    """Object to a function that may mix the eigenvalues and the vectors of a cluster."""
    sizes = abs(inside + inside.conj().T) / 2
    along = inside.diagonal().real
    unlike = _apart(along)
    coupled = as_one(near) & (sizes > PRODUCT * float(jnp.finfo(sizes.dtype).eps) * size)
    found = coupled & (unlike <= ALIGNED * sizes) & ~np.eye(len(sizes), dtype=bool)

    def message(i: int, j: int) -> str:
        return (
            "`jax.grad`, `jax.vjp`: a function of the values or of the vectors of a cluster; got "
            f"one that uses both, of pairs {i} and {j}. {distance(values[[i, j]])} If "
            "it mixes them, as Σ f(λ) x xᴴ does, its gradient lacks a part, and in this basis "
            "the cotangents do not show whether it does. Write it by `matrix_function`, as the "
            f"page Theory of clusters of the documentation says, {EXCUSE}"
        )

    yield Objection(found, _of_two(message))


def _moving(S_dot: Any) -> Any:
    """Return which eigenpairs Ṡ separates, beyond rounding."""
    sizes = abs(S_dot)
    apart = _apart(S_dot.diagonal()) + sizes * (1 - np.eye(len(sizes), dtype=sizes.dtype))
    return apart > PRODUCT * float(jnp.finfo(sizes.dtype).eps) * sizes.max()


def _separating(S_dot: Any, near: Any, values: Any) -> Iterator[Objection]:
    """Object to a direction that separates a cluster, or near eigenpairs."""

    def separated(i: int, j: int) -> str:
        return (
            f"`jax.jvp`: a direction that keeps a cluster together; got one that separates pairs "
            f"{i} and {j}. {distance(values[[i, j]])} The tangents of their single values and "
            "vectors are meaningless; those of sums over the cluster are right. A tangent does "
            "not show what a function makes of it: use reverse mode, which checks that, "
            f"`directional_derivatives`, or `matrix_function`; {EXCUSE}"
        )

    yield Objection(_moving(S_dot) & as_one(near), _of_two(separated))
    yield from _turning(S_dot, near, values)


def _turning(S_dot: Any, near: Any, values: Any) -> Iterator[Objection]:
    """Object to a direction that turns eigenpairs so near that rounding does so, too."""

    def turned(i: int, j: int) -> str:
        return (
            f"`jax.jvp`: pairs {i} and {j} far enough apart; got values that differ by "
            f"{abs(values[i] - values[j]):.1e}. Rounding turns their vectors into each other, "
            f"and the tangent may be wrong by {near[i, j]:.1e} of itself. Use reverse mode, which "
            f"is exact for functions of both, or higher precision, {EXCUSE}"
        )

    close = ~as_one(near) & (near > loose(near.dtype))
    yield Objection(_moving(S_dot) & close, _of_two(turned))


def inexact(
    near: Any,
    turned: Any,
    unlike: Any,
    smooth: Any,
    values: Any,
    alone: Any,
    farthest: Any,
    power: Any,
) -> Iterator[Objection]:
    """Object to a gradient of which near eigenpairs are an inexact part."""
    parts, whole, near = turned + unlike, smooth + turned.max(), power * near

    def message(i: int, j: int) -> str:
        return (
            "`jax.grad`, `jax.vjp`: a function that does not distinguish near pairs; got one that "
            f"distinguishes pairs {i} and {j}, whose values differ by "
            f"{abs(values[i] - values[j]):.1e}. Rounding turns their vectors into each other, and "
            f"the gradient may be wrong by {near[i, j] * parts[i, j] / whole:.1e} of itself. Use a "
            f"function of both pairs together, `matrix_function`, or higher precision, {EXCUSE}"
        )

    def of_others(pairs: Any) -> str:
        i = int(pairs[0])
        return (
            f"`jax.grad`, `jax.vjp`: operators that determine pair {i} well enough; got ones of "
            f"which rounding changes its value {values[i]:.6g} by {farthest[i]:.1e} of the "
            "distance to the farthest of the k or of itself, and so turns its vector into those "
            "beyond the k. The gradient may be wrong by that much of itself, or more. Scale the "
            f"unknowns, use higher precision, {EXCUSE}"
        )

    limit = loose(near.dtype)
    yield Objection((near > limit) & (near * parts > limit * whole), _of_two(message))
    yield Objection((farthest > limit) & (smooth > 0), of_others)


def _inexact_again(
    near: Any,
    turned: Any,
    unlike: Any,
    smooth: Any,
    values: Any,
    alone: Any,
    farthest: Any,
    power: Any,
) -> Iterator[Objection]:
    """Object to second derivatives of which near eigenpairs are an inexact part.

    With a gap g and unit spread, a function of single pairs has second derivatives of size 1/g² or
    1/g³, and with ε = `closeness` the relative error of g an error of 3ε is left, or less. So it is
    of functions of both pairs together. Of one that is smooth where the pairs meet and yet not the
    same in all their bases, the terms of size 1/g² cancel, and ε/g is left; and of all smooth
    functions where the pairs share no block.
    """
    eps = float(jnp.finfo(near.dtype).eps)
    # a smooth function has parts as large as the rest of the gradient, where others have 1/g
    mixing = ((turned > VALUE * eps * smooth) | (alone > 0)) & (turned < SMOOTH * smooth)
    gap, spread = _apart(values), abs(values).max()
    apart = (gap > 0).astype(near.dtype)
    relative = spread * apart / (gap + (1 - apart))
    cancelled = (near + VALUE * eps * relative) * relative
    error = 3 * near + cancelled * mixing.astype(near.dtype)

    def message(i: int, j: int) -> str:
        return (
            "`jax.hessian` and the like: pairs far enough apart; got pairs "
            f"{i} and {j}, whose values differ by {abs(values[i] - values[j]):.1e}, "
            f"and second derivatives that may be wrong by {error[i, j]:.1e} of the gradient. "
            f"Write the function by `matrix_function`, or use higher precision, {EXCUSE}"
        )

    found = (near > 0) & (smooth > 0) & (error > loose(near.dtype))
    yield Objection(found, _of_two(message))


def of_values(i: int, j: int, share: float, rtol: float, values: np.ndarray) -> str:
    """Describe how much a function distinguishes the eigenvalues of a cluster."""
    return (
        "`jax.grad`, `jax.vjp`: a function that treats the values of a cluster alike; got one "
        f"whose derivatives by values {i} and {j} differ by {share:.1e} of the largest. "
        f"{distance(values)} Single values of a cluster have no derivative: use their sum, "
        "`directional_derivatives` or `minimum_norm_subgradient`. A smooth function of them and "
        "their vectors, and for second derivatives any nonlinear one, has one that needs more "
        "than the values: write it by `matrix_function`, as the page Theory of clusters of the "
        f"documentation says, {EXCUSE}"
    )
