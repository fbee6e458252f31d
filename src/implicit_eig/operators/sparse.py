"""Sparse operators, their sums and multiples, and other operators given by their entries."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Inexact, Integer

from .._errors import InputError
from ..host import is_traced
from ._algebra import add, by_entries, number
from ._congruence import congruence
from ._entries import as_entries
from ._places import (
    as_shape,
    check_indices,
    check_known,
    kept,
    of_compressed,
    of_coo,
    of_scipy,
)
from .packed import Pattern, hidden, pack, pattern_of, register_sparse


class SparseOperator(lx.AbstractLinearOperator):
    """Hold a sparse matrix of fixed pattern, differentiable in its entries.

    The matrix is defined by A[rows[e], cols[e]] += data[e]: entries at the same place are summed,
    as in finite-element assembly, so that `data` may hold raw element matrices.

    `A + B`, `A - B`, `-A`, `t * A` and `A / t` with a number t are again sparse, on the union of
    the patterns, and differentiable in t too. One of A and B may be a `scipy.sparse` matrix or a
    lineax operator whose entries are known; with an array among them the sum is an array. `A @ x`
    is the product with an array of shape (n,) or (n, m), and `A @ operator` is lineax's
    composition, of which only products are known. Dtypes are promoted as those of JAX arrays are.

    Under `jax.vmap` the operators of a batch have `data` of their own, and one pattern. For several
    patterns map over `rows` and `cols` too: pad the shorter ones by zeros in row 0 and column 0.

    Args:
        data: entries; shape (e,).
        rows: their rows, counted from 0; integers of shape (e,). Where traced indices lie outside
            the matrix, their entries are NaN.
        cols: their columns, likewise.
        shape: (m, n).

    Raises:
        InputError: lengths or types differ, or an index lies outside `shape`; the shapes in a sum
            differ; or a factor is not a number.

    Cost: a product is one gather and one scatter of e entries; a gradient with respect
        to `data` is two gathers. Nothing of size m×n is made.

    Examples:
        >>> import jax.numpy as jnp
        >>> data = jnp.array([2.0, -1.0, -1.0, 2.0])
        >>> A = SparseOperator(data, [0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
        >>> (A @ jnp.array([1.0, 0.0])).tolist()
        [2.0, -1.0]
        >>> I = SparseOperator(jnp.ones(2), [0, 1], [0, 1], (2, 2))
        >>> (A - 2 * I).as_matrix().tolist()
        [[0.0, -1.0], [-1.0, 0.0]]
    """

    # makes NumPy's numbers leave `t * A` to A, instead of treating A as an array of objects
    __array_ufunc__ = None

    data: Inexact[Array, " e"]
    shape: tuple[int, int] = eqx.field(static=True)
    # known places are part of the type, like a shape, so that a layout is made only once for them
    pattern: Pattern | None = eqx.field(static=True)
    traced: tuple[Integer[Array, " e"], Integer[Array, " e"]] | None

    def __init__(self, data: Any, rows: Any, cols: Any, shape: tuple[int, ...]):
        self.data = as_entries("SparseOperator(data=...)", "data", data)
        self.shape = as_shape("SparseOperator(shape=...)", shape)
        self.pattern = self.traced = None
        if is_traced((rows, cols)):
            self.traced = rows, cols = jnp.asarray(rows), jnp.asarray(cols)
        else:
            rows, cols = np.asarray(rows), np.asarray(cols)
            check_indices("SparseOperator(rows=...)", rows, self.shape[0])
            check_indices("SparseOperator(cols=...)", cols, self.shape[1])
            if rows.shape == cols.shape == self.data.shape:
                self.pattern = pattern_of(rows, cols, self.shape)
        if self.data.ndim != 1 or not self.data.shape == rows.shape == cols.shape:
            raise InputError(
                "`SparseOperator(data, rows, cols)`: three vectors of one length; got shapes "
                f"{self.data.shape}, {rows.shape}, {cols.shape}. "
                "Ravel the element matrices and their indices alike."
            )
        if self.traced is not None:
            # an index outside the matrix shows as a NaN entry
            pairs = zip(self.traced, self.shape, strict=True)
            inside = [(index >= 0) & (index < size) for index, size in pairs]
            rows, cols = (jnp.where(i, x, 0) for i, x in zip(inside, self.traced, strict=True))
            self.traced = rows, cols
            self.data = jnp.where(inside[0] & inside[1], self.data, jnp.nan)

    @property
    def rows(self) -> Integer[Array | np.ndarray, " e"]:
        """Return the rows of the entries, shape (e,)."""
        return self._places()[0]

    @property
    def cols(self) -> Integer[Array | np.ndarray, " e"]:
        """Return the columns of the entries, shape (e,)."""
        return self._places()[1]

    def _places(self) -> tuple[Any, Any]:
        if self.traced is None:
            rows, cols = self.places()
            return hidden(rows), hidden(cols)
        return self.traced

    def places(self) -> tuple[Any, Any]:
        """Return rows and columns, as NumPy arrays unless they are traced."""
        known = self.pattern
        if known is not None:
            return known.rows, known.cols
        assert self.traced is not None
        return self.traced

    @classmethod
    def from_scipy(cls, matrix: Any) -> "SparseOperator":
        """Convert a `scipy.sparse` matrix or array of any format, shape (m, n).

        Its stored entries become `data`, with zeros among them and those at the same place, so
        that the pattern does not depend on their values. They are those of a COO matrix in its
        order, and of CSR, CSC and BSR in that of `matrix.data`. Integers are refused.

        Examples:
            >>> import scipy.sparse as sp
            >>> A = SparseOperator.from_scipy(sp.csr_array([[0.0, 2.0], [3.0, 0.0]]))
            >>> A.data.tolist(), A.as_matrix().tolist()
            ([2.0, 3.0], [[0.0, 2.0], [3.0, 0.0]])
        """
        return cls(*of_scipy(matrix))

    @classmethod
    def from_csr(cls, data: Any, indices: Any, indptr: Any, shape: Any) -> "SparseOperator":
        """Make an operator from the three arrays of compressed sparse rows.

        Args:
            data: entries, which JAX may trace and differentiate; shape (e,).
            indices: their columns, in any order and repeated where entries are to be summed;
                integers of NumPy, shape (e,).
            indptr: entries indptr[i] to indptr[i + 1] − 1 are those of row i; shape (m + 1,).
            shape: (m, n).

        Raises:
            InputError: the arrays do not fit each other, or `indices` or `indptr` are traced.

        Examples:
            >>> import jax.numpy as jnp
            >>> A = SparseOperator.from_csr(jnp.array([2.0, 3.0]), [1, 0], [0, 1, 2], (2, 2))
            >>> A.as_matrix().tolist()
            [[0.0, 2.0], [3.0, 0.0]]
        """
        check_known("SparseOperator.from_csr(indices=..., indptr=...)", (indices, indptr))
        shape = as_shape("SparseOperator.from_csr(shape=...)", shape)
        return cls(
            data, *of_compressed("SparseOperator.from_csr(...)", indices, indptr, shape), shape
        )

    @classmethod
    def from_coo(
        cls, data: Any, rows: Any, cols: Any, shape: Any = None, keep: Any = None
    ) -> "SparseOperator":
        """Make an operator from element matrices, without the unknowns that are fixed to zero.

        Args:
            data: entries, which JAX may trace and differentiate; shape (e,), or one of several
                axes, such as (elements, d, d).
            rows: their rows, integers of NumPy in the shape of `data`, or with axes of length 1,
                as `dofs[:, :, None]` for the unknowns `dofs` of the elements, (elements, d).
            cols: their columns, likewise, as `dofs[:, None, :]`.
            shape: (m, n); by default (n, n), of which the largest index is the last.
            keep: the free unknowns, by their numbers or a mask of shape (n,); all by default.
                Entries in another row or column are left out, and their gradient is zero.

        Returns:
            SparseOperator: (n, n), or (k, k) on the k unknowns that are kept, in the order of
            `keep`. Of its eigenvectors, x on all unknowns is `jnp.zeros((n, p)).at[keep].set(X)`.

        Raises:
            InputError: the arrays do not fit each other; `keep` is empty or has an unknown twice;
                or one other than `data` is traced.

        Examples:
            A string of three springs, fixed at both ends.

            >>> import jax.numpy as jnp, numpy as np
            >>> stiffness, dofs = jnp.array([1.0, 2.0, 4.0]), np.array([[0, 1], [1, 2], [2, 3]])
            >>> entries = jnp.multiply.outer(stiffness, jnp.array([[1.0, -1.0], [-1.0, 1.0]]))
            >>> places = dofs[:, :, None], dofs[:, None, :]
            >>> SparseOperator.from_coo(entries, *places, keep=[1, 2]).as_matrix().tolist()
            [[3.0, -2.0], [-2.0, 6.0]]
        """
        check_known("SparseOperator.from_coo(rows=..., cols=..., keep=...)", (rows, cols, keep))
        data = as_entries("SparseOperator.from_coo(data=...)", "data", data)
        rows, cols, shape = of_coo(rows, cols, data.shape, shape)
        data = data.ravel()
        if keep is not None:
            stay, rows, cols, shape = kept(keep, rows, cols, shape)
            data = data[hidden(stay)]
        return cls(data, rows, cols, shape)

    @classmethod
    def from_bcoo(cls, matrix: BCOO) -> "SparseOperator":
        """Convert an unbatched two-dimensional `BCOO`; its padding becomes explicit zeros.

        Examples:
            >>> import jax.numpy as jnp
            >>> from jax.experimental.sparse import BCOO
            >>> A = SparseOperator.from_bcoo(BCOO.fromdense(jnp.array([[0.0, 2.0], [3.0, 0.0]])))
            >>> A.as_matrix().tolist()
            [[0.0, 2.0], [3.0, 0.0]]
        """
        if matrix.n_batch or matrix.n_dense or matrix.ndim != 2:
            raise InputError(
                "`SparseOperator.from_bcoo(matrix)`: two sparse dimensions, no batch; got "
                f"n_batch={matrix.n_batch}, n_dense={matrix.n_dense}, shape {matrix.shape}. "
                "Use `jax.vmap` for a batch."
            )
        rows, cols = matrix.indices[:, 0], matrix.indices[:, 1]
        inside = (rows < matrix.shape[0]) & (cols < matrix.shape[1])
        data = jnp.where(inside, matrix.data, jnp.zeros_like(matrix.data))
        return cls(data, jnp.where(inside, rows, 0), jnp.where(inside, cols, 0), matrix.shape)

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """Return A x, shape (m,)."""
        if vector.shape != self.shape[1:]:  # else what is not there would be read
            raise InputError(
                f"`A.mv(x)`: a vector of shape ({self.shape[1]},); got shape {vector.shape}. Give "
                "operators and vectors of one problem."
            )
        terms = self.data * vector[self.cols]
        return jnp.zeros(self.shape[0], terms.dtype).at[self.rows].add(terms)

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n), for tests and small problems."""
        return jnp.zeros(self.shape, self.data.dtype).at[self.rows, self.cols].add(self.data)

    def transpose(self) -> "SparseOperator":
        """Return Aᵀ, shape (n, m)."""
        rows, cols = self.places()
        return SparseOperator(self.data, cols, rows, self.shape[::-1])

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of x."""
        return jax.ShapeDtypeStruct((self.shape[1],), self.data.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of A x."""
        return jax.ShapeDtypeStruct((self.shape[0],), self.data.dtype)

    def with_data(self, data: Inexact[Array, " e"]) -> "SparseOperator":
        """Return the operator of the same pattern with these entries."""
        return eqx.tree_at(lambda A: A.data, self, data)

    def congruence(self, T: Any) -> "SparseOperator":
        """Return Tᴴ A T, assembled: the operator of the unknowns y, where x = T y.

        T ties unknowns to each other: a hanging node has the mean of its neighbours, and the last
        node of a period that of the first, times a phase in a Bloch wave. Eigenvectors of all
        unknowns are `T @ vectors` for a `SparseOperator` T. The product `T.T @ A @ T` is a
        composition, of which only products are known, and has no conjugate.

        Args:
            T: shape (n, m) for A of shape (n, n), with a pattern that is known when traced: a
                `scipy.sparse` matrix, which is a constant, or a `SparseOperator`, in whose entries
                the result is differentiable.

        Returns:
            SparseOperator: shape (m, m), of the common dtype, on the places that the patterns
            yield.

        Raises:
            InputError: shapes do not fit, T is an array, or a pattern is traced.

        Cost: the pattern is found once, on the host. The entries take one multiplication for each
            pair of entries that meet in A T and in Tᴴ (A T). Nothing of size n×n is made.

        Examples:
            >>> import jax.numpy as jnp, scipy.sparse as sp
            >>> A = SparseOperator(jnp.array([1.0, 2.0, 4.0]), [0, 1, 2], [0, 1, 2], (3, 3))
            >>> T = sp.csr_array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])  # the middle one hangs
            >>> A.congruence(T).as_matrix().tolist()
            [[1.5, 0.5], [0.5, 4.5]]
        """
        if sp.issparse(T) or isinstance(T, lx.AbstractLinearOperator):
            T = _term(T)
        if not isinstance(T, SparseOperator):
            raise InputError(
                "`A.congruence(T)`: a `scipy.sparse` matrix or a `SparseOperator`; got "
                f"{type(T).__name__}. With an array T write `T.conj().T @ (A @ T)`, an array."
            )
        return congruence(self, T)

    def __add__(self, other: Any) -> lx.AbstractLinearOperator:
        other = _term(other)
        return add(self, other) if _reduced(other) else lx.AddLinearOperator(self, other)

    def __radd__(self, other: Any) -> lx.AbstractLinearOperator:
        # Python's `sum` starts from 0
        return self if isinstance(other, int) and other == 0 else self + other

    def __sub__(self, other: Any) -> lx.AbstractLinearOperator:
        return self + -_term(other)

    def __rsub__(self, other: Any) -> lx.AbstractLinearOperator:
        return -self + other

    def __neg__(self) -> "SparseOperator":
        return self.with_data(-self.data)

    def __mul__(self, other: Any) -> "SparseOperator":
        return self.with_data(self.data * number("t * A", other))

    def __rmul__(self, other: Any) -> "SparseOperator":
        return self * other

    def __truediv__(self, other: Any) -> "SparseOperator":
        return self.with_data(self.data / number("A / t", other))

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, lx.AbstractLinearOperator):
            return lx.ComposedLinearOperator(self, other)
        m, n = self.shape
        array = isinstance(other, (np.ndarray, jax.Array))
        if not array or other.ndim not in (1, 2) or other.shape[0] != n:
            got = f"shape {other.shape}" if array else type(other).__name__
            raise InputError(
                f"`A @ x`: an array of shape ({n},) or ({n}, k), or a lineax operator; got {got}. "
                "Transpose x, or convert a matrix by `SparseOperator.from_scipy`."
            )
        x = jnp.asarray(other)
        if x.ndim == 1:
            return self.mv(x)
        if self.pattern is not None:
            return pack(self.data, self.pattern).mm(x)
        terms = self.data[:, None] * x[self.cols]
        return jnp.zeros((m, x.shape[1]), terms.dtype).at[self.rows].add(terms)


def _term(given: Any) -> lx.AbstractLinearOperator:
    """Return a term of a sum as a lineax operator, by its entries where they are known."""
    if sp.issparse(given):
        return SparseOperator.from_scipy(given)
    if isinstance(given, lx.AbstractLinearOperator):
        return simplify(given)
    raise InputError(
        "`A + B` or `A - B`: a `SparseOperator`, `scipy.sparse` matrix or lineax operator beside "
        f"a `SparseOperator`; got {type(given).__name__}. Wrap an array in "
        "`lineax.MatrixLinearOperator`, which makes the sum an array."
    )


def _reduced(operator: lx.AbstractLinearOperator) -> bool:
    return isinstance(operator, (lx.MatrixLinearOperator, SparseOperator))


register_sparse(SparseOperator)


@lx.diagonal.register(SparseOperator)
def _(operator: SparseOperator) -> Array:
    on_diagonal = operator.rows == operator.cols
    terms = jnp.where(on_diagonal, operator.data, jnp.zeros_like(operator.data))
    return jnp.zeros(min(operator.shape), terms.dtype).at[operator.rows].add(terms, mode="drop")


@lx.conj.register(SparseOperator)
def _(operator: SparseOperator) -> SparseOperator:
    return operator.with_data(operator.data.conj())


def simplify(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Return an operator of known entries as a dense or sparse one, and others unchanged."""
    return by_entries(operator, SparseOperator)
