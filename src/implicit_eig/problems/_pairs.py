"""Eigenpairs of T(λ) x = 0, T holomorphic in λ: pencils, polynomials, any function.

Tangents. Eigenpairs with equal eigenvalues, and for a pencil those with near ones, move together,
with a block S that is equal to diag(λ) and whose tangent is full. With a normalisation cᴴX = I
inside blocks, c constant, the conditions, here of a pencil,

    A X − B X S = 0,    cᴴX = I

are holomorphic in S and X, so complex derivatives are those of JAX. For each eigenpair i

    T(λᵢ) ẋᵢ + Σⱼ T'(λⱼ) xⱼ Ṡⱼᵢ = −(Ṫ X)ᵢ,    cⱼᴴẋᵢ = 0,    j in the block of i,

is one bordered system, nonsingular exactly when the cluster of i is complete and has as many
independent eigenvectors as eigenvalues. Where λᵢ is simple the sum has one term. Near eigenpairs
are separated by `_separate`. In reverse mode the transposed system is solved; where the left
eigenvectors are known, T(λ)ᴴ y = 0, the part of a cotangent that belongs to the eigenvalues is a
combination of them, and no solve is left:

    λ̇ = −yᴴṪx / yᴴT'(λ)x.

The left eigenvectors V = Ȳ satisfy T(λ)ᵀ v = 0, VᵀT'(λ)X = s I inside blocks; their tangent
follows from Ṡ and Ẋ by the transposed systems.

Source: Andrew, Chu & Lancaster (1993) SIAM J. Matrix Anal. 14, 903, doi:10.1137/0614061; differs
in: a border from the normalisation, a border for a whole cluster, and left eigenvectors by the
same systems.
"""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact

from .._compiled import compiled, constant_like
from ..checks.clusters import as_one, loose, near_and_edge
from ..checks.policy import (
    Action,
    Policy,
    enforce,
    exceptional_check,
    forward_check,
    tolerance,
)
from ..checks.rounding import VALUE
from ..linear_solvers._solve import linear_solve
from ..linear_solvers._systems import probe
from ..operators import column_norms, column_sums, diagonal, scale_columns
from ..solution import Solution
from ..systems._abstract import AbstractFormulation
from ..systems.auto import AutoSystem, known_in_full, refusal
from ..systems.bordered import Bordered
from ..systems.matrices import AbstractMatrices
from ._abstract import AbstractLinearised, AbstractProblem, LinearSolve, Operators
from ._pairs_check import UnfitPairs, near_exceptional_points, normalize
from ._pairs_solve import BorderedConditions, bordered, solve_complete
from ._rows import at_least
from ._turns import beyond_rounding, product_sizes
from ._validation import membership, unseen


class Pairs(eqx.Module):
    """The state: block, eigenvectors, conjugates of left eigenvectors (0 if unknown), clusters.

    `near` is the `closeness` of the eigenvalues, 1 for two eigenpairs of one cluster; `unseen` is 1
    where nothing shows whether k cuts a cluster. Both are constant.
    """

    S: Inexact[Array, "k k"]
    X: Inexact[Array, "n k"]
    V: Inexact[Array, "n k"]
    near: Float[Array, "k k"]
    unseen: Float[Array, ""]

    @property
    def lam(self) -> Inexact[Array, " k"]:
        """Return the eigenvalues."""
        return diagonal(self.S)


class AbstractPairs(AbstractProblem):
    """A kind of problem whose eigenpairs are the solutions of T(λ) x = 0."""

    left: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def left_scale(self) -> float:
        """Return the number vᵀT'(λ)x of the left eigenvectors as they are returned."""

    @property
    def simple(self) -> bool:
        """Return whether eigenvalues must be simple, which derivatives then verify."""
        return False

    @property
    def name(self) -> str:
        """Return the kind's name, for messages."""
        return type(self).__name__

    @abc.abstractmethod
    def matrices(self, lam: Inexact[Array, " k"], operators: Operators) -> AbstractMatrices:
        """Return T at each of the λᵢ."""

    @abc.abstractmethod
    def product(
        self,
        S: Inexact[Array, "k k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
        transposed: bool = False,
    ) -> Inexact[Array, "n k"]:
        """Return T at the block S applied to X, A X − B X S for a pencil; or that of Tᵀ at Sᵀ.

        S is equal to a diagonal matrix: column i is T(λᵢ) xᵢ.
        """

    @abc.abstractmethod
    def pairing(
        self,
        S: Inexact[Array, "k k"],
        V: Inexact[Array, "n k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
    ) -> Inexact[Array, "k k"]:
        """Return VᵀT'X at the block S, entry (i, j) for vᵢ and xⱼ; linear in V and X."""

    @abc.abstractmethod
    def slope_terms(
        self, lam: Inexact[Array, " k"], X: Inexact[Array, "n k"], operators: Operators
    ) -> Float[Array, "n k"]:
        """Return the moduli of the terms of T'(λᵢ) xᵢ, which cancel near a multiple root."""

    @abc.abstractmethod
    def near(self, lam: Array, error: Array, policy: Policy) -> Float[Array, "k k"]:
        """Return the `closeness` of the eigenvalues, `error` being that of each."""

    def least_conditions(self, border: Inexact[Array, "n k"]) -> Float[Array, " k"]:
        """Return a lower bound of each eigenvalue's condition number, from the eigenvectors alone.

        1 where eigenvectors of different eigenvalues need not be independent.
        """
        return jnp.ones_like(column_norms(border))

    def blocks(self, lam: Array, near: Float[Array, "k k"]) -> Bool[Array, "k k"]:
        """Return which eigenpairs share a block of the conditions: at least each cluster."""
        return as_one(near)

    @abc.abstractmethod
    def spans(self, n: int) -> bool:
        """Return whether the k eigenpairs are all that exist, and T is linear in λ."""

    def with_left_vectors(self) -> "AbstractPairs":
        """Return the problem with left eigenvectors in its solution."""
        return dataclasses.replace(self, left=True)

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the checked eigenpairs with ‖x‖ = 1, and left eigenvectors scaled to match."""
        norms = column_norms(solution.vectors)
        X = scale_columns(solution.vectors, 1 / jnp.where(norms > 0, norms, 1))
        border = self.border(jnp.diag(solution.values), X, operators)
        matrices = self.matrices(solution.values, operators)
        v = jnp.broadcast_to(probe(X[:, :1], 1), X.shape)
        slopes = jnp.abs(self.border(jnp.diag(solution.values), v, operators))
        unit = column_sums(border)
        eps = float(jnp.finfo(X.dtype).eps)
        rounding = VALUE * eps * matrices.sizes(X[:, :1]) / jnp.where(unit > 0, unit, 1)
        error = rounding * self.least_conditions(border)
        near = lambda lam, error: self.near(lam, error, policy)  # noqa: E731
        rest = solution._rest
        near, edge = near_and_edge(near, solution.values, error, rest)
        equal, blocks = as_one(near), self.blocks(solution.values, near)
        solution = eqx.tree_at(lambda s: s.vectors, solution, X)
        solution, figures = normalize(
            solution, norms, matrices, border, slopes, equal, blocks, self.left_scale
        )
        rtol = tolerance(policy.residual_rtol, figures[0].dtype)
        residual, scale, _, excess, *_ = figures
        relative = residual[0] / jnp.where(scale[0] > 0, scale[0], 1)
        stats = {"residuals": at_least(relative, excess[:, 0])}
        solution = enforce(forward_check(policy, UnfitPairs(self.name, rtol)), figures, solution)
        return dataclasses.replace(solution, stats=stats, _near=near, _rest=rest, _edge=edge)

    def complete(
        self,
        solution: Solution,
        operators: Operators,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Solution:
        """Return the solution with left eigenvectors, by transposed solves if `left` is set.

        Where left eigenvectors are known, the condition of the eigenvalues is checked.
        """
        state = self.state(solution)
        if self.left:
            # no warning from these solves: the condition that they show is judged below
            silent = dataclasses.replace(policy, exceptional=Action.IGNORE)
            V = _find_left(self, state, operators, linear_solver, silent)
            state = dataclasses.replace(state, V=V)
            solution = eqx.tree_at(lambda s: s.left_vectors, solution, V.conj())
        condition = self.condition_numbers(state, operators)
        check = exceptional_check(policy, near_exceptional_points)
        near = jnp.max(jnp.where(jnp.eye(self.k, dtype=bool), 0, state.near), axis=1)
        crowded = jnp.maximum(state.unseen, (near > loose(near.dtype)).astype(near.dtype))
        return enforce(check, (condition, state.lam, crowded), solution)

    def condition_numbers(self, state: Pairs, operators: Operators) -> Float[Array, " k"]:
        """Return ‖y‖ ‖t‖ / |yᴴT'x|, t the terms of T'x; 1/|yᴴx| for T' = −I; 0 if y is unknown."""
        terms = column_norms(self.slope_terms(state.lam, state.X, operators))
        return column_norms(state.V) * terms / abs(self.left_scale)

    def state(self, solution: Solution) -> Pairs:
        """Return (Λ, X, V) and the clusters of a checked solution; an unchecked one has none."""
        X = solution.vectors
        V = jnp.zeros_like(X)
        if solution.left_vectors is not None:
            V = jnp.asarray(solution.left_vectors).conj()
        return Pairs(jnp.diag(solution.values), X, V, membership(solution), unseen(solution))

    def solution(self, state: Pairs) -> Solution:
        """Return the eigenpairs, with the left eigenvectors if `left` is set.

        The state keeps cᴴX = I and a solution ‖x‖ = 1, with equal values and first derivatives.
        """
        norms = jnp.sqrt(jnp.sum(state.X * state.X.conj(), axis=0).real)
        left = scale_columns(state.V, norms).conj() if self.left else None
        # a factor of 1, whose cotangent is the part that the norm removes from that of x
        X = scale_columns(state.X, diagonal(state.near) / norms)
        return Solution(state.lam, X, left)

    def block(self, state: Pairs) -> Inexact[Array, "k k"]:
        """Return S."""
        return state.S

    def conditions(self, state: Pairs, *operators: Any) -> tuple[Array, ...]:
        """Return T(λ) x; with left vectors also T(λ)ᵀ v and, within clusters, VᵀT'(λ)X − s I."""
        right = (self.product(state.S, state.X, operators),)
        return (*right, *self.left_conditions(state, operators)) if self.left else right

    def blocks_of(self, state: Pairs) -> Float[Array, "k k"]:
        """Return 1 for two eigenpairs that share a block, else 0."""
        return self.blocks(state.lam, state.near).astype(state.near.dtype)

    def closeness(self, state: Pairs) -> Float[Array, "k k"]:
        """Return the `closeness` of the eigenvalues."""
        return state.near

    def gauge_defect(
        self, state: Pairs, cotangent: Pairs, clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return the change by X → X(I + K), V → V(I − Kᵀ), K within clusters, and its scale."""
        M = cotangent.X.T @ state.X - (cotangent.V.T @ state.V).T
        size = product_sizes(cotangent.X, state.X) + product_sizes(cotangent.V, state.V)
        # a function of |x|² can have nearly all of x̄ along x, a direction fixed by the norm
        along = jnp.abs(diagonal(cotangent.near))
        defect = beyond_rounding(jnp.where(clusters, jnp.abs(M), 0), cotangent.near)
        return defect, jnp.max(size) + jnp.max(along)

    def inside(self, state: Pairs, cotangent: Pairs) -> Inexact[Array, "k k"]:
        """Return X̄ᵀX."""
        return cotangent.X.T @ state.X

    def linearise(
        self, state: Pairs, operators: Operators, system: AbstractFormulation
    ) -> "LinearisedPairs":
        """Return the linearised conditions: bordered, or by all eigenpairs if these are known."""
        n = len(state.X)
        found = f"k = {self.k}, n = {n}"
        if known_in_full(system, self.spans(n), self.name, "n pairs of a pencil", found):
            return LinearisedPairs(self, operators, state, None)
        if not isinstance(system, (AutoSystem, Bordered)):
            raise refusal(system, self.name, "`Bordered()`; its pairs are solved for one by one")
        return LinearisedPairs(self, operators, state, bordered(self, operators, state))

    def border(
        self, S: Inexact[Array, "k k"], X: Inexact[Array, "n k"], operators: Operators
    ) -> Inexact[Array, "n k"]:
        """Return T'(λ) x, shape (n, k)."""
        product = lambda S: self.product(S, X, operators)  # noqa: E731
        one = constant_like(jnp.eye(self.k, dtype=S.dtype), S)
        return jax.jvp(product, (S,), (one,))[1]

    def left_conditions(self, state: Pairs, operators: Operators) -> tuple[Array, Array]:
        S, X, V = state.S, state.X, state.V
        # column i belongs to eigenpair i, as in every other condition
        scale = self.pairing(S, V, X, operators).T
        scale = scale - self.left_scale * jnp.eye(self.k, dtype=S.dtype)
        blocks = self.blocks_of(state).astype(S.dtype)
        return self.product(S, V, operators, transposed=True), blocks * scale


@compiled
def _find_left(
    problem: AbstractPairs,
    state: Pairs,
    operators: Operators,
    linear_solver: lx.AbstractLinearSolver,
    policy: Policy,
) -> Array:
    """Return V, found by the transposed systems where it is not known: Mᵀ (v, 0) = (0, s)."""
    known = jnp.any(state.V != 0, axis=0)
    wanted = jnp.where(known, 0, -problem.left_scale).astype(state.V.dtype)
    system = bordered(problem, operators, state).transpose()
    b = system.right_side(jnp.zeros_like(state.V), jnp.diag(wanted))
    return system.solution(linear_solve(system, b, linear_solver, policy))[1] + state.V


class LinearisedPairs(AbstractLinearised):
    """The derivation above; no system is solved where all eigenpairs of a pencil are known."""

    problem: AbstractPairs
    operators: Operators
    state: Pairs
    system: BorderedConditions | None

    def tangent(self, residual_dot: tuple[Array, ...], solve: LinearSolve) -> Pairs:
        """Return λ̇, ẋ, and v̇ if the left eigenvectors are part of the solution."""
        problem, operators, state = self.problem, self.operators, self.state
        S_dot, X_dot = self._solve(residual_dot[0], jnp.zeros_like(state.S), False, solve)
        still = jnp.zeros_like(state.near), jnp.zeros_like(state.unseen)
        if not problem.left:
            return Pairs(S_dot, X_dot, jnp.zeros_like(X_dot), *still)
        _, along = jax.jvp(
            lambda S, X: problem.left_conditions(dataclasses.replace(state, S=S, X=X), operators),
            (state.S, state.X),
            (S_dot, X_dot),
        )
        top, bottom = (dot + part for dot, part in zip(residual_dot[1:], along, strict=True))
        _, V_dot = self._solve(top, bottom, True, solve)
        return Pairs(S_dot, X_dot, V_dot, *still)

    def _solve(
        self, top: Array, bottom: Array, transposed: bool, solve: LinearSolve
    ) -> tuple[Array, Array]:
        if self.system is None:
            return solve_complete(self.problem, self.operators, self.state, top, bottom, transposed)
        system = self.system.transpose() if transposed else self.system
        return system.solution(solve(system, system.right_side(top, bottom)))


def solution_structure(n: int, k: int, dtype: Any) -> Solution:
    """Return the shapes: values (k,), vectors and left vectors (n, k), of a complex dtype."""
    values: Any = jax.ShapeDtypeStruct((k,), dtype)
    vectors: Any = jax.ShapeDtypeStruct((n, k), dtype)
    return Solution(values, vectors, vectors)
