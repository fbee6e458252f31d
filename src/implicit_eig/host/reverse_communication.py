"""Host code that requests products from the program: reverse communication.

A host solver needs A x, which only JAX can compute. The solver runs on its own thread and hands
over x, and the program that waits for its result is a loop that multiplies,

    x = begin(arguments);   while x: x = reply(A x);   collect(),

on any device. The host thread waits on a queue and the program on the host thread; neither waits
for anything that JAX has yet to compute, so a deadlock cannot occur.

Source: ARPACK's interface, Lehoucq, Sorensen & Yang (1998) ARPACK Users' Guide, SIAM, chapter 2.
"""

import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, PyTree

from .. import host
from .._compiled import compiled
from .._errors import ImplicitEigError, InputError

# A thread whose program has not answered for this many seconds ends: the program was abandoned.
PATIENCE = 3600.0


class Product(eqx.Module):
    """A linear map y = fn(i, x) that host code may request; i numbers maps of one shape.

    Attributes:
        fn: JAX code, a pytree with the arrays it needs; i is an integer, perhaps traced.
        shape_in, shape_out: shapes and dtypes of the vectors x and y.
    """

    fn: Callable[[Any, Array], Array]
    shape_in: jax.ShapeDtypeStruct = eqx.field(static=True)
    shape_out: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __call__(self, i: Any, x: Array) -> Array:
        """Return y."""
        return self.fn(i, x.astype(self.shape_in.dtype))


def converse(
    fn: Callable[..., PyTree], like: PyTree, products: tuple[Product, ...], *args: PyTree
) -> PyTree:
    """Call `fn` on the host as `host.call` does, and supply the products that it requests.

    The members of a batch are processed in turn. For concrete arguments the caller itself
    multiplies, and exceptions keep their type and stack.

    Args:
        fn: host function, on its own thread; it requests products by `current().ask`.
        like: the shapes and dtypes of its result.
        products: those that it may request, by number.
        *args: pytrees of arrays, passed to `fn` as NumPy arrays.
    """
    if not products:
        return host.call(fn, like, *args)
    fn = host.forgiving(fn, like)
    if not host.is_traced((products, args)):
        return _converse_in_place(fn, like, products, args)
    arrays, static = eqx.partition((products, args), eqx.is_array)

    @sequential_vmap
    def run(arrays: PyTree) -> PyTree:
        products, args = eqx.combine(arrays, static)
        return _converse_in_program(fn, like, products, args)

    return run(arrays)


def current() -> "Exchange":
    """Return the exchange of the host code that is running; called on its thread."""
    return _local.exchange


class _Request(NamedTuple):
    """What host code requests from a program.

    Attributes:
        handle: the number of the exchange.
        kind: `START`, `DONE`, or the number of a product, from 1.
        i: the number of the map within its product.
        x: the vector to be multiplied, padded to the longest length.
    """

    handle: Any
    kind: Any
    i: Any
    x: Any


START, DONE = 0, -1


def _converse_in_program(
    fn: Callable[..., PyTree], like: PyTree, products: tuple[Product, ...], args: PyTree
) -> PyTree:
    ends = tuple(product.shape_out for product in products)
    size, dtype = _buffer(products)
    integer = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = _Request(integer, integer, integer, jax.ShapeDtypeStruct((size,), dtype))

    def multiply(request: _Request) -> Array:
        def branch(product: Product) -> Callable[[Any, Array], Array]:
            def run(i: Any, x: Array) -> Array:
                y = product(i, _unpadded(x, product.shape_in))
                return jnp.pad(y.astype(dtype), (0, size - y.size))

            return run

        def nothing(i: Any, x: Array) -> Array:
            return jnp.zeros_like(x)

        return lax.switch(request.kind, [nothing, *map(branch, products)], request.i, request.x)

    def begin(args: PyTree, handle: Array, y: Array) -> _Request:
        return host.in_program(_Begin(fn, ends, shapes), shapes, args)

    def reply(args: PyTree, handle: Array, y: Array) -> _Request:
        return host.in_program(_Reply(shapes), shapes, handle, y)

    def step(request: _Request) -> _Request:
        # without a barrier, XLA on a CPU lets a callback read and write the same buffer of the loop
        request = lax.optimization_barrier(request)
        y = multiply(request)
        return lax.cond(request.kind == START, begin, reply, args, request.handle, y)

    zero = jnp.int32(0)
    first = _Request(zero, jnp.int32(START), zero, jnp.zeros(size, dtype))
    last = lax.while_loop(lambda request: request.kind != DONE, step, first)
    return host.in_program(_collect, like, last.handle)


def _buffer(products: tuple[Product, ...]) -> tuple[int, Any]:
    """Return a length and a dtype that can hold every vector that is handed over."""
    ends = [end for product in products for end in (product.shape_in, product.shape_out)]
    return max(end.shape[0] for end in ends), np.result_type(*(end.dtype for end in ends))


def _unpadded(x: Any, like: jax.ShapeDtypeStruct) -> Any:
    """Return the vector handed over, of NumPy or of JAX, in its own length and dtype."""
    both = (x.dtype, like.dtype)
    narrower = [np.issubdtype(dtype, np.complexfloating) for dtype in both] == [True, False]
    x = x[: like.shape[0]]
    return (x.real if narrower else x).astype(like.dtype, copy=False)


class _Begin(eqx.Module):
    fn: Callable[..., PyTree]
    ends: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True)
    shapes: _Request = eqx.field(static=True)

    def __call__(self, args: tuple) -> _Request:
        handle = next(_handles)
        _exchanges[handle] = Exchange(self.fn, args, self.ends)
        return _padded(handle, self.shapes)


class _Reply(eqx.Module):
    shapes: _Request = eqx.field(static=True)

    def __call__(self, handle: np.ndarray, y: np.ndarray) -> _Request:
        _exchanges[int(handle)].answer(y)
        return _padded(int(handle), self.shapes)


def _collect(handle: np.ndarray) -> PyTree:
    return _exchanges.pop(int(handle)).result


def _padded(handle: int, shapes: _Request) -> _Request:
    try:
        asked = _exchanges[handle].next()
    except BaseException:
        _exchanges.pop(handle)
        raise
    kind, i, x = (DONE, 0, np.zeros(0)) if asked is None else (1 + asked[0], *asked[1:])
    if x.shape != shapes.x.shape:
        x = np.concatenate([x, np.zeros(shapes.x.shape[0] - x.size, x.dtype)])
    return _Request(np.int32(handle), np.int32(kind), np.int32(i), x)


_handles = itertools.cycle(range(1, 2**31))
_exchanges: "dict[int, Exchange]" = {}
_local = threading.local()


class _Abandoned(BaseException):
    """Raised when the program no longer answers; not caught by a solver's `except Exception`."""


class Exchange:
    """A host function on its own thread, and its requests."""

    def __init__(
        self, fn: Callable[..., PyTree], args: tuple, ends: tuple[jax.ShapeDtypeStruct, ...]
    ):
        self.result: PyTree = None
        self.ends = ends
        self._lock = threading.Lock()
        self._running = True
        self._asked: queue.SimpleQueue = queue.SimpleQueue()
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(
            target=self._run, args=(fn, args), name="implicit_eig solver", daemon=True
        ).start()

    def _run(self, fn: Callable[..., PyTree], args: tuple) -> None:
        _local.exchange = self
        try:
            with host.without_jax():
                self.result = fn(*args)
            self._asked.put(None)
        except BaseException as error:
            self._asked.put(error)
        finally:
            self._running = False

    def ask(self, number: int, i: int, x: np.ndarray) -> np.ndarray:
        """Return products[number](i, x), once the program has computed it.

        Raises:
            InputError: the host code has returned already.
        """
        with self._lock:  # the solver may have its own threads
            if not self._running:
                raise InputError(
                    "Products of a matrix-free operator: for the solver that receives it, while it "
                    "runs; got one after it has returned. Multiply by the operator itself."
                )
            self._asked.put((number, i, x))
            try:
                y = self._answers.get(timeout=PATIENCE)
            except queue.Empty:
                y = None
        if y is None:
            raise _Abandoned
        return _unpadded(y, self.ends[number])

    def next(self) -> tuple[int, int, np.ndarray] | None:
        """Return the next request, or `None` when there is a result; raise the function's error."""
        asked = self._asked.get()
        if isinstance(asked, _Abandoned):
            raise ImplicitEigError(
                f"A host solver that asks for products: an answer within {PATIENCE:.0f} s; got "
                "none. Use a `traceable` solver where one product takes that long."
            )
        if isinstance(asked, BaseException):
            raise asked
        return asked

    def answer(self, y: np.ndarray | None) -> None:
        """Hand over a product; `None` ends the thread."""
        self._answers.put(y)


def _converse_in_place(
    fn: Callable[..., PyTree], like: PyTree, products: tuple[Product, ...], args: tuple
) -> PyTree:
    exchange = Exchange(fn, host.given(args), tuple(product.shape_out for product in products))
    try:
        while (asked := exchange.next()) is not None:
            number, i, x = asked
            y = _multiply(products[number], jnp.asarray(i), jnp.asarray(x))
            exchange.answer(np.asarray(y))
    finally:
        exchange.answer(None)
    return host.received(exchange.result, like)


@compiled
def _multiply(product: Product, i: Any, x: Any) -> Array:
    return product(i, x)
