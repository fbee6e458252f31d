"""A gradient as a field over a grid or a mesh."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array

from .._errors import InputError
from ._axes import axes_of, part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A field this many times as wide as high has its colour bar below it.
WIDE = 1.5
# What is no number is grey.
NOT_FINITE = "#B0B0B0"


def sensitivity(
    field: Array | np.ndarray,
    mesh: Any = None,
    ax: "Axes | None" = None,
    *,
    extent: Sequence[float | int] | None = None,
    on_triangles: bool | None = None,
    label: str = "sensitivity",
) -> "Axes":
    """Draw a gradient as a field over a grid or a mesh of triangles.

    A field with both signs is blue below 0 and red above, with white at 0 and equal ranges on both
    sides; a field of one sign is drawn from 0. Entries that are not finite are grey.

    Args:
        field: real; over a grid of shape (ny, nx), row j at the j-th ordinate from below; over a
            mesh one number for each triangle, shape (t,), or for each vertex, shape (v,).
        mesh: `None` for a grid; or points (2, v) and triangles (3, t) as a tuple, which are
            `(mesh.p, mesh.t)` of scikit-fem; or a `matplotlib.tri.Triangulation`.
        ax: where to draw; default a new figure.
        extent: (left, right, bottom, top) of a grid, at the outer edges of its cells; default
            cells of unit size.
        on_triangles: whether there is a number for each triangle rather than for each vertex;
            needed only of a mesh with as many triangles as vertices.
        label: what the colour bar says, with the unit.

    Returns:
        The axes.

    Raises:
        InputError: the field is complex or does not fit the mesh, or matplotlib is not installed.

    Examples:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import numpy as np
        >>> ax = sensitivity(np.array([[-1.0, 2.0, 0.5]]), extent=(0, 3, 0, 1))
        >>> ax.images[0].get_clim()
        (-2.0, 2.0)
        >>> points = np.array([[0, 1, 0, 1], [0, 0, 1, 1]])
        >>> triangles = np.array([[0, 1], [1, 2], [2, 3]])
        >>> ax = sensitivity(np.array([1.0, 3.0]), (points, triangles), label="dλ/dρ in 1/kg")
        >>> ax.collections[0].get_array().tolist()
        [1.0, 3.0]
    """
    axes = axes_of(ax, "sensitivity")
    numbers = _real(field)
    # pixels, because a file of a million triangles could not be opened
    colours = {**_limits(numbers), "rasterized": True}
    if mesh is None:
        drawn = _grid(axes, numbers, extent, on_triangles, colours)
    else:
        drawn = _triangles(axes, numbers, mesh, extent, on_triangles, colours)
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.grid(False)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide = abs(right - left) > WIDE * abs(top - bottom)
    axes.figure.colorbar(
        drawn, ax=axes, label=label, location="bottom" if wide else "right", shrink=0.8
    )
    return axes


def _real(field: Any) -> Any:
    """Return the field in double precision, masked where it is not finite."""
    numbers = np.asarray(field)
    if np.iscomplexobj(numbers):
        raise InputError(
            f"`plot.sensitivity(field)`: a real field; got dtype {numbers.dtype}. Take the real or "
            "the imaginary part: `jnp.real(field)` or `jnp.imag(field)`."
        )
    return np.ma.masked_invalid(np.asarray(numbers, float))


def _limits(numbers: Any) -> dict[str, Any]:
    """Return the colours, and the numbers at their ends."""
    colormaps = part("").colormaps
    finite = numbers.compressed()
    least, most = min(finite, default=0.0), max(finite, default=0.0)
    size = max(-least, most) or 1.0
    if least < 0 < most or least == most == 0:
        name, limits = "RdBu_r", (-size, size)
    elif least < 0:
        name, limits = "cividis_r", (-size, 0.0)
    else:
        name, limits = "cividis", (0.0, size)
    colours = colormaps[name].with_extremes(bad=NOT_FINITE)
    return {"cmap": colours, "vmin": limits[0], "vmax": limits[1]}


def _grid(axes: Any, numbers: Any, extent: Any, on_triangles: Any, colours: dict[str, Any]) -> Any:
    if numbers.ndim != 2:
        raise InputError(
            f"`plot.sensitivity(field)`: an array (ny, nx) over a grid; got shape {numbers.shape}. "
            "Reshape it, or give the mesh: `plot.sensitivity(field, (points, triangles))`."
        )
    if on_triangles is not None:
        raise InputError(
            "`plot.sensitivity(field, on_triangles=...)`: a mesh; got none. Give points and "
            "triangles, or leave it out."
        )
    ny, nx = numbers.shape
    ends = (0, nx, 0, ny) if extent is None else extent
    return axes.imshow(numbers, origin="lower", extent=ends, **colours)


def _triangles(
    axes: Any,
    numbers: Any,
    mesh: Any,
    extent: Any,
    on_triangles: bool | None,
    colours: dict[str, Any],
) -> Any:
    if extent is not None:
        raise InputError(
            "`plot.sensitivity(field, mesh, extent=...)`: a grid; got a mesh, whose points say "
            "where it is. Leave `extent` out."
        )
    triangulation = _triangulation(mesh)
    counts = {True: len(triangulation.triangles), False: len(triangulation.x)}
    fitting = [each for each, count in counts.items() if numbers.shape == (count,)]
    if on_triangles is not None:
        fitting = [each for each in fitting if each is on_triangles]
    if not fitting:
        raise InputError(
            f"`plot.sensitivity(field, mesh)`: one number for each of {counts[True]} triangles or "
            f"{counts[False]} vertices; got shape {numbers.shape}. Interpolate the field to the "
            "vertices, or take its mean over each triangle."
        )
    if len(fitting) > 1:
        raise InputError(
            f"`plot.sensitivity(field, mesh)`: a field that can be told; got {counts[True]} "
            "numbers for as many triangles as vertices. Give `on_triangles=True` or "
            "`on_triangles=False`."
        )
    if fitting[0]:
        return axes.tripcolor(triangulation, facecolors=numbers, **colours)
    return axes.tripcolor(triangulation, numbers, shading="gouraud", **colours)


def _triangulation(mesh: Any) -> Any:
    tri = part(".tri")
    if isinstance(mesh, tri.Triangulation):
        return mesh
    arrays = [np.asarray(part) for part in mesh] if isinstance(mesh, tuple | list) else []
    shapes = [part.shape for part in arrays]
    if [shape[:1] for shape in shapes] != [(2,), (3,)] or {len(shape) for shape in shapes} != {2}:
        found = f"arrays of shapes {shapes}" if arrays else f"{type(mesh).__name__}"
        raise InputError(
            "`plot.sensitivity(field, mesh)`: points (2, v) and triangles (3, t), as a tuple, or a "
            f"`matplotlib.tri.Triangulation`; got {found}. Of scikit-fem give `(mesh.p, mesh.t)`; "
            "of arrays with a row for each point or triangle, the transposes."
        )
    points, triangles = arrays
    vertices = points.shape[1]
    if triangles.min(initial=0) < 0 or triangles.max(initial=0) >= vertices:
        raise InputError(
            f"`plot.sensitivity(field, mesh)`: indices of points from 0 to {vertices - 1}; got "
            f"{triangles.min()} to {triangles.max()}. Check which mesh the triangles are of."
        )
    return tri.Triangulation(*points, triangles.T)
