"""Sparse matrices in a layout for products in XLA.

A matrix of m rows is stored in slots: slot s has one entry of every row, at column cols[s], so that

    Y = Σ_s data[s, :, None] · X[cols[s]]

gathers whole rows of X, scatters nothing, and is one loop for all columns of X. It takes 1.6 ms for
six and 8 ms for forty, where a gather and a scatter for each column take 19 ms and 116 ms (90,000
rows, 1.4 million entries with duplicates, two cores). Entries beyond a row's slots are scattered.
"""

import functools
import hashlib
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Inexact

# Slots hold at most this many times the mean number of entries in a row; other entries spill.
PADDING = 2
# Up to this many slots form one loop; more are taken in groups of it, to bound the program's size.
UNROLLED = 32
# The latest patterns are kept for operators that are built anew at each call.
KEPT = 16


class Layout:
    """The positions of the entries of a matrix in the packed layout.

    Attributes:
        slots: the column of each row's entry in each slot; shape (w, m).
        spill_rows, spill_cols: the places beyond the slots; shape (r,).
        places: the position of each given entry among the w·m + r packed ones; shape (e,).
        rows, indices, indptr: the matrix in CSR form, without duplicates.
        order: the positions of the CSR entries among the packed ones.
    """

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]):
        m = shape[0]
        sort, first = _in_order(rows, cols, shape)
        entry = np.cumsum(first) - 1
        self.rows, self.indices = (part[sort[first]].astype(np.int32) for part in (rows, cols))
        rows = self.rows
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        self.indptr = self.indptr.astype(np.int32)
        within = np.arange(rows.size) - self.indptr[rows]

        width = min(int(np.max(within, initial=-1)) + 1, PADDING * -(-rows.size // max(m, 1)))
        inside = within < width
        self.spill_rows = rows[~inside].astype(np.int32)
        self.spill_cols = self.indices[~inside]
        self.order = (within * m + rows).astype(np.int32)
        self.order[~inside] = width * m + np.arange(self.spill_rows.size)
        # padding is a zero in column zero
        self.slots = np.zeros((width, m), np.int32)
        self.slots[within[inside], rows[inside]] = self.indices[inside]
        self.size = self.slots.size + self.spill_rows.size
        self.places = np.empty(entry.size, np.int32)
        self.places[sort] = self.order[entry]


class Pattern:
    """The rows and columns of the entries of a sparse matrix; equal by content."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], key: bytes):
        self.rows, self.cols, self.shape, self.key = rows, cols, shape, key

    @functools.cached_property
    def layout(self) -> Layout:
        """Return the positions of the entries in the packed layout."""
        return Layout(self.rows, self.cols, self.shape)

    @functools.cached_property
    def transposed(self) -> "tuple[Pattern, np.ndarray]":
        """Return the pattern of Aᵀ, and the packed entry of A at each of its places, if any."""
        layout = self.layout
        other = pattern_of(layout.indices, layout.rows, (self.shape[1], self.shape[0]))
        source = np.full(other.layout.size, layout.size, np.int32)
        source[other.layout.places] = layout.order
        return other, source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _in_order(
    rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of CSR, and which entries in it are the first at their place."""
    by_col = _counting_sort(cols, shape[1])
    sort = by_col[_counting_sort(rows[by_col], shape[0])]
    rows, cols = rows[sort], cols[sort]
    first = np.ones(rows.size, bool)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    return sort, first


def _counting_sort(keys: np.ndarray, size: int) -> np.ndarray:
    """Return a stable argsort of integers below `size`, in linear time, by conversion to CSC."""
    ends = np.arange(keys.size + 1)
    table: Any = sp.csr_matrix((np.ones(keys.size, np.int8), keys, ends), (keys.size, size))
    return table.tocsc().indices


_patterns: OrderedDict[bytes, Pattern] = OrderedDict()
_lock = threading.Lock()


def pattern_of(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """Return the pattern of entries at these places; the latest are kept."""
    digest = hashlib.sha1(repr((shape, rows.dtype, cols.dtype)).encode(), usedforsecurity=False)
    for part in (rows, cols):
        digest.update(np.ascontiguousarray(part).data)
    key = digest.digest()
    with _lock:
        found = _patterns.pop(key, None)
    # copied, because the caller may write into its arrays
    pattern = Pattern(rows.copy(), cols.copy(), shape, key) if found is None else found
    with _lock:
        _patterns[key] = pattern
        while len(_patterns) > KEPT:
            _patterns.popitem(last=False)
    return pattern


@functools.lru_cache(maxsize=KEPT)
def union(one: Pattern, other: Pattern) -> tuple[Pattern, np.ndarray]:
    """Return the pattern of a sum, without duplicates, and the positions of each term's entries."""
    rows = np.concatenate([one.rows, other.rows])
    cols = np.concatenate([one.cols, other.cols])
    sort, first = _in_order(rows, cols, one.shape)
    places = np.empty(rows.size, np.int32)
    places[sort] = np.cumsum(first) - 1
    kept = sort[first]
    rows, cols = rows[kept].astype(np.int32), cols[kept].astype(np.int32)
    return pattern_of(rows, cols, one.shape), places


class PackedOperator(lx.AbstractLinearOperator):
    """A sparse matrix, stored as its slots and the entries beyond them."""

    data: Inexact[Array, " e"]
    pattern: Pattern = eqx.field(static=True)

    def mm(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """Return A X, shape (m, k)."""
        return _product(self.pattern, self.data, X)

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """Return A x, shape (m,)."""
        return self.mm(vector[:, None])[:, 0]

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n), for tests and small problems."""
        data, rows, cols = self.entries()
        return jnp.zeros(self.pattern.shape, self.data.dtype).at[rows, cols].set(data)

    def entries(self) -> tuple[Inexact[Array, " nnz"], np.ndarray, np.ndarray]:
        """Return the entries, their rows and their columns, in the order of CSR."""
        layout = self.pattern.layout
        return self.data[layout.order], layout.rows, layout.indices

    def transpose(self) -> "PackedOperator":
        """Return Aᵀ, shape (n, m)."""
        other, source = self.pattern.transposed
        return PackedOperator(self.data.at[hidden(source)].get(mode="fill", fill_value=0), other)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of x."""
        return jax.ShapeDtypeStruct(self.pattern.shape[1:], self.data.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of A x."""
        return jax.ShapeDtypeStruct(self.pattern.shape[:1], self.data.dtype)


def register_sparse(kind: type) -> None:
    """Register with lineax a class of matrices of which only the entries are known."""
    for query in (
        lx.is_symmetric,
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.has_unit_diagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.is_positive_semidefinite,
        lx.is_negative_semidefinite,
    ):
        query.register(kind)(lambda operator: False)
    lx.linearise.register(kind)(lambda operator: operator)
    lx.materialise.register(kind)(lambda operator: lx.MatrixLinearOperator(operator.as_matrix()))


register_sparse(PackedOperator)


@lx.conj.register(PackedOperator)
def _(operator: PackedOperator) -> PackedOperator:
    return PackedOperator(operator.data.conj(), operator.pattern)


def pack(data: Array, pattern: Pattern) -> PackedOperator:
    """Return the matrix with these entries, duplicates added up."""
    zeros = jnp.zeros(pattern.layout.size, data.dtype)
    return PackedOperator(zeros.at[hidden(pattern.layout.places)].add(data), pattern)


def hidden(indices: Any) -> Array:
    """Return constant indices in a form that hides their values from XLA.

    Otherwise XLA folds the constants computed from them, which takes seconds and gigabytes.
    """
    return lax.optimization_barrier(jnp.asarray(indices))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product(pattern: Pattern, data: Array, X: Array) -> Array:
    # with the entries behind the barrier, two matrices of one pattern do not share the rows of X
    # that are gathered, which XLA would keep: 260 MB for forty columns. (`jax.linear_transpose`
    # with respect to the entries cannot pass the barrier; reverse mode has its own rule.)
    cols, data = lax.optimization_barrier((jnp.asarray(pattern.layout.slots), data))
    return _add_up(pattern.layout, cols, _parts(pattern.layout, data), X)


@functools.partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(pattern: Pattern, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    data, X = primals
    data_dot, X_dot = tangents
    out = _product(pattern, data, X)
    out_dot = jnp.zeros_like(out)
    if not isinstance(data_dot, SymbolicZero):
        out_dot = out_dot + _by_columns(pattern, data_dot, X)
    if not isinstance(X_dot, SymbolicZero):
        out_dot = out_dot + _product(pattern, data, X_dot)
    return out, out_dot


def _by_columns(pattern: Pattern, data: Array, X: Array) -> Array:
    """Return the product column by column, whose transpose with respect to `data` is fast.

    The transpose adds up ȳ x[cols] over the columns in place, in 4 ms for six. For the product of
    all columns at once it is a sum along the short axis, which takes 15 ms.
    """
    parts, cols = _parts(pattern.layout, data), hidden(pattern.layout.slots)

    # recomputed in the reverse pass, because otherwise x[cols] is kept for each column
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def column(x: Array) -> Array:
        return _add_up(pattern.layout, cols, parts, x[:, None])[:, 0]

    return lax.map(column, X.T).T


class _Parts(NamedTuple):
    groups: Array  # (g, UNROLLED, m)
    rest: tuple[Array, ...]  # of (m,)
    spill: Array  # (r,)


def _parts(layout: Layout, data: Array) -> _Parts:
    """Return the slots, in groups and singly, and the entries beyond them."""
    w, m = layout.slots.shape
    slots = data[: w * m].reshape(w, m)
    start = w - w % UNROLLED
    groups = slots[:start].reshape(-1, UNROLLED, m)
    return _Parts(groups, tuple(slots[start:]), data[w * m :])


def _add_up(layout: Layout, cols: Array, parts: _Parts, X: Array) -> Array:
    """Return Σ_s data[s, :, None] · X[cols[s]], plus the entries beyond the slots."""
    m = layout.slots.shape[1]
    start = len(layout.slots) - len(parts.rest)

    def add(Y: Array, slots: tuple[Any, Array]) -> tuple[Array, None]:
        for values, places in zip(*slots, strict=True):
            Y = Y + values[:, None] * X.at[places].get(mode="promise_in_bounds")
        # a sum that others use is a loop of its own, into which XLA moves the gathered rows; where
        # it merges the sum with what follows, it keeps those of every slot, each as large as X
        return lax.optimization_barrier(Y), None

    Y = jnp.zeros((m, X.shape[1]), jnp.result_type(parts.spill, X))
    if start:
        Y, _ = lax.scan(add, Y, (parts.groups, cols[:start].reshape(parts.groups.shape)))
    Y, _ = add(Y, (parts.rest, cols[start:]))
    if layout.spill_rows.size:
        terms = parts.spill[:, None] * X[hidden(layout.spill_cols)]
        Y = Y.at[hidden(layout.spill_rows)].add(terms)
    return Y
