"""Simple pairs of T(λ) x = 0, T holomorphic in λ: pencils, polynomials, any function.

Tangents. With a normalisation cᴴx = 1, c being x itself and constant, the conditions

    T(λ) x = 0,    cᴴx = 1

are holomorphic in λ and x, so complex derivatives are those of JAX:

    T(λ) ẋ + λ̇ T'(λ) x = −Ṫ x,    cᴴẋ = 0,

one bordered system for each pair, nonsingular exactly when its value is simple. In reverse mode it
is its transpose that is solved; where the left vector y is known, T(λ)ᴴ y = 0, the part of a
cotangent of the values is a multiple of y, and no solve is left:  λ̇ = −yᴴṪx / yᴴT'(λ)x.

The left vector v = ȳ has the conditions T(λ)ᵀ v = 0, vᵀT'(λ)x = s, whose tangent follows from λ̇
and ẋ by the transposed system.

Source: Andrew, Chu & Lancaster (1993) SIAM J. Matrix Anal. 14, 903, doi:10.1137/0614061; differs
in: a border of norms, and left vectors by the same system.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Inexact

from .._errors import InputError
from ..linear_solvers._solve import solve_linearised
from ..linear_solvers._systems import AbstractLinearisation, AbstractLinearSystems
from ..operators import column_norms, scale_columns
from ..policy import Policy, enforce, forward_check, tolerance
from ..solution import Solution
from ..systems._abstract import AbstractSystem
from ..systems.auto import AutoSystem
from ..systems.bordered import Bordered
from ..systems.bordered_pairs import BORDER, BorderedPairs
from ..systems.matrices import AbstractMatrices
from ._abstract import AbstractProblem, Operators
from ._pairs_check import InspectPairs, normalize, suspect


class Pairs(eqx.Module):
    """The state: values, vectors, and conjugates of the left vectors, zero where unknown."""

    lam: Inexact[Array, " k"]
    X: Inexact[Array, "n k"]
    V: Inexact[Array, "n k"]


class AbstractPairs(AbstractProblem):
    """A kind of problem whose pairs are simple roots of T(λ) x = 0."""

    left: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def left_scale(self) -> float:
        """The number vᵀT'(λ)x of the left vectors as they are returned."""

    @property
    def name(self) -> str:
        """The kind's name, for messages."""
        return type(self).__name__

    @abc.abstractmethod
    def matrices(self, lam: Inexact[Array, " k"], operators: Operators) -> AbstractMatrices:
        """Return T at each of the λᵢ."""

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the pairs with ‖x‖ = 1 and left vectors, if given, to match, checked."""
        norms = column_norms(solution.vectors)
        X = scale_columns(solution.vectors, 1 / jnp.where(norms > 0, norms, 1))
        border = self.border(solution.values, X, operators)
        matrices = self.matrices(solution.values, operators)
        solution = eqx.tree_at(lambda s: s.vectors, solution, X)
        solution, figures = normalize(solution, norms, matrices, border, self.left_scale)
        rtol = tolerance(policy.residual_rtol, figures[0].dtype)
        check = forward_check(policy, InspectPairs(self.name, rtol), figures)
        residual, scale, *_ = figures
        stats = {"residuals": residual[0] / jnp.where(scale[0] > 0, scale[0], 1)}
        solution = enforce(check, figures, solution, suspect(rtol, policy, *figures))
        return eqx.tree_at(lambda s: s.stats, solution, stats)

    def complete(
        self,
        solution: Solution,
        operators: Operators,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Solution:
        """Return the solution with left vectors, by transposed solves if `left` wants them."""
        if not self.left:
            return solution
        V = _find_left(self, self.state(solution), operators, linear_solver, policy)
        return eqx.tree_at(lambda s: s.left_vectors, solution, V.conj())

    def state(self, solution: Solution) -> Pairs:
        """Return (λ, X, V)."""
        V = jnp.zeros_like(solution.vectors)
        if solution.left_vectors is not None:
            V = jnp.asarray(solution.left_vectors).conj()
        return Pairs(solution.values, solution.vectors, V)

    def solution(self, state: Pairs) -> Solution:
        """Return the pairs, with the left vectors if `left` asks for them.

        The state keeps cᴴx = 1, a solution ‖x‖ = 1: the same numbers and first derivatives.
        """
        norms = jnp.sqrt(jnp.sum(state.X * state.X.conj(), axis=0).real)
        left = scale_columns(state.V, norms).conj() if self.left else None
        return Solution(state.lam, scale_columns(state.X, 1 / norms), left)

    def conditions(self, state: Pairs, *operators: Any) -> tuple[Array, ...]:
        """Return T(λ) x and cᴴx − 1; with left vectors also T(λ)ᵀ v and vᵀT'(λ)x − s."""
        c = lax.stop_gradient(state.X)
        Tx = self.matrices(state.lam, operators).product(state.X)
        right = (Tx, jnp.sum(c.conj() * state.X, axis=0) - 1)
        return (*right, *self._left_conditions(state, operators)) if self.left else right

    def values_dot(self, state: Pairs, residual_dot: tuple[Array, ...]) -> None:
        """Return `None`: without left vectors it needs the solve that the vectors need."""

    def solve_linearised(
        self,
        state: Pairs,
        operators: Operators,
        residual_dot: tuple[Array, ...],
        system: AbstractSystem | AutoSystem,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Pairs:
        """Return λ̇, ẋ, and v̇ if the left vectors are part of the solution."""
        if not isinstance(system, (AutoSystem, Bordered)):
            raise InputError(
                f"`eigensolver(problem={self.name}(...), system={type(system).__name__}())`: "
                "`Bordered()`; its pairs are solved for one by one. Leave `system` out."
            )
        solve = _Solve(self, operators, state, linear_solver, policy)
        lam_dot, X_dot = solve(residual_dot[0], residual_dot[1], False)
        if not self.left:
            return Pairs(lam_dot, X_dot, jnp.zeros_like(X_dot))
        _, along = jax.jvp(
            lambda lam, X: self._left_conditions(Pairs(lam, X, state.V), operators),
            (state.lam, state.X),
            (lam_dot, X_dot),
        )
        _, V_dot = solve(residual_dot[2] + along[0], residual_dot[3] + along[1], True)
        return Pairs(lam_dot, X_dot, V_dot)

    def border(self, lam: Array, X: Array, operators: Operators) -> Inexact[Array, "n k"]:
        """Return T'(λ) x, shape (n, k)."""
        product = lambda lam: self.matrices(lam, operators).product(X)  # noqa: E731
        return jax.jvp(product, (lam,), (jnp.ones_like(lam),))[1]

    def _left_conditions(self, state: Pairs, operators: Operators) -> tuple[Array, Array]:
        transposed = self.matrices(state.lam, operators).transposed()
        scale = jnp.sum(state.V * self.border(state.lam, state.X, operators), axis=0)
        return transposed.product(state.V), scale - self.left_scale


class _Linearisation(AbstractLinearisation):
    problem: AbstractPairs
    operators: Operators
    state: Pairs
    alpha: Array
    beta: Array
    transposed: bool

    def assemble(self) -> AbstractLinearSystems:
        lam, X = self.state.lam, self.state.X
        matrices = self.problem.matrices(lam, self.operators)
        col = scale_columns(self.problem.border(lam, X, self.operators), self.beta)
        row = scale_columns(lax.stop_gradient(X).conj(), self.alpha)
        # the known left vectors in the scale of the border
        size = jnp.sum(self.state.V * col, axis=0)
        left = scale_columns(self.state.V, 1 / jnp.where(size == 0, 1, size))
        systems = BorderedPairs(matrices.structure(len(X)), matrices, col, row, left)
        return systems.transposed() if self.transposed else systems


class _Solve(eqx.Module):
    """Solve the linearised conditions, or their transpose, for given right sides."""

    problem: AbstractPairs
    operators: Operators
    state: Pairs
    linear_solver: lx.AbstractLinearSolver
    policy: Policy

    def __call__(self, top: Array, bottom: Array, transposed: bool) -> tuple[Array, Array]:
        """Return (ν, u) with (T u + ν T'x, cᴴu) = −(top, bottom), or the transpose."""
        problem, operators, state = self.problem, self.operators, self.state
        border = column_norms(problem.border(state.lam, state.X, operators))
        border = lax.stop_gradient(border)
        size = problem.matrices(state.lam, operators).sizes(state.X[:, :1])
        alpha = BORDER * size
        beta = alpha / jnp.where(border > 0, border, 1)
        # the row of the transpose is the column, and the other way round
        on_row, on_col = (beta, alpha) if transposed else (alpha, beta)
        linearisation = _Linearisation(problem, operators, state, alpha, beta, transposed)
        b = -jnp.concatenate([top, scale_columns(bottom[None, :], on_row)])
        U = solve_linearised(linearisation, b, self.linear_solver, self.policy)
        return U[-1] * on_col.astype(U.dtype), U[:-1]


@eqx.filter_jit
def _find_left(
    problem: AbstractPairs,
    state: Pairs,
    operators: Operators,
    linear_solver: lx.AbstractLinearSolver,
    policy: Policy,
) -> Array:
    """Return V, by the transposed systems where it is not known: Mᵀ (v, 0) = (0, s)."""
    known = jnp.any(state.V != 0, axis=0)
    solve = _Solve(problem, operators, state, linear_solver, policy)
    wanted = jnp.where(known, 0, -problem.left_scale).astype(state.V.dtype)
    _, V = solve(jnp.zeros_like(state.V), wanted, True)
    return V + state.V


def solution_structure(n: int, k: int, dtype: Any) -> Solution:
    """Return the shapes: values (k,), vectors and left vectors (n, k), of a complex dtype."""
    values: Any = jax.ShapeDtypeStruct((k,), dtype)
    vectors: Any = jax.ShapeDtypeStruct((n, k), dtype)
    return Solution(values, vectors, vectors)


def check_k(name: str, k: Any) -> None:
    """Raise `InputError` unless k is a positive integer."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError(
            f"`{name}(k=...)`: a positive number of pairs; got {k!r}. Give k as a positive integer."
        )
