"""Hermitian problems by LOBPCG, through SciPy: products and a preconditioner."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from ..host.blas import blas_beside_solves
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.cache import factorize
from ..linear_solvers.factorizations import Factorization
from ..linear_solvers.lagged import LaggedFactors
from ..linear_solvers.shift_invert import ShiftInvert
from ._abstract import AbstractForwardSolver, Answer, start_vectors
from ._which import check_which
from .arpack import check_options

# The residual that is asked for, with xᴴBx = 1, relative to ‖A x‖ of a random x, in powers of eps,
# and the one that is accepted, because rounding often stops it before.
TOLERANCES = 0.7, 0.5
# By factors it takes few steps to a residual relative to ‖A x‖ of the eigenvector itself, or to
# some units of rounding. The steps are made in rounds, which free the block from the errors of its
# recurrence, and with further vectors, which speed up the last eigenpairs and need not converge.
BY_FACTORS, UNITS, ROUND, FURTHER = (0.6, 0.5), 100, 5, 2
# The largest number of steps with the factors of an earlier matrix; then A − σB is factorised.
LAGGED = 50


class _Run(NamedTuple):
    """The pairs wanted, the block that they are of, their residuals, those accepted, the steps."""

    values: np.ndarray
    vectors: np.ndarray
    block: np.ndarray
    norms: np.ndarray
    accepted: np.ndarray
    steps: int

    @property
    def lost(self) -> np.ndarray:
        return ~(self.norms <= self.accepted)


class Lobpcg(AbstractForwardSolver):
    """Find the lowest or the highest eigenpairs; made by `lobpcg`."""

    kinds = ("Hermitian", "Subspace")
    name = "lobpcg"
    figures = ("steps", "factorised")

    def __init__(self, k: int | None, preconditioner: Any, which: str, options: dict[str, Any]):
        self.k = k
        self.preconditioner = preconditioner
        self.which = which
        self.options = options

    def __call__(self, A: Any, B: Any = None, *, start: Any = None, reuse: Any = None) -> Answer:
        """Return eigenvalues (k,), ascending, and eigenvectors (n, k)."""
        n, k = A.shape[0], self.k or 1
        if k > n:
            raise InputError(f"`solvers.lobpcg(k={k})`: at most n = {n} pairs; got {k}.")
        X = self._start(A, start, k)
        most, steps = self.options.get("maxiter", 500), 0
        lagged = self._earlier(A, reuse)
        if lagged is not None:
            run = self._rounds(A, B, X, lagged, k, min(LAGGED, most), halving=True)
            if not np.any(run.lost):
                return Answer(run[:2], {"steps": run.steps, "factorised": 0})
            steps = run.steps
            X = run.block if np.all(np.isfinite(run.block)) else X
        run = self._rounds(A, B, X, self._preconditioner(A, B), k, most)
        steps += run.steps
        if not np.any(run.lost):
            return Answer(run[:2], {"steps": steps, "factorised": int(self._by_factors)})
        raise EigensolverError(
            f"`solvers.lobpcg(k={k})`: convergence in {most} steps; got residuals up to "
            f"{np.max(run.norms):.1e} for {np.count_nonzero(run.lost)} pairs, where "
            f"{np.max(run.accepted):.1e} is accepted. Give a `preconditioner`, a start, a larger "
            "`maxiter` or `tol`."
        )

    @property
    def _by_factors(self) -> bool:
        return isinstance(self.preconditioner, ShiftInvert)

    def _rounds(
        self, A: Any, B: Any, X: np.ndarray, M: Any, k: int, most: int, halving: bool = False
    ) -> _Run:
        """Run until k pairs converge, or while each round halves the residuals if that is asked."""
        wanted = slice(-k, None) if self.which == "LA" else slice(k)
        r = _random(A, 1)[:, 0]
        size = np.linalg.norm(A @ r) / np.sqrt(abs(np.vdot(r, r if B is None else B @ r)))
        zeros = np.zeros(k, np.finfo(A.dtype).dtype)
        (tol, _), steps, before = self._tolerances(size, zeros), 0, np.inf
        left, length = most, ROUND if self._by_factors else most
        while True:
            values, X, taken = self._scipy(A, X, B, M, float(np.max(tol)), min(length, left))
            lam, vectors = values[wanted], X[:, wanted]
            AX, BX = A @ vectors, vectors if B is None else B @ vectors
            norms = np.linalg.norm(AX - BX * lam, axis=0)
            asked, accepted = self._tolerances(size, np.linalg.norm(AX, axis=0))
            steps, left = steps + taken, left - length
            slow = not np.max(norms) < before / 2
            ended = halving or np.all(norms <= accepted) or not np.all(np.isfinite(norms))
            if left <= 0 or np.all(norms <= asked) or (slow and ended):
                return _Run(lam, vectors, X, norms, accepted, steps)
            # a restart loses directions, which count where the progress is slow
            length, before = 2 * length if slow else length, np.max(norms)

    def _tolerances(self, size: Any, sizes: np.ndarray) -> list[np.ndarray]:
        """Return the residuals asked for and accepted, by ‖A x‖ of a random and of all vectors."""
        if "tol" in self.options:
            return [np.full_like(sizes, factor * self.options["tol"]) for factor in (1, 10)]
        eps = np.finfo(sizes.dtype).eps
        if self._by_factors:
            return [np.maximum(UNITS * eps * size, eps**power * sizes) for power in BY_FACTORS]
        return [np.full_like(sizes, eps**power * size) for power in TOLERANCES]

    def _scipy(
        self, A: Any, X: np.ndarray, B: Any, M: Any, tol: float, steps: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Run SciPy's LOBPCG; its values, ascending, their vectors, and the steps taken."""
        products = []

        def product(V: np.ndarray) -> np.ndarray:
            products.append(V.shape[1])
            return A @ V

        with warnings.catch_warnings(), blas_beside_solves(sp.issparse(A)):
            warnings.simplefilter("ignore", UserWarning)  # the caller judges the residuals
            answer: Any = spla.lobpcg(
                product,
                X,
                B,
                M,
                self.options.get("Y"),
                tol=tol,
                maxiter=steps,
                largest=self.which == "LA",
            )
        order = np.argsort(answer[0])
        return answer[0][order], answer[1][:, order], max(len(products) - 2, 0)

    def linear_solver(self) -> AutoLinearSolver | ShiftInvert:
        """Return the preconditioner, if it is `ShiftInvert`; else the default."""
        return self.preconditioner if self._by_factors else AutoLinearSolver()

    def _start(self, A: Any, start: Any, k: int) -> np.ndarray:
        """Return the first block of vectors, the same at every call."""
        n, Y = A.shape[0], self.options.get("Y")
        # SciPy solves densely where the block is a fifth of the space
        small = n - (0 if Y is None else np.shape(Y)[1]) < 5 * (k + FURTHER)
        count = k if small or not self._by_factors else k + FURTHER
        random, given = _random(A, count), start_vectors(self.name, start, n, A.dtype)
        if given is None or not np.all(np.isfinite(given)):
            return random
        given = given[:, -count:] if self.which == "LA" else given[:, :count]
        qr: Any = sla.qr(given, mode="economic", pivoting=True)
        Q, R, _ = qr
        sizes = np.abs(np.diagonal(R))
        independent = Q[:, sizes > np.finfo(A.dtype).eps ** 0.5 * sizes[0]]
        return np.hstack([independent, random])[:, :count]

    def _earlier(self, A: Any, reuse: Any) -> Any:
        """Return the inverse of an earlier matrix, `None` if there is none."""
        if reuse is None:
            return None
        M: Any = self.preconditioner
        if not (self._by_factors and isinstance(reuse, LaggedFactors)):
            raise InputError(
                "`solve(reuse=...)`: a `LaggedFactors(A, B)`, and `solvers.lobpcg(preconditioner="
                f"ShiftInvert(sigma))`; got {type(reuse).__name__} and {type(M).__name__}. Give "
                "both, or leave `reuse` out."
            )
        factors = reuse.factorization(M.sigma, M.factorize)
        return None if factors is None else self._inverse(A, factors)

    def _preconditioner(self, A: Any, B: Any) -> Any:
        M: Any = self.preconditioner
        if self._by_factors:
            return self._inverse(A, factorize(A, B, M.sigma, M.factorize))
        if M is None or sp.issparse(M) or isinstance(M, (np.ndarray, spla.LinearOperator)):
            return M
        return M(A, B)

    def _inverse(self, A: Any, factors: Factorization) -> Any:
        sign = A.dtype.type(-1 if self.which == "LA" else 1)  # definite beyond the end sought

        def inverse(V: np.ndarray) -> np.ndarray:
            return sign * factors.solve(np.asfortranarray(V))

        return spla.LinearOperator(A.shape, inverse, matmat=inverse, dtype=A.dtype)  # pyright: ignore


def _random(A: Any, count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((A.shape[0], count)).astype(A.dtype)


def lobpcg(
    k: int | None = None, preconditioner: Any = None, *, which: str = "SA", **options: Any
) -> Lobpcg:
    """Make a solver for k eigenpairs of a Hermitian problem by SciPy's LOBPCG.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        preconditioner: an approximation to A⁻¹ as a matrix or a `LinearOperator`, or a function
            `preconditioner(A, B)` that makes one, as an algebraic multigrid does:
            `lambda A, B: pyamg.smoothed_aggregation_solver(A).aspreconditioner()`. Or a
            `ShiftInvert(sigma)`, with σ below all eigenvalues ("SA") or above ("LA"), to factorise
            sparse A − σB, for the derivatives as well.
        which: "SA" for the lowest eigenpairs, "LA" for the highest.
        **options: those of `scipy.sparse.linalg.lobpcg`: `tol`, the largest norm of a residual
            (default eps^0.7 of ‖A x‖ for random x with xᴴBx = 1, where √eps is accepted; with
            `ShiftInvert` eps^0.6 of ‖A x‖ of the eigenvector, or 100 eps of the former, where that
            is larger), `maxiter` (default 500), and `Y`.

    Returns:
        A solver for `eigensolver(..., Hermitian(k))` that makes products alone, with A, B and the
        preconditioner. All k have to converge; the last converges slowly where the next eigenvalue
        is near, and `Hermitian(k, guard=2)` leaves two more out. The start is the same at every
        call; `solve(A, B, start=previous)` starts from a solution, which saves most of the steps
        in a sequence of problems, and `solve(..., reuse=LaggedFactors(...))` the factorisations.
        `Solution.stats["steps"]` counts its steps, `["factorised"]` is 1 if A − σB was factorised.

    Raises:
        InputError: an option or `which` is unknown, or `ShiftInvert()` has no `sigma`.
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
    if isinstance(preconditioner, ShiftInvert):
        sigma = preconditioner.sigma
        if sigma is None or np.iscomplexobj(sigma):
            raise InputError(
                "`solvers.lobpcg(preconditioner=ShiftInvert(sigma))`: a real shift beyond the "
                f"eigenvalues; got {sigma}. Give `sigma`."
            )
        if preconditioner.reuse is not None:
            raise InputError(
                "`solvers.lobpcg(preconditioner=ShiftInvert(sigma))`: a solver without `reuse`, "
                "because each call may have another; got one. Give it to the call, `solve(A, B, "
                "reuse=...)`."
            )
    return Lobpcg(k, preconditioner, which, options)
