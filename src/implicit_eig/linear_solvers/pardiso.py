"""Factorisations by Intel's PARDISO."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from .._optional import optional
from .factorizations import FILL, AbstractFactorize, Factors, is_hermitian


class Pardiso(AbstractFactorize):
    """Factorise by Intel's PARDISO, through pypardiso.

    Raises:
        InputError: pypardiso is not installed, or the matrix is complex, which it does not support.

    Examples:
        >>> from implicit_eig import ShiftInvert
        >>> ShiftInvert(sigma=0.0, factorize=Pardiso()).factorize
        Pardiso()
    """

    def __call__(self, matrix: sp.csc_matrix) -> Factors:
        """Factorise a real matrix, in double precision."""
        pypardiso = optional("pypardiso", "Pardiso()", "`pip install pypardiso`")
        if np.iscomplexobj(matrix):
            raise InputError(
                f"`Pardiso()`: a real matrix; got {matrix.dtype}. Use `SuperLU()`, or `Cholmod()`."
            )
        hermitian = is_hermitian(matrix)
        # real symmetric indefinite (the upper triangle is given), or real unsymmetric
        solver = pypardiso.PyPardisoSolver(mtype=-2 if hermitian else 11)
        kept: Any = (sp.triu(matrix) if hermitian else matrix).tocsr().astype(np.float64)
        solve = _PardisoFactors(solver, kept).solve
        return Factors(solve, solve if hermitian else None, FILL * matrix.nnz * 12)


class _PardisoFactors:
    """Factors in PARDISO's own memory, which is released with this object."""

    def __init__(self, solver: Any, matrix: sp.csr_matrix):
        self.solver, self.matrix = solver, matrix
        solver.factorize(matrix)

    def solve(self, b: np.ndarray) -> np.ndarray:
        x = self.solver.solve(self.matrix, np.asfortranarray(b, dtype=np.float64))
        return x.reshape(b.shape).astype(b.dtype, copy=False)

    def __del__(self):
        self.solver.free_memory(everything=True)
