"""Tangents of pytrees, in which `None` is the tangent of a leaf that does not move."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def arrays_where_moving(x: PyTree, x_dot: PyTree) -> PyTree:
    """Return x with those leaves that have a tangent as arrays, which a Python float is not."""
    return jax.tree.map(
        lambda t, leaf: leaf if t is None or eqx.is_array(leaf) else _number(leaf),
        x_dot,
        x,
        is_leaf=lambda t: t is None,
    )


def _number(leaf: Any) -> jax.Array:
    # by NumPy: `jnp.asarray` alone may leave a Python float a Python float
    return jnp.asarray(np.asarray(leaf, jnp.result_type(leaf)))


def moves_of(tangents: PyTree) -> PyTree:
    """Return which leaves have a tangent, that is, one other than `None`."""
    return jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)


def jvp_at(fn: Any, x: PyTree, x_dot: PyTree) -> PyTree:
    """Return ∂fn/∂x · ẋ, where `None` in `x_dot` is the tangent of a leaf that does not move."""
    moving, still = eqx.partition(x, moves_of(x_dot))
    _, y_dot = jax.jvp(lambda m: fn(eqx.combine(m, still)), (moving,), (x_dot,))
    return y_dot
