"""The accepted arrays of entries: single and double precision, real and complex."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._errors import InputError

PRECISIONS = (np.float32, np.float64, np.complex64, np.complex128)


def check_precision(argument: str, name: str, dtype: Any) -> None:
    """Raise `InputError` unless the dtype is one that can be computed in."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"`{argument}`: real or complex floating-point entries; got {dtype}. "
            f"Convert it, `{name}.astype(float)`."
        )
    if np.dtype(dtype).newbyteorder("=") not in PRECISIONS:
        raise InputError(
            f"`{argument}`: entries in single or double precision; got {dtype}. "
            f"Convert it, `{name}.astype(np.float64)`."
        )


def as_entries(argument: str, name: str, given: Any) -> Array:
    """Return the entries as a JAX array, in the byte order of this machine."""
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(
            f"`{argument}`: entries without a mask; got a masked array. Fill it, "
            f"`{name}.filled(0)`."
        )
    if isinstance(given, np.ndarray):
        check_precision(argument, name, given.dtype)
        given = given.astype(given.dtype.newbyteorder("="), copy=False)
    entries = jnp.asarray(given)
    check_precision(argument, name, entries.dtype)
    return entries
