"""Sparse Cholesky factorisations by CHOLMOD."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError, LinearSolveError
from .._optional import optional
from ._analyses import Analyses
from .factorizations import FILL, AbstractFactorize, Factors, Solve

analyses = Analyses()
# The modes of CHOLMOD, as cvxopt numbers them.
MODES = {"simplicial": 0, "auto": 1, "supernodal": 2}


class Cholmod(AbstractFactorize):
    """Factorise Hermitian positive definite matrices by CHOLMOD, through scikit-sparse or cvxopt.

    scikit-sparse 0.4.16 is used where it is installed; it needs Debian's `libsuitesparse-dev`, and
    analyses each pattern once. Otherwise cvxopt is, which comes as a wheel. The supernodal part of
    CHOLMOD and cvxopt are under the GNU General Public License.

    Args:
        **options: `mode="simplicial"`, whose solves take half the time of those of `"supernodal"`
            on two-dimensional meshes, or `mode="auto"` (the default); for scikit-sparse also the
            other options of `sksparse.cholmod.analyze`.

    Raises:
        InputError: neither package is installed, or it does not know an option.
        LinearSolveError: the matrix is not positive definite, because `sigma` is not below all
            eigenvalues.

    Examples:
        >>> from implicit_eig import ShiftInvert
        >>> solver = ShiftInvert(sigma=0.0, factorize=Cholmod(mode="simplicial"))
        >>> solver.factorize.options
        (('mode', 'simplicial'),)
    """

    options: tuple[tuple[str, Any], ...]

    def __init__(self, **options: Any):
        self.options = tuple(sorted(options.items()))

    def __call__(self, matrix: sp.csc_matrix) -> Factors:
        """Factorise, in double precision."""
        double = np.result_type(matrix.dtype, np.float64)
        given: Any = matrix.astype(double)
        try:
            solve_double = _by_scikit_sparse(given, self.options)
        except ImportError:
            solve_double = _by_cvxopt(given, **dict(self.options))

        def solve(b: np.ndarray) -> np.ndarray:
            return solve_double(b.astype(double, copy=False)).astype(b.dtype, copy=False)

        # the fill of L is about that of a symmetric minimum-degree ordering
        return Factors(solve, solve, FILL * matrix.nnz * (double.itemsize + 4))


def _by_scikit_sparse(matrix: Any, options: tuple[tuple[str, Any], ...]) -> Solve:
    from sksparse import cholmod  # pyright: ignore  # noqa: PLC0415

    def analyse() -> Any:
        try:
            return cholmod.analyze(matrix, **dict(options))
        except (TypeError, cholmod.CholmodError) as error:
            raise InputError(
                f"`Cholmod(...)`: options of `sksparse.cholmod.analyze`; got {error}. Use those of "
                "its documentation."
            ) from error

    analysis = analyses.get(matrix, (options, matrix.dtype.str), analyse)
    try:
        factor = analysis.cholesky(matrix)
    except cholmod.CholmodNotPositiveDefiniteError as error:
        raise _not_definite() from error
    if np.min(factor.solve_D(np.ones(matrix.shape[0])).real) <= 0:  # L D Lᴴ of the simplicial mode
        raise _not_definite()
    return factor


def _by_cvxopt(matrix: Any, mode: str = "auto", **others: Any) -> Solve:
    install = "`pip install cvxopt`, or `pip install scikit-sparse==0.4.16` with SuiteSparse"
    cholmod = optional("cvxopt.cholmod", "Cholmod()", install)
    cvxopt = optional("cvxopt", "Cholmod()", install)
    if others or mode not in MODES:
        raise InputError(
            f"`Cholmod(...)` by cvxopt: `mode`, one of {', '.join(MODES)}; got "
            f"{dict(others, mode=mode)}. Leave out the others, or install scikit-sparse."
        )
    lower: Any = sp.tril(matrix).tocoo()
    places = (cvxopt.matrix(part.astype(np.int64)) for part in (lower.row, lower.col))
    given = cvxopt.spmatrix(cvxopt.matrix(lower.data), *places, matrix.shape)
    before = dict(cholmod.options)
    cholmod.options["supernodal"] = MODES[mode]
    try:
        factor = cholmod.symbolic(given)
        cholmod.numeric(given, factor)
    except ArithmeticError as error:
        raise _not_definite() from error
    finally:
        cholmod.options.clear()
        cholmod.options.update(before)

    def solve(b: np.ndarray, system: int = 0) -> np.ndarray:
        x = cvxopt.matrix(np.asfortranarray(b))  # a copy, which is overwritten
        cholmod.solve(factor, x, sys=system)
        return np.asarray(x).reshape(b.shape)

    inverse: Any = solve(np.ones(matrix.shape[0], matrix.dtype), system=6)  # of D
    if np.min(inverse.real) <= 0:
        raise _not_definite()
    return solve


def _not_definite() -> LinearSolveError:
    return LinearSolveError(
        "`Cholmod()`: a positive definite matrix A − sigma B; got one that is not. Choose a "
        "`sigma` below all values, or `Ldlt()`."
    )
