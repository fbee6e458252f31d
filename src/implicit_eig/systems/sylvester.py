"""The Sylvester system of an invariant subspace.

    A Z − B Z S + C M = R₁,    Rᵀ Z = R₂,        S upper triangular in value

is a recursion over its columns: with S = diag(sⱼⱼ) + N, column j is a bordered system of
A − sⱼⱼB whose right side holds the columns before it, B Z Nⱼ. The transpose runs from the last
column to the first.

Source: Bartels & Stewart (1972) Commun. ACM 15, 820, for the recursion.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Inexact

from ..linear_solvers._systems import AbstractSquareSystem
from ..operators import apply_complex
from .bordered_pairs import BorderedPairs, Unknowns


class Sylvester(AbstractSquareSystem):
    """Bordered systems of the diagonal of S, coupled by the rest of it."""

    systems: BorderedPairs
    B: lx.AbstractLinearOperator | None
    rest: Inexact[Array, "k k"]
    last_first: bool = eqx.field(static=True, default=False)

    def mv(self, U: Unknowns, skip_zeros: bool = False) -> Unknowns:
        """Return (A Z − B Z S + C M, RᵀZ)."""
        return self.systems.mv(U) - self._coupling(U)

    def solve(self, run: Callable, b: Unknowns) -> Unknowns:
        """Solve column by column."""
        k = len(self.rest)

        def step(i: Any, U: Unknowns) -> Unknowns:
            j = k - 1 - i if self.last_first else i
            column = jnp.arange(k)[None, :] == j
            known = b + self._coupling(U)
            return U + run(self.systems, jnp.where(column, known, jnp.zeros_like(known)))

        return lax.fori_loop(0, k, step, jnp.zeros_like(b))

    def solve_transposed(self, run: Callable, b: Unknowns) -> Unknowns:
        """Solve with the transpose, from the last column."""
        B = None if self.B is None else self.B.transpose()
        transposed = Sylvester(self.systems.transposed(), B, self.rest.T, not self.last_first)
        return transposed.solve(run, b)

    def _coupling(self, U: Unknowns) -> Unknowns:
        n = len(self.systems.col)
        top = apply_complex(self.B, U[:n]) @ self.rest
        return jnp.concatenate([top, jnp.zeros_like(U[n:])])
