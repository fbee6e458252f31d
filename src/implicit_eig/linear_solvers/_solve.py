"""Solve the linearised conditions, differentiably, and check the true residual.

M u = b is solved inside `lax.custom_linear_solve`, which supplies the derivatives

    M u̇ = ḃ − Ṁ u,        b̄ = M⁻ᵀ ū,

so that the solver is never differentiated, and a derivative of any order is another solve with
the same solver. A cotangent that is zero when traced costs no solve, and neither does a column
that is zero when run.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import host
from .._compiled import compiled, constant_like
from .._errors import InputError
from ..checks.policy import (
    Action,
    Policy,
    SolveReport,
    enforce,
    exceptional_check,
    linear_solver_check,
    tolerance,
)
from ..checks.rounding import PRODUCT, SOLVED
from ..operators import scale_columns
from ._objections import (
    SUCCESS,
    VERDICTS,
    IllConditioned,
    Inexact,
    Loose,
    Unsolved,
)
from ._systems import (
    AbstractLinearSystems,
    AbstractOwnSolver,
    AbstractSquareSystem,
    Report,
    Structure,
    columns_first,
    columns_last,
    one_system,
    system_norms,
)
from .functions import LineaxWithOptions

# A solver of unknown tolerance is accepted up to ten times this, 1e-5, the default tolerance of
# the solvers of SciPy and `jax.scipy.sparse.linalg`.
UNKNOWN_RTOL = 1e-6
# A right side lies in stiff rows where the other rows of its solution are this small, or smaller.
STIFF = 1e-3
# The number of steps of a solver that does not report it.
UNKNOWN_STEPS = -1
DENSE_SOLVERS = (lx.AutoLinearSolver, lx.LU, lx.QR, lx.SVD, lx.Cholesky)


class Outcome(NamedTuple):
    """What a solver reports about its solutions.

    Attributes:
        verdicts: for each solution an index into `VERDICTS`; shape (k,).
        steps: those of an iteration, 0 for a direct solver, or `UNKNOWN_STEPS`; shape (k,).
    """

    verdicts: Any
    steps: Any

    @staticmethod
    def like(k: int) -> "Outcome":
        """Return the shapes, for a host call."""
        each = jax.ShapeDtypeStruct((k,), jnp.int32)
        return Outcome(each, each)

    @staticmethod
    def start(k: int) -> "Outcome":
        """Return host arrays to fill in, initially success in no steps."""
        return Outcome(np.full(k, SUCCESS, np.int32), np.zeros(k, np.int32))


class AbstractBatchedLinearSolver(AbstractOwnSolver):
    """A linear solver that receives all systems at once."""

    @abc.abstractmethod
    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        """Return the solutions and their outcomes."""

    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; called by `lineax.linear_solve`."""
        return solve_one(self, state, vector)


def solve_one(
    solver: AbstractOwnSolver, operator: lx.AbstractLinearOperator, vector: PyTree[Array]
) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
    """Return x with M x = b for one operator and vector, in the form that `lineax` expects."""
    system = one_system(operator)
    b = jax.tree.map(lambda leaf: leaf[..., None], vector)
    U, outcome = solve_all(system, b, solver.choice(system, b, True))
    x = jax.tree.map(lambda leaf: leaf[..., 0], U)
    return x, as_result(outcome.verdicts[0]), {"num_steps": outcome.steps[0]}


def as_result(verdict: Array) -> lx.RESULTS:
    """Return the member of `VERDICTS` with the index `verdict`, which may be traced."""
    result = VERDICTS[SUCCESS]
    for i, member in enumerate(VERDICTS):
        result = lx.RESULTS.where(verdict == i, member, result)
    return result


def linear_solve(
    system: AbstractSquareSystem,
    b: PyTree[Array],
    solver: lx.AbstractLinearSolver,
    policy: Policy,
) -> PyTree[Array]:
    """Return u with M u = b.

    Raises:
        InputError: a dense solver is given systems that are not dense.
        LinearSolveError: a residual is too large, under `Policy(linear_solve=RAISE)`.
    """

    def solve(_: Any, rhs: PyTree[Array]) -> PyTree[Array]:
        return solve_once(system, rhs, solver, policy)[0]

    def transpose_solve(_: Any, rhs: PyTree[Array]) -> PyTree[Array]:
        return solve_once(system, rhs, solver, policy, transposed=True)[0]

    product = lambda U: _tied(system.mv(U))  # noqa: E731
    return _tied(lax.custom_linear_solve(product, _tied(b), solve, transpose_solve))


def _tied(U: PyTree[Array]) -> PyTree[Array]:
    """Return U, each leaf of which depends linearly on every leaf, by sums of no entries.

    JAX differentiates and transposes a solve only if all leaves vary, or none.
    """
    leaves, treedef = jax.tree.flatten(U)
    if len(leaves) == 1:
        return U
    zeros = [jnp.sum(leaf[:0]) for leaf in leaves]

    def tie(leaf: Array) -> Array:
        parts = zeros if jnp.iscomplexobj(leaf) else map(jnp.real, zeros)
        return functools.reduce(jnp.add, (part.astype(leaf.dtype) for part in parts), leaf)

    return jax.tree.unflatten(treedef, [tie(leaf) for leaf in leaves])


def label(solver: lx.AbstractLinearSolver) -> str:
    """Return the name of a linear solver."""
    return solver.name if isinstance(solver, AbstractOwnSolver) else type(solver).__name__


def chosen(
    system: AbstractSquareSystem, b: PyTree[Array], solver: lx.AbstractLinearSolver, policy: Policy
) -> lx.AbstractLinearSolver:
    """Return the linear solver that does the work of `solver`."""
    if not isinstance(solver, AbstractOwnSolver):
        return solver
    # a monitor is called on the host in any case
    no_host = policy.linear_solve in (Action.NAN, Action.IGNORE) and policy.monitor is None
    return solver.choice(system.handed(), b, not no_host)


@compiled
def solve_once(
    system: AbstractSquareSystem,
    b: PyTree[Array],
    solver: lx.AbstractLinearSolver,
    policy: Policy,
    transposed: bool = False,
) -> tuple[PyTree[Array], Report]:
    """Return u with M u = b, or Mᵀ u = b, checked, and its report; not differentiable."""
    arrays, static = eqx.partition(solver, eqx.is_array)
    solver = eqx.combine(lax.stop_gradient(arrays), static)
    worker = chosen(system, b, solver, policy)
    accepted = accepted_rtol(solver, policy, jax.tree.leaves(b)[0].dtype)

    def run(systems: AbstractLinearSystems, rhs: PyTree[Array]) -> tuple[PyTree[Array], Report]:
        with host.failures_as_nan(policy.linear_solve is Action.NAN):
            return _solve_scaled(systems, rhs, worker, accepted)

    U, report = system.solve_transposed(run, b) if transposed else system.solve(run, b)
    if policy.monitor is not None:
        tell = _Monitor(policy.monitor, label(worker))
        jax.debug.callback(tell, report.steps, report.residuals, report.errors)
    unsolved = Unsolved(type(solver).__name__, type(system.handed()))
    U = enforce(linear_solver_check(policy, unsolved), tuple(report[:4]), U)
    rough = Loose(type(solver).__name__, type(system.handed()))
    solved = report.residuals <= report.allowed
    errors = (jnp.where(solved, part, 0) for part in (report.errors, report.hidden))
    U = enforce(exceptional_check(policy, rough), (*errors, report.steps), U)
    if report.rounding is not None:
        check = exceptional_check(policy, Inexact(type(system.handed())))
        U = enforce(check, (report.rounding,), U)
    if report.conditions is not None:
        check = exceptional_check(policy, IllConditioned(type(system.handed())))
        U = enforce(check, (report.conditions,), U)
    return U, report


def _solve_scaled(
    systems: AbstractLinearSystems,
    b: PyTree[Array],
    solver: lx.AbstractLinearSolver,
    accepted: float,
) -> tuple[PyTree[Array], Report]:
    # Right sides have norm 1, so that an absolute tolerance of the solver means a relative one.
    # NaN in a right side or a system is reported where it arose. It is solved as zero here, and
    # the solution becomes NaN when it is scaled by its size.
    sizes = systems.sizes()
    size = jnp.where(jnp.isnan(sizes), jnp.nan, system_norms(b))
    inverse = 1 / jnp.where(size > 0, size, 1)
    unit = jax.tree.map(lambda leaf: jnp.where(size > 0, scale_columns(leaf, inverse), 0), b)
    U, outcome = solve_all(systems, unit, solver)
    residual = _plain_norms(jax.tree.map(jnp.subtract, unit, systems.mv(U)))
    residual = jnp.where(jnp.isnan(size), 0, residual)
    eps = float(jnp.finfo(residual.dtype).eps)
    growth = _plain_norms(jax.tree.map(lambda u: scale_columns(u, sizes), U))
    rounding = PRODUCT * eps * growth
    allowed = jnp.maximum(accepted, jnp.where(rounding < SOLVED, rounding, SOLVED))
    errors = (residual + eps) * growth
    # what the residual leaves in rows that are not stiff, where b lies in stiff ones
    others = _plain_norms(jax.tree.map(lambda u: scale_columns(u, systems.typical_sizes()), U))
    hidden = jnp.where(
        (others > 0) & (others < STIFF), residual / jnp.where(others > 0, others, 1), 0
    )
    by_rounding = systems.rounding_of(unit, U)
    if by_rounding is not None:  # of what is not solved nothing can be said
        by_rounding = jnp.where(residual <= allowed, by_rounding, 0)
    conditions = systems.condition_bound(unit, U)
    report = Report(residual, allowed, *outcome, errors, hidden, by_rounding, conditions)
    return jax.tree.map(lambda leaf: scale_columns(leaf, size), U), report


def _plain_norms(U: PyTree[Array]) -> Array:
    """Return ‖u_i‖ for each system, shape (k,), by plain squares, for norms of about 1 or less."""
    return system_norms(U, lambda part: jnp.sqrt(jnp.sum(jnp.abs(part) ** 2, axis=0)))


def solve_all(
    systems: AbstractLinearSystems, b: PyTree[Array], solver: lx.AbstractLinearSolver
) -> tuple[PyTree[Array], Outcome]:
    """Return the solutions and outcomes, by a solver of any kind."""
    if isinstance(solver, AbstractBatchedLinearSolver):
        return solver.solve_systems(systems, b)
    return solve_by_column(systems, b, solver)


def solve_by_column(
    systems: AbstractLinearSystems, b: PyTree[Array], solver: lx.AbstractLinearSolver
) -> tuple[PyTree[Array], Outcome]:
    """Return the solutions and outcomes by a solver of single systems, one after another."""
    if isinstance(solver, DENSE_SOLVERS) and systems.structure is not Structure.DENSE:
        raise InputError(
            f"`eigensolver(linear_solver={type(solver).__name__}())`: dense operators, since it "
            f"factorises an n×n array; got {systems.structure.value}. Use `SparseDirect()` for "
            "a sparse operator, `MINRES()` or another iterative solver for a matrix-free one, "
            "or pass the operator as an array."
        )
    inner = solver.solver if isinstance(solver, LineaxWithOptions) else solver
    definite = isinstance(inner, (lx.CG, lx.Cholesky))
    unknown = 0 if isinstance(inner, DENSE_SOLVERS) else UNKNOWN_STEPS

    def solve(i: Array, rhs: PyTree[Array]) -> tuple[PyTree[Array], Outcome]:
        if type(solver) is lx.LU:  # not a subclass, which may do something else
            # lineax's own steps: inside `jax.shard_map` it mistakes its operator for another one
            flat, unravel = ravel_pytree(rhs)
            factors = jsl.lu_factor(_matrix(systems.column(i, definite), flat, unravel))
            return unravel(jsl.lu_solve(factors, flat)), Outcome(jnp.int32(0), jnp.int32(0))
        state: Any = solver.init(systems.column(i, definite), {})
        u, result, stats = solver.compute(state, rhs, {})
        verdict = sum(
            (i * (result == VERDICTS[i]).astype(jnp.int32) for i in range(1, len(VERDICTS))),
            jnp.int32(0),
        )
        return u, Outcome(verdict, jnp.asarray(stats.get("num_steps", unknown), jnp.int32))

    def skip(i: Array, rhs: PyTree[Array]) -> tuple[PyTree[Array], Outcome]:
        return jax.tree.map(jnp.zeros_like, rhs), Outcome(jnp.int32(0), jnp.int32(0))

    def column(operand: tuple[Array, PyTree[Array]]) -> tuple[PyTree[Array], Outcome]:
        i, rhs = operand
        nonzero = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(rhs)]))
        return lax.cond(nonzero, solve, skip, i, rhs)

    k = jax.tree.leaves(b)[0].shape[-1]
    U, outcome = lax.map(column, (jnp.arange(k), columns_first(b)))
    return columns_last(U), outcome


def _matrix(
    operator: lx.AbstractLinearOperator, flat: Array, unravel: Callable[[Array], PyTree]
) -> Array:
    """Return the operator as an array that multiplies right sides like `flat`."""
    if isinstance(operator, lx.MatrixLinearOperator):
        return operator.matrix
    product = lambda e: ravel_pytree(operator.mv(unravel(e)))[0]  # noqa: E731
    unit_vectors = jnp.eye(len(flat), dtype=flat.dtype)
    return jax.vmap(product, out_axes=1)(constant_like(unit_vectors, flat[:, None]))


def accepted_rtol(solver: lx.AbstractLinearSolver, policy: Policy, dtype: Any) -> float:
    """Return the largest relative residual that counts as solved, beyond rounding."""
    if policy.linear_solve_rtol is not None:
        return policy.linear_solve_rtol
    return max(iteration_rtol(solver, dtype), tolerance(None, dtype))


def iteration_rtol(solver: lx.AbstractLinearSolver, dtype: Any) -> float:
    """Return ten times the relative tolerance of a linear solver, 0 for a direct one."""
    rtol: float | None = None
    if isinstance(solver, AbstractOwnSolver):
        rtol = solver.working_rtol(dtype)
    elif isinstance(solver, LineaxWithOptions):
        return iteration_rtol(solver.solver, dtype)
    elif isinstance(solver, lx.Normal):
        return iteration_rtol(solver.inner_solver, dtype)
    elif isinstance(solver, (lx.CG, lx.GMRES, lx.BiCGStab)):
        rtol = solver.rtol
    elif isinstance(solver, DENSE_SOLVERS):
        rtol = 0.0
    return 10 * (UNKNOWN_RTOL if rtol is None else rtol)


class _Monitor(eqx.Module):
    """Report a solve to the user's monitor."""

    monitor: Callable[[SolveReport], None] = eqx.field(static=True)
    solver: str = eqx.field(static=True)

    def __call__(self, *figures: Any) -> None:
        self.monitor(SolveReport(self.solver, *map(np.asarray, figures)))
