"""`implicit_function`: the derivative of any solver, from the user's own conditions."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from .. import host
from .._compiled import compiled, constant_like
from .._errors import InputError
from ..checks.policy import DEFAULT_POLICY, Objection, Policy, enforce, forward_check, tolerance
from ..host import Traceable
from ..linear_solvers._solve import linear_solve
from ..linear_solvers._systems import (
    AbstractLinearisation,
    AbstractLinearSystems,
    Handover,
    Structure,
    probe,
    system_norms,
)
from ..linear_solvers.auto import AutoLinearSolver, iterative
from ..linear_solvers.functions import linear_solver as wrap_function
from ..linear_solvers.shift_invert import ShiftInvert
from ..linear_solvers.sparse_direct import SparseDirect
from ..operators import norm
from .derivatives import AbstractDerivative, ForwardMode
from .theorem import AbstractRoot, find_root

# Up to this many unknowns the default forms the Jacobian and factorises it: 32 MB in float64.
DENSE_LIMIT = 2000
HOST_NUMBERS = (np.ndarray, np.generic, float, int, complex)
# Rounding of the conditions, in eps of their scale.
ROUNDING = 1e3


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
        conditions: `conditions(z, *args, **kwargs)` -> residual, JAX code with as many real
            components as z; zero at the solution. Host code goes in by `host_function`.
        linear_solver: for ∂F/∂z; as for `eigensolver`. The unknowns are z ravelled into one
            real vector (m,), real and imaginary parts in turn, so F need not be holomorphic.
            Default: LU of the Jacobian for m ≤ 2000, else GMRES.
        conditions_derivative: how F is differentiated: `ForwardMode()` (default),
            `ReverseMode()`, `FiniteDifferences()`, `ComplexStep()`, `UserProducts(jvp, vjp)`.
        like: what a host solver returns, as a pytree of `jax.ShapeDtypeStruct` or arrays, or a
            function of the arguments that returns one. Needed under `jit` and `vmap`.
        has_aux: whether the solver returns (z, aux); aux carries no derivative.
        policy: `forward` checks ‖F‖ against the size of its parts, `linear_solver` the solve.

    Returns:
        A function of the solver's arguments, for both modes, any order (as far as
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
        figures = _residual_figures(self.conditions, z, theta)
        rtol = tolerance(self.policy.residual_rtol, figures[0].dtype)
        return enforce(forward_check(self.policy, _Unsolved(rtol)), figures, z), aux

    def residual(self, z: PyTree, theta: PyTree) -> Array:
        args, kwargs = theta
        residual = to_real(self.conditions(z, *args, **kwargs))
        unknowns = jax.eval_shape(to_real, z)
        if residual.shape != unknowns.shape:
            raise InputError(
                "`implicit_function(conditions=...)`: one real condition for each real unknown; "
                f"got {residual.size} conditions for {unknowns.size} unknowns. Add the missing "
                "condition (a normalisation?), or drop the spare one."
            )
        return residual

    def solve_linearised(self, z: PyTree, theta: PyTree, residual_dot: Array) -> PyTree:
        solver = self.linear_solver
        if isinstance(solver, AutoLinearSolver):
            small = residual_dot.size <= DENSE_LIMIT
            solver = lx.LU() if small else iterative(False, residual_dot.dtype)
        linearisation = _Linearisation(self, z, theta)
        u = linear_solve(linearisation, -residual_dot[:, None], solver, self.policy)
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


class _Linearisation(AbstractLinearisation):
    root: _Conditions
    z: PyTree
    theta: PyTree

    def assemble(self) -> AbstractLinearSystems:
        return _JacobianSystems(Structure.DENSE, self.root, self.z, self.theta, False)


class _JacobianSystems(AbstractLinearSystems):
    """One system: ∂F/∂z or its transpose, in real unknowns; arrays of shape (m, 1)."""

    structure: Structure
    root: _Conditions
    z: PyTree
    theta: PyTree
    transposed: bool

    @staticmethod
    def name(i: int) -> str:
        return "∂F/∂z · ż = −∂F/∂args · args_dot, or its transpose,"

    @staticmethod
    def if_singular() -> str:
        return "If ∂F/∂z is singular there, the solution is not isolated and has no derivative."

    def mv(self, U: Array, skip_zeros: bool = False) -> Array:
        # a single system, never zero
        return self.column(0, False).mv(U[:, 0])[:, None]

    def is_hermitian(self) -> bool:
        return False

    def sizes(self) -> Array:
        u = to_real(self.z)
        size = system_norms(self.mv(probe(u)[:, None]))
        # NaN stands for that of the root; conditions of which the derivative is NaN are unsolved
        return jnp.where(jnp.isnan(size) & ~jnp.any(jnp.isnan(u)), jnp.inf, size)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        u = to_real(self.z)

        def residual(u: Array) -> Array:
            return self.root.residual(from_real(u, self.z), self.theta)

        _, product = jax.linearize(residual, u)
        if self.transposed:
            transpose = jax.linear_transpose(product, u)
            product = lambda w: transpose(w)[0]  # noqa: E731
        nothing = constant_like(jnp.zeros_like(u), u)
        of_any = lambda w: product(w + nothing)  # noqa: E731
        tags = {lx.positive_semidefinite_tag, lx.symmetric_tag} if definite else ()
        like = jax.eval_shape(lambda u: u, u)
        return lx.FunctionLinearOperator(of_any, like, tags, closure_convert=False)

    def handover(self) -> Handover:
        small = jax.eval_shape(to_real, self.z).size <= DENSE_LIMIT
        return Handover.ARRAY if small else Handover.PRODUCTS

    def host_columns(self) -> Callable[[int], Any]:
        raise NotImplementedError  # JAX has the products

    def solve_transposed(self, run: Callable, b: Array) -> Array:
        return run(eqx.tree_at(lambda s: s.transposed, self, not self.transposed), b)


def to_real(tree: PyTree) -> Array:
    """Return all leaves as one real vector; a complex leaf gives its real, then imaginary parts."""
    dtype = jnp.result_type(*[jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(tree)])
    parts = []
    for leaf in jax.tree.leaves(tree):
        both = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
        parts += [part.reshape(-1).astype(dtype) for part in both]
    return jnp.concatenate(parts)


def from_real(u: Array, like: PyTree) -> PyTree:
    """Undo `to_real`."""
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        part = u[start : start + leaf.size]
        start += leaf.size
        if jnp.iscomplexobj(leaf):
            part = lax.complex(part, u[start : start + leaf.size])
            start += leaf.size
        out.append(part.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, out)


@compiled
def _residual_figures(
    conditions: Callable[..., PyTree], z: PyTree, theta: PyTree
) -> tuple[Array, Array, Array]:
    """Return ‖F‖, the size ‖∂F/∂z·z‖ + ‖∂F/∂θ·θ‖ of its parts, and whether z is finite."""
    args, kwargs = theta
    moving, still = eqx.partition(args, eqx.is_inexact_array)

    def flat(z: PyTree, moving: PyTree) -> Array:
        return to_real(conditions(z, *eqx.combine(moving, still), **kwargs))

    F, along_z = jax.jvp(lambda z: flat(z, moving), (z,), (z,))
    size = norm(along_z)
    if jax.tree.leaves(moving):
        _, along_args = jax.jvp(lambda m: flat(z, m), (moving,), (moving,))
        size = size + norm(along_args)
    return norm(F), size, jnp.all(jnp.isfinite(to_real(z)))


class _Unsolved(eqx.Module):
    """Object to a z that does not fulfil the conditions."""

    residual_rtol: float = eqx.field(static=True)

    def __call__(self, residual: Any, size: Any, finite: Any) -> Iterator[Objection]:
        allowed = max(self.residual_rtol, ROUNDING * float(jnp.finfo(size.dtype).eps)) * size
        yield Objection(
            ~finite,
            lambda _: (
                "`implicit_function(solver=...)`: a finite solution; got NaN or inf. Check the "
                "solver's own report of convergence."
            ),
        )
        yield Objection(
            ~((residual <= allowed) & (allowed < np.inf)),
            lambda _: (
                "`implicit_function(solver=...)`: a solution of conditions(z, *args) = 0; got a "
                f"residual of norm {float(residual):.1e}, where {float(allowed):.1e} is allowed "
                f"(the parts of the conditions have size {float(size):.1e}). Tighten the solver, "
                "check that the conditions are its own, or accept this with "
                "`Policy(residual_rtol=...)`."
            ),
        )
