"""Solve sparse systems by an LU factorisation on the host."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import InputError
from .host import AbstractHostSolver

# A pivot on the diagonal is kept while it is above this part of its column: the order that fills
# least stands, and the small last pivot of a bordered matrix is still passed over.
PIVOT_THRESHOLD = 0.01


def superlu(matrix: sp.csc_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """Factorise by SciPy's SuperLU, in its symmetric mode where it fits; return b -> x.

    The symmetric mode fills far less: minimum degree on A + Aᵀ, diagonal pivots preferred.
    """
    if (abs(matrix - matrix.conj().T) > 0).nnz:
        return spla.splu(matrix).solve
    return spla.splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=PIVOT_THRESHOLD,
        options={"SymmetricMode": True},
    ).solve


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

    def working_rtol(self, dtype: Any) -> float | None:
        """Return 0: a direct solver works to rounding."""
        return 0.0

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
