"""Clusters: the eigenvalues that count as equal."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from scipy.sparse.csgraph import connected_components

from .._compiled import constant_like, if_any
from .policy import Policy


def loose(dtype: Any) -> float:
    """Return the relative error above which a derivative of single eigenpairs is warned about.

    It leaves three correct digits, in single precision two, where the error is as large as
    `checks.rounding` allows, which is some ten times the typical one.
    """
    return 5e-4 if jnp.finfo(dtype).bits > 32 else 5e-3


def closeness(
    lam: Shaped[Array, " k"], error: Shaped[Array, " k"], rtol: float | Shaped[Array, ""]
) -> Float[Array, "k k"]:
    """Return 1 for two eigenvalues of a cluster; for others their error relative to their distance.

    A cluster is |λᵢ − λⱼ| ≤ rtol · max(|λᵢ|, |λⱼ|), or no more than the error. Elsewhere the entry
    is the relative error of what distinguishes the two eigenvectors, since an error ε of A turns
    one into the other by ε/|λᵢ − λⱼ|.

    Args:
        lam: eigenvalues; shape (k,).
        error: of each eigenvalue, by rounding or by the solver; shape (k,).
        rtol: relative to the two eigenvalues, not to the largest of all: a large one far away
            must not merge small ones.

    Returns:
        A symmetric matrix, 1 on the diagonal; shape (k, k).
    """
    larger = lambda size: jnp.maximum(size[:, None], size[None, :])  # noqa: E731
    distance = jnp.abs(lam[:, None] - lam[None, :])
    close = distance <= larger(rtol * jnp.abs(lam) + error)
    # the diagonal is 1 for infinite eigenvalues and NaN too
    close = close | jnp.eye(lam.shape[0], dtype=bool)
    ratio = larger(error) / jnp.where(close, jnp.ones_like(distance), distance)
    return jnp.where(close, jnp.ones_like(ratio), jnp.nan_to_num(ratio))


def as_one(near: Any) -> Any:
    """Return which eigenpairs form one cluster, from their `closeness`, in JAX or NumPy."""
    return near >= 1


def rounding_only(policy: Policy) -> float | Array:
    """Return `Policy.degeneracy_rtol`, by default 0: only eigenvalues equal to rounding are one."""
    return 0.0 if policy.degeneracy_rtol is None else policy.degeneracy_rtol


def near_and_edge(
    near: Callable[[Array, Array], Array], lam: Array, error: Array, rest: Array | None
) -> tuple[Float[Array, "k k"], Float[Array, " k"] | None]:
    """Return `near(lam, error)`, and the closeness of each eigenvalue to those of `rest`.

    Shapes (k, k) and (k,); `rest` is NaN for an eigenvalue without one. Without `rest`, `None`.
    """
    if rest is None:
        return near(lam, error), None
    k = len(lam)
    found = near(jnp.concatenate([lam, rest]), jnp.concatenate([error, error]))
    return found[:k, :k], jnp.max(found[:k, k:], axis=1)


def near_and_edge_beyond(
    lam: Shaped[Array, " k"],
    rounding: Shaped[Array, " k"],
    at_most: Shaped[Array, " k"],
    misfit: Callable[..., Shaped[Array, " k"]],
    parts: tuple,
    rest: Shaped[Array, " k"] | None,
    policy: Policy,
) -> tuple[Float[Array, "k k"], Float[Array, " k"] | None]:
    """Return what `near_and_edge` does, beyond rounding and the error of the solver.

    The error is at most `at_most`, and is computed, as `misfit(*parts)`, only where that brings two
    eigenvalues near.
    """
    near = lambda lam, error: closeness(lam, error, rounding_only(policy))  # noqa: E731
    possible, edge = near_and_edge(near, lam, rounding + at_most, rest)
    touching = jnp.any((possible > loose(lam.dtype)) & ~jnp.eye(len(lam), dtype=bool))
    if edge is not None:
        touching = touching | jnp.any(as_one(edge))
    found = if_any(touching, lambda _, *parts: misfit(*parts), _nothing, at_most, *parts)
    return near_and_edge(near, lam, rounding + found, rest)


def _nothing(at_most: Array, *_: Array) -> Array:
    return constant_like(jnp.zeros_like(at_most), at_most)


def cube_root(dtype: Any) -> float:
    """Return eps^(1/3) of a dtype."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def clusters_of(equal: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each cluster of a mask, ascending; on the host.

    Where a is near b and b near c, all three are one cluster.
    """
    _, labels = connected_components(equal, directed=False)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
