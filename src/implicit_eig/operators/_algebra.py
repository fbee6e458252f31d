"""Sums and multiples of operators whose entries are known, as operators of known entries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._errors import InputError
from .packed import hidden, union


def number(product: str, given: Any) -> Any:
    """Return the factor of a multiple, if it is a number."""
    known = isinstance(given, (int, float, complex, np.generic, np.ndarray, jax.Array))
    if not known or jnp.shape(given):
        got = f"shape {jnp.shape(given)}" if known else type(given).__name__
        raise InputError(
            f"`{product}`: a number t; got {got}. Write `A @ x` for the product with an array x, "
            "and scale rows and columns in `data`."
        )
    return given


def add(A: Any, B: Any) -> lx.AbstractLinearOperator:
    """Return A + B of dense and sparse operators: sparse if both are, on the union of patterns."""
    if (A.out_size(), A.in_size()) != (B.out_size(), B.in_size()):
        raise InputError(
            f"`A + B`: operators of one shape; got ({A.out_size()}, {A.in_size()}) and "
            f"({B.out_size()}, {B.in_size()}). Check how they were assembled."
        )
    if any(isinstance(M, lx.MatrixLinearOperator) for M in (A, B)):
        return lx.MatrixLinearOperator(A.as_matrix() + B.as_matrix())
    sparse = type(A)
    if A.pattern is None or B.pattern is None:
        pairs = zip(A.places(), B.places(), strict=True)
        rows, cols = (jnp.concatenate([jnp.asarray(p, jnp.int32) for p in pair]) for pair in pairs)
        return sparse(jnp.concatenate([A.data, B.data]), rows, cols, A.shape)
    if A.pattern == B.pattern:
        return A.with_data(A.data + B.data)
    pattern, places = union(A.pattern, B.pattern)
    data = jnp.concatenate([A.data, B.data])
    data = jnp.zeros(pattern.rows.size, data.dtype).at[hidden(places)].add(data)
    return sparse(data, pattern.rows, pattern.cols, A.shape)


def by_entries(operator: Any, sparse: Any) -> lx.AbstractLinearOperator:
    """Return an operator of known entries as a dense or sparse one, and others unchanged.

    `sparse` is the class `SparseOperator`, whose own sums are built on this module.
    """

    def diagonal(entries: Array) -> Any:
        index = np.arange(entries.size)
        return sparse(entries, index, index, (entries.size, entries.size))

    def scaled(scale: Callable[[Array], Array]) -> lx.AbstractLinearOperator:
        part: Any = by_entries(operator.operator, sparse)
        if isinstance(part, lx.MatrixLinearOperator):
            return lx.MatrixLinearOperator(scale(part.matrix))
        return part.with_data(scale(part.data)) if isinstance(part, sparse) else operator

    if isinstance(operator, lx.TaggedLinearOperator):
        return by_entries(operator.operator, sparse)
    if isinstance(operator, lx.MatrixLinearOperator):
        return lx.MatrixLinearOperator(operator.matrix)
    if isinstance(operator, lx.DiagonalLinearOperator):
        return diagonal(lx.diagonal(operator))
    if isinstance(operator, lx.IdentityLinearOperator):
        like = operator.in_structure()
        if like == operator.out_structure() and isinstance(like, jax.ShapeDtypeStruct):
            return diagonal(jnp.ones(operator.in_size(), like.dtype))
    if isinstance(operator, lx.TridiagonalLinearOperator):
        entries, lower, upper = lx.tridiagonal(operator)
        index = np.arange(entries.size)
        return sparse(
            jnp.concatenate([entries, lower, upper]),
            np.concatenate([index, index[1:], index[:-1]]),
            np.concatenate([index, index[:-1], index[1:]]),
            (entries.size, entries.size),
        )
    if isinstance(operator, lx.AddLinearOperator):
        parts = [by_entries(part, sparse) for part in (operator.operator1, operator.operator2)]
        known = all(isinstance(part, (lx.MatrixLinearOperator, sparse)) for part in parts)
        return add(*parts) if known else operator
    if isinstance(operator, lx.NegLinearOperator):
        return scaled(lambda entries: -entries)
    if isinstance(operator, lx.MulLinearOperator):
        return scaled(lambda entries: entries * operator.scalar)
    if isinstance(operator, lx.DivLinearOperator):
        return scaled(lambda entries: entries / operator.scalar)
    return operator
