"""What ranks do together: sums, agreement, and errors that all of them raise."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._errors import EigensolverError, InputError

# The mark of an exception that all ranks have raised.
SHARED = "_implicit_eig_on_all_ranks"


def together(comm: Any, what: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Return fn(*args); where it raises on any rank, raise on all, so that none waits for it.

    What `fn` communicates may begin with another call of this: a rank that has failed before that
    takes part in it by its own, and all have raised.
    """
    value, error = None, None
    try:
        value = fn(*args)
    except Exception as raised:
        if getattr(raised, SHARED, False):
            raise
        error = raised
    first = least(comm, comm.rank if error is not None else comm.size)
    if first == comm.size:
        return value
    told = comm.bcast(f"{type(error).__name__}: {error}", root=first)
    if error is None:
        error = EigensolverError(
            f"`petsc.eigensolver(...)`: {what} on every rank; got an error on rank {first} of "
            f"{comm.size}: {told}"
        )
    setattr(error, SHARED, True)
    raise error


def total(comm: Any, array: Any) -> np.ndarray:
    """Return the sum of an array over the ranks."""
    array = np.asarray(array, order="C")
    out = np.empty_like(array)
    comm.Allreduce(array, out)
    return out


def inner(comm: Any, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return Uᴴ V of vectors of which each rank has its rows."""
    return total(comm, U.conj().T @ V)


def norms(comm: Any, V: np.ndarray) -> np.ndarray:
    """Return the norms of the columns."""
    return np.sqrt(total(comm, np.sum(np.abs(V) ** 2, axis=0)))


def most(comm: Any, V: np.ndarray) -> np.ndarray:
    """Return the largest entry of each column; `V` is real and not negative."""
    return np.asarray(comm.allreduce(np.max(V, axis=0, initial=0.0), op=np.maximum))


def least(comm: Any, number: int) -> int:
    """Return the least of the ranks' numbers."""
    return comm.allreduce(number, op=min)


def agree(comm: Any, what: str, tree: Any, otherwise: str = "") -> None:
    """Raise `InputError` on all ranks unless all have the same arrays."""
    digest = hashlib.sha1(usedforsecurity=False)
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(array.data)
    number = int.from_bytes(digest.digest()[:7])
    low, high = least(comm, number), -least(comm, -number)
    if low != high:
        raise InputError(
            f"`petsc.eigensolver(...)`: {what} that all ranks agree about; got different ones. "
            f"Compute them on one rank and send them to all (`comm.bcast`){otherwise}."
        )


def summed(comm: Any, tree: Any) -> Any:
    """Return the sums of arrays over the ranks."""
    return jax.tree.map(lambda leaf: total(comm, np.asarray(leaf)), tree)
