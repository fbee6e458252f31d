"""The one border to host code: when Python runs, what it receives, what must come back."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ._errors import InputError


def is_traced(tree: PyTree) -> bool:
    """Return whether any leaf of `tree` is a JAX tracer."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def as_jax(tree: PyTree) -> PyTree:
    """Return `tree` with its NumPy arrays as JAX arrays."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, tree)


def call(
    fn: Callable[..., PyTree],
    like: PyTree,
    *args: PyTree,
    vmap_method: str = "sequential",
) -> PyTree:
    """Call `fn` on the host with NumPy arrays.

    Concrete arguments call `fn` in place, so that its exceptions keep their type and its
    stack; traced ones go through `jax.pure_callback`.

    Args:
        fn: host function; must be pure. An `fn` that compares equal to that of an earlier
            call reuses its compiled callback.
        like: the shapes and dtypes of the result.
        *args: pytrees of arrays, passed to `fn` as read-only NumPy arrays.
        vmap_method: as for `jax.pure_callback`.

    Returns:
        The result of `fn`, as JAX arrays of the dtypes of `like`.
    """
    if is_traced(args):
        return jax.pure_callback(
            _HostCall(fn, _Structure(like), vmap_method != "sequential"),
            like,
            *args,
            vmap_method=vmap_method,
        )
    result = _conform(fn(*jax.tree.map(np.asarray, args)), _Structure(like))
    # copied: the host code may reuse its arrays in the next call
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), result)


class _Structure:
    """A pytree of shapes and dtypes that hashes."""

    def __init__(self, like: PyTree):
        leaves, self.treedef = jax.tree.flatten(like)
        self.leaves = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Structure)
            and self.treedef == other.treedef
            and self.leaves == other.leaves
        )

    def __hash__(self) -> int:
        return hash((self.treedef, self.leaves))


class _HostCall:
    """A host function as JAX's runtime calls it; equal functions are equal callbacks.

    `fn` may be a pytree (an Equinox module): it equals another by its parts, if they hash.
    """

    def __init__(self, fn: Callable[..., PyTree], structure: _Structure, batched: bool):
        self.fn = fn
        self.structure = structure
        self.batched = batched
        leaves, treedef = jax.tree.flatten(fn)
        self.key: Any = (treedef, tuple(leaves), structure, batched)
        try:
            hash(self.key)
        except TypeError:
            self.key = id(self)

    def __call__(self, *args: PyTree) -> PyTree:
        result = self.fn(*jax.tree.map(np.asarray, args))
        return _conform(result, self.structure, self.batched)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HostCall) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _conform(result: PyTree, structure: _Structure, batched: bool = False) -> PyTree:
    """Return the result in the declared dtypes, or say how it differs from what was declared."""
    leaves, treedef = jax.tree.flatten(result)
    arrays = [np.asarray(leaf) for leaf in leaves]
    expected = [shape for shape, _ in structure.leaves]
    found = [array.shape for array in arrays]
    if batched:
        found = [shape[len(shape) - len(e) :] for shape, e in zip(found, expected, strict=False)]
    if treedef != structure.treedef or found != expected:
        raise InputError(
            "`like=...`: the structure and shapes of what the host code returns; got "
            f"{structure.treedef} with shapes {expected}, and "
            f"{treedef} with shapes {found} from the code. Correct one of the two."
        )
    for array, (_, dtype) in zip(arrays, structure.leaves, strict=True):
        if np.iscomplexobj(array) and not np.issubdtype(dtype, np.complexfloating):
            raise InputError(
                f"`like=...`: a dtype that holds what the host code returns; got {dtype}, and "
                f"{array.dtype} from the code. Declare it complex, or return the real part."
            )
    dtypes = [dtype for _, dtype in structure.leaves]
    cast = [array.astype(dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
    return jax.tree.unflatten(treedef, cast)


class WithStatic(eqx.Module):
    """Call a host function on arguments whose other parts, no arrays, are kept aside."""

    fn: Callable[..., Any] = eqx.field(static=True)
    static: Any

    def __call__(self, arrays: PyTree) -> PyTree:
        """Return fn(*args, **kwargs) of the arguments put together again."""
        args, kwargs = eqx.combine(arrays, self.static)
        return self.fn(*args, **kwargs)


class Traceable:
    """Mark a function as JAX code; made by `traceable`."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.fn(*args, **kwargs)


def traceable(fn: Callable[..., Any]) -> Traceable:
    """Mark a solver as JAX code, to be traced rather than run on the host.

    It receives dense operators as JAX arrays, others as lineax operators, and is never
    differentiated.

    Examples:
        >>> import jax.numpy as jnp
        >>> solver = traceable(jnp.linalg.eigh)
    """
    return Traceable(fn)
