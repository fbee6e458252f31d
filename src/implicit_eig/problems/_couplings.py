"""How the tangents of eigenpairs are coupled: S is diagonal, but its tangent is full."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Inexact

from ..operators import diagonal


def divide(fn: Callable[[Array], Array], b: Array, divisor: Array) -> Array:
    """Return the solution of fn(C) = b, where `fn` multiplies by `divisor` in value.

    Written as a solve, it is also differentiated with respect to what `fn` closes over.
    """

    def solve(_: Any, b: Array) -> Array:
        return b / divisor

    # the transpose of a diagonal map is itself
    return lax.custom_linear_solve(fn, b, solve, solve)


def couplings(
    S: Inexact[Array, "k k"],
    G: Inexact[Array, "k k"],
    N: Inexact[Array, "k k"] | None,
    equal: Bool[Array, "k k"],
) -> tuple[Inexact[Array, "k k"], Inexact[Array, "k k"]]:
    """Return Ṡ and the turn K: with C = K − N/2, CS − SC = G − Ṡ, Ṡ within blocks, K between.

    That is KS − SK = H − Ṡ with H = G + (NS − SN)/2. Where G and N come from the operators, H is
    Hermitian and K skew-Hermitian. Where no N is given, it is zero.
    """
    H = G if N is None else G + (N @ S - S @ N) / 2

    def commutator(K: Inexact[Array, "k k"]) -> Inexact[Array, "k k"]:
        return jnp.where(equal, K, K @ S - S @ K)

    lam = diagonal(S)
    gaps = jnp.where(equal, jnp.ones_like(S), lam[None, :] - lam[:, None])
    K = divide(commutator, jnp.where(equal, jnp.zeros_like(H), H), gaps)
    return jnp.where(equal, H, jnp.zeros_like(H)), K


def diagonalise(S: Inexact[Array, "k k"]) -> tuple[Inexact[Array, "k k"], Inexact[Array, "k k"]]:
    """Return Λ, in the order of the diagonal of S, and Q with S = QΛQᴴ; S is nearly diagonal."""
    lam, Q = jnp.linalg.eigh((S + S.conj().T) / 2)
    rank = jnp.argsort(jnp.argsort(diagonal(S).real))
    return jnp.diag(lam[rank]).astype(S.dtype), Q[:, rank]
