"""The rows and columns of entries, from the forms in which other codes keep sparse matrices.

All of it is NumPy: a pattern is known when a program is traced, and its entries may be tracers.
"""

import operator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from ..host import is_traced
from ._entries import check_precision

# Rows and columns are counted in 32 bits.
MOST = 2**31 - 1

FROM_SCIPY = "SparseOperator.from_scipy(matrix)"


def as_shape(argument: str, given: Any) -> tuple[int, int]:
    """Return the numbers of rows and columns as integers of Python."""
    try:
        m, n = map(operator.index, given)
    except (TypeError, ValueError):
        m = n = -1
    if min(m, n) < 0 or max(m, n) > MOST:
        raise InputError(
            f"`{argument}`: a shape (m, n) of two numbers of rows and columns below 2³¹; got "
            f"{given!r}. Give them as integers."
        )
    return m, n


def check_known(argument: str, places: Any) -> None:
    """Raise `InputError` where a part of the pattern is traced."""
    if is_traced(places):
        raise InputError(
            f"`{argument}`: places of entries that are known when traced; got an array that JAX "
            "traces. Make them with NumPy, or call `SparseOperator(data, rows, cols, shape)`, "
            "whose `rows` and `cols` may be traced."
        )


def check_indices(argument: str, indices: np.ndarray, size: int) -> None:
    """Raise `InputError` unless these are integers in [0, size)."""
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"`{argument}`: integers; got {indices.dtype}. Give the row and column numbers of the "
            "entries."
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise InputError(
            f"`{argument}`: indices in [0, {size}); got [{indices.min()}, {indices.max()}]. Check "
            "`shape`, or drop the entries outside it."
        )


def of_compressed(
    argument: str, indices: Any, indptr: Any, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of entries in CSR form; of CSC form the columns and rows."""
    indices, indptr = np.asarray(indices), np.asarray(indptr)
    if indices.ndim != 1 or indptr.shape != (shape[0] + 1,):
        raise InputError(
            f"`{argument}`: vectors `indices` and `indptr`, the latter of shape "
            f"({shape[0] + 1},); got shapes {indices.shape} and {indptr.shape}. Check `shape`."
        )
    check_indices(argument, indices, shape[1])
    check_indices(argument, indptr, indices.size + 1)
    widths = np.diff(indptr.astype(np.int64))  # differences of unsigned integers wrap around
    if indptr[0] != 0 or indptr[-1] != indices.size or np.any(widths < 0):
        raise InputError(
            f"`{argument}`: an `indptr` that rises from 0 to {indices.size}, the number of "
            f"entries; got one from {indptr[0]} to {indptr[-1]} with steps of "
            f"{widths.min(initial=0)} and more. Entries e of row i have indptr[i] <= e < "
            "indptr[i + 1]."
        )
    rows = np.repeat(np.arange(shape[0], dtype=np.int32), widths)
    return rows, indices.astype(np.int32)


def of_scipy(
    matrix: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return the stored entries of a SciPy matrix, their rows and columns, and its shape."""
    if not sp.issparse(matrix):
        raise InputError(
            f"`{FROM_SCIPY}`: a `scipy.sparse` matrix or array; got {type(matrix).__name__}. Pass "
            "an array to the eigensolver as it is, and a `BCOO` to `SparseOperator.from_bcoo`."
        )
    if matrix.ndim != 2:
        raise InputError(
            f"`{FROM_SCIPY}`: a matrix; got a sparse array of shape {matrix.shape}. Reshape it."
        )
    check_precision(FROM_SCIPY, "matrix", matrix.dtype)
    shape = as_shape(FROM_SCIPY, matrix.shape)
    if matrix.format in ("csr", "csc", "bsr"):
        data, rows, cols = _of_blocks(matrix)
    elif matrix.format == "dia":
        data, rows, cols = _of_diagonals(matrix)
    else:
        coo: Any = matrix.tocoo()
        data, rows, cols = coo.data, coo.row, coo.col
    check_indices(FROM_SCIPY, rows, shape[0])
    check_indices(FROM_SCIPY, cols, shape[1])
    return data, rows.astype(np.int32), cols.astype(np.int32), shape


def _of_blocks(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # checked here, because SciPy's conversions trust an `indptr` and write where it points
    height, width = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    m, n = matrix.shape[0] // height, matrix.shape[1] // width
    shape = (n, m) if matrix.format == "csc" else (m, n)
    stored = int(matrix.indptr[-1])  # SciPy lets the arrays be longer
    places = of_compressed(FROM_SCIPY, matrix.indices[:stored], matrix.indptr, shape)
    rows, cols = places[::-1] if matrix.format == "csc" else places
    data = matrix.data[:stored].reshape(-1, height, width)
    rows = height * rows[:, None, None] + np.arange(height)[:, None]
    cols = width * cols[:, None, None] + np.arange(width)
    rows, cols = (np.broadcast_to(part, data.shape).ravel() for part in (rows, cols))
    return data.ravel(), rows, cols


def _of_diagonals(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # SciPy's own conversion would drop zeros, so that the pattern would depend on the entries
    cols = np.arange(matrix.data.shape[1]) + 0 * matrix.offsets[:, None]
    rows = cols - matrix.offsets[:, None]
    inside = (rows >= 0) & (rows < matrix.shape[0]) & (cols < matrix.shape[1])
    return matrix.data[inside], rows[inside], cols[inside]


def of_coo(
    rows: Any, cols: Any, like: tuple[int, ...], shape: Any
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return rows and columns of entries in an array of shape `like`, raveled, and (m, n)."""
    where = "SparseOperator.from_coo"
    places = []
    for name, given in (("rows", rows), ("cols", cols)):
        index = np.asarray(given)
        ends = zip(index.shape, like, strict=False)
        repeated = len(like) > 1 and index.ndim == len(like) and all(a in (1, b) for a, b in ends)
        if not (index.shape == like or repeated):
            raise InputError(
                f"`{where}({name}=...)`: the shape of `data`, {like}, in which axes may have "
                f"length 1; got {index.shape}. Write `dofs[:, :, None]` for the rows and "
                "`dofs[:, None, :]` for the columns of element matrices."
            )
        places.append(np.broadcast_to(index, like).ravel())
    if shape is None:
        if not places[0].size:
            raise InputError(
                f"`{where}(shape=...)`: numbers of rows and columns, where there are no entries; "
                "got None. Give (n, n)."
            )
        shape = (int(max(part.max() for part in places)) + 1,) * 2
    shape = as_shape(f"{where}(shape=...)", shape)
    for name, part, size in zip(("rows", "cols"), places, shape, strict=True):
        check_indices(f"{where}({name}=...)", part, size)
    return places[0], places[1], shape


def kept(
    keep: Any, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return which entries stay, their rows and columns among the unknowns kept, and (k, k)."""
    keep = _unknowns(keep, shape)
    number = np.full(shape[0], -1, np.int32)
    number[keep] = np.arange(keep.size)
    rows, cols = number[rows], number[cols]
    stay = np.flatnonzero((rows >= 0) & (cols >= 0)).astype(np.int32)
    return stay, rows[stay], cols[stay], (keep.size, keep.size)


def _unknowns(given: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the numbers of the unknowns that are kept."""
    where, n = "SparseOperator.from_coo(keep=...)", shape[0]
    keep = np.asarray(given)
    if shape[0] != shape[1]:
        raise InputError(f"`{where}`: a square matrix; got shape {shape}. Give `shape=(n, n)`.")
    if keep.dtype == bool and keep.shape == (n,):
        keep = np.flatnonzero(keep)
    elif keep.ndim != 1 or keep.dtype == bool:
        raise InputError(
            f"`{where}`: numbers of unknowns in a vector, or a mask of shape ({n},); got "
            f"{keep.dtype} of shape {keep.shape}. Give `shape` if the last rows have no entries."
        )
    if keep.size == 0:
        raise InputError(
            f"`{where}`: at least one unknown; got none. Give those that are not fixed to zero."
        )
    check_indices(where, keep, n)
    different = np.unique(keep).size
    if different != keep.size:
        raise InputError(
            f"`{where}`: each unknown once; got {different} different ones in {keep.size} "
            "numbers. Give a mask as booleans."
        )
    return keep
