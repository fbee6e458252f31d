"""Random eigenproblems against derivatives of a hundred digits: none wrong without a word."""

from fuzz.cases import Program

COUNT = 320
# of as many programs, so that compilation takes a minute and not ten
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
