"""Bordered systems of any T(λ) x = 0, without use of a Hermitian structure.

    Mᵢ = [ T(λᵢ)     C Nᵢ       ]        unknowns (ẋ, μ), with Ṡ a multiple of μ
         [ Nᵢ Rᵀ     α (I − Nᵢ) ]

C has the columns T'(λⱼ) xⱼ, and R those of the normalisation. Nᵢ is diagonal, with 1 for the
eigenpairs that move together with eigenpair i and 0 for the others, whose row then says μⱼ = 0:
eigenpair i alone where its eigenvalue is simple, all of them for an invariant subspace. Mᵢ is
nonsingular exactly when λᵢ is no eigenvalue of another eigenpair. The border is scaled to a
fraction of T(λᵢ), so that a sparse factorisation does not fill in, as in `systems.bordered`. The
transpose, the same matrix with Aⱼᵀ for Aⱼ and C and R exchanged, yields left eigenvectors:
Mᵢᵀ (v, μ) = (0, eᵢ) has v proportional to the conjugate of y, T(λᵢ)ᵀ v = 0.

Source: Andrew & Tan (1998) SIAM J. Matrix Anal. 20, 78; Govaerts (2000) Numerical methods for
bifurcations of dynamical equilibria, SIAM, section 3.2 for bordered matrices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Inexact

from ..checks.clusters import as_one
from ..checks.rounding import VALUE
from ..linear_solvers._objections import SINGULAR
from ..linear_solvers._systems import (
    AbstractLinearSystems,
    Border,
    Handover,
    Report,
    Run,
    ShiftedPencil,
    Structure,
    probe,
)
from ..operators import at, column_norms
from .matrices import AbstractMatrices, Shifted, Sum

# ẋ and μ, apart, so that a ẋ that is spread over devices is not gathered
Unknowns = tuple[Inexact[Array, "n k"], Inexact[Array, "p k"]]

# The size of the border relative to a typical row of T(λ). Stiff rows do not count: next to a
# border of their size the others would be rounding, and an iteration would not see their residuals.
# Only sparse factorisations need a small one, see `systems.bordered`; it costs an iteration steps,
# and in single precision its convergence.
BORDER = {Structure.SPARSE: 1e-3, Structure.DENSE: 1.0, Structure.MATRIX_FREE: 1.0}
# A system this many times its error from a singular one, or nearer, counts as singular.
APART = 0.1
# The relative residual above which a random right side counts as without a solution.
UNPROVED = 0.1


class BorderedPairs(AbstractLinearSystems):
    """The matrices Mᵢ, held as their parts."""

    structure: Structure
    matrices: AbstractMatrices
    col: Inexact[Array, "n p"]
    row: Inexact[Array, "n p"]
    near: Float[Array, "p k"]  # column i is the diagonal of Nᵢ
    alpha: Float[Array, " p"]
    X: Inexact[Array, "n p"]  # the eigenvectors, or a basis of their space
    # vectors, 0 where unknown, with Mᵢᵀ (vⱼ, 0) = (0, eⱼ) where entry (j, i) of `equal` is 1
    left: Inexact[Array, "n p"]
    equal: Float[Array, "p k"]
    # the relative errors of T(λᵢ), 0 or `None` where it is known that Mᵢ is nonsingular
    errors: Float[Array, " k"] | None = None
    # the terms of T'(λᵢ)xᵢ relative to it, or `None`: more than 1 where they cancel
    lost: Float[Array, " k"] | None = None

    @staticmethod
    def name(i: int) -> str:
        """Return the name of eigenpair i."""
        return f"the bordered system of pair {i}"

    @staticmethod
    def if_singular() -> str:
        """Return the meaning of a singular system."""
        return (
            "If it is singular, the value of this pair is defective, or its cluster is cut by k; "
            "of `Nonlinear`, it is not simple."
        )

    def is_hermitian(self) -> bool:
        """Return False."""
        return False

    def sizes(self) -> Float[Array, " k"]:
        """Return a typical ‖T(λᵢ) v‖ for ‖v‖ = 1, stiff rows apart; shape (k,)."""
        return self.matrices.typical(self.col[:, :1])

    def condition_bound(self, b: Unknowns, U: Unknowns) -> Float[Array, " k"] | None:
        """Return |λ̇| ‖t‖ / ‖r‖ for (r, ·), and the size of the left eigenvector for (0, ·).

        With the terms t of T'x and κ = ‖y‖ ‖t‖ / |yᴴT'x| the first is at most κ for every r, and
        the second is κ. Where r is such a small part of the right side that λ̇ may be rounding, the
        bound is kept small.
        """
        (r, s), (x, mu) = b, U
        col, row = (column_norms(border)[:, None] for border in (self.col, self.row))
        top, bottom = column_norms(r), column_norms(s / row.astype(s.dtype))
        small = float(jnp.finfo(top.dtype).eps) ** 0.5
        of_value = column_norms(mu * col.astype(mu.dtype)) / jnp.maximum(top, small)
        of_left = column_norms(x) / jnp.where(bottom > 0, bottom, 1)
        bound = jnp.where(top > 0, of_value, of_left)
        return bound if self.lost is None else bound * self.lost

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return Mᵢ uᵢ for all i."""
        return self._product(self.matrices, self.near.astype(self.col.dtype), U)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return Mᵢ as a product."""
        matrices = self.matrices.take(i)
        near = at(self.near, i)[:, None].astype(self.col.dtype)

        def product(u: tuple[Array, Array]) -> tuple[Array, Array]:
            x, mu = u
            top, bottom = self._product(matrices, near, (x[:, None], mu[:, None]))
            return top[:, 0], bottom[:, 0]

        structure = jax.eval_shape(lambda col: (col[:, 0], col[0]), self.col)
        tags = {lx.positive_semidefinite_tag} if definite else ()
        return lx.FunctionLinearOperator(product, structure, tags, closure_convert=False)

    def shifted_pencil(self) -> ShiftedPencil | None:
        """Return the parts of a pencil, those of A − λᵢB for its transpose too."""
        matrices = self.matrices
        if not isinstance(matrices, Shifted):
            return None
        flipped = matrices.is_transposed
        A, B = (matrices.transposed() if flipped else matrices).operators
        border = Border(self.col, self.row, self.near, self.alpha)
        return ShiftedPencil(A, B, -matrices.weights[1], self.X, border, False, flipped)

    def handover(self) -> Handover:
        """Return that JAX makes the arrays for a user's function."""
        if self.structure is Structure.DENSE and not isinstance(self.matrices, Sum):
            return Handover.ARRAY
        return super().handover()

    def host_columns(self) -> Callable[[int], Any]:
        """Return the function i -> Mᵢ: an array, or a CSC matrix."""
        dtype: Any = np.asarray(self.col).dtype
        assert isinstance(self.matrices, Sum)
        matrix = self.matrices.host_matrices(len(self.col), dtype)
        cols, rows, nears = map(np.asarray, (self.col, self.row, self.near))

        def column(i: int) -> Any:
            T, near = matrix(i), nears[:, i]
            col, row = cols * near.astype(dtype), rows * near.astype(dtype)
            corner = np.diag((1 - near) * self.alpha).astype(dtype)
            if isinstance(T, np.ndarray):
                return np.block([[T, col], [row.T, corner]])
            border = sp.csr_matrix(col), sp.csr_matrix(row.T), sp.csr_matrix(corner)
            return sp.bmat([[T, border[0]], border[1:]], "csc")

        return column

    def transposed(self) -> "BorderedPairs":
        """Return Mᵢᵀ, without known left eigenvectors."""
        return dataclasses.replace(
            self,
            matrices=self.matrices.transposed(),
            col=self.row,
            row=self.col,
            left=jnp.zeros_like(self.left),
        )

    def solve(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve all systems, and where `errors` are given, show that they are nonsingular.

        A singular system can be solvable: where λᵢ is repeated, one of many left eigenvectors is
        the answer. It is not for a random right side b, ‖b‖ = 1, |wᵀb| of about 1/√m for the null
        vector w. Then ‖u‖ is about 1/(√m σ) with the smallest singular value σ of Mᵢ.
        """
        if self.errors is None:
            return run(self, b)
        k, m = b[0].shape[1], sum(map(len, b))
        wanted = jnp.any(b[0] != 0, axis=0) | jnp.any(b[1] != 0, axis=0)
        wanted = (wanted & (self.errors > 0)).astype(b[0].dtype)
        sizes = self.sizes()
        border = self.alpha[:, None] / jnp.where(sizes > 0, sizes, 1)[None, :]
        v, nu = ((len(part) / m) ** 0.5 * probe(part[:, :1]) * wanted[None, :] for part in b)
        nu = nu * border.astype(nu.dtype)
        # in one run, because a second one would take as long to compile
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), b, (v, nu))
        U, reports = run(self.twice(), both)
        U, (V, _) = (jax.tree.map(lambda x, i=i: x[:, i * k : (i + 1) * k], U) for i in (0, 1))
        report, proof = (
            jax.tree.map(lambda x, i=i: x[i * k : (i + 1) * k], reports) for i in (0, 1)
        )
        smallest = 1 / (m**0.5 * column_norms(V))
        singular = self.errors * sizes >= APART * smallest
        # a right side that is random asks more of a solver than others; that it finds any solution
        # is enough
        singular = singular | ~(proof.residuals <= UNPROVED)
        residuals = jnp.where(singular, jnp.inf, jnp.zeros_like(proof.residuals))
        verdicts = jnp.where(singular, SINGULAR, jnp.zeros_like(proof.verdicts))
        report = report.then(proof._replace(residuals=residuals, verdicts=verdicts))
        # to first order, and where the eigenvalue is nearly defective
        eps = float(jnp.finfo(sizes.dtype).eps)
        rounding, judged = VALUE * eps * sizes / smallest, (self.errors > 0) & ~singular
        if report.conditions is not None:
            of_defective = eps * report.conditions**2
            # from 1 on the condition number itself is objected to
            rounding = jnp.maximum(rounding, of_defective)
            judged = judged & (of_defective < 1)
        return U, report._replace(rounding=jnp.where(judged, rounding, 0))

    def twice(self) -> "BorderedPairs":
        """Return all systems twice, one after the other."""
        tiled = {name: jnp.tile(getattr(self, name), (1, 2)) for name in ("near", "equal")}
        lost = None if self.lost is None else jnp.tile(self.lost, 2)
        return dataclasses.replace(
            self, matrices=self.matrices.twice(), errors=None, lost=lost, **tiled
        )

    def solve_transposed(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve with Mᵢᵀ; known left eigenvectors give the solution for (0, eⱼ) without a solve."""
        r, s = b
        unknown = jnp.all(self.left == 0, axis=0).astype(self.near.dtype)
        known = as_one(self.equal) & (unknown @ self.near == 0)[None, :]
        of_known = jnp.where(known, s, jnp.zeros_like(s))
        (x, mu), report = self.transposed().solve(run, (r, s - of_known))
        return (x + self.left @ of_known, mu), report

    def _product(self, matrices: AbstractMatrices, near: Array, U: Unknowns) -> Unknowns:
        X, mu = U
        top = matrices.product(X) + self.col @ (near * mu)
        rest = (1 - near) * mu * self.alpha.astype(mu.dtype)[:, None]
        return top, near * (self.row.T @ X) + rest


class BorderedBasis(BorderedPairs):
    """The same for a basis of a subspace, whose single eigenvalues may be ill conditioned."""

    @staticmethod
    def name(i: int) -> str:
        """Return the name of column i."""
        return f"the bordered system of column {i}"

    def condition_bound(self, b: Unknowns, U: Unknowns) -> None:
        """Return `None`: the columns are coupled, so none bounds a single condition number."""
