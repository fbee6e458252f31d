"""How a function is differentiated when JAX shall not, or cannot, do it by itself."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from . import host
from ._errors import InputError

NESTED = (
    "`{}`: a first derivative; got a second one, for which these products say nothing. Use "
    "`ForwardMode()` on JAX code."
)


class AbstractDerivative(eqx.Module):
    """A way of differentiating a function, chosen apart from the transform that asks for it."""

    @abc.abstractmethod
    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with its derivative replaced."""


class ForwardMode(AbstractDerivative):
    """Differentiate by JAX, from its forward mode: for all JAX code but `jax.custom_vjp`."""

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` itself."""
        return fn


class ReverseMode(AbstractDerivative):
    """Differentiate by JAX, from its reverse mode: for code that holds a `jax.custom_vjp`.

    Second derivatives go as far as JAX differentiates that reverse pass: none in forward
    mode through a `custom_vjp`.
    """

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` whose JVP is the transpose of its VJP."""

        def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
            args, kwargs = primals
            moving, still, moving_dot = _moving(args, tangents)
            _, vjp = jax.vjp(lambda m: fn(*eqx.combine(m, still), **kwargs), moving)
            transposed = jax.linear_transpose(lambda out_bar: vjp(out_bar)[0], out)
            return transposed(moving_dot)[0]

        return _with_products(fn, product)


class FiniteDifferences(AbstractDerivative):
    """Differentiate by finite differences.

    Args:
        step: relative to the largest entry of each argument; default eps^(1/(order + 1)).
        order: of the error in the step: 1 (forward), 2 or 4 (central).

    Cost: a product with the Jacobian takes `order` calls (2 for order 1), one with its
        transpose takes that many for each entry of the arguments.
    """

    step: float | None = None
    order: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.order not in _STENCILS:
            raise InputError(
                f"`FiniteDifferences(order=...)`: one of {sorted(_STENCILS)}; got {self.order}. "
                "Order 2 is the usual choice."
            )

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with differences as its products."""

        def difference(f: Callable[[Array], Array], x: Array, v: Array, size: Array) -> Array:
            eps = float(jnp.finfo(x.dtype).eps)
            step = eps ** (1 / (self.order + 1)) if self.step is None else self.step
            reach = jnp.max(jnp.abs(v) / size)
            h = step / jnp.where(reach > 0, reach, 1)
            terms = []
            for offset, weight in _STENCILS[self.order]:
                y = f(x + (offset * h).astype(v.dtype) * v)
                terms.append((weight / h).astype(y.dtype) * y)
            return sum(terms[1:], terms[0])

        return _with_differences(fn, difference, "FiniteDifferences()")


# offset and weight of each evaluation
_STENCILS = {
    1: ((1.0, 1.0), (0.0, -1.0)),
    2: ((1.0, 0.5), (-1.0, -0.5)),
    4: ((1.0, 2 / 3), (-1.0, -2 / 3), (2.0, -1 / 12), (-2.0, 1 / 12)),
}


class ComplexStep(AbstractDerivative):
    """Differentiate by Im f(x + i h v) / h: exact to rounding, for real-analytic functions.

    The function must take complex arguments as it takes real ones: no `abs`, no conjugate,
    no comparison of the arguments.

    Args:
        step: relative to the largest entry of each argument.

    Raises:
        InputError: an argument is complex already.

    Cost: a product with the Jacobian takes one call, one with its transpose one for each
        entry of the arguments.
    """

    step: float = 1e-20

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with complex steps as its products."""

        def difference(f: Callable[[Array], Array], x: Array, v: Array, size: Array) -> Array:
            if jnp.iscomplexobj(x):
                raise InputError(
                    "`ComplexStep()`: real arguments; got complex ones. Use `FiniteDifferences()`."
                )
            h = self.step / jnp.maximum(jnp.max(jnp.abs(v) / size), jnp.finfo(x.dtype).tiny)
            return f(lax.complex(x, h * v)).imag / h

        return _with_differences(fn, difference, "ComplexStep()")


class UserProducts(AbstractDerivative):
    """Differentiate by the user's own products, in JAX code.

    Args:
        jvp: `jvp(primals, tangents) -> output_dot`, both tuples of the positional arguments.
        vjp: `vjp(primals, output_bar) -> tuple of argument cotangents`, the transpose of
            `jvp` (for complex arrays without conjugation, as in JAX).

    A mode whose product is missing is refused, and so are second derivatives.
    """

    jvp: Callable[..., Any] | None = eqx.field(static=True, default=None)
    vjp: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with these products."""

        def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
            args, _ = primals
            moves = _moves(tangents)

            def push(args: PyTree, args_dot: PyTree) -> PyTree:
                if self.jvp is None:
                    return _refuse(_MISSING.format("jvp", "forward"), out, args_dot)
                zeros = jax.tree.map(
                    lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else None, args
                )
                return self.jvp(args, eqx.combine(args_dot, zeros))

            def pull(args: PyTree, out_bar: PyTree) -> PyTree:
                if self.vjp is None:
                    args_bar = _refuse(_MISSING.format("vjp", "reverse"), args, out_bar)
                else:
                    args_bar = tuple(self.vjp(args, out_bar))
                return eqx.filter(args_bar, moves)

            return linear_map(push, pull, args, tangents, out, "UserProducts()")

        return _with_products(fn, product)


_MISSING = (
    "`UserProducts(...)`, `host_function(...)`: a product `{}` for this derivative; got none. "
    "The other product cannot give {} mode: give both, or neither for finite differences."
)


def host_function(
    fn: Callable[..., PyTree],
    like: PyTree | Callable[..., PyTree],
    *,
    jvp: Callable[..., PyTree] | None = None,
    vjp: Callable[..., PyTree] | None = None,
) -> Callable[..., PyTree]:
    """Return host code, a finite-element assembly say, as a differentiable JAX function.

    Args:
        fn: `fn(*args)` -> pytree of arrays; receives NumPy arrays; must be pure.
        like: shapes and dtypes of the result: a pytree of `jax.ShapeDtypeStruct` or arrays, or
            a function of the arguments that returns one.
        jvp: `jvp(primals, tangents) -> output_dot`, on the host.
        vjp: `vjp(primals, output_bar) -> tuple of argument cotangents`, on the host.

    With neither product the derivative is by central differences, in reverse mode two calls
    for each entry of the arguments. With one product the other mode is refused.

    Returns:
        A function of the same arguments for `jit`, `vmap`, and the modes that it has
        products for; second derivatives are refused.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> square = host_function(
        ...     lambda p: np.square(p),
        ...     like=lambda p: p,
        ...     jvp=lambda primals, tangents: 2 * primals[0] * tangents[0],
        ...     vjp=lambda primals, out_bar: (2 * primals[0] * out_bar,),
        ... )
        >>> float(jax.grad(square)(jnp.array(3.0)))
        6.0
    """

    def shapes(*args: PyTree) -> PyTree:
        found = like(*args) if callable(like) else like
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), found)

    def call(*args: PyTree) -> PyTree:
        return host.call(fn, shapes(*args), *args)

    if jvp is None and vjp is None:
        return FiniteDifferences().wrap(call)

    def push(fn: Callable, args: PyTree, args_dot: PyTree) -> PyTree:
        return host.call(fn, shapes(*args), args, args_dot)

    def pull(fn: Callable, args: PyTree, out_bar: PyTree) -> PyTree:
        return host.call(fn, jax.eval_shape(lambda: args), args, out_bar)

    products = UserProducts(
        None if jvp is None else functools.partial(push, jvp),
        None if vjp is None else functools.partial(pull, vjp),
    )
    return products.wrap(call)


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

    # JAX transposes the solve only if all leaves of its right side are linear in what is
    # transposed: tie them together
    leaves = jax.tree.leaves(v)
    tie = 0 * jnp.sum(jnp.stack([jnp.sum(leaf).real.astype(jnp.float32) for leaf in leaves]))
    v = jax.tree.map(lambda leaf: leaf + tie.astype(leaf.dtype), v)
    zero = jax.tree.map(lambda leaf: jnp.broadcast_to(tie, leaf.shape).astype(leaf.dtype), like)
    # the matrix itself is read only where its own parameters move, which `at` refuses
    return lax.custom_linear_solve(
        lambda x: x, (v, zero), solve, transpose_solve=solve_transposed, symmetric=True
    )[1]


def _with_products(
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
        out = call(*primals)
        return out, product(primals, tangents[0], out)

    return lambda *args, **kwargs: call(args, kwargs)


def _with_differences(
    fn: Callable[..., PyTree],
    difference: Callable[[Callable, Array, Array, Array], Array],
    name: str,
) -> Callable[..., PyTree]:
    def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
        args, kwargs = primals
        moving, still, moving_dot = _moving(args, tangents)
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
                # JAX pairs cotangent and tangent by Re(x̄ ẋ): ẋ = i picks out −Im x̄
                imaginary = lax.map(lambda i: entry(1j * one, i), jnp.arange(x.size))
                x_bar = lax.complex(x_bar, -imaginary)
            return unravel(x_bar.astype(x.dtype))

        at = (moving, still, kwargs)
        return linear_map(push, pull, at, moving_dot, out, name)

    return _with_products(fn, product)


def _unravel_as(x: Array, like: PyTree, unravel: Callable[[Array], PyTree]) -> PyTree:
    """Unravel `x` into the shapes of `like`, also where a step has made it complex."""
    leaves, treedef = jax.tree.flatten(like)
    parts = jnp.split(x, np.cumsum([leaf.size for leaf in leaves])[:-1])
    if not jnp.iscomplexobj(x) or any(jnp.iscomplexobj(leaf) for leaf in leaves):
        return unravel(x)
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def _promoted(tree: PyTree, dtype: Any) -> PyTree:
    """Make the floating-point leaves complex where `dtype` is: all arguments alike."""

    def promote(leaf: Any) -> Any:
        if eqx.is_inexact_array(leaf) and jnp.issubdtype(dtype, jnp.complexfloating):
            return leaf.astype(dtype)
        return leaf

    return jax.tree.map(promote, tree)


def _sizes(tree: PyTree) -> Array:
    """Return for each entry of the ravelled tree the largest magnitude in its leaf, or 1."""
    leaves = jax.tree.leaves(tree)
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]
    return jnp.concatenate(
        [jnp.full(x.size, jnp.where(m > 0, m, 1)) for x, m in zip(leaves, largest, strict=True)]
    )


def _moving(args: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Split the arguments into those with a tangent and those without."""
    moving, still = eqx.partition(args, _moves(tangents))
    return moving, still, tangents


def _moves(tangents: PyTree) -> PyTree:
    return jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)


class _Refusal(eqx.Module):
    message: str = eqx.field(static=True)

    def __call__(self, _: PyTree) -> PyTree:
        raise InputError(self.message)


def _refuse(message: str, like: PyTree, argument: PyTree) -> PyTree:
    """Raise when run: both products are traced, and only one of them is run."""
    like = jax.eval_shape(lambda: eqx.filter(like, eqx.is_array))
    return jax.pure_callback(_Refusal(message), like, argument, vmap_method="sequential")
