"""How much a function changes when eigenvectors turn: the parts of `gauge_defect`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from ..checks.rounding import INNER


def turn_defect(
    S: Inexact[Array, "k k"],
    X: Inexact[Array, "n k"],
    S_bar: Inexact[Array, "k k"],
    X_bar: Inexact[Array, "n k"],
    clusters: Bool[Array, "k k"],
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return |D| and the size of X̄, D being the change by X → X exp(K), S → exp(−K) S exp(K).

    For skew-Hermitian K within clusters the change is Re tr(DK), with D the skew-Hermitian part of
    X̄ᵀX + S̄ᵀS − SS̄ᵀ, because JAX pairs a cotangent with a tangent by Re ΣX̄Ẋ.
    """
    M = X_bar.T @ X + S_bar.T @ S - S @ S_bar.T
    D = jnp.where(clusters, (M - M.conj().T) / 2, jnp.zeros_like(M))
    return jnp.abs(D), jnp.max(product_sizes(X_bar, X))


def turn_defect_of_pairs(
    lam: Float[Array, " k"],
    X: Inexact[Array, "n k"],
    S_bar: Inexact[Array, "k k"],
    X_bar: Inexact[Array, "n k"],
    clusters: Bool[Array, "k k"],
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return what `turn_defect` does, for a function that receives only the diagonal of S = Λ.

    A cotangent S̄ that is not diagonal arises in a gradient that is differentiated again, where it
    balances that of X, or where the block was asked for on purpose. It has no part in the defect.
    """
    # the factors are in the order of a transposed X @ K, so that a compiler computes it once
    M = (X.T @ X_bar).T
    of_block = S_bar.T * (lam[None, :] - lam[:, None]).astype(M.dtype)
    parts = [jnp.abs(D - D.conj().T) / 2 for D in (M, M + of_block)]
    defect = jnp.where(clusters, jnp.minimum(*parts), 0)
    return defect, jnp.max(product_sizes(X, X_bar))


def beyond_rounding(
    defect: Float[Array, "k k"], near_bar: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """Return the part of a defect beyond the rounding that `_separate` divided by gaps."""
    eps = float(jnp.finfo(defect.dtype).eps)
    return jnp.maximum(defect - INNER * eps * jnp.max(jnp.abs(near_bar)), 0)


def product_sizes(X: Inexact[Array, "n k"], Y: Inexact[Array, "n k"]) -> Float[Array, "k k"]:
    """Return |X|ᵀ|Y|, the sizes of the terms of XᵀY; independent of the units of unknowns."""
    return jnp.abs(X).T @ jnp.abs(Y)
