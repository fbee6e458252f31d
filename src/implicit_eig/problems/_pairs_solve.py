"""How the linearised conditions of pairs are solved: by bordered systems, or by all pairs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Inexact

from ..checks.policy import Policy
from ..linear_solvers._solve import linear_solve
from ..linear_solvers._systems import AbstractLinearisation, AbstractSquareSystem
from ..operators import column_norms, diagonal, scale_columns
from ..systems.bordered_pairs import BORDER, BorderedPairs
from ._blocks import divide


class BorderedSolve(eqx.Module):
    """Solve the linearised conditions, or their transpose, by one bordered system a pair."""

    problem: Any
    operators: Any
    state: Any
    linear_solver: lx.AbstractLinearSolver
    policy: Policy

    def __call__(self, top: Array, bottom: Array, transposed: bool) -> tuple[Array, Array]:
        """Return (M, U) with (T U + T'X M, cᴴU) = −(top, bottom), or of the transpose.

        M and bottom, shape (k, k), count inside clusters alone.
        """
        problem, operators, state = self.problem, self.operators, self.state
        border = column_norms(problem.border(state.S, state.X, operators))
        border = lax.stop_gradient(border)
        size = problem.matrices(state.lam, operators).sizes(state.X[:, :1])
        alpha = BORDER * size
        beta = alpha / jnp.where(border > 0, border, 1)
        # the row of the transpose is the column, and the other way round
        on_row, on_col = (beta, alpha) if transposed else (alpha, beta)
        linearisation = _Linearisation(problem, operators, state, alpha, beta, transposed)
        near = problem.blocks_of(state).astype(top.dtype)
        rows = near * on_row.astype(top.dtype)[:, None]
        b = -jnp.concatenate([top, rows * bottom])
        U = linear_solve(linearisation, b, self.linear_solver, self.policy)
        n = len(top)
        return near * on_col.astype(top.dtype)[:, None] * U[n:], U[:n]


class _Linearisation(AbstractLinearisation):
    problem: Any
    operators: Any
    state: Any
    alpha: Array
    beta: Array
    transposed: bool

    def assemble(self) -> "_LinearisedConditions":
        problem, operators, state = self.problem, self.operators, self.state
        matrices = problem.matrices(state.lam, operators)
        col = scale_columns(problem.border(state.S, state.X, operators), self.beta)
        near = problem.blocks_of(state)
        row = scale_columns(dual(state.X, near).conj(), self.alpha)
        # the known left vectors in the scale of the border
        size = jnp.sum(state.V * col, axis=0)
        left = scale_columns(state.V, 1 / jnp.where(size == 0, 1, size))
        structure = matrices.structure(len(state.X))
        systems = BorderedPairs(
            structure, matrices, col, row, near, self.alpha, state.X, left, state.near
        )
        systems = systems.transposed() if self.transposed else systems
        return _LinearisedConditions(systems, problem, operators, state, self.beta, self.transposed)


class _LinearisedConditions(AbstractSquareSystem):
    """The linearised conditions as they are: in value bordered systems, one a pair.

    In their tangent the pairs of a cluster are coupled by the block S.
    """

    systems: BorderedPairs
    problem: Any
    operators: Any
    state: Any
    beta: Array
    transposed: bool = eqx.field(static=True)

    def mv(self, U: Array, skip_zeros: bool = False) -> Array:
        """Return (T U + T'X M, cᴴU), or (Tᵀ U + c̄ M, (T'X)ᵀ U), with M in the border's scale."""
        S, X, near = self.state.S, self.state.X, self.systems.near.astype(U.dtype)
        n = len(X)
        U, mu = U[:n], U[n:]
        rest = (1 - near) * mu * self.systems.alpha.astype(mu.dtype)[:, None]
        scale = near * self.beta.astype(mu.dtype)[:, None]
        if self.transposed:
            top = self.problem.product(S, U, self.operators, transposed=True)
            top = top + self.systems.col @ (near * mu)
            bottom = scale * self.problem.pairing(S, U, X, self.operators).T
        else:
            product = lambda S, X: self.problem.product(S, X, self.operators)  # noqa: E731
            _, top = jax.jvp(product, (S, X), (scale * mu, U))
            bottom = near * (self.systems.row.T @ U)
        return jnp.concatenate([top, bottom + rest])

    def solve(self, run: Callable, b: Array) -> Array:
        """Solve the bordered systems."""
        return self.systems.solve(run, b)

    def solve_transposed(self, run: Callable, b: Array) -> Array:
        """Solve the transposed bordered systems."""
        return self.systems.solve_transposed(run, b)


class CompleteSolve(eqx.Module):
    """Solve the linearised conditions of a pencil with all n pairs known: no system at all.

    With VᵀBX = I and uᵢ = X a the top says (λⱼ − λᵢ) aⱼ = −(Vᵀ top)ⱼᵢ outside the cluster of i;
    inside it the bottom gives a, and the top M.

    Source: Giles (2008) An extended collection of matrix derivative results, section 3.1.
    """

    problem: Any
    operators: Any
    state: Any

    def __call__(self, top: Array, bottom: Array, transposed: bool) -> tuple[Array, Array]:
        """Return (M, U) as `BorderedSolve` does."""
        if not transposed:
            return self._solve(top, bottom)
        # (U, M) of the transpose stand where (top, bottom) stood
        M, U = jax.linear_transpose(
            lambda t, b: self._solve(t, b)[::-1], jnp.zeros_like(top), jnp.zeros_like(bottom)
        )((top, bottom))[::-1]
        return M, U

    def _solve(
        self, top: Inexact[Array, "n k"], bottom: Inexact[Array, "k k"]
    ) -> tuple[Inexact[Array, "k k"], Inexact[Array, "n k"]]:
        state = self.state
        S, X, blocks = state.S, state.X, self.problem.blocks_of(state)
        near = blocks > 0
        border = self.problem.border(S, X, self.operators)  # −BX
        G = -jnp.linalg.solve(border, top)  # Vᵀ top
        lam = diagonal(S)

        def commutator(a: Array) -> Array:
            outside = jnp.where(near, jnp.zeros_like(a), a)
            return jnp.where(near, a, S @ outside - outside @ S)

        gaps = jnp.where(near, jnp.ones_like(S), lam[:, None] - lam[None, :])
        outside = divide(commutator, jnp.where(near, jnp.zeros_like(G), -G), gaps)
        K = dual(X, blocks).conj().T @ X
        a = jnp.where(near, -bottom - K @ outside, outside)
        M = jnp.where(near, G + S @ a - a @ S, jnp.zeros_like(G))
        return M, X @ a


def dual(X: Inexact[Array, "n k"], near: Array) -> Inexact[Array, "n k"]:
    """Return c with cᴴX = I inside clusters, constant; shape (n, k)."""
    gram = near.astype(X.dtype) * (X.conj().T @ X)
    return lax.stop_gradient(X @ jnp.linalg.inv(gram))
