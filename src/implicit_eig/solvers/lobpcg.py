"""Hermitian problems by LOBPCG, through SciPy: products and a preconditioner."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from ..linear_solvers.auto import AutoLinearSolver
from ._abstract import AbstractForwardSolver, start_vectors
from ._which import check_which
from .arpack import check_options

# The residual that is asked for, relative to ‖A x‖ of a random x, in powers of eps, and the one
# that is accepted, because rounding in the orthogonalisation of the block often stops it before.
TOLERANCES = 0.7, 0.5


class Lobpcg(AbstractForwardSolver):
    """Find the lowest or the highest eigenpairs; made by `lobpcg`."""

    kinds = ("Hermitian", "Subspace")
    name = "lobpcg"

    def __init__(self, k: int | None, preconditioner: Any, which: str, options: dict[str, Any]):
        self.k = k
        self.preconditioner = preconditioner
        self.which = which
        self.options = options

    def __call__(self, A: Any, B: Any = None, *, start: Any = None) -> tuple[np.ndarray, ...]:
        """Return eigenvalues (k,), ascending, and eigenvectors (n, k)."""
        n, k = A.shape[0], self.k or 1
        if k > n:
            raise InputError(f"`solvers.lobpcg(k={k})`: at most n = {n} pairs; got {k}.")
        X = self._start(A, start, k)
        options: dict[str, Any] = {"maxiter": 500} | self.options
        scale = float(np.max(np.linalg.norm(A @ X, axis=0) / np.linalg.norm(X, axis=0)))
        asked, accepted = (float(np.finfo(A.dtype).eps) ** power * scale for power in TOLERANCES)
        accepted = 10 * options["tol"] if "tol" in options else accepted
        options.setdefault("tol", asked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the residuals are judged below
            answer: Any = spla.lobpcg(
                A, X, B, self._preconditioner(A, B), largest=self.which == "LA", **options
            )
        order = np.argsort(answer[0])
        values, vectors = answer[0][order], answer[1][:, order]
        residuals = A @ vectors - (vectors if B is None else B @ vectors) * values
        norms = np.linalg.norm(residuals, axis=0) / np.linalg.norm(vectors, axis=0)
        if lost := np.count_nonzero(~(norms <= accepted)):
            raise EigensolverError(
                f"`solvers.lobpcg(k={k})`: convergence in {options['maxiter']} steps; got "
                f"residuals up to {np.max(norms):.1e} for {lost} pairs, where {accepted:.1e} is "
                "accepted. Give a `preconditioner`, a start, or a larger `maxiter` or `tol`."
            )
        return values, vectors

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver()

    def _start(self, A: Any, start: Any, count: int) -> np.ndarray:
        """Return the first block of vectors, the same at every call."""
        n = A.shape[0]
        random = np.random.default_rng(0).standard_normal((n, count)).astype(A.dtype)
        given = start_vectors(self.name, start, n, A.dtype)
        return random if given is None else np.hstack([given, random])[:, :count]

    def _preconditioner(self, A: Any, B: Any) -> Any:
        M = self.preconditioner
        if M is None or sp.issparse(M) or isinstance(M, (np.ndarray, spla.LinearOperator)):
            return M
        return M(A, B)


def lobpcg(
    k: int | None = None, preconditioner: Any = None, *, which: str = "SA", **options: Any
) -> Lobpcg:
    """Make a solver for k eigenpairs of a Hermitian problem by SciPy's LOBPCG.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        preconditioner: an approximation to A⁻¹ as a matrix or a `LinearOperator`, or a function
            `preconditioner(A, B)` that makes one, as an algebraic multigrid does:
            `lambda A, B: pyamg.smoothed_aggregation_solver(A).aspreconditioner()`.
        which: "SA" for the lowest eigenpairs, "LA" for the highest.
        **options: those of `scipy.sparse.linalg.lobpcg`: `tol`, the largest norm of a residual
            (default eps^0.7 of ‖A x‖ for random x, where √eps is accepted), `maxiter` (default
            500), and `Y`.

    Returns:
        A solver for `eigensolver(..., Hermitian(k))` that makes products alone, with A, B and the
        preconditioner. All k have to converge; the last converges slowly where the next eigenvalue
        is near, and `Hermitian(k, guard=2)` leaves two more out. The start is the same at every
        call; `solve(A, B, start=previous)` starts from a solution, which saves most of the steps
        in a sequence of problems.

    Raises:
        InputError: an option or `which` is unknown.
        EigensolverError: it does not converge (when run).

    Source: Knyazev (2001) SIAM J. Sci. Comput. 23, 517, doi:10.1137/S1064827500366124.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> A = sp.diags_array(np.arange(1.0, 41.0, dtype=np.float32))
        >>> inverse = sp.diags_array(1 / np.arange(1.0, 41.0, dtype=np.float32))
        >>> eigensolver(lobpcg(preconditioner=inverse), Hermitian(k=2))(A).values.round(2).tolist()
        [1.0, 2.0]
    """
    check_options("lobpcg", "lobpcg", options, ("tol", "maxiter", "Y"))
    check_which("lobpcg", which, ("SA", "LA"))
    return Lobpcg(k, preconditioner, which, options)
