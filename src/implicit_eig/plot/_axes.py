"""Axes and colours that all plots share."""

from typing import Any

from .._optional import optional

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY = "#666666"


def part(name: str, caller: str = "...") -> Any:
    """Return a module of matplotlib."""
    return optional(f"matplotlib{name}", f"plot.{caller}(...)", "`pip install matplotlib`")


def axes_of(ax: Any, caller: str) -> Any:
    """Return the given axes, or those of a new figure."""
    pyplot = part(".pyplot", caller)
    return pyplot.subplots(layout="constrained")[1] if ax is None else ax


def whole_numbers(axis: Any) -> None:
    """Put ticks at whole numbers alone."""
    axis.set_major_locator(part(".ticker").MaxNLocator(integer=True, min_n_ticks=1))
