"""Functions whose products with the Jacobian are given, not derived."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._errors import InputError
from .._tangents import arrays_where_moving, moves_of

NESTED = (
    "`{}`: a first derivative; got a second one, for which these products say nothing. Use "
    "`ForwardMode()` on JAX code."
)


def linear_map(
    fun: Callable[[PyTree, PyTree], PyTree],
    transpose: Callable[[PyTree, PyTree], PyTree],
    at: PyTree,
    v: PyTree,
    like: PyTree,
    name: str,
) -> PyTree:
    """Return L v for a linear map L given, with its transpose, as opaque functions.

    `fun(at, v)` and `transpose(at, w)` are never differentiated. The map becomes the
    solution of the triangular system

        [ I  0 ] [u]   [v]
        [−L  I ] [w] = [0],     transposed  [ I −Lᵀ] [u]   [v̄]
                                            [ 0  I ] [w] = [w̄],

    since `lax.custom_linear_solve` takes a solve and its transpose, and works under every
    transform. (`jax.custom_derivatives.linear_call` has no rule for `vmap`.)
    """
    at = eqx.internal.nondifferentiable(at, msg=NESTED.format(name))

    def solve(_: Any, b: PyTree) -> PyTree:
        u, w = b
        return u, jax.tree.map(jnp.add, w, fun(at, u))

    def solve_transposed(_: Any, b: PyTree) -> PyTree:
        u, w = b
        return jax.tree.map(jnp.add, u, transpose(at, w)), w

    # JAX transposes and differentiates the solve only if all leaves of its right side are linear in
    # the same variables: connect them here, and the results for the transpose
    def tie(tree: PyTree) -> Callable[[Any], Array]:
        zeros = [jnp.sum(0 * leaf).real.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
        total = jnp.sum(jnp.stack(zeros))
        # times 0 at both ends, so that no number passes through float32, also in the transpose
        return lambda leaf: 0 * jnp.broadcast_to(total, leaf.shape).astype(leaf.dtype)

    v = jax.tree.map(jnp.asarray, v)
    spread = tie(v)
    v = jax.tree.map(lambda leaf: leaf + spread(leaf), v)
    zero = jax.tree.map(spread, like)
    # the matrix itself is read only where its own parameters have tangents, which `at` refuses
    solution: Any = lax.custom_linear_solve(
        lambda x: x, (v, zero), solve, transpose_solve=solve_transposed, symmetric=True
    )
    u, w = solution
    spread = tie(u)
    return jax.tree.map(lambda leaf: leaf + spread(leaf), w)


def with_products(
    fn: Callable[..., PyTree], product: Callable[[PyTree, PyTree, PyTree], PyTree]
) -> Callable[..., PyTree]:
    @eqx.filter_custom_jvp
    def call(args: tuple, kwargs: dict) -> PyTree:
        return fn(*args, **kwargs)

    @call.def_jvp
    def rule(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
        if jax.tree.leaves(tangents[1]):
            raise InputError(
                "`conditions_derivative=...`: derivatives for positional arguments; got one for a "
                "keyword argument. Pass it by position."
            )
        args, kwargs = arrays_where_moving(primals[0], tangents[0]), primals[1]
        out = call(args, kwargs)
        return out, product((args, kwargs), tangents[0], out)

    return lambda *args, **kwargs: call(args, kwargs)


def with_differences(
    fn: Callable[..., PyTree],
    difference: Callable[[Callable, Array, Array, Array], Array],
    name: str,
) -> Callable[..., PyTree]:
    def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
        args, kwargs = primals
        moving, still, moving_dot = split_moving(args, tangents)
        _, unravel = ravel_pytree(moving)
        _, unravel_out = ravel_pytree(out)

        def push(at: PyTree, v: PyTree) -> PyTree:
            moving, still, kwargs = at
            x, v = ravel_pytree(moving)[0], ravel_pytree(v)[0]
            return unravel_out(difference(flat_fn(still, kwargs), x, v, _sizes(moving)))

        def flat_fn(still: PyTree, kwargs: PyTree) -> Callable[[Array], Array]:
            def flat(x: Array) -> Array:
                args = eqx.combine(_unravel_as(x, moving, unravel), _promoted(still, x.dtype))
                return ravel_pytree(fn(*args, **kwargs))[0]

            return flat

        def pull(at: PyTree, w: PyTree) -> PyTree:
            moving, still, kwargs = at
            x, w = ravel_pytree(moving)[0], ravel_pytree(w)[0]
            f, sizes = flat_fn(still, kwargs), _sizes(moving)

            def entry(direction: Array, i: Array) -> Array:
                v = jnp.zeros_like(x).at[i].set(direction)
                return jnp.sum(w * difference(f, x, v, sizes)).real

            one = jnp.ones((), x.dtype)
            x_bar = lax.map(lambda i: entry(one, i), jnp.arange(x.size))
            if jnp.iscomplexobj(x):
                # JAX pairs cotangent and tangent by Re(x̄ ẋ), so ẋ = i gives −Im x̄
                imaginary = lax.map(lambda i: entry(1j * one, i), jnp.arange(x.size))
                x_bar = lax.complex(x_bar, -imaginary)
            return unravel(x_bar.astype(x.dtype))

        at = (moving, still, kwargs)
        return linear_map(push, pull, at, moving_dot, out, name)

    return with_products(fn, product)


def _unravel_as(x: Array, like: PyTree, unravel: Callable[[Array], PyTree]) -> PyTree:
    """Unravel `x` into the shapes of `like`, also where a complex step has made it complex."""
    leaves, treedef = jax.tree.flatten(like)
    parts = jnp.split(x, np.cumsum([leaf.size for leaf in leaves])[:-1])
    if not jnp.iscomplexobj(x) or any(jnp.iscomplexobj(leaf) for leaf in leaves):
        return unravel(x)
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def _promoted(tree: PyTree, dtype: Any) -> PyTree:
    """Make the floating-point leaves complex where `dtype` is, in all arguments alike."""

    def promote(leaf: Any) -> Any:
        if eqx.is_inexact_array(leaf) and jnp.issubdtype(dtype, jnp.complexfloating):
            return leaf.astype(dtype)
        return leaf

    return jax.tree.map(promote, tree)


def _sizes(tree: PyTree) -> Array:
    """Return, for each entry of the ravelled tree, the largest magnitude in its leaf, or 1."""
    leaves = jax.tree.leaves(tree)
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]
    return jnp.concatenate(
        [jnp.full(x.size, jnp.where(m > 0, m, 1)) for x, m in zip(leaves, largest, strict=True)]
    )


def split_moving(args: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Split the arguments into those with a tangent and those without."""
    moving, still = eqx.partition(args, moves_of(tangents))
    return moving, still, tangents


class _Refusal(eqx.Module):
    message: str = eqx.field(static=True)

    def __call__(self, _: PyTree) -> PyTree:
        raise InputError(self.message)


def refuse(message: str, like: PyTree, argument: PyTree) -> PyTree:
    """Raise when run, because both products are traced and only one of them is run."""
    like = jax.eval_shape(lambda: eqx.filter(like, eqx.is_array))
    return jax.pure_callback(_Refusal(message), like, argument, vmap_method="sequential")
