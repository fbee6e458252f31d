"""Clusters: the eigenvalues that count as equal."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Shaped
from scipy.sparse.csgraph import connected_components

from .._compiled import constant_like
from .policy import Policy


def cluster_mask(
    lam: Shaped[Array, " k"], rounding: Shaped[Array, " k"], policy: Policy
) -> Bool[Array, "k k"]:
    """Return which eigenvalues form one cluster under `policy`, by default those equal to rounding.

    See `near_mask`.
    """
    rtol = policy.degeneracy_rtol
    return near_mask(lam, rounding, 0.0 if rtol is None else rtol)


def cube_root(dtype: Any) -> float:
    """Return eps^(1/3) of a dtype."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def near_mask(
    lam: Shaped[Array, " k"], rounding: Shaped[Array, " k"], rtol: float | Shaped[Array, ""]
) -> Bool[Array, "k k"]:
    """Return whether |λᵢ − λⱼ| ≤ rtol · max(|λᵢ|, |λⱼ|), or is no more than rounding.

    Args:
        lam: eigenvalues; shape (k,).
        rounding: the effect of rounding on each eigenvalue; shape (k,).
        rtol: relative to the two eigenvalues, not to the largest of all: a large one far away
            must not merge small ones.

    Returns:
        A symmetric mask, true on the diagonal; shape (k, k).
    """
    size = rtol * jnp.abs(lam) + rounding
    close = jnp.abs(lam[:, None] - lam[None, :]) <= jnp.maximum(size[:, None], size[None, :])
    # the diagonal is true for infinite eigenvalues and NaN too
    return close | jnp.eye(lam.shape[0], dtype=bool)


def cluster_and_cut(
    mask: Callable[[Array, Array], Array], lam: Array, rounding: Array, rest: Array | None
) -> tuple[Bool[Array, "k k"], Bool[Array, " k"] | None]:
    """Return `mask(lam, rounding)`, and which eigenvalues count as equal to that of `rest`.

    Shapes (k, k) and (k,); `rest` is NaN for an eigenvalue without one. Without `rest`, `None`.
    """
    if rest is None:
        return mask(lam, rounding), None
    k = len(lam)
    equal = mask(jnp.concatenate([lam, rest]), jnp.concatenate([rounding, rounding]))
    return equal[:k, :k], jnp.any(equal[:k, k:], axis=1)


def clusters_beyond(
    lam: Shaped[Array, " k"],
    rounding: Shaped[Array, " k"],
    at_most: Shaped[Array, " k"],
    misfit: Callable[[], Shaped[Array, " k"]],
    rest: Shaped[Array, " k"] | None,
    policy: Policy,
) -> tuple[Bool[Array, "k k"], Bool[Array, " k"] | None]:
    """Return what `cluster_and_cut` does, beyond rounding and the error of the solver.

    The error is at most `at_most`, and is computed only where that makes two eigenvalues equal.
    """
    mask = lambda lam, rounding: cluster_mask(lam, rounding, policy)  # noqa: E731
    equal, cut = cluster_and_cut(mask, lam, rounding + at_most, rest)
    touching = jnp.any(equal & ~jnp.eye(len(lam), dtype=bool))
    if cut is not None:
        touching = touching | jnp.any(cut)
    none = lambda: constant_like(jnp.zeros_like(at_most), at_most)  # noqa: E731
    found = lax.cond(touching, misfit, none)
    return cluster_and_cut(mask, lam, rounding + found, rest)


def clusters_of(equal: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each cluster of a mask of `near_mask`, ascending; on the host.

    Where a is near b and b near c, all three are one cluster.
    """
    _, labels = connected_components(equal, directed=False)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
