"""Identities on tangents that pass them, or their cotangents, to a function in one direction.

JAX has no public means for this that keeps forward mode. `custom_vjp` forbids that mode, and a
function that `lax.custom_linear_solve` calls in reverse mode is called again on the tangents of a
cotangent, which satisfy other conditions. So this is a primitive with the rules of an identity,
except for its transposition.

Source: "JAX Internals: primitives" in JAX's documentation.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

from .._compiled import full_precision


def watch(
    fn: Callable[[PyTree, PyTree, PyTree], PyTree], tangents: PyTree, residuals: PyTree
) -> PyTree:
    """Return `tangents`; their cotangents become `fn(cotangents, residuals, absent)`.

    Args:
        fn: JAX code, hashable, that returns its first argument, perhaps marked as invalid. It is
            called only in reverse mode, once for each pass. `absent` is like `tangents`, true for
            what the function does not depend on, so that its cotangent is zero when traced.
        tangents: a pytree of arrays, on which the result depends linearly.
        residuals: a pytree of arrays that `fn` receives unchanged.
    """
    return _bind(fn, tangents, residuals, False)


def look(fn: Callable[[PyTree, PyTree], PyTree], tangents: PyTree, residuals: PyTree) -> PyTree:
    """Return `fn(tangents, residuals)`, but leave cotangents unchanged; see `watch`."""
    return _bind(fn, tangents, residuals, True)


def _bind(fn: Any, tangents: PyTree, residuals: PyTree, forward: bool) -> PyTree:
    leaves, structure = jax.tree.flatten(tangents)
    others, other_structure = jax.tree.flatten(residuals)
    fn = _OnLeaves(fn, structure, other_structure)
    out = _watch_p.bind(*leaves, *others, count=len(leaves), fn=fn, forward=forward)
    return jax.tree.unflatten(structure, out)


class _OnLeaves(eqx.Module):
    fn: Callable[..., PyTree] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    other_structure: Any = eqx.field(static=True)

    @full_precision
    def __call__(self, leaves: list, residuals: list, *absent: list) -> list:
        trees = (jax.tree.unflatten(self.structure, part) for part in (leaves, *absent))
        tree, *rest = trees
        others = jax.tree.unflatten(self.other_structure, residuals)
        return jax.tree.leaves(self.fn(tree, others, *rest))


class _Mapped(eqx.Module):
    fn: Callable[..., list] = eqx.field(static=True)

    def __call__(self, leaves: list, residuals: list, *absent: list) -> list:
        return jax.vmap(lambda *mapped: self.fn(*mapped, *absent))(leaves, residuals)


_watch_p = Primitive("watch_cotangents")
_watch_p.multiple_results = True


@_watch_p.def_impl
def _impl(*operands: Any, count: int, fn: Any, forward: bool) -> list:
    tangents = list(operands[:count])
    return fn(tangents, list(operands[count:])) if forward else tangents


@_watch_p.def_abstract_eval
def _abstract_eval(*operands: Any, count: int, **_: Any) -> list:
    return list(operands[:count])


def _jvp(primals: Any, tangents: Any, *, count: int, **options: Any) -> tuple[list, list]:
    out = _watch_p.bind(*primals, count=count, **options)
    moving = [ad.instantiate_zeros(t) for t in tangents[:count]]
    return out, _watch_p.bind(*moving, *primals[count:], count=count, **options)


def _transpose(cotangents: Any, *operands: Any, count: int, fn: Any, forward: bool) -> list:
    # a cotangent that is zero when traced stays so, and nothing is computed for it further back
    zero = [isinstance(c, ad.Zero) for c in cotangents]
    out = [None if z else c for z, c in zip(zero, cotangents, strict=True)]
    if not (forward or all(zero)):
        seen = fn([ad.instantiate_zeros(c) for c in cotangents], list(operands[count:]), zero)
        out = [None if z else s for z, s in zip(zero, seen, strict=True)]
    linear = [
        c if ad.is_undefined_primal(operand) else None
        for c, operand in zip(out, operands[:count], strict=True)
    ]
    return linear + [None] * (len(operands) - count)


def _batch(operands: Any, axes: Any, *, count: int, fn: Any, **options: Any) -> tuple[list, list]:
    (size,) = {
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    }
    mapped = [
        jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        if axis is None
        else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands, axes, strict=True)
    ]
    out = _watch_p.bind(*mapped, count=count, fn=_Mapped(fn), **options)
    return out, [0] * count


ad.primitive_jvps[_watch_p] = _jvp
ad.primitive_transposes[_watch_p] = _transpose
batching.primitive_batchers[_watch_p] = _batch
mlir.register_lowering(_watch_p, mlir.lower_fun(_impl, multiple_results=True))
