"""Linear solvers of the form f(matvec, b): `jax.scipy.sparse.linalg`, `jaxopt.linear_solve`."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._errors import InputError
from ._systems import AbstractOwnSolver


class FunctionLinearSolver(AbstractOwnSolver):
    """Solve by a function that receives a product; made by `linear_solver`."""

    fn: Callable[..., Any] = eqx.field(static=True)
    options: dict[str, Any]

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector, which the function receives ravelled."""
        flat, unravel = ravel_pytree(vector)

        def matvec(x: Array) -> Array:
            return ravel_pytree(state.mv(unravel(x)))[0]

        try:
            answer = self.fn(matvec, flat, **self.options)
        except jax.errors.TracerArrayConversionError as error:
            raise InputError(
                f"`linear_solver({_name(self.fn)})`: JAX code, which may be traced; got code that "
                "converts its arguments to NumPy. Wrap host code f(A, b) by `host_linear_solver`."
            ) from error
        x: Any
        x, info = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        found = jnp.shape(x) if eqx.is_array_like(x) else type(x).__name__
        if found != flat.shape:
            raise InputError(
                f"`linear_solver({_name(self.fn)})`: a solution of shape {flat.shape}; got "
                f"{found}. Return x, or (x, info)."
            )
        if jnp.iscomplexobj(x) and not jnp.iscomplexobj(flat):
            x = jnp.real(x)
        x = jnp.asarray(x).astype(flat.dtype)  # the residual shows whether this is a solution
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


class LineaxWithOptions(lx.AbstractLinearSolver):
    """A lineax solver with options for every solve; made by `linear_solver`."""

    solver: lx.AbstractLinearSolver
    options: dict[str, Any]

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """Initialise the solver."""
        return self.solver.init(operator, self.options | options)

    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; options for it ravelled are those for its parts joined."""
        return self.solver.compute(state, vector, _fitting(self.options, vector) | options)

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Transpose the solver's state."""
        return self.solver.transpose(state, options)

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Conjugate the solver's state."""
        return self.solver.conj(state, options)

    def assume_full_rank(self) -> bool:
        """Return True, because the systems are nonsingular."""
        return True


def _fitting(options: dict[str, Any], vector: PyTree[Array]) -> dict[str, Any]:
    """Return options for vectors of the form of `vector`, given ones for it or for it ravelled."""
    _, unravel = ravel_pytree(vector)
    like, options = jax.eval_shape(lambda: vector), dict(options)
    given = options.get("preconditioner")
    if given is not None and not _alike(given.in_structure(), like):
        product = lambda v: unravel(given.mv(ravel_pytree(v)[0]))  # noqa: E731
        tags = lx.positive_semidefinite_tag if lx.is_positive_semidefinite(given) else ()
        options["preconditioner"] = lx.FunctionLinearOperator(product, like, tags)
    start = options.get("y0")
    if start is not None and not _alike(start, like):
        options["y0"] = unravel(start)
    return options


def _alike(a: PyTree, b: PyTree) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b)


def linear_solver(
    fn: Callable[..., Any] | lx.AbstractLinearSolver, **options: Any
) -> FunctionLinearSolver | LineaxWithOptions:
    """Wrap a JAX function `fn(matvec, b, **options) -> x`, or a lineax solver with its options.

    Both modes of differentiation work whether or not `fn` itself is differentiable, because it is
    never differentiated; the transposed system is solved by `fn` too.

    Args:
        fn: returns x, or (x, info) with `info` None or 0 for success. `b` and `x` have
            shape (m,); `matvec` maps such a vector to another. Or a lineax solver.
        **options: passed to `fn` in every solve, in both modes: for example `tol`, `maxiter`,
            `restart`, a preconditioner `M`, a start `x0`; for a lineax solver `preconditioner`
            (an operator) and `y0`, of vectors (m,), or of their parts: a bordered system has a
            tuple of arrays (n,) and (k,). Right sides are scaled to norm 1, so a start should be
            as well.

    Raises:
        InputError: `fn` does not take an option, which would then be ignored.

    Examples:
        >>> import jax, jax.numpy as jnp, lineax as lx
        >>> solver = linear_solver(jax.scipy.sparse.linalg.cg, tol=1e-6)
        >>> operator = lx.MatrixLinearOperator(jnp.array([[2.0, 0.0], [0.0, 4.0]]))
        >>> lx.linear_solve(operator, jnp.array([2.0, 4.0]), solver).value.round(4).tolist()
        [1.0, 1.0]
    """
    if isinstance(fn, lx.AbstractLinearSolver):
        unknown = set(options) - {"preconditioner", "y0"}
        if unknown or not isinstance(fn, (lx.CG, lx.GMRES, lx.BiCGStab)):
            raise InputError(
                "`linear_solver(solver, **options)`: `preconditioner` or `y0`, of an iterative "
                f"lineax solver; got {', '.join(options) or 'none'} for {type(fn).__name__}. Set "
                "its other options where it is made, `lx.GMRES(rtol=..., restart=...)`."
            )
        return LineaxWithOptions(fn, options)
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
