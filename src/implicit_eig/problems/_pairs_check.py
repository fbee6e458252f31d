"""Checks of the eigenpairs of T(λ) x = 0 that a solver returns."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._compiled import compiled
from ..checks.clusters import loose
from ..checks.policy import Objection, ill_conditioned, tolerance
from ..checks.rounding import PRODUCT
from ..operators import column_norms, column_sums, scale_columns
from ..solution import Solution
from ..systems.matrices import AbstractMatrices
from ._rows import beyond_rows, lost_to_stiff_rows

# 1 − |xᵢᴴxⱼ|² below this means that one eigenvector is given twice.
INDEPENDENCE = 1e-6
# Of the second derivatives of a matrix function this part of eps κ³ is left, as measured.
CANCELLED = 0.1


@compiled
def normalize(
    solution: Solution,
    norms: Array,
    matrices: AbstractMatrices,
    border: Array,
    slopes: Array,
    equal: Array,
    near: Array,
    left_scale: float,
) -> tuple[Solution, tuple[Array, ...]]:
    """Return eigenpairs with left vectors such that VᵀT'(λ)X is `left_scale`, and the figures.

    The vectors have norm 1 already; `norms` are their norms before that scaling. `border` is
    T'(λ) X, and `slopes` are the moduli of T'(λ) v for a random v of norm 1 in the 1-norm.
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
    sides = (_judge(T, W) for T, W in ((matrices, X), (matrices.transposed(), V)))
    residual, terms, sizes, excess = (
        jnp.stack(parts, axis=-2) for parts in zip(*sides, strict=True)
    )
    # entries of the random vector are of size 1/n
    rounding = PRODUCT * float(jnp.finfo(X.dtype).eps) * len(X) * jnp.max(jnp.abs(X), axis=0)
    still = jnp.all(jnp.abs(border) <= slopes * rounding[None, :], axis=0)
    # not by a solve, for which XLA gathers vectors that are spread over devices
    scaled = left_scale * (V @ jnp.linalg.inv(angles).T)
    paired = paired & jnp.all(jnp.isfinite(scaled), axis=0)
    solution = Solution(lam, X, scaled.conj())
    figures = (
        residual,
        terms,
        sizes[0],
        excess,
        still,
        jnp.abs(X.conj().T @ X),
        norms,
        finite,
        lam,
        column_sums(border),
        paired,
        matrices.defects(X),
        equal,
    )
    return solution, figures


def _judge(T: AbstractMatrices, W: Array) -> tuple[Array, ...]:
    """Return the residuals, the sizes of their terms and of T, and `beyond_rows`."""
    R, terms, rows = T.product(W), T.terms(W), T.rows(W[:, :1])
    return column_sums(R), column_sums(terms), column_sums(rows), beyond_rows(R, terms, rows, W)


class UnfitPairs(eqx.Module):
    """Object to the eigenpairs that the solver returned."""

    problem: str = eqx.field(static=True)
    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        residual: Any,
        parts: Any,
        size: Any,
        excess: Any,
        still: Any,
        overlaps: Any,
        norms: Any,
        finite: Any,
        lam: Any,
        slopes: Any,
        paired: Any,
        defects: Any,
        equal: Any,
    ) -> Iterator[Objection]:
        k = len(norms)
        requirement = f"`eigensolver(problem={self.problem}(k={k}))`: "
        yield Objection(
            ~finite,
            lambda pairs: (
                f"{requirement}finite pairs; got NaN or inf in pair {pairs[0]}. Infinite values "
                "of a pencil with singular B are no solutions: have the solver leave them out. "
                "`solvers.newton` returns NaN where it does not converge: start nearer to the "
                "pair, or give it another `linear_solver`, `lineax.LU()` where n is not too large. "
                "Else check the solver's own report of convergence."
            ),
        )
        yield Objection(
            ~(norms > 0),
            lambda pairs: f"{requirement}vectors that are not zero; got one for pair {pairs[0]}.",
        )

        def not_as_declared(what: np.ndarray, pairs: np.ndarray) -> str:
            adjective = ("linear in x", "holomorphic in λ")[what[0]]
            return (
                f"{requirement}a function T(λ, x, *args) that is {adjective}; got a relative "
                f"deviation of {defects[what[0], pairs[0]]:.1e} at pair {pairs[0]}. Leave out of T "
                "what does not multiply x, and every conjugate and absolute value of λ and x. "
                "Where T depends on the vectors themselves (self-consistency), state all "
                "conditions by `implicit_function`."
            )

        # NaN is reported by the residual test
        yield Objection(defects > tolerance(None, defects.dtype), not_as_declared)
        eps = float(np.finfo(residual.dtype).eps)
        allowed = self.residual_rtol * parts + PRODUCT * eps * size[None, :]

        def unsolved(side: np.ndarray, pairs: np.ndarray) -> str:
            pairs = pairs[side == side[0]]
            where = side[0], pairs[np.argmax(residual[side[0], pairs])]
            what = ("T(λ) x", "yᴴ T(λ) of a left vector")[side[0]]
            return (
                f"{requirement}pairs with T(λ) x = 0, where T(λ) is A − λB, the polynomial or "
                f"the function; got ‖{what}‖ = {residual[where]:.1e} for pair {where[1]}, above "
                f"the {allowed[where]:.1e} allowed of terms of size {parts[where]:.1e} "
                f"({len(pairs)} of {k} pairs fail). Tighten the solver's tolerance, improve what "
                "it returns by `eigensolver(refine=1)`, check that it solves this problem and that "
                "left vectors are columns y with yᴴA = λ yᴴB, or accept this with "
                "`Policy(residual_rtol=...)`."
            )

        yield Objection(~(residual <= allowed), unsolved)
        equation = "pairs with T(λ) x = 0, and yᴴ T(λ) = 0 for left vectors,"
        yield lost_to_stiff_rows(requirement, equation, excess, self.residual_rtol)
        yield Objection(
            still,
            lambda pairs: (
                f"{requirement}pairs that T'(λ) tells apart; got T'(λ) x = 0 to rounding for pair "
                f"{pairs[0]}, λ = {lam[pairs[0]]:.6g}. Either T(λ) x = 0 for every λ, as all "
                "operators have a null vector in common (a polynomial or pencil that is not "
                "regular), or λ is infinite to rounding, or defective. Restrict the problem to the "
                "complement of such vectors, or have the solver leave these pairs out."
            ),
        )
        yield Objection(
            ~paired,
            lambda pairs: (
                f"{requirement}left vectors in the order of the values; got yᴴT'(λ)x = 0 for pair "
                f"{pairs[0]}. Sort them alike."
            ),
        )
        # The eigenvector of one pair with the eigenvalue of another has a residual of about
        # |λᵢ − λⱼ| ‖T'(λ)x‖, where `slopes` are these norms. If that much is allowed, the residual
        # test cannot tell the two eigenvalues apart; nor can rounding where they count as equal.
        close = abs(lam[:, None] - lam[None, :]) * slopes[:, None] <= allowed[0][:, None]
        twice = (close | equal) & (1 - overlaps**2 < INDEPENDENCE) & ~np.eye(k, dtype=bool)

        def found_twice(i: np.ndarray, j: np.ndarray) -> str:
            i, j = sorted((i[0], j[0]))
            return (
                f"{requirement}different pairs; got pairs {i} and {j} with one value and one "
                "vector. Either the solver found one pair twice, or the value is defective "
                "and its vectors have no derivative."
            )

        yield Objection(twice, found_twice)


def near_exceptional_points(condition: Any, lam: Any, crowded: Any) -> Iterator[Objection]:
    """Object to eigenvalues at an exceptional point.

    For those that are 1 in `crowded`, with another value near them or perhaps so, near one, too.
    """
    source = lambda i: f"for pair {i}, {lam[i]:.6g}"  # noqa: E731
    yield ill_conditioned(condition, "`eigensolver(...)`", source)
    yield ill_conditioned(condition * crowded, "`eigensolver(...)`", source, loose(condition.dtype))


def near_exceptional_blocks(condition: Any, lam: Any) -> Iterator[Objection]:
    """Object to second derivatives of a matrix function of eigenvalues near an exceptional point.

    The block has tangents of size κ, their squares have κ², and what is made of them by nearly
    parallel vectors κ³; all that cancels, but for rounding.
    """
    error = CANCELLED * float(jnp.finfo(condition.dtype).eps) * condition**3

    def message(pairs: np.ndarray) -> str:
        i = pairs[np.argmax(condition[pairs])]
        return (
            "`jax.hessian` and the like of `matrix_function`: values that are well conditioned; "
            f"got a condition number of {condition[i]:.1e} for pair {i}, {lam[i]:.6g}, next to "
            f"another one, so that second derivatives may be wrong by {error[i]:.1e} of themselves "
            "or more. Treat the values that meet there as one, by `Subspace`, or accept this with "
            "`Policy(exceptional=...)`."
        )

    yield Objection(error > loose(condition.dtype), message)
