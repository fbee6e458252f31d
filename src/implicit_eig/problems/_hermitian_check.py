"""Checks of Hermitian operators, and of the eigenpairs of A x = λ B x that a solver returns."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._compiled import compiled
from ..checks.clusters import loose, near_and_edge_beyond
from ..checks.policy import Objection, Policy
from ..checks.rounding import PRODUCT
from ..linear_solvers._systems import probe
from ..operators import apply, column_sums, dtype_of, is_dense, promoted, scale_columns
from ..solution import Solution
from ..systems._abstract import Pencil
from ._abstract import Operators
from ._rows import at_least, beyond_rows, lost_to_stiff_rows
from ._validation import dependent, orthonormalize

INDEFINITE = (
    "If B is indefinite or singular but A is definite, as in buckling, solve B x = μ A x, where "
    "λ = 1/μ; else declare `General`."
)


@compiled
def hermitian_parts(operators: Operators) -> tuple[Operators, tuple[Array, ...]]:
    """Return the operators, dense ones made Hermitian, and the figures for `unfit_operators`."""
    # each operator is judged by the rounding of its own dtype
    arrays, static = eqx.partition(operators, eqx.is_array)
    still = eqx.combine(jax.lax.stop_gradient(arrays), static)
    figures = [_hermitian_figures(operator) for operator in still]
    parts = []
    for operator in promoted("solve(A, B)", operators):
        if is_dense(operator):
            matrix = operator.as_matrix()
            operator = lx.MatrixLinearOperator((matrix + matrix.conj().T) / 2)
        parts.append(operator)
    real = jnp.finfo(dtype_of(parts[0])).dtype
    stacked = (jnp.stack([f.astype(real) for f in fs]) for fs in zip(*figures, strict=True))
    return tuple(parts), tuple(stacked)


def _hermitian_figures(operator: lx.AbstractLinearOperator) -> tuple[Array, Array, Array]:
    """Return |uᴴ(A − Aᴴ)v| for random u and v, the part that rounding explains, and vᴴAv."""
    V = probe(jax.ShapeDtypeStruct((operator.in_size(), 2), dtype_of(operator)))
    AV = apply(operator, V)
    M = V.conj().T @ AV
    # |u|ᴴ|A v|, since u and v have norm 1 and entries of similar size
    size = jnp.max(column_sums(AV)) / len(V) ** 0.5
    rounding = PRODUCT * float(jnp.finfo(V.dtype).eps) * size
    return jnp.abs(M[0, 1] - M[1, 0].conj()), rounding, M[1, 1].real


def unfit_operators(defect: Any, rounding: Any, quadratic_form: Any) -> Iterator[Objection]:
    """Object to A and B, judged by the figures of `hermitian_parts`."""
    for name, d, r, q in zip("AB", defect, rounding, quadratic_form, strict=False):
        yield from _unfit(name, d, r, q)


def _unfit(name: str, defect: Any, rounding: Any, quadratic_form: Any) -> Iterator[Objection]:
    yield Objection(
        ~(rounding < np.inf),
        lambda _: (
            f"`solve({name}=...)`: finite entries; got NaN or inf in a product with {name}. "
            "Check how it was assembled; if its entries are near the largest number, scale it."
        ),
    )
    info = np.finfo(rounding.dtype)
    size, most = rounding / (PRODUCT * info.eps), float(info.max) * float(info.eps) ** 0.5
    yield Objection(
        (size > most) | ((rounding == 0) & (defect > 0)),
        lambda _: (
            f"`solve({name}=...)`: entries whose products and reciprocals are numbers; got a "
            f"product of size {size:.1e} in {info.dtype}, so that they overflow or underflow. "
            f"Choose other units: scale {name}."
        ),
    )
    yield Objection(
        ~(defect <= rounding),
        lambda _: (
            f"`eigensolver(problem=Hermitian(...))`: {name} equal to its conjugate transpose; "
            f"got |uᴴ({name} − {name}ᴴ)v| = {defect:.1e} for random u and v, where rounding "
            f"explains {rounding:.1e}. Symmetrise {name}, or declare the problem that it is."
        ),
    )
    if name == "B":
        yield Objection(
            ~(quadratic_form > 0),
            lambda _: (
                "`eigensolver(problem=Hermitian(...))`: B positive definite; got vᴴBv = "
                f"{quadratic_form:.1e} for a random v. Check the sign of B. {INDEFINITE}"
            ),
        )


@compiled
def normalize(
    solution: Solution,
    A: lx.AbstractLinearOperator,
    B: lx.AbstractLinearOperator | None,
    policy: Policy,
) -> tuple[Solution, tuple[Array, ...], Array, Array]:
    """Return B-orthonormal eigenpairs, the figures of `UnfitPairs`, and relative residuals.

    And the parts of xᴴBx that are rounding.
    """
    lam, X = solution.values, solution.vectors
    finite = jnp.isfinite(lam) & jnp.all(jnp.isfinite(X), axis=0)
    largest = jnp.max(jnp.abs(X), axis=0)
    X = scale_columns(X, 1 / jnp.where(largest > 0, largest, 1))
    BX = apply(B, X)
    (X, *rest), gram = orthonormalize(X.conj().T @ BX, *((X,) if B is None else (X, BX)))
    BX = rest[0] if rest else X
    AX = apply(A, X)

    R = AX - scale_columns(BX, lam)
    residual = column_sums(R)
    terms = jnp.abs(AX) + scale_columns(jnp.abs(BX), jnp.abs(lam))
    scale = column_sums(terms)
    pencil = Pencil(A, B, jnp.diag(lam).astype(X.dtype), X)
    eps = float(jnp.finfo(X.dtype).eps)
    rows = pencil.rows()
    rounding = PRODUCT * eps * column_sums(rows) * column_sums(X)
    excess = beyond_rows(R, terms, rows, X)
    # an eigenvalue near 0 sets no scale: there the residual is compared with rounding
    relative = at_least(residual / jnp.maximum(scale, rounding / eps**0.5), excess)
    # the error of the solver, by norms; two eigenvalues can be off in opposite directions
    at_most = 2 * jnp.max(jnp.abs(X)) * residual
    near, edge = near_and_edge_beyond(
        lam, pencil.rounding(), at_most, _misfit, (X, R), solution._rest, policy
    )
    figures = (residual, scale, rounding, excess, finite, *gram)
    lost = eps * pencil.absolute(B)
    return Solution(lam, X, _near=near, _edge=edge), figures, relative, lost


def _misfit(X: Array, R: Array) -> Array:
    return 2 * jnp.max(jnp.abs(X.conj().T @ R), axis=0)


def nearly_singular(lost: Any) -> Iterator[Objection]:
    """Object to a B so ill conditioned that rounding changes the norm xᴴBx of an eigenvector."""

    def message(pairs: np.ndarray) -> str:
        i = pairs[np.argmax(lost[pairs])]
        return (
            "`eigensolver(problem=Hermitian(...))`: a B far enough from a singular one; got xᴴBx "
            f"of pair {i}, of which {lost[i]:.1e} is rounding, and so is that much of every "
            "derivative that depends on the pair. Use higher precision, leave out unknowns without "
            "mass, or accept this with `Policy(exceptional=...)`."
        )

    yield Objection(lost > loose(lost.dtype), message)


class UnfitPairs(eqx.Module):
    """Object to the eigenpairs that the solver returned."""

    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        residual: Any,
        scale: Any,
        rounding: Any,
        excess: Any,
        finite: Any,
        gram: Any,
        norms: Any,
        independent: Any,
    ) -> Iterator[Objection]:
        k = len(residual)
        requirement = f"`eigensolver(problem=Hermitian(k={k}))`: "
        yield Objection(
            ~finite,
            lambda pairs: (
                f"{requirement}finite pairs; got NaN or inf in pair {pairs[0]}. "
                "Check the solver's own report of convergence."
            ),
        )
        yield Objection(
            ~(norms > 0),
            lambda pairs: (
                f"{requirement}vectors with xᴴBx > 0; got none for pair {pairs[0]}. Either the "
                f"vector is zero or B is not positive definite. {INDEFINITE}"
            ),
        )
        yield dependent(requirement, "|xᴴBx'|", gram, independent)
        allowed = self.residual_rtol * scale + rounding

        def unsolved(pairs: np.ndarray) -> str:
            i = pairs[np.argmax(residual[pairs])]
            return (
                f"{requirement}pairs with A x = λ B x; got a residual ‖A x − λ B x‖ of "
                f"{residual[i]:.1e} for pair {i}, which is {residual[i] / scale[i]:.1e} of "
                f"‖A x‖ + |λ| ‖B x‖ and above the {allowed[i]:.1e} allowed ({len(pairs)} of {k} "
                "pairs fail). Tighten the solver's tolerance, improve what it returns by "
                "`eigensolver(refine=1)`, check that it solves this problem, or accept this with "
                "`Policy(residual_rtol=...)`."
            )

        yield Objection(~(residual <= allowed), unsolved)
        yield lost_to_stiff_rows(requirement, "pairs with A x = λ B x", excess, self.residual_rtol)
