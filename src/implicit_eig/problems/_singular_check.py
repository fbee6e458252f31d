"""Checks of the singular triplets A v = σ u, Aᴴ u = σ v that a solver returns."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._compiled import compiled
from ..checks.clusters import near_and_edge_beyond
from ..checks.policy import Objection, Policy
from ..checks.rounding import PRODUCT, VALUE
from ..linear_solvers._systems import PROBES, probe
from ..operators import apply, apply_adjoint, column_norms, dtype_of, row_sums, scale_columns
from ..solution import Solution
from ._embedding import embedded, join
from ._rows import at_least, beyond_rows, lost_to_stiff_rows
from ._validation import dependent, orthonormalize


@compiled
def normalize(
    solution: Solution, A: lx.AbstractLinearOperator, policy: Policy
) -> tuple[Solution, tuple[Array, ...], Array]:
    """Return triplets with UᴴU = VᴴV = I, the figures to be judged, and relative residuals.

    Left vectors that are zero were not given by the solver, and are set to A v, scaled.
    """
    sigma, V, U = solution.values, solution.vectors, jnp.asarray(solution.left_vectors)
    finite = jnp.isfinite(sigma) & jnp.all(jnp.isfinite(V), axis=0)
    finite = finite & jnp.all(jnp.isfinite(U), axis=0)
    V = _unit(V)
    U = _unit(jnp.where(jnp.any(U != 0, axis=0, keepdims=True), U, apply(A, V)))
    # within a cluster the two Gram matrices are equal, so one change of basis serves both
    gram = (U.conj().T @ U + V.conj().T @ V) / 2
    (U, V), gram = orthonormalize(gram, U, V)
    AV, AU = apply(A, V), apply_adjoint(A, U)

    W, HW = join(U, V), join(AV, AU)
    R = HW - scale_columns(W, sigma)
    residual = column_norms(R)
    terms = jnp.abs(HW) + scale_columns(jnp.abs(W), jnp.abs(sigma))
    scale = column_norms(HW) + 2**0.5 * jnp.abs(sigma)
    m, n = A.out_size(), A.in_size()
    w = probe(jax.ShapeDtypeStruct((m + n, PROBES), dtype_of(A)), 1)
    rows = row_sums(embedded(A, w))
    rows = rows[:, None] + row_sums(w)[:, None] * jnp.abs(sigma)[None, :]
    excess = beyond_rows(R, terms, rows, W)
    w = probe(jax.ShapeDtypeStruct((m + n, 1), dtype_of(A)))
    # ‖(A v; Aᴴ u)‖² of a random unit vector (u; v) is 2‖A‖² / (m + n) on average, Frobenius norm
    size = column_norms(embedded(A, w))
    eps = float(jnp.finfo(sigma.dtype).eps)
    rounding = PRODUCT * eps * (size + jnp.abs(sigma))
    zero = jnp.broadcast_to(VALUE * eps * size * ((m + n) / 2) ** 0.5, sigma.shape)
    angle = jnp.sum(U.conj() * AV, axis=0)
    figures = (sigma, residual, scale, rounding, excess, zero, angle, finite, *gram)
    # a singular value near 0 sets no scale: there the residual is compared with rounding
    relative = at_least(residual / jnp.maximum(scale, rounding / eps**0.5), excess)
    # the error of the solver: two singular values can be off in opposite directions
    parts = W, R
    value_rounding = VALUE * eps * (size + jnp.abs(sigma))
    near, edge = near_and_edge_beyond(
        sigma, value_rounding, 2 * residual, _misfit, parts, solution._rest, policy
    )
    return Solution(sigma, V, U, _near=near, _edge=edge), figures, relative


def _misfit(W: Array, R: Array) -> Array:
    return jnp.max(jnp.abs(W.conj().T @ R), axis=0)


def _unit(X: Array) -> Array:
    norms = column_norms(X)
    return scale_columns(X, 1 / jnp.where(norms > 0, norms, 1))


class UnfitTriplets(eqx.Module):
    """Object to the triplets that the solver returned."""

    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        sigma: Any,
        residual: Any,
        scale: Any,
        rounding: Any,
        excess: Any,
        zero: Any,
        angle: Any,
        finite: Any,
        gram: Any,
        norms: Any,
        independent: Any,
    ) -> Iterator[Objection]:
        k = len(sigma)
        requirement = f"`eigensolver(problem=Singular(k={k}))`: "
        yield Objection(
            ~finite,
            lambda triplets: (
                f"{requirement}finite triplets; got NaN or inf in triplet {triplets[0]}. "
                "Check the solver's own report of convergence."
            ),
        )
        yield Objection(
            ~(norms > 0),
            lambda triplets: (
                f"{requirement}vectors that are not zero; got one for triplet {triplets[0]}."
            ),
        )

        def not_positive(triplets: np.ndarray) -> str:
            i = triplets[0]
            reason = (
                "A zero singular value has no derivative: ask for the positive ones only, or "
                "differentiate the eigenvalues σ² of AᴴA, by `Hermitian`"
                if abs(sigma[i]) <= zero[i]
                else "Turn the signs of σ and u together"
            )
            return (
                f"{requirement}positive singular values; got σ = {sigma[i]:.1e} for triplet {i}, "
                f"where rounding of A explains {zero[i]:.1e}. {reason}."
            )

        yield Objection(~(sigma > zero), not_positive)
        yield dependent(requirement, "½|uᴴu' + vᴴv'|", gram, independent)
        allowed = self.residual_rtol * scale + rounding

        def unsolved(triplets: np.ndarray) -> str:
            i = triplets[np.argmax(residual[triplets])]
            if abs(abs(angle[i]) - sigma[i]) <= allowed[i]:
                return (
                    f"{requirement}left vectors of the phase that A v = σ u gives them; got uᴴAv = "
                    f"{_number(angle[i])} for triplet {i} with σ = {sigma[i]:.3g}. Turn u and v "
                    "together, or return (values, vectors) alone: left vectors are then A v / σ."
                )
            return (
                f"{requirement}triplets with A v = σ u and Aᴴ u = σ v, v a column of `vectors`; "
                f"got a residual ‖(A v − σ u; Aᴴ u − σ v)‖ of {residual[i]:.1e} for triplet {i}, "
                f"which is {residual[i] / scale[i]:.1e} of its terms and above the "
                f"{allowed[i]:.1e} allowed ({len(triplets)} of {k} triplets fail). An `svd` "
                "returns U, σ, Vᴴ: the solver is to return σ, V, U. Tighten the solver's "
                "tolerance, or accept this with `Policy(residual_rtol=...)`."
            )

        yield Objection(~(residual <= allowed), unsolved)
        equation = "triplets with A v = σ u and Aᴴ u = σ v"
        yield lost_to_stiff_rows(requirement, equation, excess, self.residual_rtol)


def _number(z: Any) -> str:
    return f"{z:.3g}" if np.iscomplexobj(z) else f"{float(z):.3g}"


class UnfitFactors(eqx.Module):
    """Object to the factors of a normalisation that differ from a phase."""

    name: str = eqx.field(static=True)
    rtol: float = eqx.field(static=True)

    def __call__(self, modulus: Any) -> Iterator[Objection]:
        yield Objection(
            ~(abs(modulus - 1) <= self.rtol),
            lambda bad: (
                f"`eigensolver(problem=Singular(...), normalization={self.name})`: one that keeps "
                "‖v‖ = 1, for A v = σ u and Aᴴ u = σ v leave only the phase that u and v share; "
                f"got ‖v‖ = {1 / modulus[bad[0]]:.3g} for triplet {bad[0]}. Use "
                "`LargestComponent()`, or a function that returns a unit vector."
            ),
        )
