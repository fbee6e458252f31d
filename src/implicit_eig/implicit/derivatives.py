"""The ways to differentiate a function that JAX must not trace, or cannot differentiate."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from .. import host
from .._errors import InputError
from .._tangents import moves_of
from ..host._differences import Directional, Gradient
from ..host._products import (
    linear_map,
    refuse,
    split_moving,
    with_differences,
    with_products,
)


class AbstractDerivative(eqx.Module):
    """A way of differentiating a function, independent of the transform that is applied."""

    @abc.abstractmethod
    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with its derivative replaced."""


class ForwardMode(AbstractDerivative):
    """Differentiate by JAX's forward mode; for all JAX code except `jax.custom_vjp`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import implicit_function
        >>> conditions = lambda z, a: z**2 - a
        >>> root = implicit_function(np.sqrt, conditions, conditions_derivative=ForwardMode())
        >>> float(jax.grad(root)(jnp.array(4.0)))
        0.25
    """

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` itself."""
        return fn


class ReverseMode(AbstractDerivative):
    """Differentiate by JAX's reverse mode; for code that contains a `jax.custom_vjp`.

    Second derivatives exist as far as JAX differentiates that reverse pass, which excludes
    forward mode through a `custom_vjp`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import implicit_function
        >>> square = jax.custom_vjp(lambda z: z**2)
        >>> square.defvjp(lambda z: (z**2, z), lambda z, bar: (2 * z * bar,))
        >>> conditions = lambda z, a: square(z) - a
        >>> root = implicit_function(np.sqrt, conditions, conditions_derivative=ReverseMode())
        >>> float(jax.grad(root)(jnp.array(4.0)))
        0.25
    """

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with the transpose of its VJP as its JVP."""

        def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
            args, kwargs = primals
            moving, still, moving_dot = split_moving(args, tangents)
            _, vjp = jax.vjp(lambda m: fn(*eqx.combine(m, still), **kwargs), moving)
            transposed = jax.linear_transpose(lambda out_bar: vjp(out_bar)[0], out)
            return transposed(moving_dot)[0]

        return with_products(fn, product)


class FiniteDifferences(AbstractDerivative):
    """Differentiate by finite differences.

    Args:
        step: relative to the largest entry of each argument; default eps^(1/(order + 1)).
        order: order of the error in the step: 1 (forward), 2 or 4 (central).

    Cost: a product with the Jacobian takes `order` calls (2 for order 1); one with its
        transpose takes that many for each entry of the arguments.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import implicit_function
        >>> conditions = lambda z, a: z**2 - a
        >>> differences = FiniteDifferences(order=2)
        >>> root = implicit_function(np.sqrt, conditions, conditions_derivative=differences)
        >>> round(float(jax.grad(root)(jnp.array(4.0))), 3)
        0.25
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

        return with_differences(fn, difference, "FiniteDifferences()")


# offset and weight of each evaluation
_STENCILS = {
    1: ((1.0, 1.0), (0.0, -1.0)),
    2: ((1.0, 0.5), (-1.0, -0.5)),
    4: ((1.0, 2 / 3), (-1.0, -2 / 3), (2.0, -1 / 12), (-2.0, 1 / 12)),
}


class ComplexStep(AbstractDerivative):
    """Differentiate by Im f(x + i h v) / h, exact to rounding for real-analytic functions.

    The function must treat complex arguments as it treats real ones, without `abs`, conjugates or
    comparisons of the arguments.

    Args:
        step: relative to the largest entry of each argument.

    Raises:
        InputError: an argument is complex already.

    Cost: a product with the Jacobian takes one call; one with its transpose takes one for each
        entry of the arguments.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import implicit_function
        >>> conditions = lambda z, a: z**2 - a
        >>> root = implicit_function(np.sqrt, conditions, conditions_derivative=ComplexStep())
        >>> round(float(jax.grad(root)(jnp.array(4.0))), 6)
        0.25
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

        return with_differences(fn, difference, "ComplexStep()")


class UserProducts(AbstractDerivative):
    """Differentiate by the user's own products, in JAX code.

    Args:
        jvp: `jvp(primals, tangents) -> output_dot`, both tuples of the positional arguments.
        vjp: `vjp(primals, output_bar) -> tuple of argument cotangents`, the transpose of
            `jvp` (for complex arrays without conjugation, as in JAX).

    A mode whose product is missing is refused, and so are second derivatives.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import implicit_function
        >>> products = UserProducts(
        ...     jvp=lambda primals, tangents: 2 * primals[0] * tangents[0] - tangents[1],
        ...     vjp=lambda primals, bar: (2 * primals[0] * bar, -bar),
        ... )
        >>> conditions = lambda z, a: z**2 - a
        >>> root = implicit_function(np.sqrt, conditions, conditions_derivative=products)
        >>> float(jax.grad(root)(jnp.array(4.0)))
        0.25
    """

    jvp: Callable[..., Any] | None = eqx.field(static=True, default=None)
    vjp: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def wrap(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return `fn` with these products."""

        def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
            args, _ = primals
            moves = moves_of(tangents)

            def push(args: PyTree, args_dot: PyTree) -> PyTree:
                if self.jvp is None:
                    return refuse(_MISSING.format("jvp", "forward"), out, args_dot)
                zeros = jax.tree.map(
                    lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else None, args
                )
                return self.jvp(args, eqx.combine(args_dot, zeros))

            def pull(args: PyTree, out_bar: PyTree) -> PyTree:
                if self.vjp is None:
                    args_bar = refuse(_MISSING.format("vjp", "reverse"), args, out_bar)
                else:
                    args_bar = tuple(self.vjp(args, out_bar))
                return eqx.filter(args_bar, moves)

            return linear_map(push, pull, args, tangents, out, "UserProducts()")

        return with_products(fn, product)


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
    """Return host code, such as a finite-element assembly, as a differentiable JAX function.

    Args:
        fn: `fn(*args)` -> pytree of arrays. It receives NumPy arrays and must be pure.
        like: shapes and dtypes of the result: a pytree of `jax.ShapeDtypeStruct` or arrays, or
            a function of the arguments that returns one.
        jvp: `jvp(primals, tangents) -> output_dot`, on the host.
        vjp: `vjp(primals, output_bar) -> tuple of argument cotangents`, on the host.

    With neither product the derivative is taken by central differences: two calls in forward mode,
    and in reverse mode two for each entry of the arguments, with a `HostCallWarning` where these
    are some hundred, and a progress bar if tqdm is installed. With one product the other mode is
    refused. As the matvec of a `lineax.FunctionLinearOperator` the function is transposed by `vjp`.

    Returns:
        A function of the same arguments for `jit`, `vmap`, and the modes for which it has
        products; second derivatives are refused.

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

    def run(code: Callable, result: PyTree, *args: PyTree) -> PyTree:
        arrays, static = eqx.partition((args, {}), eqx.is_array)
        return host.call(host.WithStatic(code, static), result, arrays)

    def call(*args: PyTree) -> PyTree:
        return run(fn, shapes(*args), *args)

    if jvp is None and vjp is None:
        return _with_host_differences(fn, call, run)

    def push(code: Callable, args: PyTree, args_dot: PyTree) -> PyTree:
        return run(code, shapes(*args), args, args_dot)

    def pull(code: Callable, args: PyTree, out_bar: PyTree) -> PyTree:
        moving = eqx.filter(args, eqx.is_inexact_array)

        def cotangents(args: PyTree, out_bar: PyTree) -> PyTree:
            args_bar = code(args, out_bar)
            mask = jax.tree.map(eqx.is_inexact_array_like, args)
            return eqx.filter(tuple(args_bar), mask)

        return run(cotangents, jax.eval_shape(lambda: moving), args, out_bar)

    products = UserProducts(
        None if jvp is None else functools.partial(push, jvp),
        None if vjp is None else functools.partial(pull, vjp),
    )
    return products.wrap(call)


def _with_host_differences(
    fn: Callable[..., PyTree], call: Callable[..., PyTree], run: Callable[..., PyTree]
) -> Callable[..., PyTree]:
    """Return `call`, which runs `fn` on the host, with finite differences as its products."""

    def product(primals: PyTree, tangents: PyTree, out: PyTree) -> PyTree:
        moving, still, moving_dot = split_moving(primals[0], tangents)

        def push(at: PyTree, v: PyTree) -> PyTree:
            return run(Directional(fn), jax.eval_shape(lambda: out), *at, v)

        def pull(at: PyTree, w: PyTree) -> PyTree:
            return run(Gradient(fn), jax.eval_shape(lambda: moving), *at, w)

        return linear_map(push, pull, (moving, still), moving_dot, out, "host_function(...)")

    return with_products(call, product)
