"""What each kind of eigenproblem defines: its conditions, its gauge and its views."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from .._errors import InputError
from .._real import from_real
from ..checks.clusters import as_one
from ..checks.conditions import check_conditions
from ..checks.policy import Policy
from ..linear_solvers._systems import AbstractSquareSystem, Structure
from ..operators import as_operator
from ..operators.views import solver_view, traced_view
from ..solution import Joint, Solution
from ..systems._abstract import AbstractFormulation
from ..systems.auto import AutoSystem, refusal
from ..systems.jacobian import JacobianSystem, as_many
from .normalization import AbstractNormalization, rescale

# what `canonical` returns: lineax operators, unless the problem takes arguments of another kind
Operators = tuple[Any, ...]
# (system, right side) -> solution
LinearSolve = Callable[[AbstractSquareSystem, PyTree[Array]], PyTree[Array]]


class AbstractLinearised(eqx.Module):
    """The conditions of a problem, linearised at a state: ∂F/∂state · ṡ = −residual_dot."""

    @abc.abstractmethod
    def tangent(self, residual_dot: PyTree, solve: LinearSolve) -> PyTree:
        """Return ṡ, solving linear systems by `solve(system, right side)` where it needs any.

        The result is linear in `residual_dot`, and JAX can differentiate it in all other arguments.
        """

    def of_rough(self) -> "AbstractLinearised":
        """Return them for Newton's method, at a state that is no solution yet."""
        return self


class AbstractConditions(eqx.Module):
    """The conditions F(state, operators) = 0, whose derivatives are those of the solution."""

    k: eqx.AbstractVar[int]

    @abc.abstractmethod
    def state(self, solution: Solution) -> PyTree:
        """Return the state, the unknowns in which the conditions are stated and differentiated."""

    @abc.abstractmethod
    def solution(self, state: PyTree) -> Solution:
        """Return the solution that a state stands for."""

    @abc.abstractmethod
    def conditions(self, state: PyTree, *operators: Any) -> PyTree:
        """Return the conditions F(state, operators), zero at a solution."""

    def linearise(
        self, state: PyTree, operators: Operators, system: AbstractFormulation
    ) -> AbstractLinearised:
        """Return the linearised conditions in the form `system`, or refuse one that does not fit.

        By default their Jacobian, which JAX finds: as many real conditions as real unknowns.
        """
        if not isinstance(system, AutoSystem):
            raise refusal(system, type(self).__name__, "the Jacobian of its conditions")
        return LinearisedByJAX(self, operators, state)

    def values_dot(self, state: PyTree, residual_dot: PyTree) -> Array | None:
        """Return the tangent of the eigenvalues, shape (k,); `None` where it needs a solve."""
        return None

    def block_dot(self, state: PyTree, residual_dot: PyTree) -> Array:
        """Return Ṡ, shape (k, k), right inside clusters; where `values_dot` needs no solve."""
        raise NotImplementedError


class AbstractGauge(eqx.Module):
    """What a solution leaves undetermined: phases, and bases within clusters of eigenvalues.

    By default no such freedom is assumed, and functions of the solution are not checked for it.
    """

    @property
    def block_is_hermitian(self) -> bool:
        """Return whether the block S of the conditions is Hermitian."""
        return False

    def closeness(self, state: PyTree) -> Float[Array, "k k"] | None:
        """Return 1 for two eigenvalues of a cluster, else their error relative to their distance.

        `None` where that is not known, and single eigenpairs are not checked for it.
        """
        return None

    def clusters(self, state: PyTree) -> Bool[Array, "k k"] | None:
        """Return which eigenvalues count as equal; `None` where the gauge is not known."""
        near = self.closeness(state)
        return None if near is None else as_one(near)

    def block(self, state: PyTree) -> Array | None:
        """Return the block S of conditions on eigenpairs; `None` where they have none."""
        return None

    def joint(self, state: PyTree) -> Joint | None:
        """Return the basis that a matrix function is stated in; `None` if the problem has none."""
        return None

    def watch_joint(
        self, state: PyTree, operators: Operators, policy: Policy, tangent: PyTree
    ) -> PyTree:
        """Return the tangent of a derivative of what `joint` holds, checked for accuracy."""
        return tangent

    def separate(self, state: PyTree) -> PyTree:
        """Return the state of single eigenpairs, where the conditions are those of a subspace."""
        return state

    def diagonal(self, state: PyTree) -> PyTree:
        """Return the state in the basis in which its block is diagonal, if it has a block."""
        return state

    def gauge_defect(
        self, state: PyTree, cotangent: PyTree, clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return how much a function with this cotangent changes with the gauge, and a scale.

        Entry (i, i) belongs to the phase of eigenpair i, (i, j) to a rotation of eigenpairs i and j
        of a cluster; the scale is that of ‖x̄‖ ‖x‖.
        """
        real = jnp.zeros(clusters.shape)
        return real, jnp.ones_like(real[0, 0])

    @property
    def smooth_sums(self) -> bool:
        """Return whether derivatives of what near eigenpairs have in common are exact.

        They are where these share a block of the conditions.
        """
        return True

    def inside(self, state: PyTree, cotangent: PyTree) -> Any:
        """Return X̄ᵀX, shape (k, k), the part of the vectors' cotangent inside their own space.

        Wanted of a problem that states its `closeness`.
        """
        raise NotImplementedError


class AbstractViews(eqx.Module):
    """The conversions between the user's solver and the conditions, and their checks."""

    @property
    def is_hermitian(self) -> bool:
        """Return whether all operators are Hermitian, so that adjoint products are not needed."""
        return False

    def suited_to(self, solver: Any) -> Any:
        """Return the problem, completed by what a ready-made solver knows about it."""
        return self

    def with_guard(self) -> Any:
        """Return the problem given to the solver, with k eigenpairs and `guard` more."""
        return self

    def with_left_vectors(self) -> Any:
        """Return the problem with left eigenvectors, where condition numbers need them."""
        return self

    def canonical(self, operators: tuple[Any, ...]) -> Operators:
        """Return what the user passes as lineax operators, or raise `InputError`."""
        names = [f"A{i}" for i in range(len(operators))] if len(operators) > 2 else "AB"
        return tuple(map(as_operator, names, operators))

    def traced_views(self, operators: Operators) -> tuple[Any, ...]:
        """Return what a solver that JAX traces receives."""
        return tuple(map(traced_view, operators))

    def host_views(self, operators: Operators) -> tuple[Any, ...]:
        """Return what a solver on the host receives; their leaves are NumPy arrays."""
        return tuple(map(solver_view, operators))

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return the operators as the problem needs them, or raise `InputError`."""
        return operators

    @abc.abstractmethod
    def structure(self, operators: Operators) -> Solution:
        """Return the shapes and dtypes of the solution."""

    @abc.abstractmethod
    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the solver's eigenpairs, checked and in the problem's normalisation."""

    def complete(
        self,
        solution: Solution,
        operators: Operators,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Solution:
        """Return the solution, with what the solver did not return found by linear solves."""
        return solution

    def metric(self, operators: Operators) -> lx.AbstractLinearOperator | None:
        """Return B for `normalization=BNorm()`; `None` for I."""
        raise InputError(
            f"`eigensolver(problem={type(self).__name__}(...), normalization=BNorm())`: a problem "
            "with an operator B; got one without. Use `TwoNorm()`."
        )

    def rescale(
        self,
        normalization: AbstractNormalization,
        solution: Solution,
        operators: Operators,
        policy: Policy,
    ) -> Solution:
        """Return the solution in the normalisation that the user asks for."""
        return rescale(normalization, solution, lambda: self.metric(operators), policy)


class AbstractProblem(AbstractConditions, AbstractGauge, AbstractViews):
    """Declare a kind of eigenproblem: its conditions, their normalisation and linearisation.

    Subclass it for a kind that the package lacks; `eigensolver` needs nothing else. What has to be
    written: `k`, `structure`, `state`, `solution` and `conditions`.

    Examples:
        >>> from implicit_eig import General, Hermitian, Singular
        >>> [isinstance(kind(k=2), AbstractProblem) for kind in (Hermitian, General, Singular)]
        [True, True, True]
    """

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the solver's eigenpairs unchanged, if they satisfy the conditions."""
        caller = f"`eigensolver(problem={type(self).__name__}(...))`"
        state = self.state(solution)
        return check_conditions(caller, policy, self.conditions, state, operators, {}, solution)

    def residual(self, solution: Solution, *operators: Any) -> PyTree:
        """Return the residual of the conditions, zero at a solution; to print, test or stack.

        Args:
            solution: eigenpairs, for example those that a solver returned.
            *operators: as for the solver made by `eigensolver`.

        Examples:
            >>> import jax.numpy as jnp
            >>> from implicit_eig import Hermitian
            >>> guess = Solution(jnp.array([1.5]), jnp.array([[1.0], [0.0]]))
            >>> equations, norm = Hermitian(k=1).residual(guess, jnp.diag(jnp.array([1.0, 2.0])))
            >>> equations.tolist(), norm.tolist()  # A x − λ x, xᵀx − 1
            ([[-0.5], [0.0]], [[0.0]])
        """
        return self.conditions(self.state(solution), *self.canonical(operators))

    def condition_numbers(self, state: PyTree, operators: Operators) -> Float[Array, " k"]:
        """Return 1/|yᴴBx| of unit vectors for each eigenpair; 1 unless a problem overrides it."""
        return jnp.ones(self.k, jnp.finfo(self.solution(state).vectors.dtype).dtype)


class LinearisedByJAX(AbstractLinearised):
    """The Jacobian of the conditions."""

    problem: AbstractConditions
    operators: Operators
    state: PyTree

    def tangent(self, residual_dot: PyTree, solve: LinearSolve) -> PyTree:
        """Return the tangent of the state, by one system in all its real unknowns."""
        caller = f"`{type(self.problem).__name__}.conditions`"
        b = -as_many(caller, residual_dot, self.state)
        system = JacobianSystem(Structure.DENSE, _At(self.problem, self.operators), self.state)
        return from_real(solve(system, b[:, None])[:, 0], self.state)


class _At(eqx.Module):
    """The conditions of a problem with given operators."""

    problem: AbstractConditions
    operators: Operators

    def __call__(self, state: PyTree) -> PyTree:
        return self.problem.conditions(state, *self.operators)
