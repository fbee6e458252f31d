"""Solve sparse systems by an LU factorisation on the host."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import InputError
from .host import AbstractHostSolver


def superlu(matrix: sp.csc_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """Factorise by SciPy's SuperLU with partial pivoting; return b -> x."""
    return spla.splu(matrix).solve


class SparseDirect(AbstractHostSolver):
    """Solve the bordered systems by assembling and factorising each on the host.

    Args:
        factorize: SciPy CSC matrix (m, m) -> function b -> x, both of shape (m,).

    Raises:
        InputError: the operators are not sparse; or `system=Deflated()`, whose dense
            low-rank term has no sparse factorisation.

    Cost: one factorisation and two triangular solves (the second is one step of iterative
        refinement) for each pair with a nonzero right side.
    """

    factorize: Callable[[sp.csc_matrix], Callable] = eqx.field(static=True, default=superlu)
    rtol: float | None = eqx.field(static=True, default=0.0, init=False)

    def solve_host(self, A: Any, b: np.ndarray) -> np.ndarray:
        """Factorise and solve, with one step of iterative refinement."""
        if not sp.issparse(A):
            raise InputError(
                "`SparseDirect()`: a sparse matrix to factorise; got "
                f"{type(A).__name__}. Use a dense or an iterative linear solver."
            )
        solve = self.factorize(A.tocsc())
        x = solve(b)
        return x + solve(b - A @ x)
