"""SciPy's words for which eigenpairs are wanted, and the order of eigenvalues."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._errors import InputError
from ..linear_solvers.factorizations import Shift

# The order of each word: the least of these numbers comes first.
FIRST: dict[str, Callable[[Any], np.ndarray]] = {
    "LM": lambda theta: -np.abs(theta),
    "SM": np.abs,
    "LR": lambda theta: -theta.real,
    "SR": lambda theta: theta.real,
    "LI": lambda theta: -np.abs(theta.imag),
    "SI": lambda theta: np.abs(theta.imag),
}
# Those of real eigenvalues; the algebraically largest and smallest have their own.
FIRST_OF_REAL = {
    "LM": FIRST["LM"],
    "SM": FIRST["SM"],
    "LA": FIRST["LR"],
    "SA": FIRST["SR"],
}


def check_which(name: str, which: Any, known: Iterable[str]) -> None:
    """Raise `InputError` unless `which` is one of the words that a solver knows."""
    if which not in known:
        raise InputError(
            f"`solvers.{name}(which=...)`: one of {', '.join(known)}; got {which!r}. They are "
            "those of `scipy.sparse.linalg`."
        )


def preference(which: str, sigma: Shift | None, lam: np.ndarray) -> np.ndarray:
    """Return the numbers by which eigenvalues are ordered, the least first.

    With a shift, `which` applies to 1/(λ − σ), as SciPy has it: "LM" are the nearest.
    """
    first = (FIRST | FIRST_OF_REAL)[which]
    if sigma is None:
        return first(lam)
    with np.errstate(divide="ignore", invalid="ignore"):
        return first(1 / (lam - sigma))


def by_pairs(first: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Return the order by `first`, then by the imaginary and the real part, the larger first.

    Numbers that agree to half their digits count as equal, so that rounding orders no conjugates.
    """
    finite: Any = np.where(np.isfinite(lam), lam, 0)
    digits = np.sqrt(np.finfo(lam.dtype).eps)

    def coarse(numbers: np.ndarray, size: np.ndarray) -> np.ndarray:
        largest = np.max(np.abs(size), initial=0, where=np.isfinite(size))
        return np.round(numbers / (digits * (largest or 1)))

    keys = (-coarse(finite.real, finite), -coarse(finite.imag, finite), coarse(first, first))
    return np.lexsort(keys)
