"""Sparse L D Lᵀ factorisations by rslab, one analysis for each pattern."""

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from .factorizations import AbstractFactorize, Factors, SuperLU, is_symmetric

# How many patterns are kept: the operators of a problem, their transposes, bordered systems.
KEPT = 8


class Ldlt(AbstractFactorize):
    """Factorise by rslab: M = L D Lᵀ where M is symmetric, real or complex, and M = L U elsewhere.

    It is for indefinite matrices what `Cholmod()` is for definite ones, several times faster than
    `SuperLU()` on three-dimensional meshes. The analysis of a pattern is made once: matrices with
    the same pattern, as those of an optimisation, need the numeric phase alone. The factors are the
    same, bit by bit, for any number of threads. Where rslab finds no pivots, which happens in
    matrices with a large block of zeros on the diagonal, `SuperLU()` factorises instead.

    Args:
        **options: those of `rslab.ldlt` and `rslab.lu`, for example `threads=2` or
            `ordering="metis"`.

    Raises:
        InputError: rslab is not installed, or does not know an option.
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
            factor = self._analysis(matrix, "ldlt" if symmetric else "lu").factor(matrix)
        except RuntimeError:  # no pivots; SuperLU says whether the matrix is singular
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

        return Factors(solve, lambda b: solve(b, adjoint=True), factor.heap_bytes)

    def _analysis(self, matrix: sp.csc_matrix, path: str) -> Any:
        """Return the analysis of the pattern of a matrix."""
        digest = hashlib.blake2b(matrix.indptr, digest_size=16)
        digest.update(matrix.indices)
        key = digest.digest(), path, self.options
        found = _analyses.get(key)
        if found is None:
            try:
                found = library().analyze(matrix, path=path, **dict(self.options))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"`Ldlt(...)`: options of `rslab.{path}`; got {error}. Use those of its "
                    "documentation."
                ) from error
            _analyses[key] = found
        _analyses.move_to_end(key)
        while len(_analyses) > KEPT:
            _analyses.popitem(last=False)
        return found


# All factorisations are made on one thread.
_analyses: OrderedDict[Any, Any] = OrderedDict()


def library() -> Any:
    """Return rslab, or raise an error that names the command to install it."""
    try:
        import rslab  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f'`Ldlt()`: the package rslab; got {error}. Run `pip install "implicit_eig[fast]"`.'
        ) from error
    return rslab
