"""What a caller gives to a bridge, as JAX arrays and sparse operators, and cotangents back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer

from .._errors import InputError
from ..operators import SparseOperator
from ..operators._entries import check_precision

NUMBERS = (bool, int, float, complex)


def check_callable(bridge: str, fn: Any) -> None:
    """Raise unless a bridge is given a function."""
    if not callable(fn):
        raise InputError(
            f"`{bridge}(fn)`: a JAX function; got {type(fn).__name__}. Give the function itself, "
            "and call the result with the arrays."
        )


def check_kept(bridge: str, dtype: Any) -> None:
    """Raise unless JAX is set to keep the precision of a dtype."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InputError(
            f"`{bridge}(fn)(...)`: numbers in a precision that JAX is set to; got {dtype}, of "
            "which JAX would keep single precision alone. Run "
            '`jax.config.update("jax_enable_x64", True)` before the first call, or convert the '
            "arguments to single precision."
        )


def as_jax(bridge: str, leaf: Any) -> Any:
    """Return an array or number as a JAX array, a `scipy.sparse` matrix as a `SparseOperator`.

    Nothing that is returned shares its memory with the caller's arrays, which may change before
    the pullback is called.
    """
    if isinstance(leaf, Tracer):
        raise InputError(
            f"`{bridge}(fn)(...)`: arrays; got a tracer of JAX. Inside JAX call `fn` itself."
        )
    if sp.issparse(leaf):
        matrix: Any = leaf
        if len(matrix.shape) != 2:
            raise InputError(
                f"`{bridge}(fn)(...)`: sparse matrices; got a sparse array of shape "
                f"{matrix.shape}. Reshape it."
            )
        data, rows, cols = entries(matrix)
        return SparseOperator(_array(bridge, data), rows, cols, matrix.shape)
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "biufc":
        return _array(bridge, leaf)
    if isinstance(leaf, NUMBERS):
        if isinstance(leaf, (float, complex)):
            check_kept(bridge, np.result_type(type(leaf)))
        return jnp.asarray(leaf)  # a number takes the precision of the array beside it
    if isinstance(leaf, jax.Array):
        return leaf
    got = f"an array of {leaf.dtype}" if isinstance(leaf, np.ndarray) else type(leaf).__name__
    raise InputError(
        f"`{bridge}(fn)(...)`: numbers, arrays and sparse matrices; got {got}. Bind whatever else "
        "`fn` needs, by `functools.partial`."
    )


def _array(bridge: str, given: Any) -> jax.Array:
    argument = f"{bridge}(fn)(...)"
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(
            f"`{argument}`: arrays without a mask; got a masked array. Fill it, `x.filled(0)`."
        )
    native = given.astype(given.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind in "fc":
        check_precision(argument, "x", native.dtype)
        check_kept(bridge, native.dtype)
    elif not _fits(native):
        check_kept(bridge, native.dtype)
    return jnp.array(native, copy=True)


def _fits(integers: Any) -> bool:
    """Return whether integers, or booleans, remain the same in the dtype that JAX is set to."""
    kept = integers.astype(jax.dtypes.canonicalize_dtype(integers.dtype), copy=False)
    return bool(np.all(kept == integers))


def entries(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, rows and columns of a `scipy.sparse` matrix, in the order it stores them in."""
    if matrix.format == "dia":  # `tocoo` leaves out its zeros
        rows, cols, inside = _diagonals(matrix)
        return matrix.data[inside], rows[inside], cols[inside]
    coo = _compact(matrix).tocoo()
    return coo.data, coo.row.astype(np.int32), coo.col.astype(np.int32)


def _compact(matrix: Any) -> Any:
    """Return a matrix without the room for more entries that CSR, CSC and BSR may have."""
    if matrix.format in ("csr", "csc", "bsr") and matrix.indices.size > matrix.indptr[-1]:
        matrix = matrix.copy()
        matrix.prune()
    return matrix


def _diagonals(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places of the stored diagonals, and which of them lie inside the matrix."""
    m, n = matrix.shape
    cols = np.arange(matrix.data.shape[1], dtype=np.int32)[None, :]
    rows = cols - np.asarray(matrix.offsets, np.int32)[:, None]
    cols = np.broadcast_to(cols, rows.shape)
    return rows, cols, (rows >= 0) & (rows < m) & (cols < n)


def with_entries(matrix: Any, data: np.ndarray) -> Any:
    """Return a `scipy.sparse` matrix like the given one, with other entries at the same places.

    Args:
        matrix: of any format.
        data: in the order of `entries`.
    """
    if matrix.format in ("dok", "lil"):
        coo = matrix.tocoo(copy=True)
        coo.data = data
        return coo.asformat(matrix.format)
    new = _compact(matrix).copy()
    if matrix.format == "dia":
        new.data = np.zeros(matrix.data.shape, data.dtype)
        new.data[_diagonals(matrix)[2]] = data
        return new
    new.data = data.reshape(new.data.shape)
    return new


def as_numpy(array: Any) -> Any:
    """Return a JAX array as a NumPy array of its own memory, or as a number if it is one."""
    return np.array(array)[()] if isinstance(array, jax.Array) else array


def like_given(leaf: Any) -> Callable[[Any], Any]:
    """Return the function that gives a cotangent the form of its argument."""
    if not sp.issparse(leaf):
        return as_numpy
    # its places are stored, because the caller may change the matrix before the pullback is called
    places: Any = leaf.copy()
    return lambda bar: with_entries(places, np.array(bar))
