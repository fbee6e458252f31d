"""Operators on tensors and pytrees, whose vectors are ravelled for the solver and given back."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Inexact, PyTree

from .._errors import InputError

TAGS = {
    lx.symmetric_tag: lx.is_symmetric,
    lx.positive_semidefinite_tag: lx.is_positive_semidefinite,
    lx.negative_semidefinite_tag: lx.is_negative_semidefinite,
}


def is_structured(given: Any) -> bool:
    """Return whether an operator acts on other arrays than vectors of shape (n,)."""
    if not isinstance(given, lx.AbstractLinearOperator):
        return False
    structures = given.in_structure(), given.out_structure()
    return any(not isinstance(s, jax.ShapeDtypeStruct) or len(s.shape) != 1 for s in structures)


def structures_of(operators: tuple[Any, ...]) -> Any:
    """Return the structures of right and left vectors, `None` where they are of shape (n,)."""
    found = [M for M in operators if is_structured(M)]
    return (found[0].in_structure(), found[0].out_structure()) if found else None


def flattened(name: str, given: Any) -> Any:
    """Return an operator on vectors of shape (n,) in place of one on tensors or pytrees.

    Raises:
        InputError: the leaves have several dtypes.
    """
    if not is_structured(given):
        return given
    structure = given.in_structure()
    for side in (structure, given.out_structure()):
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(side)})
        if len(dtypes) != 1:
            raise InputError(
                f"`solve({name}=...)`: an operator on arrays of one dtype; got "
                f"{', '.join(dtypes) or 'no array'}. Convert them inside the operator."
            )
    if isinstance(given, lx.PyTreeLinearOperator):  # its entries are known
        return lx.MatrixLinearOperator(given.as_matrix(), given.tags)
    like, unravel = _unravel(structure)
    tags = [tag for tag in TAGS if TAGS[tag](given)]

    def product(x: Array) -> Array:
        return ravel_pytree(given.mv(unravel(x)))[0]

    return lx.FunctionLinearOperator(product, like, tags)


def restored(X: Inexact[Array, "n k"] | None, structure: PyTree) -> PyTree:
    """Return columns in the structure of the vectors, the axis of the pairs being the last."""
    if X is None or structure is None:
        return X
    return jax.vmap(_unravel(structure)[1], 1, -1)(X)


def columns(X: PyTree) -> Any:
    """Return vectors in any structure, with a last axis for the pairs, as columns (n, k)."""
    leaves = jax.tree.leaves(X)
    if len(leaves) == 1 and np.ndim(leaves[0]) <= 2:
        return leaves[0]
    return jnp.concatenate([jnp.reshape(leaf, (-1, np.shape(leaf)[-1])) for leaf in leaves])


def _unravel(structure: PyTree) -> tuple[jax.ShapeDtypeStruct, Any]:
    """Return the structure of ravelled vectors, and what turns one, of any dtype, into a pytree."""
    leaves, tree = jax.tree.flatten(structure)
    sizes = [int(np.prod(leaf.shape)) for leaf in leaves]
    ends = np.cumsum(sizes)[:-1]

    def unravel(x: Array) -> PyTree:
        parts = jnp.split(x, ends)
        shaped = [jnp.reshape(part, leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(tree, shaped)

    return jax.ShapeDtypeStruct((sum(sizes),), leaves[0].dtype), unravel
