"""Pytrees of real and complex arrays as one real vector, and back."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree


def to_real(tree: PyTree) -> Array:
    """Return all leaves as one real vector; a complex leaf gives its real, then imaginary parts."""
    dtype = jnp.result_type(*[jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(tree)])
    parts = []
    for leaf in jax.tree.leaves(tree):
        both = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
        parts += [part.reshape(-1).astype(dtype) for part in both]
    return jnp.concatenate(parts)


def from_real(u: Array, like: PyTree) -> PyTree:
    """Undo `to_real`."""
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        part = u[start : start + leaf.size]
        start += leaf.size
        if jnp.iscomplexobj(leaf):
            part = lax.complex(part, u[start : start + leaf.size])
            start += leaf.size
        out.append(part.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, out)
