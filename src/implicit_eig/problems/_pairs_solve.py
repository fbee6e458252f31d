"""Solve the linearised conditions of eigenpairs: by bordered systems, or from all eigenpairs."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import AbstractSquareSystem, Report, Run
from ..operators import column_norms, diagonal, scale_columns
from ..systems.bordered_pairs import BORDER, BorderedPairs, Unknowns
from ..systems.matrices import AbstractMatrices
from ._couplings import divide


class BorderedConditions(AbstractSquareSystem):
    """The linearised conditions, or their transpose, with M in the scale of a border.

    Undifferentiated, they are bordered systems, one for each eigenpair. In their tangent the
    eigenpairs of a cluster are coupled by the block S.
    """

    systems: BorderedPairs
    problem: Any
    operators: Any
    state: Any
    beta: Float[Array, " k"]  # scale of the border T'X; that of the other border is systems.alpha
    transposed: bool = eqx.field(static=True, default=False)

    def handed(self) -> BorderedPairs:
        """Return the bordered systems."""
        return self.systems

    def transpose(self) -> "BorderedConditions":
        """Return the transposed conditions."""
        systems, other = self.systems.transposed(), not self.transposed
        return dataclasses.replace(self, systems=systems, transposed=other)

    def right_side(self, top: Array, bottom: Array) -> Unknowns:
        """Return the right side for T U + T'X M = −top, cᴴU = −bottom, or for the transpose.

        Only the entries inside clusters of M and bottom, shape (k, k), are used.
        """
        on_row = self.beta if self.transposed else self.systems.alpha
        return -top, -self._inside(on_row, top) * bottom

    def solution(self, U: Unknowns) -> tuple[Array, Array]:
        """Return (M, U)."""
        x, mu = U
        on_col = self.systems.alpha if self.transposed else self.beta
        return self._inside(on_col, mu) * mu, x

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return (T U + T'X M, cᴴU), or (Tᵀ U + c̄ M, (T'X)ᵀ U)."""
        x, mu = U
        S, X, near = self.state.S, self.state.X, self.systems.near.astype(mu.dtype)
        rest = (1 - near) * mu * self.systems.alpha.astype(mu.dtype)[:, None]
        scale = self._inside(self.beta, mu)
        if self.transposed:
            top = self.problem.product(S, x, self.operators, transposed=True)
            top = top + self.systems.col @ (near * mu)
            bottom = scale * self.problem.pairing(S, x, X, self.operators).T
        else:
            product = lambda S, X: self.problem.product(S, X, self.operators)  # noqa: E731
            _, top = jax.jvp(product, (S, X), (scale * mu, x))
            bottom = near * (self.systems.row.T @ x)
        return top, bottom + rest

    def solve(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve the bordered systems."""
        return self.systems.solve(run, b)

    def solve_transposed(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve the transposed bordered systems."""
        return self.systems.solve_transposed(run, b)

    def _inside(self, scale: Array, like: Array) -> Array:
        return (self.systems.near * scale[:, None]).astype(like.dtype)


def bordered(problem: Any, operators: Any, state: Any) -> BorderedConditions:
    """Return the linearised conditions with borders scaled to a part of the size of T(λ)."""
    matrices = problem.matrices(state.lam, operators)
    border = problem.border(state.S, state.X, operators)
    norms = column_norms(lax.stop_gradient(border))
    terms = problem.slope_terms(*map(lax.stop_gradient, (state.lam, state.X)), operators)
    structure = matrices.structure(len(state.X))
    alpha = BORDER[structure] * matrices.typical(state.X[:, :1])
    beta = alpha / jnp.where(norms > 0, norms, 1)
    col, near = scale_columns(border, beta), problem.blocks_of(state)
    row = scale_columns(dual(state.X, near).conj(), alpha)
    # the known left eigenvectors in the scale of the border
    size = jnp.sum(state.V * col, axis=0)
    left = scale_columns(state.V, 1 / jnp.where(size == 0, 1, size))
    # whether each system is nonsingular is shown where nothing else shows it
    unproved = jnp.ones_like(state.unseen) if problem.simple else state.unseen
    lost = lax.stop_gradient(column_norms(terms) / jnp.where(norms > 0, norms, 1))
    errors = _errors(matrices, state.X) * lax.stop_gradient(unproved)
    systems = BorderedPairs(
        structure, matrices, col, row, near, alpha, state.X, left, state.near, errors, lost
    )
    return BorderedConditions(systems, problem, operators, state, beta)


def _errors(matrices: AbstractMatrices, X: Array) -> Array:
    """Return the least relative changes of T(λᵢ) that make its eigenpairs exact."""
    X = lax.stop_gradient(X)
    residuals = column_norms(lax.stop_gradient(matrices.product(X))) / column_norms(X)
    typical = matrices.typical(X[:, :1])
    relative = residuals / jnp.where(typical > 0, typical, 1)
    return jnp.maximum(relative, float(jnp.finfo(X.dtype).eps))


def solve_complete(
    problem: Any, operators: Any, state: Any, top: Array, bottom: Array, transposed: bool
) -> tuple[Array, Array]:
    """Return (M, U) as above for a pencil with all n eigenpairs known, without solving a system.

    With VᵀBX = I and uᵢ = X a the first equation is (λⱼ − λᵢ) aⱼ = −(Vᵀ top)ⱼᵢ outside the cluster
    of i. Inside it the second equation gives a, and the first one M.

    Source: Giles (2008) An extended collection of matrix derivative results, section 3.1.
    """
    S, X, blocks = state.S, state.X, problem.blocks_of(state)
    near = blocks > 0
    border = problem.border(S, X, operators)  # −BX
    lam = diagonal(S)
    gaps = jnp.where(near, jnp.ones_like(S), lam[:, None] - lam[None, :])
    K = dual(X, blocks).conj().T @ X

    def commutator(a: Array) -> Array:
        outside = jnp.where(near, jnp.zeros_like(a), a)
        return jnp.where(near, a, S @ outside - outside @ S)

    def forward(
        top: Inexact[Array, "n k"], bottom: Inexact[Array, "k k"]
    ) -> tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]]:
        G = -jnp.linalg.solve(border, top)  # Vᵀ top
        outside = divide(commutator, jnp.where(near, jnp.zeros_like(G), -G), gaps)
        a = jnp.where(near, -bottom - K @ outside, outside)
        return X @ a, jnp.where(near, G + S @ a - a @ S, jnp.zeros_like(G))

    if transposed:
        # in the transpose, (U, M) take the place of (top, bottom)
        transpose = jax.linear_transpose(forward, jnp.zeros_like(top), jnp.zeros_like(bottom))
        U, M = transpose((top, bottom))
    else:
        U, M = forward(top, bottom)
    return M, U


def dual(X: Inexact[Array, "n k"], near: Array) -> Inexact[Array, "n k"]:
    """Return c with cᴴX = I inside clusters, constant; shape (n, k)."""
    gram = near.astype(X.dtype) * (X.conj().T @ X)
    return lax.stop_gradient(X @ jnp.linalg.inv(gram))
