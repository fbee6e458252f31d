"""Which eigenvalues are equal, and how near the others are, on all ranks alike."""

from typing import Any

import numpy as np

from ..checks.clusters import clusters_of
from ._forward import Found
from ._ranks import inner

# The condition of the left eigenvectors of a cluster with respect to the right ones, at most.
DEFECTIVE = 1e12


def clusters(found: Found) -> np.ndarray:
    """Return which of the k eigenvalues are equal to rounding; shape (k, k)."""
    k = found.lam.size
    error = found.error[:k]
    near = np.abs(found.lam[:, None] - found.lam[None, :]) <= error[:, None] + error[None, :]
    equal = np.zeros((k, k), bool)
    for cluster in clusters_of(near):
        equal[np.ix_(cluster, cluster)] = True
    return equal


def closeness(found: Found, equal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 for equal eigenvalues, for others their error relative to their distance.

    Of the k among each other, shape (k, k), and of each to the nearest one beyond, shape (k,).
    """
    k = found.lam.size
    every = np.append(found.lam, found.rest)
    distance = np.abs(found.lam[:, None] - every[None, :])
    larger = np.maximum(found.error[:k, None], found.error[None, :])
    same = distance <= larger
    same[:, :k] = equal
    near = np.where(same, 1.0, larger / np.where(same, 1, distance))
    return near[:, :k], np.max(near[:, k:], axis=1, initial=0.0)


def dual(found: Found, equal: np.ndarray) -> Any:
    """Return the left eigenvectors W with WᴴBX = I within clusters, `None` if there are none."""
    comm = found.A.getComm().tompi4py()
    gram = np.where(equal, inner(comm, found.Y, found.BX), 0)
    largest = np.max(np.abs(gram), axis=0)
    if not np.all(largest > 0) or np.linalg.cond(gram / largest) > DEFECTIVE:
        return None
    return found.Y @ np.linalg.inv(gram).conj().T
