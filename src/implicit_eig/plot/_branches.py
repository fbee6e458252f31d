"""The branches of a sweep."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..crossings.tracking import LOST, Followed
from ._axes import ORANGE, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def branches(followed: Followed, ax: "Axes | None" = None) -> "Axes":
    """Draw the branches of a sweep, with their crossings marked.

    A circle marks where the solver's order of two branches swaps, and a cross where a mode is lost
    because its overlap with the one before is below 1/2.

    Args:
        followed: made by `follow`. Its parameters are the horizontal axis if they are numbers,
            otherwise their indices are. The real parts of complex eigenvalues are drawn.
        ax: where to draw; default a new figure.

    Returns:
        The axes, with k lines of s points each.

    Raises:
        InputError: matplotlib is not installed.

    Examples:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver, follow
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> A_at = lambda t: jnp.diag(jnp.array([t, 1.0 - t]))
        >>> ax = branches(follow(lambda t: solve(A_at(t)), jnp.array([0.2, 0.8])))
        >>> len(ax.lines)
        2
    """
    axes = axes_of(ax, "branches")
    values = np.real(np.asarray(followed.values))
    positions = _positions(followed.parameters, len(values))
    for i, branch in enumerate(values.T):
        axes.plot(positions, branch, label=f"branch {i}")
    for points, marker, label in (
        (crossings(positions, values, np.asarray(followed.order)), "o", "crossing"),
        (_lost(positions, values, np.asarray(followed.overlap)), "x", "lost"),
    ):
        if len(points):
            face = {"facecolors": "none", "edgecolors": "black"} if marker == "o" else {"c": ORANGE}
            axes.scatter(*points.T, marker=marker, label=label, zorder=3, **face)
    axes.set(xlabel="parameter", ylabel="value")
    return axes


def crossings(positions: np.ndarray, values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return where two branches change their order in the solver's answer, shape (c, 2).

    Args:
        positions: shape (s,).
        values: shape (s, k).
        order: of `Followed`; shape (s, k).

    Examples:
        >>> import numpy as np
        >>> positions, values = np.array([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> crossings(positions, values, order=np.array([[0, 1], [1, 0]])).tolist()
        [[0.5, 0.5]]
    """
    found = []
    for t in range(1, len(order)):
        before, now = (row[:, None] > row[None, :] for row in (order[t - 1], order[t]))
        for i, j in np.argwhere(np.triu(before != now, 1)):
            gaps = np.abs(values[t - 1 : t + 1, i] - values[t - 1 : t + 1, j])
            # the straight lines between the points meet at this fraction of the step
            fraction = gaps[0] / gaps.sum() if gaps.sum() > 0 else 0.5
            weights = np.array([1 - fraction, fraction])
            found.append((weights @ positions[t - 1 : t + 1], weights @ values[t - 1 : t + 1, i]))
    return np.array(found).reshape(-1, 2)


def _lost(positions: np.ndarray, values: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    steps, lost = np.nonzero(overlap < LOST)
    return np.stack([positions[steps], values[steps, lost]], axis=1)


def _positions(parameters: Any, count: int) -> np.ndarray:
    try:
        positions = np.asarray(parameters, float)
    except (TypeError, ValueError):
        return np.arange(count)
    return positions if positions.shape == (count,) else np.arange(count)
