"""What users pass as A and B, as lineax operators."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from ._compiled import compiled
from ._errors import InputError
from .host import is_traced
from .packed import PackedOperator, Pattern, hidden, pack, pattern_of, register_sparse


class SparseOperator(lx.AbstractLinearOperator):
    """Hold a sparse matrix of fixed pattern, differentiable in its entries.

    A[rows[e], cols[e]] += data[e]: entries at the same place are summed, as in
    finite-element assembly, so `data` may hold raw element matrices.

    Args:
        data: entries; shape (e,).
        rows, cols: their places; integers of shape (e,).
        shape: (m, n).

    Raises:
        InputError: lengths or types differ, or an index lies outside `shape`.

    Cost: a product is one gather and one scatter of e entries; a gradient with respect
        to `data` is two gathers. Nothing of size m×n is made.

    Examples:
        >>> import jax.numpy as jnp
        >>> data = jnp.array([2.0, -1.0, -1.0, 2.0])
        >>> A = SparseOperator(data, [0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
        >>> A.mv(jnp.array([1.0, 0.0])).tolist()
        [2.0, -1.0]
    """

    data: Inexact[Array, " e"]
    shape: tuple[int, int] = eqx.field(static=True)
    # known places are part of the type, as a shape is: what is laid out by them is laid out once
    pattern: Pattern | None = eqx.field(static=True)
    traced: tuple[Integer[Array, " e"], Integer[Array, " e"]] | None

    def __init__(self, data: Any, rows: Any, cols: Any, shape: tuple[int, ...]):
        self.data = jnp.asarray(data)
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
        if not jnp.issubdtype(self.data.dtype, jnp.inexact):
            raise InputError(
                "`SparseOperator(data=...)`: real or complex floating-point entries; got "
                f"{self.data.dtype}. Convert them, `data.astype(float)`."
            )

    @property
    def rows(self) -> Integer[Array | np.ndarray, " e"]:
        """The rows of the entries, shape (e,)."""
        return self._places()[0]

    @property
    def cols(self) -> Integer[Array | np.ndarray, " e"]:
        """The columns of the entries, shape (e,)."""
        return self._places()[1]

    def _places(self) -> tuple[Any, Any]:
        if self.pattern is not None:
            return hidden(self.pattern.rows), hidden(self.pattern.cols)
        assert self.traced is not None
        return self.traced

    @classmethod
    def from_scipy(cls, matrix: Any) -> "SparseOperator":
        """Convert a `scipy.sparse` matrix or array of any format, shape (m, n)."""
        coo: Any = matrix.tocoo()
        rows, cols = coo.row, coo.col
        return cls(coo.data, rows.astype(np.int32), cols.astype(np.int32), coo.shape)

    @classmethod
    def from_bcoo(cls, matrix: BCOO) -> "SparseOperator":
        """Convert an unbatched two-dimensional `BCOO`; its padding becomes explicit zeros."""
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
        terms = self.data * vector[self.cols]
        return jnp.zeros(self.shape[0], terms.dtype).at[self.rows].add(terms)

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n): for tests and small problems."""
        return jnp.zeros(self.shape, self.data.dtype).at[self.rows, self.cols].add(self.data)

    def transpose(self) -> "SparseOperator":
        """Return Aᵀ, shape (n, m)."""
        return SparseOperator(self.data, self.cols, self.rows, self.shape[::-1])

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of x."""
        return jax.ShapeDtypeStruct((self.shape[1],), self.data.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of A x."""
        return jax.ShapeDtypeStruct((self.shape[0],), self.data.dtype)


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
    return SparseOperator(operator.data.conj(), operator.rows, operator.cols, operator.shape)


def as_operator(name: str, given: Any) -> lx.AbstractLinearOperator:
    """Return what the user passed as `name` as a lineax operator.

    Raises:
        InputError: the object is none of the accepted forms, is not two-dimensional, is
            empty, or holds integers.
    """
    if isinstance(given, BCOO):
        operator = SparseOperator.from_bcoo(given)
    elif isinstance(given, BCSR):
        operator = SparseOperator.from_bcoo(given.to_bcoo())
    elif sp.issparse(given):
        _check_inexact(name, given.dtype)
        operator = SparseOperator.from_scipy(given)
    elif isinstance(given, lx.AbstractLinearOperator):
        operator = _simplify(given)
    elif isinstance(given, (jax.Array, np.ndarray)):
        _check_inexact(name, given.dtype)
        if given.ndim != 2:
            raise InputError(
                f"`solve({name}=...)`: a matrix; got an array of shape {given.shape}. "
                "Use `jax.vmap` for a stack of matrices."
            )
        operator = lx.MatrixLinearOperator(jnp.asarray(given))
    else:
        raise InputError(
            f"`solve({name}=...)`: an array, `SparseOperator`, `scipy.sparse` matrix, `BCOO`, "
            f"`BCSR` or lineax operator; got {type(given).__name__}. Wrap a function v -> A v "
            "in `lineax.FunctionLinearOperator`."
        )
    if isinstance(operator, SparseOperator) and operator.pattern is not None:
        operator = pack(operator.data, operator.pattern)
    for structure in (operator.in_structure(), operator.out_structure()):
        if not isinstance(structure, jax.ShapeDtypeStruct) or len(structure.shape) != 1:
            raise InputError(
                f"`solve({name}=...)`: an operator between vectors of shape (n,); got "
                f"{structure}. Ravel the argument inside the operator."
            )
    if 0 in (operator.in_size(), operator.out_size()):
        raise InputError(
            f"`solve({name}=...)`: at least one row and column; got an empty operator of shape "
            f"({operator.out_size()}, {operator.in_size()}). Check how it was assembled."
        )
    return operator


def _check_inexact(name: str, dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"`solve({name}=...)`: real or complex floating-point entries; got {dtype}. "
            f"Convert it, `{name}.astype(float)`."
        )


def _simplify(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Return an operator of known entries as a dense or sparse one."""
    if isinstance(operator, lx.TaggedLinearOperator):
        return _simplify(operator.operator)
    if isinstance(operator, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(operator.matrix)
    if isinstance(operator, lx.DiagonalLinearOperator):
        diagonal = lx.diagonal(operator)
        index = np.arange(diagonal.size)
        return SparseOperator(diagonal, index, index, (diagonal.size, diagonal.size))
    if isinstance(operator, lx.TridiagonalLinearOperator):
        diagonal, lower, upper = lx.tridiagonal(operator)
        index = np.arange(diagonal.size)
        return SparseOperator(
            jnp.concatenate([diagonal, lower, upper]),
            np.concatenate([index, index[1:], index[:-1]]),
            np.concatenate([index, index[:-1], index[1:]]),
            (diagonal.size, diagonal.size),
        )
    return operator


def is_dense(operator: lx.AbstractLinearOperator | None) -> bool:
    """Return whether the operator is held as a dense array."""
    return isinstance(operator, lx.MatrixLinearOperator)


def has_entries(operator: lx.AbstractLinearOperator | None) -> bool:
    """Return whether the entries are known: dense, sparse, or the identity (`None`)."""
    known = (lx.MatrixLinearOperator, SparseOperator, PackedOperator)
    return operator is None or isinstance(operator, known)


def dtype_of(operator: lx.AbstractLinearOperator) -> Any:
    """Return the dtype of the operator's vectors."""
    return operator.in_structure().dtype


def scale_columns(X: Inexact[Array, "n k"], factors: Shaped[Array, " k"]) -> Inexact[Array, "n k"]:
    """Return X diag(factors), shape (n, k)."""
    return X * factors[None, :].astype(X.dtype)


def column_norms(X: Inexact[Array, "n k"]) -> Float[Array, " k"]:
    """Return the 2-norm of each column, shape (k,), without overflow or underflow of squares."""
    largest = jnp.max(jnp.abs(X), axis=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.linalg.norm(scale_columns(X, 1 / scale), axis=0)


def norm(x: Inexact[Array, " n"]) -> Float[Array, ""]:
    """Return the 2-norm of a vector, as `column_norms` does."""
    return column_norms(x[:, None])[0]


@compiled
def apply(
    operator: lx.AbstractLinearOperator | None, X: Inexact[Array, "n k"], skip_zeros: bool = False
) -> Inexact[Array, "m k"]:
    """Return A X, shape (m, k); X itself for `None`.

    Of an operator that is neither dense nor packed the columns are multiplied one by one. With
    `skip_zeros` a zero column costs no product then; such a map JAX cannot transpose.
    """
    if operator is None:
        return X
    if isinstance(operator, lx.MatrixLinearOperator):
        return operator.matrix @ X
    if isinstance(operator, PackedOperator):
        return operator.mm(X)
    # recomputed rather than kept for the reverse pass: what it would keep is a gathered vector of
    # the length of `data` for each column
    product = jax.checkpoint(lambda x: operator.mv(x), prevent_cse=False)
    if not skip_zeros:
        return jax.lax.map(product, X.T).T
    like = operator.out_structure()

    def column(x: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        zero = jnp.zeros(like.shape, like.dtype)
        return jax.lax.cond(jnp.any(x != 0), lambda x: operator.mv(x), lambda _: zero, x)

    return jax.lax.map(column, X.T).T


def apply_complex(
    operator: lx.AbstractLinearOperator | None, X: Inexact[Array, "n k"]
) -> Inexact[Array, "m k"]:
    """Return A X, shape (m, k), also for complex X where A is real."""
    if operator is None or dtype_of(operator) == X.dtype:
        return apply(operator, X)
    k = X.shape[1]
    both = apply(operator, jnp.concatenate([X.real, X.imag], axis=1))
    return jax.lax.complex(both[:, :k], both[:, k:])


@compiled
def apply_adjoint(
    operator: lx.AbstractLinearOperator, X: Inexact[Array, "m k"]
) -> Inexact[Array, "n k"]:
    """Return Aᴴ X, shape (n, k)."""
    return apply(operator.transpose(), X.conj()).conj()
