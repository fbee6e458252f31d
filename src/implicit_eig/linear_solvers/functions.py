"""Linear solvers of the form f(matvec, b): `jax.scipy.sparse.linalg`, `jaxopt.linear_solve`."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._errors import InputError
from ._systems import AbstractOwnSolver


class FunctionLinearSolver(AbstractOwnSolver):
    """Solve by a function of a product; made by `linear_solver`."""

    fn: Callable[..., Any] = eqx.field(static=True)
    options: dict[str, Any]

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; the function sees it ravelled."""
        flat, unravel = ravel_pytree(vector)

        def matvec(x: Array) -> Array:
            return ravel_pytree(state.mv(unravel(x)))[0]

        answer = self.fn(matvec, flat, **self.options)
        x, info = answer if isinstance(answer, tuple) else (answer, None)
        if jnp.shape(x) != flat.shape:
            raise InputError(
                f"`linear_solver({_name(self.fn)})`: a solution of shape {flat.shape}; got "
                f"{jnp.shape(x)}. Return x, or (x, info)."
            )
        failed = False if info is None else jnp.any(jnp.asarray(info) != 0)
        result = lx.RESULTS.where(failed, lx.RESULTS.breakdown, lx.RESULTS.successful)
        return unravel(x), result, {}

    def working_rtol(self, dtype: Any) -> float | None:
        """Return the tolerance the function was given or has by default, where it has one."""
        for name in ("tol", "rtol"):
            if name in self.options:
                return float(self.options[name])
            parameter = inspect.signature(self.fn).parameters.get(name)
            if parameter is not None and isinstance(parameter.default, float):
                return parameter.default
        return None


def linear_solver(fn: Callable[..., Any], **options: Any) -> FunctionLinearSolver:
    """Wrap a JAX function `fn(matvec, b, **options) -> x` as a linear solver.

    Both modes of differentiation work, whatever `fn` can do itself: it is never
    differentiated, and the transposed system is solved by `fn` too.

    Args:
        fn: returns x, or (x, info) with `info` None or 0 for success. `b` and `x` have
            shape (m,); `matvec` maps such a vector to another.
        **options: passed to `fn` in every solve, for example `tol`, `maxiter`, `restart`.

    Raises:
        InputError: `fn` takes no such option, so that it would be ignored.

    Examples:
        >>> import jax
        >>> solver = linear_solver(jax.scipy.sparse.linalg.cg, tol=1e-10)
    """
    try:
        inspect.signature(fn).bind(None, None, **options)
    except TypeError as error:
        raise InputError(
            f"`linear_solver({_name(fn)}, ...)`: a function fn(matvec, b, **options) with these "
            f"options; got a call that does not bind: {error}. Check the names of the options."
        ) from error
    return FunctionLinearSolver(fn, options)


def _name(fn: Callable) -> str:
    return fn.__name__ if inspect.isfunction(fn) else repr(fn)
