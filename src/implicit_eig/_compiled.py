"""The compilation of the package's own JAX code.

On accelerators JAX multiplies float32 matrices with fewer bits by default. On NVIDIA GPUs it uses
TF32, whose ten bits are too few for the derivatives here, which rely on small residuals and on
vectors orthogonal to the known ones.

Source: https://docs.jax.dev/en/latest/_autosummary/jax.default_matmul_precision.html
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


def full_precision(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, in which JAX multiplies matrices in full precision, also in its transpose."""

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return wrapped


def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as one compiled program, in full precision; leaves without arrays are static."""
    return eqx.filter_jit(full_precision(fn))


def constant_like(constant: Array, x: Array) -> Array:
    """Return `constant`, of a shape that x broadcasts to, varying over a mesh as x does.

    Inside `jax.shard_map` the branches of a `cond`, or a value and its tangent, must vary alike.
    """
    return jnp.where(x == x, constant, constant)
