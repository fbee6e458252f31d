"""The operators A and B that users pass, as lineax operators."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax import lax
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, Float, Inexact, Shaped

from .._compiled import compiled
from .._errors import InputError
from ._entries import as_entries, check_precision
from .function_operator import FunctionOperator, comparable
from .host_operator import AbstractHostMatrix, HostOperator
from .packed import PackedOperator, pack
from .sparse import SparseOperator, simplify
from .structured import flattened


def as_operator(name: str, given: Any) -> lx.AbstractLinearOperator:
    """Return what the user passed as `name` as a lineax operator.

    Raises:
        InputError: the object is none of the accepted forms, is not two-dimensional, is
            empty, or holds integers or numbers of another precision than single and double.
    """
    if isinstance(given, BCOO):
        operator = SparseOperator.from_bcoo(given)
    elif isinstance(given, BCSR):
        operator = SparseOperator.from_bcoo(given.to_bcoo())
    elif sp.issparse(given):
        check_precision(f"solve({name}=...)", name, given.dtype)
        operator = SparseOperator.from_scipy(given)
    elif isinstance(given, lx.AbstractLinearOperator):
        operator = simplify(flattened(name, given))
    elif isinstance(given, (jax.Array, np.ndarray)):
        entries = as_entries(f"solve({name}=...)", name, given)
        if given.ndim != 2:
            raise InputError(
                f"`solve({name}=...)`: a matrix; got an array of shape {given.shape}. "
                "Use `jax.vmap` for a stack of matrices."
            )
        operator = lx.MatrixLinearOperator(entries)
    else:
        raise InputError(
            f"`solve({name}=...)`: an array, `SparseOperator`, `scipy.sparse` matrix, `BCOO`, "
            f"`BCSR` or lineax operator; got {type(given).__name__}. Wrap a function v -> A v "
            "in `lineax.FunctionLinearOperator`."
        )
    if isinstance(operator, SparseOperator) and operator.pattern is not None:
        operator = pack(operator.data, operator.pattern)
    for structure in (operator.in_structure(), operator.out_structure()):
        check_precision(f"solve({name}=...)", name, structure.dtype)
    if isinstance(operator, lx.FunctionLinearOperator):
        operator = FunctionOperator(comparable(operator))
    if 0 in (operator.in_size(), operator.out_size()):
        raise InputError(
            f"`solve({name}=...)`: at least one row and column; got an empty operator of shape "
            f"({operator.out_size()}, {operator.in_size()}). Check how it was assembled."
        )
    return operator


def is_dense(operator: lx.AbstractLinearOperator | None) -> bool:
    """Return whether the operator is held as a dense array."""
    return isinstance(operator, lx.MatrixLinearOperator)


def has_entries(operator: lx.AbstractLinearOperator | None) -> bool:
    """Return whether the entries are known: dense, sparse, or the identity (`None`)."""
    known = (lx.MatrixLinearOperator, SparseOperator, PackedOperator, AbstractHostMatrix)
    return operator is None or isinstance(operator, known)


def dtype_of(operator: lx.AbstractLinearOperator) -> Any:
    """Return the dtype of the operator's vectors."""
    return operator.in_structure().dtype


def promoted(
    where: str, operators: tuple[lx.AbstractLinearOperator, ...]
) -> tuple[lx.AbstractLinearOperator, ...]:
    """Return the operators in their common dtype; a gradient comes back in each one's own.

    Raises:
        InputError: an operator of another dtype is known by its products alone.
    """
    common = np.result_type(*map(dtype_of, operators))

    def cast(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
        if dtype_of(operator) == common:
            return operator
        if not has_entries(operator):
            raise InputError(
                f"`{where}`: operators of one dtype, where one is known by its products alone; got "
                f"one of {dtype_of(operator)} beside {common}. Let its function take and return "
                f"{common}, or cast the other operators."
            )
        if isinstance(operator, HostOperator):
            return operator.cast(common)
        return jax.tree.map(
            lambda leaf: leaf.astype(common) if eqx.is_inexact_array(leaf) else leaf, operator
        )

    return tuple(map(cast, operators))


def scale_columns(X: Inexact[Array, "n k"], factors: Shaped[Array, " k"]) -> Inexact[Array, "n k"]:
    """Return X diag(factors), shape (n, k)."""
    return X * factors[None, :].astype(X.dtype)


def diagonal(S: Shaped[Array, "k k"]) -> Shaped[Array, " k"]:
    """Return the diagonal: `jnp.diagonal` in a quarter of its instructions, transposed too."""
    return jnp.einsum("ii->i", S)


def column_norms(X: Inexact[Array, "n k"]) -> Float[Array, " k"]:
    """Return the 2-norm of each column, shape (k,), without overflow or underflow of squares."""
    largest = jnp.max(jnp.abs(X), axis=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.linalg.norm(scale_columns(X, 1 / scale), axis=0)


def column_sums(X: Inexact[Array, "n k"]) -> Float[Array, " k"]:
    """Return the 1-norm of each column, shape (k,): for sizes, as it squares nothing."""
    return jnp.sum(jnp.abs(X), axis=0)


def row_sums(X: Inexact[Array, "n k"]) -> Float[Array, " n"]:
    """Return the 1-norm of each row, shape (n,)."""
    return jnp.sum(jnp.abs(X), axis=1)


def geometric_means(rows: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Return the geometric mean of each column's positive entries, which no few of them decide."""
    positive = rows > 0
    logs = jnp.log(jnp.where(positive, rows, 1))
    count = jnp.sum(positive.astype(rows.dtype), axis=0)
    mean = jnp.exp(jnp.sum(logs, axis=0) / jnp.maximum(count, 1))
    return jnp.where(jnp.any(jnp.isnan(rows), axis=0), jnp.nan, mean)


def norm(x: Inexact[Array, " n"]) -> Float[Array, ""]:
    """Return the 2-norm of a vector, as `column_norms` does."""
    return column_norms(x[:, None])[0]


def at(M: Shaped[Array, "... k"], i: Any) -> Shaped[Array, "..."]:
    """Return M[..., i], also inside `jax.shard_map`, where JAX's brackets fail in a `cond`."""
    return lax.dynamic_index_in_dim(M, i, axis=-1, keepdims=False)


@compiled
def apply(
    operator: lx.AbstractLinearOperator | None, X: Inexact[Array, "n k"], skip_zeros: bool = False
) -> Inexact[Array, "m k"]:
    """Return A X, shape (m, k); X itself for `None`.

    For an operator that is neither dense nor packed the columns are multiplied one by one. With
    `skip_zeros` a zero column then costs no product, but JAX cannot transpose such a map.
    """
    if operator is None:
        return X
    if len(X) != operator.in_size():  # a sparse operator would read what is not there
        raise InputError(
            f"A product with an operator of {operator.in_size()} columns: vectors of this length; "
            f"got vectors of length {len(X)}. Give operators and vectors of one problem."
        )
    if isinstance(operator, lx.MatrixLinearOperator):
        return operator.matrix @ X
    if isinstance(operator, (PackedOperator, AbstractHostMatrix)):
        return operator.mm(X)
    # recomputed in the reverse pass, because otherwise a gathered vector of the length of `data`
    # is kept for each column
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
    if operator is None or isinstance(operator, AbstractHostMatrix):
        return apply(operator, X)
    if dtype_of(operator) == X.dtype:
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
