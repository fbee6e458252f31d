"""The Hermitian embedding H = [[0, A], [Aᴴ, 0]] of an (m, n) operator, on vectors (u; v)."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Inexact

from ..linear_solvers.auto import SMALL
from ..operators import SparseOperator, apply, apply_adjoint, dtype_of
from ..operators.host_operator import AbstractHostMatrix
from ..operators.packed import PackedOperator, pack, pattern_of, register_sparse

# For a dense A, H has (m + n)² entries against the mn of A, which is 4 times as many if A is
# square. It is formed up to twice that ratio (m/n below 5.8), and whenever it is small.
GROWTH = 8


def embedding(A: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Return H, shape (m+n, m+n): sparse if A is, dense if A is and H is not much larger."""
    m, n = A.out_size(), A.in_size()
    if isinstance(A, lx.MatrixLinearOperator):
        if (m + n) ** 2 <= max(GROWTH * m * n, SMALL**2):
            return lx.MatrixLinearOperator(_dense(A.matrix))
    elif isinstance(A, PackedOperator):
        data, rows, cols = A.entries()
        places = np.concatenate([rows, cols + m]), np.concatenate([cols + m, rows])
        return pack(jnp.concatenate([data, data.conj()]), pattern_of(*places, (m + n, m + n)))
    elif isinstance(A, SparseOperator):
        rows, cols = jnp.asarray(A.rows), jnp.asarray(A.cols) + m
        data = jnp.concatenate([A.data, A.data.conj()])
        places = jnp.concatenate([rows, cols]), jnp.concatenate([cols, rows])
        return SparseOperator(data, *places, (m + n, m + n))
    elif isinstance(A, AbstractHostMatrix):
        return HostEmbedding(A)
    return Embedding(A)


class Embedding(lx.AbstractLinearOperator):
    """H, applied by products with A and Aᴴ."""

    A: lx.AbstractLinearOperator

    def mv(self, vector: Inexact[Array, " d"]) -> Inexact[Array, " d"]:
        """Return (A v; Aᴴ u)."""
        u, v = vector[: self.A.out_size(), None], vector[self.A.out_size() :, None]
        return jnp.concatenate([apply(self.A, v), apply_adjoint(self.A, u)])[:, 0]

    def as_matrix(self) -> Inexact[Array, "d d"]:
        """Return the dense matrix, for tests and small problems."""
        return _dense(self.A.as_matrix())

    def transpose(self) -> lx.AbstractLinearOperator:
        """Return Hᵀ, the conjugate of H."""
        product = lambda w: self.mv(w.conj()).conj()  # noqa: E731
        return lx.FunctionLinearOperator(product, self.in_structure())

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of (u; v)."""
        return jax.ShapeDtypeStruct((self.A.out_size() + self.A.in_size(),), dtype_of(self.A))

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of (u; v), as H is square."""
        return self.in_structure()


register_sparse(Embedding)


class HostEmbedding(AbstractHostMatrix):
    """H for a matrix whose entries are known on the host."""

    A: AbstractHostMatrix

    def mm(self, X: Inexact[Array, "d k"]) -> Inexact[Array, "d k"]:
        """Return (A V; Aᴴ U)."""
        U, V = X[: self.A.out_size()], X[self.A.out_size() :]
        return jnp.concatenate([apply(self.A, V), apply_adjoint(self.A, U)])

    def host_matrix(self) -> sp.csr_matrix:
        """Return H as a sparse matrix, on the host."""
        A = self.A.host_matrix()
        return sp.csr_matrix(sp.bmat([[None, A], [A.conj().T, None]]))

    def transpose(self) -> "HostEmbedding":
        """Return Hᵀ, the embedding of the conjugate of A."""
        conjugate: Any = lx.conj(self.A)
        return HostEmbedding(conjugate)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of (u; v)."""
        return jax.ShapeDtypeStruct((self.A.out_size() + self.A.in_size(),), dtype_of(self.A))

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of (u; v), as H is square."""
        return self.in_structure()


register_sparse(HostEmbedding)


def _dense(A: Inexact[Array, "m n"]) -> Inexact[Array, "d d"]:
    m, n = A.shape
    zeros = [jnp.zeros((size, size), A.dtype) for size in (m, n)]
    return jnp.block([[zeros[0], A], [A.conj().T, zeros[1]]])
