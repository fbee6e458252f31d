"""Shift and invert for dense pencils: one LU factorisation for all eigenpairs, in JAX.

    (A − λᵢB) zᵢ = rᵢ      ⇔      (I − μᵢ T) zᵢ = (A − σB)⁻¹ rᵢ,      T = (A − σB)⁻¹ B,  μᵢ = λᵢ − σ

T is self-adjoint in the inner product of B, whatever the sign of A − σB. MINRES in that inner
product, with all eigenpairs as one block, needs a triangular solve and a product with B per step.
"""

from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Inexact

from ..operators import apply, scale_columns
from ._solve import Outcome
from ._systems import INSIDE, ShiftedPencil
from .minres import minres, refine


def solve_dense(
    pencil: ShiftedPencil, sigma: Any, rtol: float, max_steps: int, b: Inexact[Array, "n k"]
) -> tuple[Inexact[Array, "n k"], Outcome]:
    """Solve (A − λᵢB) uᵢ + BX Dᵢ XᴴB uᵢ = bᵢ, Hermitian; see `systems.deflated`."""
    A, B, lam, X = pencil.A, pencil.B, pencil.lam, pencil.X
    BX = apply(B, X)
    sigma = jnp.asarray(pencil.shift(jnp) if sigma is None else sigma, b.dtype)
    dense_A = A.as_matrix()
    dense_B = jnp.eye(len(dense_A), dtype=b.dtype) if B is None else B.as_matrix()
    factors = jsl.lu_factor(dense_A - sigma * dense_B)
    mu = lam.astype(b.dtype) - sigma

    def project(V: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        return V - X @ (BX.conj().T @ V)

    def inverse(R: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        return project(jsl.lu_solve(factors, R))

    def residual(Z: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        rest = R - apply(A, Z) + scale_columns(apply(B, Z), lam)
        return rest - BX @ (X.conj().T @ rest)

    def sweep(
        r: Inexact[Array, "n k"], shrink: Array, max_steps: Array
    ) -> tuple[Inexact[Array, "n k"], Array]:
        def product(v: Array, Bv: Array) -> Array:
            return v - scale_columns(inverse(Bv), mu)

        return minres(
            product, lambda v: apply(B, v), lambda v, Bv: v, inverse(r), INSIDE * shrink, max_steps
        )

    # on the known eigenpairs the system is BX τᵢ, on their complement A − λᵢB
    along = X.conj().T @ b
    R = b - BX @ along
    Z, verdicts, stats = refine(sweep, residual, R, rtol, max_steps)
    outcome = Outcome(verdicts, jnp.full_like(verdicts, stats["num_steps"]))
    return Z + X @ scale_columns(along, 1 / pencil.known), outcome
