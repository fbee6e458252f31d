"""The Sylvester system of an invariant subspace.

    A Z − B Z S + C M = R₁,    Rᵀ Z = R₂,        S equal to an upper triangular matrix

is solved by recursion over its columns: with S = diag(sⱼⱼ) + N, column j is a bordered system of
A − sⱼⱼB whose right side contains the columns before it, B Z Nⱼ. The transpose runs from the last
column to the first.

Source: Bartels & Stewart (1972) Commun. ACM 15, 820, for the recursion.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Inexact

from ..linear_solvers._systems import AbstractSquareSystem, Report, Run
from ..operators import apply_complex, diagonal
from .bordered_pairs import BorderedPairs, Unknowns


class Sylvester(AbstractSquareSystem):
    """Bordered systems for the diagonal of S, coupled by the rest of S."""

    systems: BorderedPairs
    B: lx.AbstractLinearOperator | None
    rest: Inexact[Array, "k k"]
    last_first: bool = eqx.field(static=True, default=False)

    def handed(self) -> BorderedPairs:
        """Return the bordered systems."""
        return self.systems

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return (A Z − B Z S + C M, RᵀZ)."""
        top, bottom = self.systems.mv(U)
        return top - self._coupling(U), bottom

    def solve(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve column by column."""
        columns = jnp.arange(len(self.rest))

        def step(U: Unknowns, j: Any) -> tuple[Unknowns, Report]:
            known = b[0] + self._coupling(U), b[1]
            only = lambda part: jnp.where(columns[None, :] == j, part, jnp.zeros_like(part))  # noqa: E731
            column, report = self.systems.solve(run, jax.tree.map(only, known))
            return jax.tree.map(jnp.add, U, column), report

        start = jax.tree.map(jnp.zeros_like, b)
        U, reports = lax.scan(step, start, columns, reverse=self.last_first)
        return U, jax.tree.map(diagonal, reports)

    def solve_transposed(self, run: Run, b: Unknowns) -> tuple[Unknowns, Report]:
        """Solve with the transpose, from the last column."""
        B = None if self.B is None else self.B.transpose()
        transposed = Sylvester(self.systems.transposed(), B, self.rest.T, not self.last_first)
        return transposed.solve(run, b)

    def _coupling(self, U: Unknowns) -> Inexact[Array, "n k"]:
        return apply_complex(self.B, U[0]) @ self.rest
