"""Tᴴ A T of sparse matrices, assembled.

The terms of a product A B are the pairs of an entry of A at (i, j) and one of B at (j, k), which
are added up at (i, k). They follow from the patterns, so that they are found once, on the host;
the entries then take a gather of either factor and one scatter, which JAX differentiates.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._errors import InputError
from .packed import KEPT, Pattern, hidden, pattern_of


def congruence(A: Any, T: Any) -> Any:
    """Return Tᴴ A T of two sparse operators."""
    if A.pattern is None or T.pattern is None:
        raise InputError(
            "`A.congruence(T)`: patterns of A and T that are known when traced; got traced rows "
            "and columns. Make them with NumPy."
        )
    if A.shape != (T.shape[0],) * 2:
        raise InputError(
            f"`A.congruence(T)`: A of shape (n, n) and T of shape (n, m); got {A.shape} and "
            f"{T.shape}. Give T a row for each unknown of A."
        )
    dtype = np.result_type(A.data.dtype, T.data.dtype)
    entries, ties = A.data.astype(dtype), T.data.astype(dtype)
    # Tᴴ, entry by entry
    adjoint = pattern_of(T.pattern.cols, T.pattern.rows, T.shape[::-1])
    half = _product((entries, A.pattern), (ties, T.pattern))
    data, pattern = _product((ties.conj(), adjoint), half)
    return type(A)(data, pattern.rows, pattern.cols, pattern.shape)


def _product(one: tuple[Array, Pattern], other: tuple[Array, Pattern]) -> tuple[Array, Pattern]:
    pattern, left, right, places = _terms(one[1], other[1])
    terms = one[0][hidden(left)] * other[0][hidden(right)]
    return jnp.zeros(pattern.rows.size, terms.dtype).at[hidden(places)].add(terms), pattern


@functools.lru_cache(maxsize=KEPT)
def _terms(one: Pattern, other: Pattern) -> tuple[Pattern, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pattern of A B, and of each term its entry of A, its entry of B and its place."""
    # in integers of one kind, as NumPy makes numbers of signed and unsigned ones floats
    i, j = (part.astype(np.int64) for part in (one.rows, one.cols))
    row, k = (part.astype(np.int64) for part in (other.rows, other.cols))
    by_row = np.argsort(row, kind="stable")
    in_row = np.bincount(row, minlength=other.shape[0])
    first = np.cumsum(in_row) - in_row
    # the entry of A at (i, j) meets all entries of B in row j
    counts = in_row[j]
    left = np.repeat(np.arange(j.size), counts)
    within = np.arange(left.size) - np.repeat(np.cumsum(counts) - counts, counts)
    right = by_row[first[j[left]] + within]

    m, n = one.shape[0], other.shape[1]
    keys, places = np.unique(i[left] * n + k[right], return_inverse=True)
    rows, cols = (part.astype(np.int32) for part in np.divmod(keys, max(n, 1)))
    left, right, places = (part.astype(np.int32) for part in (left, right, places))
    return pattern_of(rows, cols, (m, n)), left, right, places
