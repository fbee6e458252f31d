"""The linear solves of derivatives, in order."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import InputError
from ..checks.policy import SolveReport
from ._axes import BLUE, GREEN, ORANGE, axes_of, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The systems of one solve are spread over this part of the distance to the next.
SPREAD = 0.5


def convergence(reports: Sequence[Any], ax: "Axes | None" = None) -> "Axes":
    """Draw residuals and estimated errors of linear solves, and the steps of iterations.

    Each linear system has a marker; those of one solve stand side by side. A figure that is exactly
    0, such as the residual of a system with nothing to solve for, has no place on a logarithmic
    axis and is drawn on its lower edge; one that is not finite, on its upper edge. Steps have the
    axis on the right, which is left out where no solver reports any.

    Args:
        reports: of type `SolveReport`, collected by `Policy(monitor=reports.append)`, in the order
            of the solves. Under `jit` they have all arrived after `jax.effects_barrier()`.
        ax: where to draw; default a new figure.

    Returns:
        The axes of residuals and errors.

    Raises:
        InputError: there is no report, or matplotlib is not installed.

    Examples:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, Policy, eigensolver
        >>> reports = []
        >>> policy = Policy(monitor=reports.append)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), policy=policy)
        >>> A = jnp.array([[1.0, 1.0], [1.0, 3.0]])
        >>> gradient = jax.grad(lambda A: solve(A).vectors[0, 0] ** 2)(A)
        >>> convergence(reports).get_xlabel()
        'linear solve, by LU (direct)'
    """
    if not reports or not all(isinstance(report, SolveReport) for report in reports):
        found = f"a {type(reports).__name__} of others" if reports else "none"
        raise InputError(
            f"`plot.convergence(reports)`: a list of `SolveReport`; got {found}. Collect them by "
            "`Policy(monitor=reports.append)` in `eigensolver(..., policy=...)`, and take a "
            "derivative of eigenvectors; under `jit` call `jax.effects_barrier()` before."
        )
    axes = axes_of(ax, "convergence")
    positions = np.concatenate([_positions(i, report) for i, report in enumerate(reports)])
    figures = {name: _joined(reports, name) for name in ("residuals", "errors", "steps")}
    kinds = _kinds(reports)
    iterates = np.concatenate(
        [np.full(np.size(each.steps), kinds[each.solver] == "iterative") for each in reports]
    )
    axes.set_yscale("log")
    if not any(np.any(figures[name] > 0) for name in ("residuals", "errors")):
        axes.set_ylim(1e-16, 1)
    size = max(2.0, 6 - len(positions) / 50)
    handles = [
        *_logarithmic(axes, positions, figures["residuals"], "o", BLUE, "residual", size),
        *_logarithmic(axes, positions, figures["errors"], "^", ORANGE, "estimated error", size),
        *_steps(axes, positions, figures["steps"], iterates, size),
    ]
    names = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    axes.set(xlabel=f"linear solve, by {names}", ylabel="relative residual, error")
    whole_numbers(axes.xaxis)
    # above the axes, because it would hide markers of the axis on the right
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        borderaxespad=0,
        ncols=2,
        columnspacing=1,
        handletextpad=0.4,
        fontsize="small",
    )
    return axes


def _positions(i: int, report: SolveReport) -> np.ndarray:
    count = np.size(report.residuals)
    return i + SPREAD * (np.arange(count) - (count - 1) / 2) / count


def _joined(reports: Sequence[SolveReport], name: str) -> np.ndarray:
    return np.concatenate([np.ravel(report._asdict()[name]) for report in reports])


def _kinds(reports: Sequence[SolveReport]) -> dict[str, str]:
    """Return for each solver whether it is direct, iterative, or does not tell."""
    steps: dict[str, np.ndarray] = {}
    for report in reports:
        known = steps.get(report.solver, np.zeros(0, int))
        steps[report.solver] = np.append(known, report.steps)
    return {
        # an iteration takes no steps where there is nothing to solve for
        name: "iterative" if (of > 0).any() else "direct" if (of == 0).all() else "steps not known"
        for name, of in steps.items()
    }


def _logarithmic(
    axes: Any,
    positions: np.ndarray,
    figures: np.ndarray,
    marker: str,
    colour: str,
    label: str,
    size: float,
) -> list[Any]:
    """Draw figures on a logarithmic axis, and on its edges those that have no place there."""
    style: Any = {"ls": "", "color": colour, "ms": size, "marker": marker}
    inside = np.isfinite(figures) & (figures > 0)
    handles = []
    if inside.any():
        handles += axes.plot(positions[inside], figures[inside], label=label, **style)
    edges = (
        (figures == 0, 0.0, "exactly 0", {"mfc": "white"}),
        (~np.isfinite(figures), 1.0, "not finite", {"marker": "x"}),
    )
    for mask, height, name, other in edges:
        if mask.any():
            handles += axes.plot(
                positions[mask],
                np.full(mask.sum(), height),
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=3,
                label=f"{label}, {name}",
                **(style | other),
            )
    return handles


def _steps(
    axes: Any, positions: np.ndarray, steps: np.ndarray, iterates: np.ndarray, size: float
) -> list[Any]:
    """Draw the steps of iterations on an axis on the right."""
    shown = iterates & (steps >= 0)
    if not shown.any():
        return []
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    right.set_ylabel("steps of the iteration")
    right.set_ylim(0, 1.1 * max(steps[shown]))
    whole_numbers(right.yaxis)
    return right.plot(
        positions[shown],
        steps[shown],
        ls="",
        marker="s",
        mfc="none",
        color=GREEN,
        ms=size,
        label="steps (right)",
    )
