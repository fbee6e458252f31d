"""Bordering: the known eigenvectors near λᵢ are appended as rows and columns.

    Mᵢ = [ A − λᵢB      α BX Nᵢ    ]        unknowns (z, μ), right side (r, 0)
         [ α Nᵢ XᴴB    α (I − Nᵢ)  ]

Nᵢ is diagonal, with 1 for the known eigenpairs within NEAR of λᵢ (always eigenpair i and all of its
cluster) and 0 for the others, whose row then says μⱼ = 0. Mᵢ is nonsingular unless k cuts a
cluster, and keeps the sparsity of A and B except in the border, whose scale is α. For a right side
with Xᴴr = 0 the solution has Xᴴ B z = 0, for near and far eigenpairs alike, and μ = 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..checks.clusters import as_one, closeness
from ..linear_solvers._systems import Report, Run, Structure
from ..operators import apply, at, scale_columns
from ..operators.views import host_view
from ._abstract import AbstractPencilForm, AbstractPencilSystems, Pencil, hermitian_tags

# Relative to λᵢ. An eigenpair left out amplifies rounding by up to 1/NEAR, only along its own
# eigenvector, which is projected out afterwards; each eigenpair kept costs a dense row.
NEAR = 1e-3
# The size of the border relative to A − λᵢB. A border as large as the entries of A supplies the
# pivots of a sparse factorisation and causes fill-in: 20 s instead of 1.2 s for n = 90,000.
BORDER = 1e-3

Unknowns = tuple[Inexact[Array, "n k"], Inexact[Array, "p k"]]


class Bordered(AbstractPencilForm):
    """Border A − λB by the near known eigenvectors: (n+k)×(n+k) systems, sparse where A and B are.

    Every linear solver for Hermitian indefinite systems works on them. A product costs one with A,
    one with B, and 4nk operations.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), system=Bordered())
        >>> vector_at = lambda t: solve(jnp.array([[1.0, t], [t, 3.0]])).vectors[:, 0]
        >>> round(float(jax.grad(lambda t: jnp.prod(vector_at(t)))(0.0)), 4)  # x₁x₂ = −t/2 + …
        -0.5
    """

    def assemble(self, pencil: Pencil) -> "BorderedSystems":
        """Return Mᵢ for each eigenpair."""
        BX = apply(pencil.B, pencil.X)
        lam = pencil.lam
        near = as_one(closeness(lam, pencil.rounding(), NEAR))
        alpha = BORDER * jnp.abs(lax.stop_gradient(pencil.size_outside(BX)))
        return BorderedSystems(pencil.structure, pencil, BX, near.astype(lam.dtype), alpha)


class BorderedSystems(AbstractPencilSystems):
    """The matrices Mᵢ, held as their parts."""

    structure: Structure
    pencil: Pencil
    BX: Inexact[Array, "n p"]
    near: Float[Array, "p k"]  # column i is the diagonal of Nᵢ
    alpha: Float[Array, " k"]

    def right_side(self, R: Inexact[Array, "n k"]) -> Unknowns:
        """Return (R, 0)."""
        return R, jnp.zeros((len(self.near), R.shape[1]), R.dtype)

    def solution(self, U: Unknowns) -> Inexact[Array, "n k"]:
        """Return the first part of the unknowns."""
        return U[0]

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return Mᵢ uᵢ for all i."""
        Z, mu = U
        A, B, S = self.pencil.A, self.pencil.B, self.pencil.S
        near = self.near.astype(mu.dtype)
        top = apply(A, Z, skip_zeros) - apply(B, Z, skip_zeros) @ S
        top = top + self.BX @ scale_columns(near * mu, self.alpha)
        return top, scale_columns(near * (self.BX.conj().T @ Z) + (1 - near) * mu, self.alpha)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return Mᵢ: a dense operator if A or B is dense, else its product."""
        A, B, BX = self.pencil.A, self.pencil.B, self.BX
        lam, alpha, near = (
            at(part, i).astype(BX.dtype) for part in (self.pencil.lam, self.alpha, self.near)
        )
        tags = hermitian_tags(BX.dtype, definite)

        def product(
            u: tuple[Inexact[Array, " n"], Inexact[Array, " k"]],
        ) -> tuple[Inexact[Array, " n"], Inexact[Array, " k"]]:
            z, mu = u
            Bz = z if B is None else B.mv(z)
            top = A.mv(z) - lam * Bz + BX @ (alpha * near * mu)
            return top, alpha * (near * (BX.conj().T @ z) + (1 - near) * mu)

        structure = jax.eval_shape(lambda BX: (BX[:, 0], BX[0]), BX)
        return lx.FunctionLinearOperator(product, structure, tags, closure_convert=False)

    def host_columns(self) -> Callable[[int], Any]:
        """Return the function i -> Mᵢ: an array, or a CSC matrix."""
        A = host_view(self.pencil.A)
        B = None if self.pencil.B is None else host_view(self.pencil.B)
        BX, alphas, nears = map(np.asarray, (self.BX, self.alpha, self.near))
        lam, n = self.pencil.host_lam(), len(BX)

        def column(i: int) -> Any:
            alpha, near = alphas[i], nears[:, i]
            border = alpha * near * BX
            corner = alpha * np.diag(1 - near).astype(BX.dtype)
            if self.structure is Structure.DENSE:
                shifted = np.asarray(A - lam[i] * (np.eye(n, dtype=BX.dtype) if B is None else B))
                return np.block([[shifted, border], [border.conj().T, corner]])
            shifted = A - lam[i] * (
                sp.eye_array(n, dtype=BX.dtype.type, format="csr") if B is None else B
            )
            dense = sp.csr_matrix(border)
            return sp.bmat(
                [[shifted, dense], [dense.conj().T, sp.csr_matrix(corner)]], format="csc"
            )

        return column

    def with_more(self, pairs: Array) -> "BorderedSystems":
        """Return the systems with those of some eigenpairs once more."""
        alpha = jnp.concatenate([self.alpha, self.alpha[pairs]])
        near = jnp.concatenate([self.near, self.near[:, pairs]], axis=1)
        pencil = self.pencil.with_more(pairs)
        return dataclasses.replace(self, pencil=pencil, near=near, alpha=alpha)

    def solve(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve all systems."""
        return self.solve_and_prove(run, b)

    def solve_transposed(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve with Mᵢᵀ, the conjugate of Mᵢ."""
        U, report = self.solve(run, jax.tree.map(jnp.conj, b))
        return jax.tree.map(jnp.conj, U), report
