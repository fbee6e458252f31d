"""Central differences of host code, on the host."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._errors import HostCallWarning
from .._optional import progress

# A gradient of more calls than this is warned about, and shows its progress after some seconds.
MANY = 300


class Directional(eqx.Module):
    """(f(x + h v) − f(x − h v)) / 2h, h = ε^⅓ relative to the largest entries of x and of v."""

    fn: Callable[..., PyTree] = eqx.field(static=True)

    def __call__(self, moving: PyTree, still: PyTree, v: PyTree) -> PyTree:
        """Return the derivative along `v`, shaped like the result of `fn`."""
        leaves, treedef = jax.tree.flatten(moving)
        directions = jax.tree.leaves(v)
        pairs = list(zip(leaves, directions, strict=True))
        reach = max(np.max(np.abs(d), initial=0) / _size(leaf) for leaf, d in pairs)
        h = _step(leaves) / (reach if reach > 0 else 1)

        def at(sign: int) -> PyTree:
            moved = [np.asarray(leaf + sign * h * d, leaf.dtype) for leaf, d in pairs]
            out = self.fn(*eqx.combine(jax.tree.unflatten(treedef, moved), still))
            return jax.tree.map(np.array, out)  # copied, because the code may reuse its arrays

        return jax.tree.map(lambda a, b: (a - b) / (2 * h), at(1), at(-1))


class Gradient(eqx.Module):
    """Σ w ∂f/∂x by two calls for each entry of x, and two more for an imaginary part."""

    fn: Callable[..., PyTree] = eqx.field(static=True)

    def __call__(self, moving: PyTree, still: PyTree, w: PyTree) -> PyTree:
        """Return the cotangents of the moving arguments."""
        leaves, treedef = jax.tree.flatten(moving)
        weights = jax.tree.leaves(w)
        bars = [np.zeros_like(leaf) for leaf in leaves]

        def slope(i: int, index: tuple, direction: Any) -> Any:
            h = _step(leaves) * _size(leaves[i])
            sides = []
            for sign in (1, -1):
                moved = [leaf.copy() for leaf in leaves]
                moved[i][index] += sign * h * direction
                out = self.fn(*eqx.combine(jax.tree.unflatten(treedef, moved), still))
                # copied, because the code may reuse its arrays
                sides.append([np.array(part) for part in jax.tree.leaves(out)])
            parts = zip(weights, *sides, strict=True)
            return sum(np.sum(w * ((a - b) / (2 * h))).real for w, a, b in parts)

        # JAX pairs cotangent and tangent by Re(x̄ ẋ), so ẋ = i gives −Im x̄
        for i, index, direction in _shown(leaves):
            bars[i][index] += np.conj(direction) * slope(i, index, direction)
        return jax.tree.unflatten(treedef, bars)


def _shown(leaves: list[np.ndarray]) -> Iterable[tuple[int, tuple, Any]]:
    """Return each entry with its directions 1 and i; warn if they are many, and show progress."""
    directions = [(1, 1j) if np.iscomplexobj(leaf) else (1,) for leaf in leaves]
    slopes = sum(leaf.size * len(each) for leaf, each in zip(leaves, directions, strict=True))
    places = (
        (i, index, direction)
        for i, leaf in enumerate(leaves)
        for index in np.ndindex(leaf.shape)
        for direction in directions[i]
    )
    if 2 * slopes <= MANY:
        return places
    warnings.warn(
        f"`host_function(vjp=...)`: a product for reverse mode; got none, so that this gradient "
        f"takes {2 * slopes} calls of the host code, two for each entry of its arguments. Give "
        "`vjp=`, or differentiate by few directions in forward mode.",
        HostCallWarning,
        stacklevel=2,
    )
    return progress(places, slopes, "differences")


def _size(leaf: np.ndarray) -> float:
    return float(np.max(np.abs(leaf), initial=0)) or 1.0


def _step(leaves: list[np.ndarray]) -> float:
    return max(float(np.finfo(leaf.dtype).eps) for leaf in leaves) ** (1 / 3)
