"""The Hermitian embedding H = [[0, A], [Aᴴ, 0]] of an (m, n) operator, on vectors (u; v).

Their components alternate, in g = gcd(m, n) groups: with m = ga and n = gb, a components of u are
followed by b of v. So vectors that are divided among devices are joined, and separated again,
without an exchange, because the number of devices divides m and n, and so g. And where A is square
and has entries near its diagonal only, so has H.

Source: Golub & Kahan (1965) J. SIAM Numer. Anal. B 2, 205, doi:10.1137/0702016, for the order
u₁, v₁, u₂, v₂, … of a square A.
"""

import math
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


def join(U: Inexact[Array, "m k"], V: Inexact[Array, "n k"]) -> Inexact[Array, "d k"]:
    """Return the vectors (u; v), in the order of the embedding; shape (m+n, k)."""
    groups = math.gcd(len(U), len(V))
    parts = [W.reshape(groups, -1, W.shape[1]) for W in (U, V)]
    return jnp.concatenate(parts, axis=1).reshape(-1, U.shape[1])


def split(W: Inexact[Array, "d k"], m: int) -> tuple[Inexact[Array, "m k"], Inexact[Array, "n k"]]:
    """Return U and V, given m and `join(U, V)`."""
    groups = math.gcd(m, len(W) - m)
    parts, a = W.reshape(groups, -1, W.shape[1]), m // groups
    return parts[:, :a].reshape(m, -1), parts[:, a:].reshape(len(W) - m, -1)


def embedded(A: lx.AbstractLinearOperator, W: Inexact[Array, "d k"]) -> Inexact[Array, "d k"]:
    """Return H W, the columns (A v; Aᴴ u) for columns (u; v); shape (m+n, k)."""
    U, V = split(W, A.out_size())
    return join(apply(A, V), apply_adjoint(A, U))


def _places(rows: Any, cols: Any, m: int, n: int) -> tuple[Any, Any]:
    """Return the rows and columns in H of entries of A."""
    groups = math.gcd(m, n)
    a, b = m // groups, n // groups
    return rows // a * (a + b) + rows % a, cols // b * (a + b) + cols % b + a


def embedding(A: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Return H, shape (m+n, m+n): sparse if A is, dense if A is and H is not much larger."""
    m, n = A.out_size(), A.in_size()
    if isinstance(A, lx.MatrixLinearOperator):
        if (m + n) ** 2 <= max(GROWTH * m * n, SMALL**2):
            return lx.MatrixLinearOperator(_dense(A.matrix))
    elif isinstance(A, PackedOperator):
        data, rows, cols = A.entries()
        rows, cols = _places(rows, cols, m, n)
        places = np.concatenate([rows, cols]), np.concatenate([cols, rows])
        return pack(jnp.concatenate([data, data.conj()]), pattern_of(*places, (m + n, m + n)))
    elif isinstance(A, SparseOperator):
        rows, cols = _places(jnp.asarray(A.rows), jnp.asarray(A.cols), m, n)
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
        return embedded(self.A, vector[:, None])[:, 0]

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
        return embedded(self.A, X)

    def host_matrix(self) -> sp.csr_matrix:
        """Return H as a sparse matrix, on the host."""
        A: Any = sp.coo_matrix(self.A.host_matrix())
        rows, cols = _places(A.row, A.col, *A.shape)
        places = np.concatenate([rows, cols]), np.concatenate([cols, rows])
        data = np.concatenate([A.data, A.data.conj()])
        return sp.csr_matrix((data, places), (sum(A.shape),) * 2)

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
    right = join(A, jnp.zeros((n, n), A.dtype))
    left = join(jnp.zeros((m, m), A.dtype), A.conj().T)
    return join(left.T, right.T).T
