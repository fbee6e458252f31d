"""Solve sparse systems by an LU factorisation on the host."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from .factorizations import Factorization
from .host import AbstractHostSolver
from .ldlt import Ldlt


class SparseDirect(AbstractHostSolver):
    """Solve the bordered systems by assembling and factorising each on the host.

    Args:
        factorize: `Ldlt()`, `SuperLU()`, `Pardiso()`, or a function M -> solve of a CSC matrix M,
            where solve(b) returns M⁻¹ b for b of shape (m,). The bordered matrix is indefinite.

    Raises:
        InputError: the operators are not sparse; or `system=Deflated()`, whose dense
            low-rank term has no sparse factorisation.

    Cost: one factorisation and two triangular solves (the second is one step of iterative
        refinement) for each eigenpair with a nonzero right side; in real arithmetic where all
        numbers are real.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from implicit_eig import Hermitian, SparseOperator, eigensolver, solvers
        >>> solve = eigensolver(solvers.arpack(1), Hermitian(1), linear_solver=SparseDirect())
        >>> D = SparseOperator(jnp.array([1.0, 3.0]), [0, 1], [0, 1], (2, 2))
        >>> E = SparseOperator(jnp.ones(2), [0, 1], [1, 0], (2, 2))
        >>> vector_at = lambda t: solve(D + t * E).vectors[:, 0]  # of [[1, t], [t, 3]]
        >>> round(float(jax.grad(lambda t: jnp.prod(vector_at(t)))(0.0)), 4)  # x₁x₂ = −t/2 + …
        -0.5
    """

    factorize: Callable[[sp.csc_matrix], Callable] = eqx.field(static=True, default=Ldlt())

    @property
    def needs_sparse(self) -> bool:
        """Return True."""
        return True

    def working_rtol(self, dtype: Any) -> float | None:
        """Return 0, because a direct solver works to rounding."""
        return 0.0

    def solve_host(self, A: Any, b: np.ndarray) -> np.ndarray:
        """Factorise and solve, with one step of iterative refinement."""
        if not sp.issparse(A):
            raise InputError(
                "`SparseDirect()`: a sparse matrix to factorise, made of sparse operators alone; "
                f"got {type(A).__name__}. Use a dense or an iterative linear solver, or make the "
                "other operator sparse."
            )
        A = A.tocsc()
        if np.iscomplexobj(A) and not A.data.imag.any():
            A = A.real.copy()  # real for a real eigenvalue of a real pencil; a third of the work
        solve = Factorization(self.factorize, A)
        x = solve(b)
        return x + solve(b - A @ x)
