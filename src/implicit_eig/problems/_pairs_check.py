"""What is checked of the pairs of T(λ) x = 0 that a solver returns."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._compiled import compiled
from ..operators import column_norms, scale_columns
from ..policy import describe_condition, tolerance
from ..solution import Solution
from ..systems.matrices import AbstractMatrices

# Rounding of a product is below this many eps of its factors' sizes.
ROUNDING = 1e3
# 1 − |xᵢᴴxⱼ|² below this: one vector given twice.
INDEPENDENCE = 1e-6


@compiled
def normalize(
    solution: Solution,
    norms: Array,
    matrices: AbstractMatrices,
    border: Array,
    near: Array,
    left_scale: float,
) -> tuple[Solution, tuple[Array, ...]]:
    """Return the pairs with left vectors such that VᵀT'(λ)X is `left_scale`, and the figures.

    The vectors are of norm 1 already; `norms` are what they were.
    """
    lam, X = solution.values, solution.vectors
    Y: Any = solution.left_vectors
    finite = jnp.isfinite(lam) & jnp.isfinite(norms) & jnp.all(jnp.isfinite(Y), axis=0)
    given = jnp.any(Y != 0, axis=0)
    left_norms = column_norms(Y)
    V = scale_columns(Y, 1 / jnp.where(left_norms > 0, left_norms, 1)).conj()
    angles = jnp.where(near, V.T @ border, jnp.zeros((), V.dtype))
    paired = ~given | jnp.any(angles != 0, axis=1)
    angles = jnp.where((given & paired)[:, None], angles, jnp.eye(len(lam), dtype=V.dtype))
    sides = ((matrices, X), (matrices.transposed(), V))
    scaled = left_scale * jnp.linalg.solve(angles, V.T).T
    paired = paired & jnp.all(jnp.isfinite(scaled), axis=0)
    solution = Solution(lam, X, scaled.conj())
    figures = (
        jnp.stack([column_norms(T.product(W)) for T, W in sides]),
        jnp.stack([T.scales(W) for T, W in sides]),
        matrices.sizes(X[:, :1]),
        jnp.abs(X.conj().T @ X),
        norms,
        finite,
        lam,
        column_norms(border),
        paired,
        matrices.defects(X),
    )
    return solution, figures


@compiled
def sound(
    rtol: float,
    residual: Array,
    parts: Array,
    size: Array,
    overlaps: Array,
    norms: Array,
    finite: Array,
    lam: Array,
    slopes: Array,
    paired: Array,
    defects: Array,
) -> Bool[Array, ""]:
    """Return True where `InspectPairs` does not object."""
    eps = float(jnp.finfo(residual.dtype).eps)
    allowed = rtol * parts + ROUNDING * eps * size[None, :]
    solved = jnp.all(residual <= allowed)
    twice = jnp.any(_found_twice(allowed[0], slopes, lam, overlaps))
    # NaN is left to the residual
    as_declared = ~jnp.any(defects > tolerance(None, defects.dtype))
    return as_declared & solved & ~twice & jnp.all(finite & (norms > 0) & paired)


def _found_twice(allowed: Any, slopes: Any, lam: Any, overlaps: Any) -> Any:
    """Return which pairs are one vector, with values that the residual test takes for one.

    The residual of the vector of one with the value of the other is |λᵢ − λⱼ| ‖T'(λ)x‖, nearly;
    `slopes` are these norms. NumPy or JAX.
    """
    close = abs(lam[:, None] - lam[None, :]) * slopes[:, None] <= allowed[:, None]
    return close & (1 - overlaps**2 < INDEPENDENCE) & ~np.eye(len(lam), dtype=bool)


class InspectPairs(eqx.Module):
    """Judge what the solver returned."""

    problem: str = eqx.field(static=True)
    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        residual: np.ndarray,
        parts: np.ndarray,
        size: np.ndarray,
        overlaps: np.ndarray,
        norms: np.ndarray,
        finite: np.ndarray,
        lam: np.ndarray,
        slopes: np.ndarray,
        paired: np.ndarray,
        defects: np.ndarray,
    ) -> str | None:
        k = len(norms)
        requirement = f"`eigensolver(problem={self.problem}(k={k}))`: "
        if not finite.all():
            return (
                f"{requirement}finite pairs; got NaN or inf in pair {np.flatnonzero(~finite)[0]}. "
                "Infinite values of a pencil with singular B are no solutions: have the solver "
                "leave them out. `solvers.newton` returns NaN where it does not converge: start "
                "nearer to the pair. Else check the solver's own report of convergence."
            )
        if not (norms > 0).all():
            i = np.flatnonzero(~(norms > 0))[0]
            return f"{requirement}vectors that are not zero; got one for pair {i}."
        for what, found in zip(("linear in x", "holomorphic in λ"), defects, strict=True):
            # NaN is left to the residual
            bad = np.flatnonzero(found > tolerance(None, found.dtype))
            if bad.size:
                return (
                    f"{requirement}a function T(λ, x, *args) that is {what}; got a relative "
                    f"deviation of {found[bad[0]]:.1e} at pair {bad[0]}. Leave out of T what "
                    "does not multiply x, and every conjugate and absolute value of λ and x."
                )
        eps = np.finfo(residual.dtype).eps
        allowed = self.residual_rtol * parts + ROUNDING * eps * size
        for side, r, limit, part in zip(
            ("T(λ) x", "yᴴ T(λ) of a left vector"), residual, allowed, parts, strict=True
        ):
            bad = np.flatnonzero(~(r <= limit))
            if bad.size:
                i = bad[np.argmax(r[bad])]
                return (
                    f"{requirement}pairs with T(λ) x = 0, where T(λ) is A − λB, the polynomial or "
                    f"the function; got ‖{side}‖ = {r[i]:.1e} for pair {i}, above the "
                    f"{limit[i]:.1e} allowed of terms of size {part[i]:.1e} ({bad.size} of {k} "
                    "pairs fail). "
                    "Tighten the solver's tolerance, check that it solves this problem and that "
                    "left vectors are columns y with yᴴA = λ yᴴB, or accept this with "
                    "`Policy(residual_rtol=...)`."
                )
        if not paired.all():
            i = np.flatnonzero(~paired)[0]
            return (
                f"{requirement}left vectors in the order of the values; got yᴴT'(λ)x = 0 for pair "
                f"{i}. Sort them alike."
            )
        twice = np.argwhere(_found_twice(allowed[0], slopes, lam, overlaps))
        if twice.size:
            i, j = np.sort(twice[0])
            return (
                f"{requirement}different pairs; got pairs {i} and {j} with one value and one "
                "vector. Either the solver found one pair twice, or the value is defective "
                "and its vectors have no derivative."
            )
        return None


def inspect_condition(condition: np.ndarray, lam: np.ndarray) -> str | None:
    """Say which value is at an exceptional point, or near one."""
    return describe_condition(
        condition, "`eigensolver(...)`", lambda i: f"for pair {i}, {lam[i]:.6g}"
    )
