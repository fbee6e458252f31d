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
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree


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


def if_any(
    wanted: Bool[Array, ""],
    work: Callable[..., PyTree[Array]],
    spare: Callable[..., PyTree[Array]],
    *operands: PyTree[Array],
) -> PyTree[Array]:
    """Return `work(*operands)` if `wanted`, else `spare(*operands)`.

    For a batch `work` runs only if any of its members wants it, where `lax.cond` runs both branches
    for all of them. Neither may close over tracers. The result carries no derivative.
    """

    def one(wanted: Array, operands: tuple) -> PyTree[Array]:
        return lax.cond(wanted, work, spare, *operands)

    chosen = custom_vmap(one)

    @chosen.def_vmap
    def _(size: int, batched: Any, wanted: Array, operands: tuple) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        each = jax.vmap(one, axes, axis_size=size)
        none = jax.vmap(lambda _, operands: spare(*operands), axes, axis_size=size)
        out = if_any(jnp.any(wanted), each, none, wanted, operands)
        return out, jax.tree.map(lambda _: True, out)

    return chosen(wanted, operands)
