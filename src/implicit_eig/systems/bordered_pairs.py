"""One bordered system a pair: for T(λ) x = 0 of any kind, and no other pair known.

    Mᵢ = [ T(λᵢ)    α T'(λᵢ) xᵢ / ‖T'(λᵢ) xᵢ‖ ]        unknowns (ẋ, ν), with λ̇ a multiple of ν
         [ α cᵢᴴ    0                         ]

It is nonsingular exactly when λᵢ is a simple value. The scale α of the border is a part of T(λᵢ),
so that a sparse factorisation does not fill, as in `systems.bordered`. Its transpose, the same
matrix with Aⱼᵀ for Aⱼ and the border's row and column exchanged, yields the left vector:
Mᵢᵀ (v, μ) = (0, 1) has v in proportion to the conjugate of y, T(λᵢ)ᵀ v = 0.

Source: Andrew & Tan (1998) SIAM J. Matrix Anal. 20, 78; Govaerts (2000) Numerical methods for
bifurcations of dynamical equilibria, SIAM, section 3.2 for bordered matrices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import AbstractLinearSystems, Structure
from ..operators import product_view
from .matrices import AbstractMatrices

# (ẋ, ν) as one array, m = n + 1: JAX transposes a solve only if its whole right side is linear
Unknowns = Inexact[Array, "m k"]

# The border against T(λ); see `systems.bordered`.
BORDER = 1e-3


class BorderedPairs(AbstractLinearSystems):
    """The matrices Mᵢ, by their parts: T(λᵢ), a column and a row."""

    structure: Structure
    matrices: AbstractMatrices
    col: Inexact[Array, "n k"]
    row: Inexact[Array, "n k"]
    # vectors with Mᵢᵀ (v, 0) = (0, 1), zero where they are not known
    left: Inexact[Array, "n k"]

    @staticmethod
    def name(i: int) -> str:
        """Return the pair."""
        return f"the bordered system of pair {i}"

    @staticmethod
    def if_singular() -> str:
        """Return what it means."""
        return "If it is singular, the value of this pair is not simple."

    def is_hermitian(self) -> bool:
        """Return False."""
        return False

    def sizes(self) -> Float[Array, " k"]:
        """Return a typical ‖T(λᵢ) v‖ for ‖v‖ = 1; shape (k,)."""
        return self.matrices.sizes(self.col[:, :1])

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return Mᵢ uᵢ for all i."""
        return _bordered(self.matrices, self.col, self.row, U)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return Mᵢ as a product."""
        matrices = self.matrices.take(i)
        col, row = self.col[:, i, None], self.row[:, i, None]

        def product(u: Array) -> Array:
            return _bordered(matrices, col, row, u[:, None])[:, 0]

        structure = jax.ShapeDtypeStruct((len(col) + 1,), col.dtype)
        tags = {lx.positive_semidefinite_tag} if definite else ()
        return lx.FunctionLinearOperator(product, structure, tags, closure_convert=False)

    def host_columns(self) -> Callable[[int], Any]:
        """Return i -> Mᵢ: an array, a CSC matrix, or a `LinearOperator` of SciPy products."""
        n = len(self.col)
        dtype = np.asarray(self.col).dtype
        matrix = self.matrices.host_matrices(n, dtype)
        cols, rows = map(np.asarray, (self.col, self.row))

        def column(i: int) -> Any:
            T, col, row = matrix(i), cols[:, i, None], rows[:, i, None]
            if isinstance(T, np.ndarray):
                return np.block([[T, col], [row.T, np.zeros((1, 1), dtype)]])
            if sp.issparse(T):
                return sp.bmat([[T, sp.csr_matrix(col)], [sp.csr_matrix(row.T), None]], "csc")
            return _host_operator(T, col, row)

        return column

    def transposed(self) -> "BorderedPairs":
        """Return Mᵢᵀ, of which no left vectors are known."""
        none = jnp.zeros_like(self.left)
        return BorderedPairs(self.structure, self.matrices.transposed(), self.row, self.col, none)

    def solve_transposed(self, run: Callable, b: Unknowns) -> Unknowns:
        """Solve with Mᵢᵀ; a right side (0, ·) costs nothing where the left vector is known."""
        bottom = b[-1:]
        known = jnp.any(self.left != 0, axis=0, keepdims=True)
        rest = b.at[-1:].set(jnp.where(known, jnp.zeros_like(bottom), bottom))
        return run(self.transposed(), rest).at[:-1].add(self.left * bottom)


def _bordered(
    matrices: AbstractMatrices, col: Array, row: Array, U: Unknowns
) -> Inexact[Array, "m k"]:
    X, nu = U[:-1], U[-1:]
    top = matrices.product(X) + col * nu
    return jnp.concatenate([top, jnp.sum(row * X, axis=0, keepdims=True)])


def _host_operator(T: Any, col: np.ndarray, row: np.ndarray) -> spla.LinearOperator:
    n = len(col)

    def product(u: np.ndarray) -> np.ndarray:
        return np.concatenate([T @ u[:n] + col * u[n:], row.T @ u[:n]])

    def adjoint(u: np.ndarray) -> np.ndarray:
        return np.concatenate([T.adjoint() @ u[:n] + row.conj() * u[n:], col.conj().T @ u[:n]])

    return product_view((n + 1, n + 1), T.dtype, product, adjoint)
