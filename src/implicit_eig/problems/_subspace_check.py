"""The Schur basis of the subspace that a solver's vectors span, and its checks."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg as sla
from jaxtyping import Array

from .. import host
from .._compiled import compiled
from ..checks.policy import Objection
from ..checks.rounding import PRODUCT, VALUE
from ..linear_solvers._systems import PROBES, probe
from ..operators import (
    apply_complex,
    column_norms,
    column_sums,
    diagonal,
    row_sums,
    scale_columns,
)
from ._rows import at_least, beyond_rows, lost_to_stiff_rows


@compiled
def schur_basis(
    X: Array, A: lx.AbstractLinearOperator, B: lx.AbstractLinearOperator | None
) -> tuple[Array, Array, tuple[Array, ...], Array, Array]:
    """Return S, X, the figures of `UnfitBasis`, relative residuals, and the values' rounding."""
    norms = column_norms(X)
    finite = jnp.all(jnp.isfinite(norms))
    X, R = jnp.linalg.qr(scale_columns(X, 1 / jnp.where(norms > 0, norms, 1)))
    rank = jnp.min(jnp.abs(diagonal(R)))
    gram = X.conj().T @ apply_complex(B, X)
    skew = jnp.max(jnp.abs(gram - gram.conj().T)) / jnp.max(jnp.abs(gram))
    L = jnp.linalg.cholesky((gram + gram.conj().T) / 2)
    X = jax.scipy.linalg.solve_triangular(L.conj(), X.T, lower=True).T
    AX, BX = apply_complex(A, X), apply_complex(B, X)
    S = X.conj().T @ AX
    S, Q = _schur(jnp.where(jnp.isfinite(S), S, 0))
    X, AX, BX = X @ Q, AX @ Q, BX @ Q
    R = AX - BX @ S
    residual = column_sums(R)
    scale = column_sums(AX) + column_sums(BX) * column_sums(S)
    v = probe(jax.ShapeDtypeStruct((len(X), PROBES), X.dtype), 1)
    of_A, of_B = (row_sums(apply_complex(M, v)) for M in (A, B))
    rows = of_A[:, None] + of_B[:, None] * column_sums(S)[None, :]
    eps = float(jnp.finfo(X.dtype).eps)
    rounding = PRODUCT * eps * column_sums(rows) * column_sums(X)
    terms = jnp.abs(AX) + jnp.abs(BX) @ jnp.abs(S)
    largest = jnp.broadcast_to(jnp.max(jnp.abs(X), axis=1, keepdims=True), X.shape)
    excess = beyond_rows(R, terms, rows, largest)
    figures = (residual, scale, rounding, excess, rank, skew, finite, jnp.all(jnp.isfinite(L)))
    # an eigenvalue near 0 sets no scale: there the residual is compared with rounding
    floor = jnp.maximum(scale, rounding / eps**0.5)
    relative = at_least(residual / jnp.where(floor > 0, floor, 1), excess)
    # entries of the random vectors are of size 1/n
    along = jnp.sum(jnp.abs(X) * rows, axis=0) * len(X) * jnp.max(jnp.abs(X), axis=0)
    return S, X, figures, relative, VALUE * eps * along


def _schur(S: Array) -> tuple[Array, Array]:
    """Return T, Q of S = Q T Qᴴ, computed on the host: JAX has a Schur form only on CPUs."""
    if jax.default_backend() == "cpu":
        T, Q = jax.scipy.linalg.schur(S, output="complex")
        return T, Q
    return host.call(_host_schur, (S, S), S)


def _host_schur(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    T, Q, *_ = sla.schur(S, output="complex")
    return T, Q


class UnfitBasis(eqx.Module):
    """Object to the vectors that the solver returned."""

    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        residual: Any,
        scale: Any,
        rounding: Any,
        excess: Any,
        rank: Any,
        skew: Any,
        finite: Any,
        definite: Any,
    ) -> Iterator[Objection]:
        eps = float(np.finfo(residual.dtype).eps)
        requirement = f"`eigensolver(problem=Subspace(k={len(residual)}))`: "
        yield Objection(
            ~finite,
            lambda _: (
                f"{requirement}finite vectors; got NaN or inf. Check the solver's own report of "
                "convergence."
            ),
        )
        yield Objection(
            ~(rank > PRODUCT * eps),
            lambda _: (
                f"{requirement}independent vectors; got some with a part of {rank:.1e} outside the "
                "span of the others. For defective values have the solver return a Schur basis."
            ),
        )
        yield Objection(
            ~(definite & (skew < PRODUCT * eps)),
            lambda _: (
                f"{requirement}B Hermitian positive definite on the space; got a Gram matrix XᴴBX "
                "that is not. Multiply by an inverse of B, or by Bᴴ from the left."
            ),
        )
        allowed = self.residual_rtol * scale + rounding

        def unsolved(columns: np.ndarray) -> str:
            i = columns[np.argmax(residual[columns])]
            return (
                f"{requirement}vectors whose span is invariant, A X = B X S; got a residual of "
                f"{residual[i]:.1e} in column {i} of a Schur basis, {residual[i] / scale[i]:.1e} "
                f"of its terms and above the {allowed[i]:.1e} allowed. Tighten the "
                "solver's tolerance, have it return a Schur basis, or accept this with "
                "`Policy(residual_rtol=...)`."
            )

        yield Objection(~(residual <= allowed), unsolved)
        yield lost_to_stiff_rows(
            requirement, "A X = B X S for their span", excess, self.residual_rtol
        )
