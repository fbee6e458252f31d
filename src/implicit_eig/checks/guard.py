"""Eigenpairs beyond the k requested: they show whether k cuts a cluster, and help solvers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..operators import diagonal
from ..solution import Solution
from .clusters import as_one, clusters_of
from .policy import Objection, Policy, cluster_check, enforce


def without_guard(solution: Solution, k: int, policy: Policy) -> Solution:
    """Return the first k of m eigenpairs, after a check that no other belongs to their clusters.

    The others are kept beside them. Of eigenpairs that the solver returned without being asked,
    only the eigenvalues are used.

    Args:
        solution: m eigenpairs; figures in `stats` with m entries, or (m, m), are cut as well.
        k: the number of eigenpairs requested.
        policy: determines what happens if a cluster is cut.

    Raises:
        EigensolverError: k cuts a cluster, under `Policy(cluster=Action.RAISE)` (when run).
    """
    m = solution.values.shape[0]
    left, near, edge = solution.left_vectors, solution._near, solution._edge
    if m == k and edge is None:
        return solution

    def cut(leaf: Any) -> Any:
        for axis in range(leaf.ndim):
            if leaf.shape[axis] == m:
                leaf = jax.lax.slice_in_dim(leaf, 0, k, axis=axis)
        return leaf

    wanted = Solution(
        solution.values[:k],
        solution.vectors[:, :k],
        None if left is None else left[:, :k],
        jax.tree.map(cut, solution.stats),
        _near=None if near is None else near[:k, :k],
        _beyond=None if m == k else (solution.values[k:], solution.vectors[:, k:]),
        _rest=None if solution._rest is None else solution._rest[:k],
    )
    if near is None:
        return wanted
    edge = jnp.zeros_like(near[:k, 0]) if edge is None else edge[:k]
    cut_off = as_one(edge)
    if m > k:
        edge = jnp.maximum(edge, jnp.max(near[:k, k:], axis=1))
    wanted = dataclasses.replace(wanted, _edge=edge)
    values = solution.values if solution.values.ndim == 1 else diagonal(solution.values)
    figures = (as_one(near), values, cut_off)
    return enforce(cluster_check(policy, _CutClusters(k)), figures, wanted)


def nearest_beyond(values: Any, k: int, xp: Any) -> Any:
    """Return, for each of the first k values, the nearest of those from k on, or NaN if none.

    Infinite eigenvalues, of a pencil with singular B, do not count. `xp` is NumPy or `jax.numpy`.
    """
    values = xp.where(xp.isfinite(values), values, xp.nan)
    first, rest = values[:k], values[k:]
    if not rest.size:
        return first * xp.nan
    distances = xp.abs(first[:, None] - rest[None, :])
    return rest[xp.argmin(xp.where(xp.isnan(distances), xp.inf, distances), axis=1)]


class _CutClusters(eqx.Module):
    """Object to clusters that k cuts; nonfinite numbers are reported where they arose."""

    k: int = eqx.field(static=True)

    def __call__(self, equal: Any, lam: Any, cut_off: Any) -> Iterator[Objection]:
        k, finite = self.k, abs(lam[: self.k]) < np.inf

        def cluster_of(i: int) -> np.ndarray:
            return next(cluster for cluster in clusters_of(equal) if i in cluster)

        def among_guard(pairs: np.ndarray, _: np.ndarray) -> str:
            i = int(pairs[0])
            members = cluster_of(i)
            inside, end = int((members < k).sum()), int(members[-1]) + 1
            choices = [f"k = {k - inside}"] if inside < k else []
            # a cluster that reaches the last eigenpair may continue beyond it
            choices.append(f"k = {end}" if end < len(lam) else "more pairs and a larger `guard`")
            return (
                f"`eigensolver(problem=...(k={k}, guard={len(lam) - k}))`: a k between clusters; "
                f"got one that takes {inside} of at least {len(members)} pairs with the value "
                f"{lam[i]:.6g}. These have no derivative without the others: ask for "
                f"{' or '.join(choices)}, or accept this with `Policy(cluster=...)`."
            )

        def among_rest(pairs: np.ndarray) -> str:
            i = int(pairs[0])
            fewer = k - len(cluster_of(i))
            advice = f"ask for k = {fewer}, for a larger k" if fewer > 0 else "ask for a larger k"
            return (
                f"`eigensolver(problem=...(k={k}))`: a k between clusters; got the value "
                f"{lam[i]:.6g} of pair {i} again among those that the solver returned beyond the "
                f"k. These pairs have no derivative without each other: {advice}, or accept this "
                "with `Policy(cluster=...)`."
            )

        yield Objection(finite[:, None] & equal[:k, k:], among_guard)
        yield Objection(finite & cut_off, among_rest)
