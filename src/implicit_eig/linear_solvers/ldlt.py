"""Sparse L D Lᵀ factorisations by rslab."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from ._analyses import Analyses
from .factorizations import AbstractFactorize, Factors, SuperLU, backward_error, is_symmetric

analyses = Analyses()
# Factors with a backward error above this many units of rounding are not used.
INEXACT = 1e5
# The memory that factors occupy, as a multiple of what rslab counts: 1.2 to 1.9 as measured.
RESIDENT = 1.5


class Ldlt(AbstractFactorize):
    """Factorise by rslab: M = L D Lᵀ where M is symmetric, real or complex, and M = L U elsewhere.

    The default. The pattern of symmetric matrices is analysed once: those with the same pattern, as
    in an optimisation, need the numeric phase alone. (An analysis for L U also reads the entries.)
    The factors are the same, bit by bit, for any number of threads. Pivots are searched in small
    blocks only, so that there may be none, as in matrices with a large block of zeros on the
    diagonal, or the factors may be inexact. Then `SuperLU()` factorises instead.

    Args:
        **options: those of `rslab.ldlt` and `rslab.lu`, for example `threads=2` or
            `ordering="metis"`.

    Raises:
        InputError: rslab does not know an option.
        LinearSolveError: the matrix is singular.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import factorize
        >>> solve = factorize(sp.diags_array([1.0, 5.0]), sigma=3.0, method=Ldlt())
        >>> solve(np.array([2.0, 2.0])).tolist()  # by A − 3 I, which is indefinite
        [-1.0, 1.0]
    """

    options: tuple[tuple[str, Any], ...]

    def __init__(self, **options: Any):
        self.options = tuple(sorted(options.items()))

    def __call__(self, matrix: sp.csc_matrix) -> Factors:
        """Factorise a real or complex matrix, in its own precision."""
        symmetric = is_symmetric(matrix)
        try:
            if symmetric:
                factor = factor_symmetric(matrix, self.options)
            else:
                factor = _run("lu", lambda: library().lu(matrix, **dict(self.options)))
        except RuntimeError:  # no pivots; SuperLU says whether the matrix is singular
            return SuperLU()(matrix)
        if not backward_error(matrix, factor.solve) < INEXACT * np.finfo(matrix.dtype).eps:
            return SuperLU()(matrix)
        dtype = matrix.dtype

        def solve(b: np.ndarray, adjoint: bool = False) -> np.ndarray:
            b = b.astype(dtype, copy=False)
            columns = np.asfortranarray(b.reshape(len(b), -1))
            if adjoint:
                columns = columns.conj()
            if adjoint and not symmetric:
                x = np.stack([factor.solve_transpose(column) for column in columns.T], axis=1)
            else:
                x = factor.solve_many(columns)
            return (x.conj() if adjoint else x).reshape(b.shape)

        return Factors(solve, lambda b: solve(b, adjoint=True), int(RESIDENT * factor.heap_bytes))


def factor_symmetric(matrix: sp.csc_matrix, options: tuple[tuple[str, Any], ...] = ()) -> Any:
    """Return rslab's factors L D Lᵀ of a symmetric matrix.

    Raises:
        RuntimeError: rslab finds no pivots.
    """

    def analyse() -> Any:
        return _run("ldlt", lambda: library().analyze(matrix, path="ldlt", **dict(options)))

    return analyses.get(matrix, options, analyse).factor(matrix)


def _run(function: str, call: Callable[[], Any]) -> Any:
    """Return `call()`, which passes options to a function of rslab."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`Ldlt(...)`: options of `rslab.{function}`; got {error}. Use those of its "
            "documentation."
        ) from error


def library() -> Any:
    """Return rslab, which is imported when it is needed."""
    import rslab  # noqa: PLC0415

    return rslab
