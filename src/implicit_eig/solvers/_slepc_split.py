"""The terms of T(λ) = Σᵢ fᵢ(λ) Aᵢ that a user states for SLEPc."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from ._slepc import Library, Run

# SLEPc's names of functions.
NAMES = {np.exp: "EXP", np.log: "LOG", np.sqrt: "SQRT"}


class Terms(NamedTuple):
    """Matrices, and a function for each.

    A function is an array of coefficients, a pair of arrays, a pair (function, a), or an FN.
    """

    matrices: tuple[Any, ...]
    given: tuple[Any, ...]

    @property
    def is_polynomial(self) -> bool:
        """Return whether T is a polynomial of degree 1 or more."""
        return all(isinstance(f, np.ndarray) for f in self.given) and max(map(len, self.given)) > 1

    def coefficients(self) -> tuple[Any, ...]:
        """Return the matrices of the powers of λ, the lowest first, of a polynomial."""
        sums: list[Any] = [0 * self.matrices[0] for _ in range(max(map(len, self.given)))]
        for A, f in zip(self.matrices, self.given, strict=True):
            for j, factor in enumerate(f[::-1]):
                sums[j] = sums[j] + factor * A
        return tuple(sums)

    def functions(self, run: Run) -> list[Any]:
        """Return the functions as objects of SLEPc, which end with the run."""
        return [_function(run, f) for f in self.given]


def terms_of(split: Any, args: tuple[Any, ...], petsc: Library) -> Terms:
    """Return the terms that `split` states for the arguments, checked."""
    pairs = split(*args)
    if not isinstance(pairs, (list, tuple)) or not pairs or not all(map(_is_pair, pairs)):
        raise InputError(
            "`solvers.slepc(split=...)`: a list of pairs (matrix, function), with matrices of "
            f"NumPy or `scipy.sparse`; got {_described(pairs)}. Write "
            "`split=lambda *args: [(matrix, function), ...]`."
        )
    return Terms(tuple(A for A, _ in pairs), tuple(_checked(f, petsc) for _, f in pairs))


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return False
    return sp.issparse(pair[0]) or (isinstance(pair[0], np.ndarray) and pair[0].ndim == 2)


def _described(pairs: Any) -> str:
    if not isinstance(pairs, (list, tuple)):
        return type(pairs).__name__
    wrong = [pair for pair in pairs if not _is_pair(pair)]
    parts = wrong[0] if wrong and isinstance(wrong[0], (list, tuple)) else wrong
    return f"({', '.join(type(part).__name__ for part in parts)})"


def _checked(f: Any, petsc: Library) -> Any:
    """Return a function that a user states, with its coefficients as arrays."""
    if isinstance(f, petsc.SLEPc.FN):
        return f
    made: Any = None
    if not isinstance(f, tuple):
        made = _numbers(f)
    elif len(f) == 2 and callable(f[0]):
        a = _numbers(f[1])
        made = (f[0], a[0].item()) if f[0] in NAMES and a is not None and len(a) == 1 else None
    elif len(f) == 2:
        made = tuple(map(_numbers, f))
        made = None if any(part is None for part in made) else made
    if made is None:
        raise InputError(
            "`solvers.slepc(split=...)`: a function as a list of coefficients, a tuple of two such "
            f"lists, or a tuple of `np.exp`, `np.log` or `np.sqrt` and a number; got {f!r}. "
            "Others are made of SLEPc's `FN` objects."
        )
    if any(map(np.iscomplexobj, made)) and not petsc.is_complex:
        raise InputError(
            "`solvers.slepc(split=...)`: functions of real numbers, where PETSc is built for "
            f"these; got {f!r}. Install its complex build, `dolfinx-solver-complex`."
        )
    return made


def _numbers(given: Any) -> np.ndarray | None:
    """Return numbers as an array of one dimension, `None` if they are none."""
    try:
        array = np.atleast_1d(np.asarray(given))
    except ValueError:  # of lists of unequal length
        return None
    numbers = np.issubdtype(array.dtype, np.number) and array.ndim == 1 and array.size
    return array if numbers else None


def _function(run: Run, f: Any) -> Any:
    FN = run.petsc.SLEPc.FN
    if isinstance(f, FN):
        return f
    made = run.keep(FN().create(run.comm))
    if not isinstance(f, np.ndarray) and callable(f[0]):
        made.setType(vars(FN.Type)[NAMES[f[0]]])
        made.setScale(f[1], 1.0)
        return made
    made.setType(FN.Type.RATIONAL)
    numerator, denominator = (f, None) if isinstance(f, np.ndarray) else f
    made.setRationalNumerator(numerator)
    if denominator is not None:
        made.setRationalDenominator(denominator)
    return made
