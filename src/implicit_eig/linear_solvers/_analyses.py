"""Symbolic analyses, which matrices of one pattern share."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import scipy.sparse as sp

# How many patterns are kept: the operators of a problem, their transposes, bordered systems.
KEPT = 8


class Analyses:
    """The analyses of the latest patterns; thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._found: OrderedDict[Any, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def clear(self) -> None:
        """Forget all analyses."""
        self._found.clear()

    def get(self, matrix: sp.csc_matrix, options: Any, make: Callable[[], Any]) -> Any:
        """Return the analysis of the pattern of a matrix, made by `make` if it is new."""
        digest = hashlib.blake2b(matrix.indptr, digest_size=16)
        digest.update(matrix.indices)
        key = digest.digest(), options
        with self._lock:
            if key not in self._found:
                self._found[key] = make()
            self._found.move_to_end(key)
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
            return self._found[key]
