"""What a kind of eigenproblem has to say about itself."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from .._errors import InputError
from ..checks.policy import Policy
from ..operators import as_operator
from ..operators.views import solver_view, traced_view
from ..solution import Solution
from ..systems._abstract import AbstractFormulation
from ..systems.auto import AutoSystem
from .normalization import AbstractNormalization, rescale

# what `canonical` returns: lineax operators, unless the problem has arguments of another kind
Operators = tuple[Any, ...]


class AbstractProblem(eqx.Module):
    """A kind of eigenproblem: its conditions, and how they are normalised and linearised.

    Subclass it for a kind that the package lacks; `eigensolver` needs nothing else.
    """

    k: eqx.AbstractVar[int]

    @property
    def is_hermitian(self) -> bool:
        """Whether all operators are: products with their adjoints are never asked for."""
        return False

    def suited_to(self, solver: Any) -> "AbstractProblem":
        """Return the problem, with what a ready-made solver says of it."""
        return self

    def with_guard(self) -> "AbstractProblem":
        """Return the problem that its solver is asked: that of k pairs, and of `guard` more."""
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

    @abc.abstractmethod
    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return the operators as the problem needs them, or raise `InputError`."""

    def metric(self, operators: Operators) -> lx.AbstractLinearOperator | None:
        """Return B, `None` for I; for `normalization=BNorm()`."""
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

    @abc.abstractmethod
    def structure(self, operators: Operators) -> Solution:
        """Return the shapes and dtypes of the solution."""

    @abc.abstractmethod
    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the solver's pairs, checked and in the problem's normalisation."""

    def complete(
        self,
        solution: Solution,
        operators: Operators,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Solution:
        """Return the solution with what its solver did not give and linear solves can."""
        return solution

    @abc.abstractmethod
    def state(self, solution: Solution) -> PyTree:
        """Return what the conditions are stated in, and differentiated."""

    @abc.abstractmethod
    def solution(self, state: PyTree) -> Solution:
        """Return the solution that a state stands for."""

    def separate(self, state: PyTree) -> PyTree:
        """Return the state of single pairs, where the conditions are those of a space."""
        return state

    def diagonal(self, state: PyTree) -> PyTree:
        """Return the state in the basis in which its block is diagonal, if it has a block."""
        return state

    def residual(self, solution: Solution, *operators: Any) -> PyTree:
        """Return the conditions at a solution, zero where it is one: to print, test or stack.

        Args:
            solution: pairs, for example those that a solver returned.
            *operators: as for the solver made by `eigensolver`.
        """
        return self.conditions(self.state(solution), *self.canonical(operators))

    @abc.abstractmethod
    def conditions(self, state: PyTree, *operators: Any) -> PyTree:
        """Return the conditions F(state, operators), zero at a solution."""

    def clusters(self, state: PyTree) -> Bool[Array, "k k"] | None:
        """Return which values count as one; `None` where the gauge of the answer is not known."""
        return None

    def gauge_defect(
        self, state: PyTree, cotangent: PyTree, clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return how much a function with this cotangent changes with the gauge, and its size.

        Entry (i, i) belongs to the phase of pair i, (i, j) to a turn of pairs i and j of a
        cluster; the size is that of ‖x̄‖ ‖x‖. By default nothing of the vectors is arbitrary.
        """
        real = jnp.zeros(clusters.shape)
        return real, jnp.ones_like(real[0, 0])

    @abc.abstractmethod
    def values_dot(self, state: PyTree, residual_dot: PyTree) -> Array | None:
        """Return the tangent of the values, shape (k,); `None` where it needs a solve."""

    @abc.abstractmethod
    def solve_linearised(
        self,
        state: PyTree,
        operators: Operators,
        residual_dot: PyTree,
        system: AbstractFormulation | AutoSystem,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> PyTree:
        """Return the tangent of the state: ∂F/∂state · tangent = −residual_dot.

        Must be linear in `residual_dot` and differentiable by JAX in all else.
        """
