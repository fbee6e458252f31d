"""`implicit_function`: the derivative of any solver, from the user's own conditions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from .. import host
from .._errors import InputError
from .._real import from_real
from ..checks.conditions import check_conditions
from ..checks.policy import DEFAULT_POLICY, Policy
from ..host import Traceable
from ..host.process import refuse_forks
from ..linear_solvers._solve import linear_solve
from ..linear_solvers._systems import Structure
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.functions import linear_solver as wrap_function
from ..linear_solvers.shift_invert import ShiftInvert
from ..linear_solvers.sparse_direct import SparseDirect
from ..systems.jacobian import JacobianSystem, as_many
from .derivatives import AbstractDerivative, ForwardMode
from .theorem import AbstractRoot, find_root

HOST_NUMBERS = (np.ndarray, np.generic, float, int, complex)


def implicit_function(
    solver: Callable[..., PyTree],
    conditions: Callable[..., PyTree],
    *,
    linear_solver: lx.AbstractLinearSolver | Callable[..., Any] | None = None,
    conditions_derivative: AbstractDerivative | None = None,
    like: PyTree | Callable[..., PyTree] | None = None,
    has_aux: bool = False,
    policy: Policy = DEFAULT_POLICY,
) -> Callable[..., PyTree]:
    """Differentiate z = solver(*args) from conditions(z, *args) = 0.

    Args:
        solver: `solver(*args, **kwargs)` -> z, a pytree of floating-point arrays; or (z, aux).
            A plain callable runs on the host and receives NumPy arrays; `traceable(fn)` is
            traced by JAX. It is never differentiated.
        conditions: `conditions(z, *args, **kwargs)` -> residual F, JAX code; it has as many real
            components as z and is zero at the solution. Host code enters through `host_function`.
        linear_solver: for ∂F/∂z; as for `eigensolver`. The unknowns are z ravelled into one
            real vector (m,), real and imaginary parts in turn, so F need not be holomorphic.
            Default: LU of the Jacobian for m ≤ 2000, else GMRES.
        conditions_derivative: how F is differentiated: `ForwardMode()` (default),
            `ReverseMode()`, `FiniteDifferences()`, `ComplexStep()`, `UserProducts(jvp, vjp)`.
        like: what a host solver returns, as a pytree of `jax.ShapeDtypeStruct` or arrays, or a
            function of the arguments that returns one. Needed under `jit` and `vmap`.
        has_aux: whether the solver returns (z, aux); aux carries no derivative.
        policy: `forward` checks ‖F‖ against the size of its parts, `linear_solve` the solve.

    Returns:
        A function of the solver's arguments, for both modes, derivatives of any order (as far as
        `conditions_derivative` goes), `jit` and `vmap`. Arguments that are not arrays are
        passed on and not differentiated.

    Raises:
        InputError: the sizes of z and the residual differ, or `like` is missing.
        EigensolverError: z does not fulfil the conditions.

    Cost: a derivative is one product with ∂F/∂args and one linear solve.
    Source: Blondel et al. (2022), arXiv:2105.15183; differs in: the JVP rule is transposed by
        JAX, so that one rule serves both modes.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> root = implicit_function(np.sqrt, lambda z, a: z**2 - a)
        >>> float(jax.grad(root)(jnp.array(4.0)))
        0.25
    """
    host.refuse_jax_code("`implicit_function(solver=...)`", solver)
    if linear_solver is None:
        linear_solver = AutoLinearSolver()
    elif not isinstance(linear_solver, lx.AbstractLinearSolver):
        linear_solver = wrap_function(linear_solver)
    if isinstance(linear_solver, (SparseDirect, ShiftInvert)):
        raise InputError(
            f"`implicit_function(linear_solver={type(linear_solver).__name__}())`: a solver for "
            "products or dense matrices; got one that factorises a sparse matrix, which "
            "∂F/∂z is not. Use `host_linear_solver`, or an iterative solver."
        )
    derivative = ForwardMode() if conditions_derivative is None else conditions_derivative
    if not isinstance(derivative, AbstractDerivative):
        raise InputError(
            "`implicit_function(conditions_derivative=...)`: an object such as `ReverseMode()`; "
            f"got {derivative!r}. Choose from `ForwardMode`, `ReverseMode`, `FiniteDifferences`, "
            "`ComplexStep` and `UserProducts`."
        )
    root = _Conditions(solver, derivative.wrap(conditions), linear_solver, like, has_aux, policy)

    def solve(*args: Any, **kwargs: Any) -> PyTree:
        refuse_forks()
        z, aux = find_root(root, host.as_jax((args, kwargs)))
        return (z, aux) if has_aux else z

    return solve


class _Conditions(AbstractRoot):
    """The user's solver and conditions."""

    solver: Callable[..., PyTree] = eqx.field(static=True)
    conditions: Callable[..., PyTree] = eqx.field(static=True)
    linear_solver: lx.AbstractLinearSolver
    like: Any
    has_aux: bool = eqx.field(static=True)
    policy: Policy

    def find(self, theta: PyTree) -> tuple[PyTree, PyTree]:
        args, kwargs = theta
        answer = self._run(args, kwargs)
        if self.has_aux and not (isinstance(answer, tuple) and len(answer) == 2):
            raise InputError(
                "`implicit_function(has_aux=True)`: a solver that returns (z, aux); got "
                f"{type(answer).__name__}. Return both, or leave `has_aux` out."
            )
        z, aux = answer if self.has_aux else (answer, ())
        strange = [leaf for leaf in jax.tree.leaves(aux) if not eqx.is_array(leaf)]
        if strange:
            raise InputError(
                "`implicit_function(has_aux=True)`: auxiliary output of numbers and arrays; got "
                f"{strange[0]!r}. Leave it out."
            )
        wrong = [leaf for leaf in jax.tree.leaves(z) if not eqx.is_inexact_array(leaf)]
        if wrong or not jax.tree.leaves(z):
            raise InputError(
                "`implicit_function(solver=...)`: a solution of floating-point arrays; got "
                f"{wrong[0]!r}. Move other output to `aux` (`has_aux=True`)."
                if wrong
                else "`implicit_function(solver=...)`: a solution of floating-point arrays; got "
                "none. Return z."
            )
        caller = "`implicit_function(solver=...)`"
        return check_conditions(caller, self.policy, self.conditions, z, args, kwargs, z), aux

    def residual(self, z: PyTree, theta: PyTree) -> Array:
        args, kwargs = theta
        caller = "`implicit_function(conditions=...)`"
        return as_many(caller, self.conditions(z, *args, **kwargs), z)

    def solve_linearised(self, z: PyTree, theta: PyTree, residual_dot: Array) -> PyTree:
        system = JacobianSystem(Structure.DENSE, _At(self, theta), z)
        u = linear_solve(system, -residual_dot[:, None], self.linear_solver, self.policy)
        return from_real(u[:, 0], z)

    def _run(self, args: tuple, kwargs: dict) -> PyTree:
        if isinstance(self.solver, Traceable):
            return self.solver.fn(*args, **kwargs)
        arrays, static = eqx.partition((args, kwargs), eqx.is_array)
        run = host.WithStatic(self.solver, static)
        if self.like is not None:
            like = self.like(*args, **kwargs) if callable(self.like) else self.like
            like = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), like
            )
            return host.call(run, like, arrays)
        if host.is_traced(arrays):
            raise InputError(
                "`implicit_function(like=...)`: the shapes of what a host solver returns, under "
                "`jit` and `vmap`; got none. Give `like=`, for example `like=lambda a: a` for a "
                "solution of the shape of the argument, or mark JAX code by `traceable`."
            )
        answer = run(jax.tree.map(np.asarray, arrays))
        return jax.tree.map(
            lambda x: jnp.asarray(np.array(x)) if isinstance(x, HOST_NUMBERS) else x,
            answer,
        )


class _At(eqx.Module):
    """The conditions at given arguments."""

    root: _Conditions
    theta: PyTree

    def __call__(self, z: PyTree) -> Array:
        return self.root.residual(z, self.theta)
