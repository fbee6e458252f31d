"""The value of a JAX function with its pullback: two programs, each compiled once.

    evaluate(fn, x)        f(x), with what the forward solve leaves for its pullback
    evaluation.pull(v̄)     x̄, without another forward solve

The programs are found again by the function itself, so that a bridge to it that is made anew at
each call compiles nothing anew.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _errors
from .._compiled import compiled


class Flat(eqx.Module):
    """A JAX function of all arrays in its arguments, in one row."""

    fn: Callable[..., PyTree]
    structure: Any = eqx.field(static=True)

    def __call__(self, *arrays: Any) -> PyTree:
        """Return fn(*arguments)."""
        return self.fn(*jax.tree.unflatten(self.structure, arrays))


class Pullback(eqx.Module):
    """The cotangents of arguments, as a function of arguments and of the value's cotangents.

    It is a JAX function like any other, and a bridge to it gives second derivatives.

    Attributes:
        fn: a function of n arrays.
        moving: which of these have a cotangent; n of them.
        conjugate: whether all cotangents are the conjugates of JAX's.
    """

    fn: Callable[..., PyTree]
    moving: tuple[bool, ...] = eqx.field(static=True)
    conjugate: bool = eqx.field(static=True)

    def __call__(self, *arrays: Any) -> list[Array]:
        """Return the cotangents of what moves, for n arrays and the cotangents of the value."""
        n = len(self.moving)
        value, pullback = _linearised(self.fn, arrays[:n], self.moving)
        return _pulled(pullback, cotangent(value, arrays[n:]), self.conjugate)


def cotangent(value: PyTree, bars: Sequence[Any]) -> PyTree:
    """Return the cotangents of the inexact arrays of a value in its structure, `None` elsewhere."""
    leaves, structure = jax.tree.flatten(value)
    given = iter(bars)
    return jax.tree.unflatten(structure, [next(given) if moves(x) else None for x in leaves])


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array, or describes one."""
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


def moves(leaf: Any) -> bool:
    """Return whether a leaf is an array that has a cotangent, or describes one."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, np.inexact)


def _linearised(fn: Callable[..., PyTree], arrays: Sequence[Any], moving: Sequence[bool]) -> Any:
    marked, fixed = eqx.partition(list(arrays), list(moving))
    return eqx.filter_vjp(lambda marked: fn(*eqx.combine(marked, fixed)), marked)


def _pulled(pullback: Any, value_bar: PyTree, conjugate: bool) -> list[Array]:
    conj = (lambda tree: jax.tree.map(jnp.conj, tree)) if conjugate else (lambda tree: tree)
    return conj(jax.tree.leaves(pullback(conj(value_bar))))


@compiled
def _value_and_pullback(
    fn: Callable[..., PyTree], arrays: Sequence[Any], moving: tuple[bool, ...]
) -> Any:
    return _linearised(fn, arrays, moving)


@compiled
def _pull(pullback: Any, value_bar: PyTree, conjugate: bool) -> list[Array]:
    return _pulled(pullback, value_bar, conjugate)


class Evaluation:
    """The value of a function at one point, and its pullback there.

    Attributes:
        like: the value, with shapes and dtypes for arrays.
        bars_like: those of its arrays that have a cotangent.
    """

    def __init__(self, value: PyTree, pullback: Any, conjugate: bool):
        self._pullback, self._conjugate = pullback, conjugate
        # not the value itself, whose memory may be handed on to somebody who writes into it
        self.like = jax.tree.map(_described, value)
        self.bars_like = [leaf for leaf in jax.tree.leaves(self.like) if moves(leaf)]

    def pull(self, bars: Sequence[Any]) -> list[Array]:
        """Return the cotangents of what moves, for those of the value; `None` stands for zero."""
        pairs = zip(bars, self.bars_like, strict=True)
        full = [np.zeros(x.shape, x.dtype) if bar is None else bar for bar, x in pairs]
        with _as_raised():
            value_bar = cotangent(self.like, full)
            return jax.block_until_ready(_pull(self._pullback, value_bar, self._conjugate))


def _described(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else leaf


def evaluate(
    fn: Callable[..., PyTree],
    arrays: Sequence[Any],
    moving: tuple[bool, ...],
    conjugate: bool = False,
) -> tuple[PyTree, Evaluation]:
    """Return fn(*arrays), and the evaluation that pulls its cotangents back.

    Args:
        fn: `Flat` or `Pullback`.
        arrays: its arguments, JAX arrays whose memory nobody writes into.
        moving: which of them have a cotangent; where none has, the value alone is computed.
        conjugate: whether all cotangents are the conjugates of JAX's.
    """
    with _as_raised():
        # awaited, because errors of host code arrive with the result
        out, pullback = jax.block_until_ready(_value_and_pullback(fn, list(arrays), moving))
    return out, Evaluation(out, pullback, conjugate)


# JAX's runtime delivers an exception of host code as its own, with this text at the end.
NAMES = [name for name, thing in vars(_errors).items() if isinstance(thing, type)]
TEXT = re.compile(rf"^(?:\w+\.)*({'|'.join(NAMES)}): (.*)$", re.MULTILINE)


@contextlib.contextmanager
def _as_raised() -> Iterator[None]:
    """Raise the package's errors in their own types, as outside JAX's runtime."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        found = TEXT.findall(str(error))
        if not found:
            raise
        name, message = found[-1]
        raise vars(_errors)[name](message) from error
