"""Newton's method for an eigenpair of T(λ) x = 0, by optimistix."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._compiled import compiled
from .._errors import InputError
from ..host import Traceable
from ..linear_solvers._systems import Structure, probe
from ..linear_solvers.auto import iterative
from ..operators import norm
from ..systems.function import structure_of, working_dtype

# After a last step of about this power of eps, quadratic convergence leaves only rounding errors.
ENOUGH = 0.6


class Newton(Traceable):
    """Newton's method from a start; made by `newton`. `n` is the length of x, if it is known."""

    def __init__(self, fn: Callable[..., Any], n: int | None):
        self.fn = fn
        self.n = n


def newton(
    T: Callable[..., Any],
    start: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 50,
    linear_solver: lx.AbstractLinearSolver | None = None,
) -> Newton:
    """Make a solver for eigenpairs of T(λ, x, *args) = 0 near a start, by Newton's method.

    T(λ) x = 0 and cᴴx = 1, c being the start of x, are n + 1 equations, holomorphic in as many
    unknowns. optimistix solves them, in real and imaginary parts, in a separate run for each start.

    Args:
        T: as for `Nonlinear`.
        start: (λ, x) of shapes () and (n,), or (k,) and (n, k) for k eigenpairs; or a function
            `start(*args)` that returns them, JAX code, for a start that changes with the arguments.
        rtol: the relative size of the last step. `None` takes eps^0.6, after which the error of
            that step is rounding.
        atol: the absolute size of the last step, and of T(λ)x before it. The units are ‖x‖ and
            ‖T(λ)v‖ for a random v, ‖v‖ = 1, so that ‖T(λ)v‖ / ‖T'(λ)x‖ is that of λ; `None` as
            for `rtol`.
        max_steps: largest number of steps of each run.
        linear_solver: for the steps. `None` takes LU where `Nonlinear` does, else GMRES, which
            may not converge: `lineax.LU()` makes a matrix of 2n + 2 rows.

    Returns:
        A solver for `eigensolver(..., Nonlinear(T))`, traced by JAX. An eigenpair that has not
        converged is NaN, which the check of the solver's answer reports.

    Raises:
        InputError: the start does not have these shapes.

    Cost: each step makes 2n + 2 products and factorises, or iterates on products.
    Source: Ruhe (1973) SIAM J. Numer. Anal. 10, 674, doi:10.1137/0710059.

    Examples:
        >>> import jax.numpy as jnp
        >>> from implicit_eig import Nonlinear, eigensolver
        >>> T = lambda lam, x, A: A @ x - lam**2 * x
        >>> solve = eigensolver(newton(T, (1.1, jnp.array([0.1, 1.0]))), Nonlinear(T))
        >>> solve(jnp.array([[4.0, 1.0], [0.0, 1.0 + 0j]])).values.real.round(4).tolist()
        [1.0]
    """
    run = _Run(T, start, (rtol, atol), max_steps, linear_solver)
    return Newton(run, None if callable(start) else _checked(start)[1].shape[0])


def _checked(start: Any) -> tuple[Array, Array]:
    """Return λ (k,) and x (n, k) of a start, after a check of its shapes."""
    shapes: tuple = tuple(map(jnp.shape, start)) if isinstance(start, (tuple, list)) else ()
    pair = len(shapes) == 2 and len(shapes[1]) == len(shapes[0]) + 1 <= 2
    if not pair or shapes[0] != shapes[1][1:]:
        raise InputError(
            "`solvers.newton(start=...)`: (λ, x) of shapes () and (n,), or (k,) and (n, k); got "
            f"{shapes or type(start).__name__}. Give one column of x for each value."
        )
    lam, x = map(jnp.asarray, start)
    return (lam, x) if lam.ndim else (lam[None], x[:, None])


class _Run(eqx.Module):
    """The Newton runs, one for each start."""

    T: Callable[..., Any] = eqx.field(static=True)
    start: Any
    tolerances: tuple[float | None, float | None] = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    linear_solver: lx.AbstractLinearSolver | None

    @compiled
    def __call__(self, *args: Any) -> tuple[Array, Array]:
        start = self.start(*args) if callable(self.start) else self.start
        dtype = working_dtype(args)
        lam, X = (part.astype(dtype) for part in _checked(start))
        return jax.vmap(lambda lam, x: self._pair(lam, x, args), (0, 1), (0, 1))(lam, X)

    def _pair(self, lam: Array, x: Array, args: tuple) -> tuple[Array, Array]:
        # here, because it takes 0.1 s to import
        import optimistix as optx  # noqa: PLC0415

        x = x / norm(x).astype(x.dtype)
        unit, size = _units(lambda lam, x: self.T(lam, x, *args), lam, x)

        def equations(y: Array, args: tuple) -> Array:
            z = _to_complex(y)
            Tx = self.T(z[0] * unit, z[1:], *args)
            return _to_real(jnp.append(Tx / size, jnp.vdot(x, z[1:]) - 1))

        eps = float(jnp.finfo(x.dtype).eps)
        rtol, atol = (eps**ENOUGH if tol is None else tol for tol in self.tolerances)
        solver = self.linear_solver
        if solver is None:
            dense = structure_of(args, x.size) is Structure.DENSE
            solver = lx.LU() if dense else iterative(False, x.dtype)
        found = optx.root_find(
            equations,
            optx.Newton(rtol, atol, linear_solver=solver),
            _to_real(jnp.append(lam / unit, x)),
            args,
            max_steps=self.max_steps,
            throw=False,
        )
        z = _to_complex(found.value)
        z = jnp.where(found.result == optx.RESULTS.successful, z, jnp.nan)
        return z[0] * unit, z[1:]


def _units(T: Callable, lam: Array, x: Array) -> tuple[Array, Array]:
    """Return ‖T(λ)v‖ / ‖T'(λ)x‖ and ‖T(λ)v‖, or 1 where they are 0, to make equations unitless."""
    size = norm(T(lam, probe(x)))
    slope = norm(jax.jvp(lambda lam: T(lam, x), (lam,), (jnp.ones_like(lam),))[1])
    size = jnp.where(size > 0, size, 1)
    unit = jnp.where(slope > 0, size / jnp.where(slope > 0, slope, 1), 1)
    return unit.astype(x.dtype), size.astype(x.dtype)


def _to_real(z: Array) -> Array:
    return jnp.concatenate([z.real, z.imag])


def _to_complex(y: Array) -> Array:
    return jax.lax.complex(*jnp.split(y, 2))
