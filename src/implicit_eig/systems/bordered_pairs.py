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
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import AbstractLinearSystems, Structure, probe
from ..operators import (
    apply_complex,
    column_norms,
    has_entries,
    host_view,
    is_dense,
    product_view,
)
from ..operators import scale_columns as scale

# (ẋ, ν) as one array, m = n + 1: JAX transposes a solve only if its whole right side is linear
Unknowns = Inexact[Array, "m k"]

# The border against T(λ); see `systems.bordered`.
BORDER = 1e-3


class BorderedPairs(AbstractLinearSystems):
    """The matrices Mᵢ, by their parts: T(λᵢ) = Σⱼ fⱼᵢ Aⱼ, a column and a row."""

    structure: Structure
    operators: tuple[lx.AbstractLinearOperator | None, ...]  # `None` is the identity
    weights: tuple[Inexact[Array, " k"], ...]
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
        return sizes(self.operators, self.weights, self.col[:, :1])

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return Mᵢ uᵢ for all i."""
        return _bordered(self.operators, self.weights, self.col, self.row, U)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return Mᵢ as a product."""
        weights = [weight[i][None] for weight in self.weights]
        col, row = self.col[:, i, None], self.row[:, i, None]

        def product(u: Array) -> Array:
            return _bordered(self.operators, weights, col, row, u[:, None])[:, 0]

        structure = jax.ShapeDtypeStruct((len(col) + 1,), col.dtype)
        tags = {lx.positive_semidefinite_tag} if definite else ()
        return lx.FunctionLinearOperator(product, structure, tags, closure_convert=False)

    def host_columns(self) -> Callable[[int], Any]:
        """Return i -> Mᵢ: an array, a CSC matrix, or a `LinearOperator` of SciPy products."""
        n = len(self.col)
        dtype = np.asarray(self.col).dtype
        # a real matrix multiplies complex vectors in SciPy, a real operator of products does not
        operators = [
            sp.eye_array(n, dtype=dtype.type, format="csr")
            if operator is None
            else host_view(operator)
            for operator in self.operators
        ]
        weights, cols, rows = map(np.asarray, (self.weights, self.col, self.row))

        def column(i: int) -> Any:
            col, row = cols[:, i, None], rows[:, i, None]
            pairs = list(zip(weights[:, i], operators, strict=True))
            if self.structure is Structure.MATRIX_FREE:

                def product(u: np.ndarray) -> np.ndarray:
                    x, nu = u[:n], u[n:]
                    top = sum(f * _host_product(A, x) for f, A in pairs)
                    return np.concatenate([top + col * nu, row.T @ x])

                def adjoint(u: np.ndarray) -> np.ndarray:
                    x, nu = u[:n], u[n:]
                    adjoints = ((np.conj(f), A.conj().T) for f, A in pairs)
                    top = sum(f * _host_product(A, x) for f, A in adjoints)
                    return np.concatenate([top + row.conj() * nu, col.conj().T @ x])

                return product_view((n + 1, n + 1), dtype, product, adjoint)
            if self.structure is Structure.DENSE:
                dense = [(f, A.toarray() if sp.issparse(A) else A) for f, A in pairs]
                matrix = np.asarray(sum(f * A for f, A in dense))
                return np.block([[matrix, col], [row.T, np.zeros((1, 1), dtype)]])
            matrix = sum(f * A for f, A in pairs)
            return sp.bmat([[matrix, sp.csr_matrix(col)], [sp.csr_matrix(row.T), None]], "csc")

        return column

    def transposed(self) -> "BorderedPairs":
        """Return Mᵢᵀ, of which no left vectors are known."""
        operators = tuple(None if A is None else A.transpose() for A in self.operators)
        none = jnp.zeros_like(self.left)
        return BorderedPairs(self.structure, operators, self.weights, self.row, self.col, none)

    def solve_transposed(self, run: Callable, b: Unknowns) -> Unknowns:
        """Solve with Mᵢᵀ; a right side (0, ·) costs nothing where the left vector is known."""
        bottom = b[-1:]
        known = jnp.any(self.left != 0, axis=0, keepdims=True)
        rest = b.at[-1:].set(jnp.where(known, jnp.zeros_like(bottom), bottom))
        return run(self.transposed(), rest).at[:-1].add(self.left * bottom)


def structure_of(operators: tuple[lx.AbstractLinearOperator | None, ...]) -> Structure:
    """Return how much of the operators is known."""
    if not all(map(has_entries, operators)):
        return Structure.MATRIX_FREE
    return Structure.DENSE if any(map(is_dense, operators)) else Structure.SPARSE


def sizes(operators: Any, weights: Any, like: Array) -> Float[Array, " k"]:
    """Return Σⱼ |fⱼᵢ| ‖Aⱼ v‖ for a random unit vector v, shape (k,); it carries no derivative."""
    v = probe(like)
    norms = [column_norms(apply_complex(A, v)) for A in operators]
    terms = [jnp.abs(f) * norm for f, norm in zip(weights, norms, strict=True)]
    return lax.stop_gradient(sum(terms[1:], terms[0]))


def combine(operators: Any, weights: Any, X: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
    """Return Σⱼ fⱼᵢ Aⱼ xᵢ, shape (n, k)."""
    pairs = zip(weights, operators, strict=True)
    terms = [scale(apply_complex(A, X), f) for f, A in pairs]
    return sum(terms[1:], terms[0])


def _bordered(
    operators: Any, weights: Any, col: Array, row: Array, U: Unknowns
) -> Inexact[Array, "m k"]:
    X, nu = U[:-1], U[-1:]
    top = combine(operators, weights, X) + col * nu
    return jnp.concatenate([top, jnp.sum(row * X, axis=0, keepdims=True)])


def _host_product(A: Any, X: Any) -> np.ndarray:
    if np.iscomplexobj(X) and not np.issubdtype(A.dtype, np.complexfloating):
        return A @ X.real + 1j * (A @ X.imag)
    return A @ X
