"""Run one case, and judge the package's number."""

import dataclasses
import signal
import warnings

import numpy as np

import implicit_eig as ie

from . import oracle
from .cases import eps, noise, symmetric
from .programs import derivative

RIGHT, WARNED_RIGHT, WARNED, REFUSED = "right", "warned, right", "warned", "refused"
SILENT, CRASH, NAN, HANG, UNKNOWN = "SILENT", "CRASH", "NAN", "HANG", "unknown"
BAD = (SILENT, CRASH, NAN, HANG)
SECONDS = 120
ERRORS = ["LinAlgError", "SingularError"] + [
    name
    for name, kind in vars(ie).items()
    if isinstance(kind, type) and issubclass(kind, ie.ImplicitEigError)
]


@dataclasses.dataclass
class Verdict:
    name: str
    got: float = np.nan
    truth: float = np.nan
    error: float = np.nan
    words: str = ""


def allowed(dtype):
    """The largest relative error of a right answer, some times what is warned about: `loose`."""
    return 5e-3 if eps(dtype) < 1e-10 else 3e-2


class TimeUpError(Exception):
    pass


def _ring(*_):
    raise TimeUpError


def judge(case):
    """The verdict of a case."""
    try:
        truth, size = expected(case)
    except oracle.UnknownError:
        return Verdict(UNKNOWN)
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got, terms = derivative(case)
    except TimeUpError:
        return Verdict(HANG)
    except Exception as error:
        words = str(error).strip().split("\n")[-1]
        name = REFUSED if refused(error) else CRASH
        return Verdict(name, truth=truth, words=f"{type(error).__name__}: {words}")
    finally:
        signal.alarm(0)
    told = [str(w.message) for w in caught if w.category.__module__.startswith("implicit_eig")]
    words = told[0] if told else ""
    if not np.isfinite(got):
        return Verdict(WARNED if told else NAN, got, truth, words=words)
    error = abs(got - truth) / max(size, 0.1 * terms)
    right = error <= allowed(case.operators[0].dtype)
    if told:
        return Verdict(WARNED_RIGHT if right else WARNED, got, truth, error, words)
    return Verdict(RIGHT if right else SILENT, got, truth, error)


def refused(error):
    """Whether the package says what is wrong, its error perhaps inside that of JAX; or LAPACK."""
    return any(name in f"{type(error).__name__} {error}" for name in ERRORS)


def expected(case):
    """The derivative along the direction, NaN for none; and its size in random directions."""
    order = "second" if case.program.order in ("second", "twice") else "first"
    main = getattr(oracle.truth(case), order)
    rng = np.random.default_rng([7, case.seed])
    sizes = []
    # errors are small in norm, not in each entry
    for turn in (permuted, permuted, of_norm):
        turned = [turn(rng, D, case.kind) for D in case.directions]
        sizes.append(combined(case, getattr(oracle.truth(case, directions=turned), order)))
    value = combined(case, main)
    natural = 1e-3 * sum(abs(c) for c in case.c.values())
    return value, np.nanmax([abs(value), *map(abs, sizes), natural])


def permuted(rng, D, kind):
    """A direction of the same sizes with other signs."""
    signs = rng.choice([-1.0, 1.0], D.shape)
    if kind in ("Hermitian", "Subspace"):
        signs = np.triu(signs) + np.triu(signs, 1).T
    return (D * signs).astype(D.dtype)


def of_norm(rng, D, kind):
    """A random direction of the norm of D."""
    G = noise(rng, D.shape, D.dtype)
    G = symmetric(G) if kind in ("Hermitian", "Subspace") else G
    unit = np.max(np.abs(D))  # squares could overflow
    norm = np.linalg.norm(D / unit) / np.linalg.norm(G)
    return (G * (norm * unit)).astype(D.dtype)


def combined(case, parts):
    return sum(c * parts[name] for name, c in case.c.items() if c)
