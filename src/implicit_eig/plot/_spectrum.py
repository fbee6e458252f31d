"""The eigenvalues of a solution."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._errors import InputError
from ..checks.clusters import as_one, clusters_of
from ..diagnostics import Diagnosis, doubtful
from ..solution import Solution, eigenvalues
from ._axes import BLUE, GREY, ORANGE, axes_of, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Imaginary parts are rounding below this many units in the last place of the largest eigenvalue.
ROUNDING = 100.0
# Condition numbers this close to 1 are 1.
ONE = 1e-3
# On the real line, where the axis shows the indices too, only so many clusters are named.
NAMED = 8
# So many indices of a cluster are written out beside it.
WRITTEN = 3


def spectrum(solution: Solution | Diagnosis, ax: "Axes | None" = None) -> "Axes":
    """Draw eigenvalues: against their index if all are real, otherwise in the complex plane.

    Rings join eigenvalues that count as one, with the indices of their eigenpairs beside them, as
    long as there is room. Of a `Diagnosis` the colours are the condition numbers, unless all are 1,
    as they are for Hermitian problems; crosses mark eigenpairs of which a gradient may have fewer
    than three correct digits (two in single precision), and the largest residual and estimated
    error are in the title.

    Args:
        solution: concrete, not a batch; or what `diagnose` returned. Of a `Subspace` the
            eigenvalues of the block S are drawn. Infinite eigenvalues, and NaN, are left out, and
            the title says how many.
        ax: where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        InputError: `solution` is a batch, or matplotlib is not installed.

    Examples:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, diagnose, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=3))
        >>> A = jnp.diag(jnp.array([1.0, 2.0, 2.0, 5.0]))
        >>> ax = spectrum(diagnose(solve, A))
        >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
        ('index', 'eigenvalue', ['1, 2'])
    """
    axes = axes_of(ax, "spectrum")
    drawn = _of_diagnosis(solution) if isinstance(solution, Diagnosis) else _of_solution(solution)
    values = drawn.values
    finite = np.isfinite(values)
    points, on_line = _placed(axes, values, values[finite], drawn.name)
    several = [c[finite[c]] for c in drawn.clusters if np.sum(finite[c]) > 1]
    handles = [
        *_clusters(axes, points, several, named=not on_line or len(several) <= NAMED),
        *_markers(axes, points[finite], drawn.conditions[finite]),
        *_crosses(axes, points[finite & drawn.doubtful]),
    ]
    if handles:
        axes.legend(handles=handles, fontsize="small")
    lines = list(drawn.lines)
    if not finite.all():
        lines.append(f"{np.sum(~finite)} of {len(values)} are not finite and not shown")
    if lines:
        axes.set_title("\n".join(lines), fontsize="small")
    return axes


def _placed(
    axes: Any, values: np.ndarray, finite: np.ndarray, name: str
) -> tuple[np.ndarray, bool]:
    """Return where the eigenvalues are drawn, and whether they are on the real line."""
    size = np.max(np.abs(finite), initial=0)
    rounding = ROUNDING * float(np.finfo(values.dtype).eps) * size
    if np.max(np.abs(np.imag(finite)), initial=0) <= rounding:
        axes.set(xlabel="index", ylabel=name, xlim=(-0.5, max(len(values), 1) - 0.5))
        whole_numbers(axes.xaxis)
        return np.stack([np.arange(len(values)), np.real(values)], axis=1), True
    axes.set(xlabel=f"real part of the {name}", ylabel="imaginary part")
    return np.stack([np.real(values), np.imag(values)], axis=1), False


class _Drawn(NamedTuple):
    values: np.ndarray
    clusters: list[np.ndarray]
    conditions: np.ndarray
    doubtful: np.ndarray
    lines: list[str]
    name: str = "eigenvalue"


def _of_diagnosis(diagnosis: Diagnosis) -> _Drawn:
    return _Drawn(
        np.asarray(diagnosis.values),
        diagnosis.clusters,
        np.asarray(diagnosis.condition_numbers),
        doubtful(diagnosis),
        [
            f"largest residual: {_largest(diagnosis.residuals)}",
            f"largest estimated error of a gradient: {_largest(diagnosis.gradient_errors)}",
        ],
        "singular value" if diagnosis.problem == "Singular" else "eigenvalue",
    )


def _of_solution(solution: Solution) -> _Drawn:
    values = eigenvalues(solution)
    if values.ndim != 1:
        raise InputError(
            f"`plot.spectrum(solution)`: one solution; got a batch, with values of shape "
            f"{values.shape}. Take a member: `jax.tree.map(lambda leaf: leaf[0], solution)`."
        )
    near = solution._near
    # the values of a block are sorted anew
    known = near is not None and np.shape(solution.values) == values.shape
    clusters = clusters_of(as_one(np.asarray(near))) if known else []
    return _Drawn(values, clusters, np.ones(len(values)), np.zeros(len(values), bool), [])


def _largest(figures: np.ndarray) -> str:
    largest = np.max(figures, initial=0)
    return "unknown" if np.isnan(largest) else f"{largest:.0e}"


def _clusters(axes: Any, points: np.ndarray, clusters: list[np.ndarray], named: bool) -> list[Any]:
    """Ring the members of each cluster, join them, and write their indices."""
    handles = []
    for cluster in clusters:
        (ring,) = axes.plot(
            *points[cluster].T, "o-", ms=13, mfc="none", color=GREY, lw=1, label="counted as one"
        )
        handles.append(ring)
        if named:
            _name(axes, points, cluster)
    return handles[:1]


def _name(axes: Any, points: np.ndarray, cluster: np.ndarray) -> None:
    # beside the curve that rising values form
    left = points[cluster[0], 1] > points[0, 1]
    axes.annotate(
        _named(cluster),
        points[cluster[0 if left else -1]],
        xytext=(-8 if left else 8, 6),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize="small",
        zorder=5,
    )


def _named(cluster: np.ndarray) -> str:
    if len(cluster) <= WRITTEN:
        return ", ".join(map(str, cluster))
    if np.all(np.diff(cluster) == 1):
        return f"{cluster[0]} to {cluster[-1]}"
    return f"{', '.join(map(str, cluster[:WRITTEN]))} and {len(cluster) - WRITTEN} more"


def _markers(axes: Any, points: np.ndarray, conditions: np.ndarray) -> list[Any]:
    """Draw the eigenvalues, coloured by condition numbers where these tell something."""
    known = np.isfinite(conditions)
    handles = []
    if np.all(np.abs(conditions - 1) < ONE):
        axes.scatter(*points.T, s=28, color=BLUE, zorder=3)
        return handles
    most = np.max(conditions[known], initial=10.0)
    colours = axes.scatter(
        *points[known].T,
        c=conditions[known],
        norm="log",
        clim=(1, most),
        cmap="cividis_r",
        edgecolors=GREY,
        s=36,
        zorder=3,
    )
    axes.figure.colorbar(colours, ax=axes, label="condition number")
    if not known.all():
        unknown = axes.scatter(
            *points[~known].T,
            marker="D",
            facecolors="none",
            edgecolors=BLUE,
            zorder=3,
            label="no finite condition number",
        )
        handles.append(unknown)
    return handles


def _crosses(axes: Any, points: np.ndarray) -> list[Any]:
    if not len(points):
        return []
    label = "gradient in doubt"
    return [axes.scatter(*points.T, marker="x", s=70, color=ORANGE, zorder=4, label=label)]
