"""The single interface to host code: when Python runs, what it receives, and what it must return.

Host code never calls JAX, because inside a compiled program it would wait for computations that
wait for the program. So it receives and returns NumPy arrays, and its calls of JAX are refused.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import PyTree

from .._alike import Alike
from .._errors import InputError
from .process import interrupt

# Exceptions of a numerical code that fails; all others mean that the program is wrong.
FAILURES = (ArithmeticError, RuntimeError, ValueError)
MISTAKES = (InputError, NotImplementedError)


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
    stack; with traced ones it becomes an operation of the program.

    Args:
        fn: host function; must be pure. An `fn` that compares equal to that of an earlier
            call reuses its compiled callback.
        like: the shapes and dtypes of the result.
        *args: pytrees of arrays, passed to `fn` as read-only NumPy arrays.
        vmap_method: as for `jax.pure_callback`.

    Returns:
        The result of `fn`, as JAX arrays of the dtypes of `like`.
    """
    fn = forgiving(fn, like)
    if is_traced(args):
        return in_program(fn, like, *args, vmap_method=vmap_method)
    return received(fn(*given(args)), like)


_local = threading.local()


@contextlib.contextmanager
def failures_as_nan(wanted: bool) -> Iterator[None]:
    """Make host code that is called or traced inside return NaN where it would fail."""
    before, _local.wanted = getattr(_local, "wanted", False), wanted
    try:
        yield
    finally:
        _local.wanted = before


def forgiving(fn: Callable[..., PyTree], like: PyTree) -> Callable[..., PyTree]:
    """Return `fn`, or inside `failures_as_nan` a function that returns NaN where `fn` fails."""
    return Forgiving(fn, like) if getattr(_local, "wanted", False) else fn


class Forgiving(eqx.Module):
    """Call `fn`; where it fails, return arrays like `like` that are NaN, or −1 for integers."""

    fn: Callable[..., PyTree]
    like: "_Structure" = eqx.field(static=True)

    def __init__(self, fn: Callable[..., PyTree], like: PyTree):
        self.fn, self.like = fn, _Structure(like)

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """Return fn(*args, **kwargs), or NaN."""
        try:
            return self.fn(*args, **kwargs)
        except FAILURES as error:
            if isinstance(error, MISTAKES):
                raise
            return self.like.nan()


def given(tree: PyTree) -> PyTree:
    """Return the arrays of `tree` as host code receives them: NumPy arrays, read-only."""
    return jax.tree.map(np.asarray, tree)


def received(result: PyTree, like: PyTree) -> PyTree:
    """Return the result of host code as JAX arrays of the dtypes of `like`."""
    # copied, because the host code may reuse its arrays in the next call
    conformed = _conform(result, _Structure(like))
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), conformed)


def in_program(
    fn: Callable[..., PyTree], like: PyTree, *args: PyTree, vmap_method: str = "sequential"
) -> PyTree:
    """Return the result of `fn` on traced arguments, called by the compiled program; see `call`.

    On a CPU the host reads and fills the program's own buffers, in 6 µs a call where
    `jax.pure_callback` takes 200. No JAX array is made, because on a single core that can wait for
    the program itself (https://github.com/jax-ml/jax/issues/25861).
    """
    batched = vmap_method != "sequential"
    if jax.default_backend() == "cpu":
        code = _OnBuffers(fn, _Structure(like), batched)
        return buffer_callback(code, like, vmap_method=vmap_method)(*args)
    code = _OnArrays(fn, _Structure(like), batched)
    return jax.pure_callback(code, like, *args, vmap_method=vmap_method)


def nothing(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array that stands for no result: NaN, or −1 for integers."""
    return np.full(shape, np.nan if np.issubdtype(dtype, np.inexact) else -1, dtype)


class _Structure:
    """A pytree of shapes and dtypes that can be hashed."""

    def __init__(self, like: PyTree):
        leaves, self.treedef = jax.tree.flatten(like)
        self.leaves = tuple((tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in leaves)

    def nan(self) -> PyTree:
        """Return arrays of this structure that are NaN, or −1 for integers."""
        return jax.tree.unflatten(self.treedef, [nothing(*leaf) for leaf in self.leaves])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Structure)
            and self.treedef == other.treedef
            and self.leaves == other.leaves
        )

    def __hash__(self) -> int:
        return hash((self.treedef, self.leaves))


class _HostCall:
    """A host function in the form that JAX's runtime calls; equal functions are equal callbacks.

    `fn` may be a pytree (an Equinox module); it is then compared by its parts, if they hash.
    """

    def __init__(self, fn: Callable[..., PyTree], structure: _Structure, batched: bool):
        self.fn = fn
        self.structure = structure
        self.batched = batched
        leaves, treedef = jax.tree.flatten(fn)
        self.key: Any = (type(self), treedef, tuple(leaves), structure, batched)
        try:
            hash(self.key)
        except TypeError:
            self.key = id(self)

    def run(self, args: tuple[PyTree, ...]) -> PyTree:
        """Return the result in the declared dtypes."""
        try:
            with without_jax():
                return _conform(self.fn(*args), self.structure, self.batched)
        except KeyboardInterrupt as error:
            raise interrupt(error) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HostCall) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class _OnArrays(_HostCall):
    """The same, on arrays made by JAX."""

    def __call__(self, *args: PyTree) -> PyTree:
        # copied, because JAX may keep its arguments, and the host code may reuse them
        return jax.tree.map(np.array, self.run(given(args)))


class _OnBuffers(_HostCall):
    """The same, on the program's buffers, with arguments to read and results to fill."""

    def __call__(self, context: Any, out: PyTree, *args: PyTree) -> None:
        # copied, because the program reuses the buffers afterwards
        result = self.run(jax.tree.map(_copied, args))
        for buffer, part in zip(jax.tree.leaves(out), jax.tree.leaves(result), strict=True):
            np.asarray(buffer)[...] = part


def _copied(buffer: Any) -> np.ndarray:
    array = np.array(np.asarray(buffer))
    array.flags.writeable = False
    return array


@contextlib.contextmanager
def without_jax() -> Iterator[None]:
    """Refuse calls of JAX by host code, which might never return.

    Raises:
        InputError: the host code calls JAX.
    """
    try:
        with jax.transfer_guard("disallow_explicit"):
            yield
    except jax.errors.JaxRuntimeError as error:
        if "Disallowed" not in str(error):
            raise
        raise InputError(
            "Host code in a compiled program: NumPy and SciPy; got a call of JAX, which can wait "
            "for ever for the program that waits for it. Compute with NumPy, or mark a solver that "
            "is JAX code by `traceable`."
        ) from error


def _conform(result: PyTree, structure: _Structure, batched: bool = False) -> PyTree:
    """Return the result in the declared dtypes, or raise an error that describes the difference.

    It is not copied if it already has them.
    """
    leaves, treedef = jax.tree.flatten(result)
    arrays = [np.asarray(refuse_jax(leaf)) for leaf in leaves]
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
    cast = [array.astype(dtype, copy=False) for array, dtype in zip(arrays, dtypes, strict=True)]
    return jax.tree.unflatten(treedef, cast)


def refuse_jax(leaf: Any) -> Any:
    """Return the result of host code, unless it is a JAX array.

    Raises:
        InputError: it is one.
    """
    if isinstance(leaf, jax.Array):
        raise InputError(
            "Host code: NumPy arrays as its result; got an array of JAX, for which a compiled "
            "program can wait for ever. Return NumPy arrays of NumPy's making, or mark a solver "
            "that is JAX code by `traceable`."
        )
    return leaf


def holds_numbers(array: Any) -> bool:
    """Return whether an array that host code returned holds numbers, not objects or text."""
    return bool(jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool)


def refuse_jax_code(argument: str, given: Any) -> None:
    """Raise unless a function that is to run on the host can be host code.

    Raises:
        InputError: it is compiled by `jax.jit`, or belongs to JAX.
    """
    fn: Any = given
    while isinstance(fn, functools.partial):
        fn = fn.func
    of_jax = inspect.isfunction(fn) and str(fn.__module__).split(".")[0] == "jax"
    compiled: Any = jax.stages.Wrapped
    if isinstance(fn, compiled) or of_jax:
        raise InputError(
            f"{argument}: host code, or JAX code marked by `traceable`; got {fn.__name__} of JAX "
            "without the mark, for which a compiled program can wait for ever. Write "
            f"`traceable({fn.__name__})`."
        )


class WithStatic(eqx.Module):
    """Call a host function on arguments whose leaves other than arrays are stored separately."""

    fn: Callable[..., Any] = eqx.field(static=True)
    static: Any

    def __call__(self, arrays: PyTree) -> PyTree:
        """Return fn(*args, **kwargs) with the arguments reassembled."""
        args, kwargs = eqx.combine(arrays, self.static)
        return self.fn(*args, **kwargs)


class Traceable(Alike):
    """Mark a function as JAX code; made by `traceable`."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.fn(*args, **kwargs)


def traceable(fn: Callable[..., Any]) -> Traceable:
    """Mark a solver as JAX code, to be traced rather than run on the host.

    The solver receives dense operators as JAX arrays and others as lineax operators. It is never
    differentiated.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(traceable(jnp.linalg.eigh), Hermitian(k=1))
        >>> A = jnp.diag(jnp.array([1.0, 2.0]))
        >>> jax.grad(lambda A: solve(A).values[0])(A).round(4).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    return Traceable(fn)
