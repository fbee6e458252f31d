"""Sparse operators, their sums and multiples, and other operators given by their entries."""

from collections.abc import Callable
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
from ._entries import as_entries
from .packed import Pattern, hidden, pack, pattern_of, register_sparse, union


class SparseOperator(lx.AbstractLinearOperator):
    """Hold a sparse matrix of fixed pattern, differentiable in its entries.

    The matrix is defined by A[rows[e], cols[e]] += data[e]: entries at the same place are summed,
    as in finite-element assembly, so that `data` may hold raw element matrices.

    `A + B`, `A - B`, `-A`, `t * A` and `A / t` with a number t are again sparse, on the union of
    the patterns, and differentiable in t too. One of A and B may be a `scipy.sparse` matrix or a
    lineax operator whose entries are known; with an array among them the sum is an array. `A @ x`
    is the product with an array of shape (n,) or (n, m), and `A @ operator` is lineax's
    composition, of which only products are known. Dtypes are promoted as those of JAX arrays are.

    Args:
        data: entries; shape (e,).
        rows, cols: their places, counted from 0; integers of shape (e,). Where traced indices lie
            outside the matrix, their entries are NaN.
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
        self.shape = (int(shape[0]), int(shape[1]))
        self.pattern = self.traced = None
        if is_traced((rows, cols)):
            self.traced = jnp.asarray(rows), jnp.asarray(cols)
        else:
            rows, cols = np.asarray(rows), np.asarray(cols)
            _check_indices("rows", rows, shape[0])
            _check_indices("cols", cols, shape[1])
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

        Examples:
            >>> import scipy.sparse as sp
            >>> A = SparseOperator.from_scipy(sp.csr_array([[0.0, 2.0], [3.0, 0.0]]))
            >>> A.data.tolist(), A.as_matrix().tolist()
            ([2.0, 3.0], [[0.0, 2.0], [3.0, 0.0]])
        """
        coo: Any = matrix.tocoo()
        if coo.ndim != 2:
            raise InputError(
                "`SparseOperator.from_scipy(matrix)`: a matrix; got a sparse array of shape "
                f"{coo.shape}. Reshape it."
            )
        rows, cols = coo.row, coo.col
        return cls(coo.data, rows.astype(np.int32), cols.astype(np.int32), coo.shape)

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
        return self.with_data(self.data * _number("t * A", other))

    def __rmul__(self, other: Any) -> "SparseOperator":
        return self * other

    def __truediv__(self, other: Any) -> "SparseOperator":
        return self.with_data(self.data / _number("A / t", other))

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


def _number(product: str, given: Any) -> Any:
    known = isinstance(given, (int, float, complex, np.generic, np.ndarray, jax.Array))
    if not known or jnp.shape(given):
        got = f"shape {jnp.shape(given)}" if known else type(given).__name__
        raise InputError(
            f"`{product}`: a number t; got {got}. Write `A @ x` for the product with an array x, "
            "and scale rows and columns in `data`."
        )
    return given


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


def add(A: Any, B: Any) -> lx.AbstractLinearOperator:
    """Return A + B of dense and sparse operators: sparse if both are, on the union of patterns."""
    if (A.out_size(), A.in_size()) != (B.out_size(), B.in_size()):
        raise InputError(
            f"`A + B`: operators of one shape; got ({A.out_size()}, {A.in_size()}) and "
            f"({B.out_size()}, {B.in_size()}). Check how they were assembled."
        )
    if not (isinstance(A, SparseOperator) and isinstance(B, SparseOperator)):
        return lx.MatrixLinearOperator(A.as_matrix() + B.as_matrix())
    if A.pattern is None or B.pattern is None:
        pairs = zip(A.places(), B.places(), strict=True)
        rows, cols = (jnp.concatenate([jnp.asarray(p, jnp.int32) for p in pair]) for pair in pairs)
        return SparseOperator(jnp.concatenate([A.data, B.data]), rows, cols, A.shape)
    if A.pattern == B.pattern:
        return A.with_data(A.data + B.data)
    pattern, places = union(A.pattern, B.pattern)
    data = jnp.concatenate([A.data, B.data])
    data = jnp.zeros(pattern.rows.size, data.dtype).at[hidden(places)].add(data)
    return SparseOperator(data, pattern.rows, pattern.cols, A.shape)


def _check_indices(name: str, indices: np.ndarray, size: int) -> None:
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"`SparseOperator({name}=...)`: integers; got {indices.dtype}. "
            "Give the row and column numbers of the entries."
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise InputError(
            f"`SparseOperator({name}=...)`: indices in [0, {size}); got "
            f"[{indices.min()}, {indices.max()}]. Check `shape`, or drop the entries outside it."
        )


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
    if isinstance(operator, lx.TaggedLinearOperator):
        return simplify(operator.operator)
    if isinstance(operator, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(operator.matrix)
    if isinstance(operator, lx.DiagonalLinearOperator):
        return _diagonal(lx.diagonal(operator))
    if isinstance(operator, lx.IdentityLinearOperator):
        like = operator.in_structure()
        if like == operator.out_structure() and isinstance(like, jax.ShapeDtypeStruct):
            return _diagonal(jnp.ones(operator.in_size(), like.dtype))
    if isinstance(operator, lx.TridiagonalLinearOperator):
        diagonal, lower, upper = lx.tridiagonal(operator)
        index = np.arange(diagonal.size)
        return SparseOperator(
            jnp.concatenate([diagonal, lower, upper]),
            np.concatenate([index, index[1:], index[:-1]]),
            np.concatenate([index, index[:-1], index[1:]]),
            (diagonal.size, diagonal.size),
        )
    if isinstance(operator, lx.AddLinearOperator):
        parts = simplify(operator.operator1), simplify(operator.operator2)
        return add(*parts) if all(map(_reduced, parts)) else operator
    if isinstance(operator, lx.NegLinearOperator):
        return _scaled(operator, lambda entries: -entries)
    if isinstance(operator, lx.MulLinearOperator):
        return _scaled(operator, lambda entries: entries * operator.scalar)
    if isinstance(operator, lx.DivLinearOperator):
        return _scaled(operator, lambda entries: entries / operator.scalar)
    return operator


def _diagonal(entries: Inexact[Array, " n"]) -> SparseOperator:
    index = np.arange(entries.size)
    return SparseOperator(entries, index, index, (entries.size, entries.size))


def _scaled(operator: Any, scale: Callable[[Array], Array]) -> lx.AbstractLinearOperator:
    part = simplify(operator.operator)
    if isinstance(part, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(scale(part.matrix))
    return part.with_data(scale(part.data)) if isinstance(part, SparseOperator) else operator
