"""Which eigenvalues are wanted, in SciPy's words, and in which order."""

from typing import Any

import numpy as np

from .._errors import InputError

# The least of these numbers comes first.
FIRST = {
    "LM": lambda lam: -np.abs(lam),
    "SM": np.abs,
    "LR": lambda lam: -lam.real,
    "SR": lambda lam: lam.real,
    "LI": lambda lam: -np.abs(lam.imag),
    "SI": lambda lam: np.abs(lam.imag),
}
# The same for real eigenvalues; those of a Hermitian problem are then returned in ascending order.
FIRST_OF_REAL = {
    "SA": lambda lam: lam,
    "LA": lambda lam: -lam,
    "LM": FIRST["LM"],
    "SM": FIRST["SM"],
}


def check_which(call: str, which: Any, known: Any, sigma: Any = None) -> None:
    """Raise `InputError` unless `which` is known, and fits to a shift."""
    if which not in known:
        raise InputError(
            f"`solvers.{call}(which=...)`: {', '.join(known)}; got {which!r}. With `sigma` the "
            "values nearest to it are found."
        )
    if sigma is not None and which != "LM":
        raise InputError(
            f"`solvers.{call}(which=..., sigma=...)`: 'LM', or no `which`, beside a shift, to "
            f"which the nearest values are found; got {which!r}. Leave one of the two out."
        )


def by_pairs(first: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Return the order by `first`, then by the imaginary and the real part, the larger first.

    Numbers that agree to half their digits count as equal, so that rounding orders no conjugates.
    """
    finite: Any = np.where(np.isfinite(lam), lam, 0)
    digits = np.sqrt(np.finfo(lam.dtype).eps)

    def coarse(numbers: np.ndarray, size: np.ndarray) -> np.ndarray:
        return np.round(numbers / (digits * (np.max(np.abs(size)) or 1)))

    keys = (-coarse(finite.real, finite), -coarse(finite.imag, finite), coarse(first, first))
    return np.lexsort(keys)


def first_k_ascending(order: np.ndarray, lam: np.ndarray, k: int) -> np.ndarray:
    """Return the order with the first k ascending; the others show what lies beyond them."""
    return np.concatenate([order[:k][np.argsort(lam[order[:k]], kind="stable")], order[k:]])
