"""Deflation: a low-rank term shifts the known eigenpairs away from the singularity.

    Mᵢ = (A − λᵢB) + BX Dᵢ XᴴB,      Dᵢ = τᵢ I − (Λ − λᵢ I)

maps xⱼ to τᵢ B xⱼ for every known eigenpair, and acts as A − λᵢB on their B-orthogonal complement.
So Mᵢ is nonsingular unless k cuts a cluster, for any degeneracy among the known eigenvalues, and
definite where the unknown part of the spectrum lies on one side of λᵢ. For a right side with
Xᴴr = 0 the solution of Mᵢ z = r has XᴴB z = 0 and solves (A − λᵢB) z = r, independently of τᵢ.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import Report, Run, ShiftedPencil, Structure, attainable
from ..operators import apply, at, column_norms, scale_columns
from ..operators.views import host_view, product_view
from ._abstract import AbstractPencilForm, AbstractPencilSystems, Pencil, hermitian_tags


class Deflated(AbstractPencilForm):
    """Deflate the known eigenpairs: n×n systems, definite at an end of the spectrum.

    Every linear solver works on them except `SparseDirect`. A product costs one with A, one with B,
    and 4nk operations.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), system=Deflated())
        >>> vector_at = lambda t: solve(jnp.array([[1.0, t], [t, 3.0]])).vectors[:, 0]
        >>> round(float(jax.grad(lambda t: jnp.prod(vector_at(t)))(0.0)), 4)  # x₁x₂ = −t/2 + …
        -0.5
    """

    def assemble(self, pencil: Pencil) -> "DeflatedSystems":
        """Return Mᵢ for each eigenpair."""
        BX = apply(pencil.B, pencil.X)
        tau = lax.stop_gradient(pencil.size_outside(BX))
        return DeflatedSystems(pencil.structure, pencil, pencil.lam, pencil.X, BX, tau)


class DeflatedSystems(AbstractPencilSystems):
    """The matrices Mᵢ, held as their parts; more eigenpairs can be deflated than have a system."""

    structure: Structure
    pencil: Pencil
    known: Float[Array, " p"]
    X: Inexact[Array, "n p"]
    BX: Inexact[Array, "n p"]
    tau: Float[Array, " k"]

    @property
    def shift(self) -> Float[Array, "p k"]:
        """Return the array whose column i is the diagonal of Dᵢ."""
        return self.shifts(self.pencil.lam)

    def shifts(self, lam: Any) -> Any:
        """Return `shift` for the given eigenvalues, by NumPy on the host."""
        return self.tau[None, :] - (self.known[:, None] - lam[None, :])

    def mv(self, U: Inexact[Array, "n k"], skip_zeros: bool = False) -> Inexact[Array, "n k"]:
        """Return Mᵢ uᵢ for all i."""
        A, B = self.pencil.A, self.pencil.B
        coupling = self.shift.astype(U.dtype) * (self.BX.conj().T @ U)
        AU, BU = apply(A, U, skip_zeros), apply(B, U, skip_zeros)
        return AU - BU @ self.pencil.S + self.BX @ coupling

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return Mᵢ: a dense operator if A or B is dense, else its product."""
        A, B, BX = self.pencil.A, self.pencil.B, self.BX
        lam, shift = (at(part, i).astype(BX.dtype) for part in (self.pencil.lam, self.shift))
        tags = hermitian_tags(BX.dtype, definite)
        if self.structure is Structure.DENSE:
            dense_A, dense_B = self.pencil.dense()
            matrix = dense_A - lam * dense_B + scale_columns(BX, shift) @ BX.conj().T
            return lx.MatrixLinearOperator(matrix, tags)

        # vectors in rows: XLA multiplies (n, p)ᴴ, of few columns, ten times as slowly
        rows = lax.optimization_barrier(BX.conj().T)

        def product(u: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
            Bu = u if B is None else B.mv(u)
            return A.mv(u) - lam * Bu + (shift * (rows @ u)) @ rows.conj()

        return lx.FunctionLinearOperator(product, A.in_structure(), tags, closure_convert=False)

    def host_columns(self) -> Callable[[int], Any]:
        """Return the function i -> Mᵢ: an array, or a `LinearOperator` of SciPy products."""
        A = host_view(self.pencil.A)
        B = None if self.pencil.B is None else host_view(self.pencil.B)
        BX, lam = np.asarray(self.BX), self.pencil.host_lam()
        shifts = np.asarray(self.shifts(lam))

        def column(i: int) -> Any:
            shift = shifts[:, i, None]
            if self.structure is Structure.DENSE:
                dense_B = np.eye(len(BX), dtype=BX.dtype) if B is None else B
                matrix = A - lam[i] * dense_B + (BX * shift.T) @ BX.conj().T
                return np.asarray(matrix)

            def product(u: np.ndarray) -> np.ndarray:
                Bu = u if B is None else B @ u
                return A @ u - lam[i] * Bu + BX @ (shift * (BX.conj().T @ u))

            return product_view((len(BX), len(BX)), BX.dtype, product, product)

        return column

    def with_more(self, pairs: Array) -> "DeflatedSystems":
        """Return the systems with those of some eigenpairs once more."""
        tau = jnp.concatenate([self.tau, self.tau[pairs]])
        return dataclasses.replace(self, pencil=self.pencil.with_more(pairs), tau=tau)

    def shifted_pencil(self) -> ShiftedPencil:
        """Return the parts of the systems, for shift and invert."""
        A, B, lam = self.pencil.A, self.pencil.B, self.pencil.lam
        return ShiftedPencil(A, B, lam, self.X, self.tau, True)

    def solve(self, run: Run, b: Inexact[Array, "n k"]) -> tuple[Inexact[Array, "n k"], Report]:
        """Solve all systems; the part along the known eigenpairs beyond the k needs no solve.

        Those eigenpairs are deflated. Where they are not accurate enough, or belong to a cluster
        of the k, the original systems are solved as well.
        """
        if self.pencil.beyond is None:
            return self.solve_and_prove(run, b)
        mu, V = self.pencil.beyond
        known, X = jnp.concatenate([self.known, mu]), jnp.concatenate([self.X, V], axis=1)
        BX = jnp.concatenate([self.BX, apply(self.pencil.B, V)], axis=1)
        more = DeflatedSystems(self.structure, self.pencil, known, X, BX, self.tau)
        start = self.pencil.part_beyond(b)
        r = b - self.mv(start)
        u, report = run(more, r)
        rest = r - self.mv(u)
        reached = column_norms(r - more.mv(u)) + attainable(1e-9, b.dtype) * column_norms(b)
        unsolved = column_norms(rest) > 10 * reached
        last, again = run(self, jnp.where(unsolved, rest, jnp.zeros_like(rest)))
        return start + u + last, report.then(again)

    def solve_transposed(
        self, run: Run, b: Inexact[Array, "n k"]
    ) -> tuple[Inexact[Array, "n k"], Report]:
        """Solve with Mᵢᵀ, the conjugate of Mᵢ."""
        U, report = self.solve(run, b.conj())
        return U.conj(), report
