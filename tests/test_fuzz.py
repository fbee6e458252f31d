"""Random eigenproblems against derivatives of a hundred digits: none wrong without a word."""

import collections
import functools

import numpy as np
import pytest
from fuzz import programs
from fuzz.cases import Program, of_program
from fuzz.verdicts import BAD, RIGHT, SILENT, WARNED_RIGHT, judge

import implicit_eig as ie

COUNT = 40
# few, because most of the time is their compilation; `python -m tests.fuzz` draws from all
PROGRAMS = [
    Program("Hermitian", "float64", 3, order="grad"),
    Program("Hermitian", "complex64", 6, pencil=True, order="jvp"),
    Program("Hermitian", "float64", 3, pencil=True, order="second"),
    Program("General", "float64", 3, order="grad"),
    Program("General", "float64", 3, pencil=True, left=True, order="jvp"),
    Program("Singular", "float64", 3, order="twice"),
    Program("Subspace", "float64", 3, pencil=True, order="grad"),
    Program("Polynomial", "float64", 3, order="grad"),
]


def cases(program):
    for seed in range(COUNT):
        yield of_program(program, np.random.default_rng([1, seed]), seed)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: f"{p.kind}-{p.dtype}-{p.order}")
def test_no_number_is_wrong_without_a_word(program):
    verdicts = [(case.seed, judge(case)) for case in cases(program)]
    assert [found for found in verdicts if found[1].name in BAD] == []
    counts = collections.Counter(verdict.name for _, verdict in verdicts)
    assert counts[RIGHT] + counts[WARNED_RIGHT] > COUNT / 3, counts


def test_what_is_not_checked_is_found(monkeypatch):
    """The same without checks: a harness that finds nothing then would find nothing ever."""
    unchecked = functools.partial(ie.eigensolver, policy=ie.Policy.unchecked())
    monkeypatch.setattr(programs.ie, "eigensolver", unchecked)
    for made in ("eigensolver", "compiled"):
        monkeypatch.setattr(programs, made, functools.cache(getattr(programs, made).__wrapped__))
    program = Program("Hermitian", "float64", 3, order="jvp")
    counts = collections.Counter(judge(case).name for case in cases(program))
    assert counts[SILENT] > 5, counts
