"""The cache that lets the forward solver and the adjoint share a factorisation."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from .factorizations import Factorization, shift, shifted
from .ldlt import Ldlt


class FactorizationCache:
    """Keep the latest factorisations, by the content of their matrices; thread-safe.

    `ie.factorization_cache` keeps eight, of at most 1 GiB together. That suffices for one step of
    an optimisation, even one of second order or with a shift for each eigenpair, and drops those of
    earlier steps, which are not needed again. Under `vmap` the forward solves of all members come
    before the adjoint ones, so that a batch of more than eight finds nothing in the cache: set
    `ie.factorization_cache.max_entries` to the size of the batch.

    Args:
        max_bytes: the oldest are dropped when all together are larger; the latest always stays.
            Sizes are known to a factor of 1.5 for `Ldlt()` and `SuperLU()`. For other methods they
            are estimated from the matrix.
        max_entries: the oldest are dropped when there are more.

    Attributes:
        hits, misses: how often a factorisation was found in the cache, and how often it was made.
        nbytes: the memory that all of them hold.

    Examples:
        >>> import scipy.sparse as sp
        >>> from implicit_eig import factorization_cache, factorize
        >>> factorization_cache.clear()
        >>> first = factorize(sp.diags_array([1.0, 2.0]), sigma=0.5)
        >>> second = factorize(sp.diags_array([1.0, 2.0]), sigma=0.5)  # the same content
        >>> first is second, factorization_cache.misses, factorization_cache.hits
        (True, 1, 1)
    """

    def __init__(self, max_bytes: int, max_entries: int):
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()

    def clear(self) -> None:
        """Forget all factorisations, which frees their memory, and reset the counters."""
        with self._lock:
            self._entries.clear()
            self.hits = self.misses = self.nbytes = 0

    def get(self, key: Any, make: Callable[[], Factorization]) -> Factorization:
        """Return the factorisation of `key`, made once by `make` if it is not in the cache."""
        with self._lock:
            entry = self._entries.get(key)
            mine = entry is None
            if entry is None:
                self.misses += 1
                entry = self._entries[key] = _Entry()
            else:
                self.hits += 1
            self._entries.move_to_end(key)
        if mine:
            try:
                made = make()
            except BaseException as error:
                entry.made.set_exception(error)
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
            else:
                entry.made.set_result(made)
                self._keep(key, entry, made.nbytes)
        return entry.made.result()

    def _keep(self, key: Any, entry: "_Entry", nbytes: int) -> None:
        """Count an entry whose factorisation is made, and drop the oldest ones of too many."""
        with self._lock:
            if self._entries.get(key) is entry:  # not dropped meanwhile
                entry.nbytes = nbytes
                self.nbytes += nbytes
            while len(self._entries) > 1 and (
                len(self._entries) > self.max_entries or self.nbytes > self.max_bytes
            ):
                _, oldest = self._entries.popitem(last=False)
                self.nbytes -= oldest.nbytes


class _Entry:
    """A factorisation that may still be in the making, and its size once it is made."""

    def __init__(self):
        self.made: Future[Factorization] = Future()
        self.nbytes = 0


# A gradient of any order asks for 1; where each eigenpair needs a shift of its own, for k more; a
# batch for as many as it has members.
factorization_cache = FactorizationCache(max_bytes=2**30, max_entries=8)


def factorize(
    A: Any, B: Any = None, sigma: Any = 0.0, method: Callable[[Any], Any] | None = None
) -> Factorization:
    """Factorise A − σB, or find its factorisation in `ie.factorization_cache`.

    A forward solver that uses it shares the factorisation with `ShiftInvert(sigma)`, which solves
    the tangent and adjoint systems, so that one factorisation serves both.

    Args:
        A: `scipy.sparse` matrix as the forward solver receives it, shape (n, n).
        B: the same; `None` for the identity.
        sigma: the shift, which must not be an eigenvalue. Unit: that of the eigenvalues.
        method: `Ldlt()` (the default), `SuperLU()`, `Cholmod()`, `Pardiso()`, or a function
            M -> solve of a CSC matrix M, where solve(b) returns M⁻¹ b for b of shape (n,) and
            (n, m).

    Returns:
        Factorization: call it as `solve(b)`; `solve_adjoint(b)` is (A − σB)⁻ᴴ b.

    Raises:
        LinearSolveError: the matrix is singular, or not what the method needs.

    Cost: one factorisation, or a hash of the entries of A and B if it is in the cache.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> inverse = factorize(sp.diags_array([1.0, 2.0]), sigma=0.5)
        >>> inverse(np.array([1.0, 3.0])).tolist()
        [2.0, 2.0]
    """
    method = Ldlt() if method is None else method
    number = shift(sigma) or 0.0
    A, B = _canonical(A), None if B is None else _canonical(B)
    return factorization_cache.get(
        (_digest(A), None if B is None else _digest(B), complex(number), method),
        lambda: Factorization(method, shifted(A, B, number)),
    )


def _canonical(matrix: Any) -> sp.csr_matrix:
    if not sp.issparse(matrix):
        raise InputError(
            f"`factorize(A, B)`: `scipy.sparse` matrices; got {type(matrix).__name__}. Convert "
            "it, `scipy.sparse.csr_matrix(A)`, or use a dense or an iterative linear solver."
        )
    csr: Any = sp.csr_matrix(matrix)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def _digest(matrix: sp.csr_matrix) -> bytes:
    digest = hashlib.sha1(repr((matrix.shape, matrix.dtype)).encode(), usedforsecurity=False)
    for part in (matrix.data, matrix.indices, matrix.indptr):
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()
