"""`eigensolver`: combine a solver and a declared problem into one differentiable function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from . import host
from ._checked import separate, shared, single
from ._compiled import compiled, full_precision
from ._errors import InputError
from ._forward import Call, run_solver
from ._polish import newton
from ._tangents import jvp_at
from .checks.gauge import watch_state
from .checks.guard import without_guard
from .checks.pairs import PairsCheck
from .checks.policy import DEFAULT_POLICY, Action, Policy
from .host import refuse_jax_code
from .host.process import refuse_forks
from .implicit.theorem import AbstractRoot, find_root
from .linear_solvers._solve import iteration_rtol, linear_solve
from .linear_solvers._systems import AbstractSquareSystem
from .linear_solvers.auto import AutoLinearSolver, reusing
from .linear_solvers.functions import linear_solver as wrap_function
from .linear_solvers.lagged import LaggedFactors
from .problems._abstract import AbstractProblem, Operators
from .problems.normalization import AbstractNormalization, FunctionNormalization
from .solution import Solution
from .solvers._abstract import AbstractForwardSolver
from .systems._abstract import AbstractFormulation
from .systems.auto import AutoSystem, suited


class Eigensolver(AbstractRoot):
    """Solve an eigenproblem, differentiably; made by `eigensolver`.

    Its eigenpairs are the root of the problem's conditions. `find`, `residual`, `solve_linearised`
    and `watch` are what the implicit function theorem needs to know of them.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> isinstance(solve, Eigensolver)
        True
        >>> values, vectors = solve(jnp.diag(jnp.array([1.0, 2.0, 4.0])))
        >>> values.round(4).tolist(), vectors.shape
        ([1.0, 2.0], (3, 2))
    """

    solver: Callable[..., Any] = eqx.field(static=True)
    problem: AbstractProblem
    linear_solver: lx.AbstractLinearSolver
    system: AbstractFormulation
    policy: Policy
    normalization: AbstractNormalization | None = None
    refine: int = eqx.field(static=True, default=0)
    batched: bool = eqx.field(static=True, default=False)
    operators: Callable[..., Any] | None = eqx.field(static=True, default=None)
    call: Call = Call()

    def __call__(self, *operators: Any, **options: Any) -> Solution:
        """Return the eigenpairs of A, or of the pencil A − λB.

        Args:
            *operators: A, or A and B; each shape (n, n), in any form that
                `eigensolver` lists. With its `operators=`, the arguments of that function.
            **options: passed on to the solver, which has arguments of these names: arrays as
                NumPy arrays, without a derivative. `start` is an earlier solution or its vectors,
                `sigma` a shift, `reuse` a `LaggedFactors` for the derivatives, too; all may be
                traced by JAX.

        Returns:
            Solution: values (k,), vectors (n, k), normalised as the problem states. Those of
            lineax operators on tensors or pytrees have that structure, with a last axis for the
            pairs.

        Raises:
            InputError: an operator does not fit (when traced).
            EigensolverError: the solver's eigenpairs fail their check (when run).
        """
        solve, theta = self.prepared(*operators, **options)
        return solve.call.shaped(solve.at(theta))

    def at(self, canonical: Operators) -> Solution:
        """Return the eigenpairs of canonical operators, vectors being columns."""
        whole, stats = find_root(self, canonical)
        state = single(self, whole)
        solution = self.solution(state, canonical)
        joint = self.problem.joint(shared(whole, canonical, solve=self))
        near = self.problem.closeness(state)
        return dataclasses.replace(solution, stats=stats, _near=near, _joint=joint)

    def values(self, *operators: Any, **options: Any) -> jax.Array:
        """Return the eigenvalues alone, shape (k,).

        They are those of `solve(*operators, **options).values`, but the derivative of the
        eigenvectors is never formed, so that an eager `jax.jvp` makes no linear solve either.

        Examples:
            >>> import jax, jax.numpy as jnp, numpy as np
            >>> from implicit_eig import Hermitian, eigensolver
            >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
            >>> A = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
            >>> A_dot = jnp.diag(jnp.array([5.0, 6.0, 7.0]))
            >>> values, values_dot = jax.jvp(solve.values, (A,), (A_dot,))
            >>> values_dot.round(4).tolist()
            [5.0, 6.0]
        """
        solve, theta = self.prepared(*operators, **options)
        return _values(theta, solve=solve)

    def prepared(self, *arguments: Any, **options: Any) -> tuple["Eigensolver", Operators]:
        """Return the eigensolver of one call, which knows its options, and lineax operators."""
        refuse_forks()
        operators = self.assembled(arguments)
        instead = None if self.operators is None else arguments
        call = Call.of(self.solver, operators, instead, options, self.batched)
        canonical = self.canonical(operators)
        # a preconditioner may be made of what is differentiated; solutions do not depend on it
        arrays, static = eqx.partition(self.linear_solver, eqx.is_array)
        linear_solver = eqx.combine(jax.lax.stop_gradient(arrays), static)
        if isinstance(lagged := options.get("reuse"), LaggedFactors):
            lagged.check_size(canonical[0].in_size())
            linear_solver = reusing(linear_solver, lagged)
        return dataclasses.replace(self, call=call, linear_solver=linear_solver), canonical

    def assembled(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the operators: the arguments, or what `operators=` makes of them."""
        if self.operators is None:
            return arguments
        found = self.operators(*host.as_jax(arguments))
        return found if isinstance(found, tuple) else (found,)

    def canonical(self, operators: tuple[Any, ...]) -> Operators:
        """Return the operators as lineax operators, checked."""
        asked = self.problem.with_guard()
        return asked.check_operators(asked.canonical(operators), self.policy)

    def clusters(self, state: PyTree) -> jax.Array | None:
        """Return which eigenvalues count as equal, (k, k); `None` if not needed or not known."""
        return None if self.policy.gauge is Action.IGNORE else self.problem.clusters(state)

    def pairs_check(self, state: PyTree) -> tuple[PairsCheck | None, PyTree]:
        """Return the check of single eigenpairs, `None` if there is none, and its arrays."""
        problem = self.problem
        if self.policy.gauge is Action.IGNORE or problem.closeness(state) is None:
            return None, None
        if problem.solution(state).values.ndim > 1:  # the block of a subspace, not eigenvalues
            return None, None
        arrays, static = eqx.partition(problem, eqx.is_array)
        rtol = self.gauge_rtol(jax.tree.leaves(state)[0].dtype)
        return PairsCheck(static, self.policy, rtol), arrays

    def gauge_rtol(self, dtype: Any) -> float:
        """Return the tolerance of the check of cotangents."""
        if self.policy.gauge_rtol is not None:
            return self.policy.gauge_rtol
        # in second derivatives a cotangent has the error of linear solves
        rounding = float(jnp.finfo(dtype).eps) ** 0.6
        return max(rounding, iteration_rtol(self.linear_solver, dtype))

    def state(self, canonical: Operators) -> PyTree:
        """Return the state of the problem's conditions, for canonical operators."""
        return separate(self.problem, find_root(self, canonical)[0])

    @full_precision
    def solution(self, state: PyTree, canonical: Operators) -> Solution:
        """Return the solution that a state stands for, normalised."""
        solution = self.problem.solution(state)
        if self.normalization is not None:
            solution = self.problem.rescale(self.normalization, solution, canonical, self.policy)
        return dataclasses.replace(solution, _joint=self.problem.joint(state))

    def find(self, theta: Operators) -> tuple[PyTree, PyTree]:
        """Return the state of the solver's eigenpairs, checked, normalised, and their figures."""
        problem, policy = self.problem, self.policy
        asked = problem.with_guard()
        raw = run_solver(self.solver, asked, theta, policy, self.batched, self.call)
        figures = raw.stats
        raw = newton(asked, raw, theta, self.linear_solver, self.refine)
        solution = asked.normalize(raw, theta, policy)
        solution = without_guard(solution, problem.k, policy)
        solution = problem.complete(solution, theta, self.linear_solver, policy)
        return problem.state(solution), solution.stats | figures

    def residual(self, z: PyTree, theta: Operators) -> PyTree:
        """Return the conditions of the problem."""
        return self.problem.conditions(z, *theta)

    def solve_linearised(self, z: PyTree, theta: Operators, residual_dot: PyTree) -> PyTree:
        """Return the tangent of the state."""
        linearised = self.problem.linearise(z, theta, self.system)
        return linearised.tangent(residual_dot, self.linear_solve)

    def linear_solve(self, system: AbstractSquareSystem, b: PyTree) -> PyTree:
        """Solve a linear system of the derivative by `linear_solver`, checked."""
        return linear_solve(system, b, self.linear_solver, self.policy)

    def watch(self, z: PyTree, z_dot: PyTree) -> PyTree:
        """Return ż, whose cotangent is checked for a dependence on the gauge."""
        clusters = self.clusters(z)
        if clusters is None:
            return z_dot
        rtol = self.gauge_rtol(jax.tree.leaves(z_dot)[0].dtype)
        return watch_state(self.problem, self.policy, rtol, z, clusters, z_dot)


@eqx.filter_custom_jvp
def _values(theta: Operators, *, solve: Eigensolver) -> jax.Array:
    return solve.problem.solution(solve.find(theta)[0]).values


@_values.def_jvp
def _values_jvp(
    primals: tuple[Operators], tangents: tuple[Operators], *, solve: Eigensolver
) -> tuple[jax.Array, jax.Array]:
    (theta,), (theta_dot,) = primals, tangents
    z = solve.state(theta)
    return solve.problem.solution(z).values, _values_tangent(solve, z, theta, theta_dot)


@compiled
def _values_tangent(
    solve: Eigensolver, z: PyTree, theta: Operators, theta_dot: Operators
) -> jax.Array:
    problem = solve.problem
    residual_dot = jvp_at(lambda t: solve.residual(z, t), theta, theta_dot)
    values_dot, z_dot = problem.values_dot(z, residual_dot), None
    if values_dot is None:
        # linear in the tangent of the state, which holds those of eigenvalues and eigenvectors
        z_dot = solve.solve_linearised(z, theta, residual_dot)
        _, values_dot = jax.jvp(lambda z: problem.solution(z).values, (z,), (z_dot,))
    check, arrays = solve.pairs_check(z)
    if check is None:
        return values_dot
    block_dot = problem.block_dot(z, residual_dot) if z_dot is None else problem.block(z_dot)
    values_dot = check.of_tangent(arrays, z, block_dot, values_dot)
    return check.of_cotangent_of_values(arrays, z, values_dot)


def eigensolver(
    solver: Callable[..., Any],
    problem: AbstractProblem,
    *,
    linear_solver: lx.AbstractLinearSolver | Callable[..., Any] | None = None,
    system: AbstractFormulation | None = None,
    normalization: AbstractNormalization | Callable[[jax.Array], jax.Array] | None = None,
    policy: Policy = DEFAULT_POLICY,
    refine: int = 0,
    batched: bool = False,
    operators: Any = None,
) -> Eigensolver:
    """Make an eigensolver differentiable, from the conditions that its answer fulfils.

    A x = λ B x and a normalisation determine the derivative of the answer, whatever the method that
    found it. The solver itself is never differentiated.

    Args:
        solver: `solver(A)` or `solver(A, B)` -> (values (k,), vectors (n, k)), or these and
            left_vectors (n, k), columns like the vectors, for problems that use them. A plain
            callable runs on the host and receives NumPy arrays, SciPy CSR matrices or
            `scipy.sparse.linalg.LinearOperator`s; `traceable(fn)` is traced by JAX. It may
            return more than k eigenpairs: the first k count, and the eigenvalues of the others
            show whether k cuts a cluster. It must be deterministic: under `jax.checkpoint` it runs
            twice.
        problem: the declared kind, for example `Hermitian(k)`.
        linear_solver: for the tangent and adjoint systems: a lineax solver, `MINRES()`,
            `ShiftInvert()`, `SparseDirect()`, `host_linear_solver(f)`, `linear_solver(f)`, or
            a bare function f(matvec, b). Default `AutoLinearSolver()`. A solution is accepted up
            to ten times the solver's own tolerance, or up to 1e-5 where that is not known;
            `Policy(linear_solve_rtol=...)` sets another limit.
        system: the form of these systems: `Deflated()`, `Bordered()`, `FullSpectrum()`;
            default `AutoSystem()`.
        normalization: of the eigenvectors: `BNorm()`, `TwoNorm()`, `LargestComponent()`,
            `UnitComponent(index)`, or a function x (n,) -> x (n,) of your own with f(c x) = f(x)
            for every number c. Default: the problem's.
        policy: what is checked, and what happens then.
        refine: steps of Newton's method on the solver's eigenpairs before they are checked, for
            a solver that converges loosely; derivatives are those of the refined eigenpairs. Each
            step takes one linear solve for each eigenpair.
        batched: whether a host solver accepts stacks, arrays (..., n, n), and returns values
            (..., k) and vectors (..., n, k), as `numpy.linalg.eigh` does. Under `jax.vmap` it is
            then called once for all matrices rather than once for each. Dense arrays only.
        operators: for a solver that wants the parameters themselves, as a code that assembles its
            own matrices does: JAX code `operators(*args)` -> A, or (A, B). The solver receives
            the arguments, `solver(*args)`, as NumPy arrays, and so does `solve(*args)`.

    Returns:
        A function `solve(*operators) -> Solution` for `jit`, `grad`, `vjp`, `jvp`, `hessian`,
        `vmap` and any nesting of these. An operator is a JAX or NumPy array, a
        `SparseOperator`, a `scipy.sparse` matrix, a `BCOO` or `BCSR`, or any lineax
        operator, for example a matrix-free `lineax.FunctionLinearOperator`.

    Raises:
        InputError: an argument does not fit.

    Cost: the solver once, and three products with A and B for each eigenpair to check and
        normalise its answer. A derivative of eigenvalues takes one product with A and B for each
        eigenpair, a derivative of eigenvectors one more linear solve for each eigenpair used.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1))
        >>> A = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
        >>> jax.grad(lambda A: solve(A).values[0])(A).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not callable(solver):
        raise InputError(
            "`eigensolver(solver=...)`: a callable solver(A) or solver(A, B); got "
            f"{type(solver).__name__}. Pass the function itself, not its result."
        )
    refuse_jax_code("`eigensolver(solver=...)`", solver)
    _check_type("problem", problem, AbstractProblem, "such as `Hermitian(k)`")
    _check_type("policy", policy, Policy, "such as `Policy(forward=Action.WARN)`")
    system = AutoSystem() if system is None else system
    _check_type("system", system, AbstractFormulation, "such as `Deflated()`")
    if linear_solver is None:
        ready_made = isinstance(solver, AbstractForwardSolver)
        linear_solver = solver.linear_solver() if ready_made else AutoLinearSolver()
    elif not isinstance(linear_solver, lx.AbstractLinearSolver):
        if isinstance(linear_solver, type) or not callable(linear_solver):
            _check_type(
                "linear_solver",
                linear_solver,
                lx.AbstractLinearSolver,
                "or a function f(matvec, b)",
            )
        linear_solver = wrap_function(linear_solver)
    if not isinstance(refine, int) or isinstance(refine, bool) or refine < 0:
        raise InputError(
            "`eigensolver(refine=...)`: a number of Newton steps, 0 or more; got "
            f"{refine!r}. Give it as an integer."
        )
    _check_type("batched", batched, bool, "`True` or `False`")
    if not (operators is None or callable(operators)):
        raise InputError(
            "`eigensolver(operators=...)`: a function of the parameters that returns A, or (A, B); "
            f"got {type(operators).__name__}. Matrices are arguments of the call, `solve(A, B)`."
        )
    problem, system = problem.suited_to(solver), suited(system, linear_solver)
    if isinstance(solver, AbstractForwardSolver):
        solver = solver.suited_to(problem.with_guard())
    normalization = _as_normalization(normalization)
    return Eigensolver(
        solver, problem, linear_solver, system, policy, normalization, refine, batched, operators
    )


def _as_normalization(given: Any) -> AbstractNormalization | None:
    if given is None or isinstance(given, AbstractNormalization):
        return given
    if isinstance(given, type) or not callable(given):
        _check_type("normalization", given, AbstractNormalization, "such as `TwoNorm()`")
    function: Any = given
    return FunctionNormalization(function)


def _check_type(name: str, value: Any, kind: Any, example: str) -> None:
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise InputError(
            f"`eigensolver({name}=...)`: an instance of {' or '.join(c.__name__ for c in kinds)}; "
            f"got {value!r}. Pass an object, {example}."
        )


def check_eigensolver(solve: Any, call: str) -> None:
    """Object to anything but what `eigensolver` returns.

    Args:
        solve: as the user gave it.
        call: how it is to be given.
    """
    if not isinstance(solve, Eigensolver):
        raise InputError(
            f"`{call}`: a `solve` that `eigensolver` has made; got {type(solve).__name__}. Pass it "
            "and its operators, rather than a function of parameters."
        )
