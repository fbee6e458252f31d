"""Compare the estimate of a gradient's error by `diagnose` with the error."""

import collections
import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np

import implicit_eig as ie

from . import oracle, programs, verdicts
from .cases import eps

DIRECTIONS = 4


def pair(case):
    """(the error of the gradient, its estimate), relative; `None` where either has no meaning.

    That is where there is no gradient, or where `diagnose` warns of it: then no figure counts.
    """
    if case.program.form == "products":  # `diagnose` does not change what is closed over
        return None
    case = dataclasses.replace(case, program=dataclasses.replace(case.program, order="grad"))
    rng = np.random.default_rng([8, case.seed])
    directions = [case.directions] + [
        [verdicts.permuted(rng, D, case.kind) for D in case.directions]
        for _ in range(DIRECTIONS - 1)
    ]
    try:
        slopes = [oracle.truth(case, directions=line).first for line in directions]
    except oracle.UnknownError:
        return None
    truth = np.array([verdicts.combined(case, slope) for slope in slopes])
    if not np.all(np.isfinite(truth)):
        return None
    solve = programs.eigensolver(case.program)
    solve.solver.case = case
    operators = [programs.as_given(case.program, jnp.asarray(A)) for A in case.operators]
    rest = programs.arguments(case)
    of = lambda solution: programs.features(case.program, solution, *rest)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimate = ie.diagnose(solve, *operators, of=of).gradient_error
            told = [w for w in caught if issubclass(w.category, ie.GaugeWarning)]
            lines = [dataclasses.replace(case, directions=line) for line in directions]
            found = [programs.derivative(line)[0] for line in lines]
        except Exception as error:
            if verdicts.refused(error):
                return None
            raise
    if told:
        return None
    size = max(np.max(np.abs(truth)), 1e-3 * sum(map(abs, case.c.values())))
    error = np.max(np.abs(found - truth)) / size
    return max(error, eps(case.operators[0].dtype)), estimate


def report(pairs):
    """Print a histogram of estimate over error, by decades."""
    ratios = np.array([estimate / error for error, estimate in pairs])
    known = np.isfinite(ratios)
    print(f"{len(pairs)} gradients, {np.sum(~known)} without a finite figure; estimate over error:")
    decades = collections.Counter(np.floor(np.log10(ratios[known])).astype(int).tolist())
    for decade in range(min(decades), max(decades) + 1):
        count = decades[decade]
        print(f"1e{decade:+03d} {count:5d} {'#' * round(60 * count / max(decades.values()))}")
    print(f"error at most 10 times the estimate: {np.mean(ratios >= 0.1):.1%}")
    print(f"estimate at most 1,000 times the error: {np.mean(ratios <= 1e3):.1%}")
