"""Hermitian problems by LOBPCG, through SciPy: products and a preconditioner."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from ..host.blas import blas_beside_solves
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.cache import factorize
from ..linear_solvers.factorizations import Factorization
from ..linear_solvers.lagged import LaggedFactors
from ..linear_solvers.shift_invert import ShiftInvert
from ._abstract import AbstractForwardSolver, start_vectors
from ._which import check_which
from .arpack import check_options

# The residual that is asked for, with xᴴBx = 1, relative to ‖A x‖ of a random x, in powers of eps,
# and the one that is accepted, because rounding often stops it before.
TOLERANCES = 0.7, 0.5
# By factors it takes few steps to a residual relative to ‖A x‖ of the eigenvector itself, or to
# some units of rounding. The steps are made in rounds, which free the block from the errors of its
# recurrence, and with further vectors, which speed up the last eigenpairs and need not converge.
BY_FACTORS, UNITS, ROUND, FURTHER = (0.6, 0.5), 100, 4, 2
# The largest number of steps with the factors of an earlier matrix; then A − σB is factorised.
LAGGED = 50


class _Run(NamedTuple):
    """The pairs wanted, the block that they are of, their residuals, and those accepted."""

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
    figures = ("steps",)

    def __init__(self, k: int | None, preconditioner: Any, which: str, options: dict[str, Any]):
        self.k = k
        self.preconditioner = preconditioner
        self.which = which
        self.options = options

    def __call__(
        self, A: Any, B: Any = None, *, start: Any = None, reuse: Any = None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Return eigenvalues (k,), ascending, eigenvectors (n, k), and the steps taken."""
        n, k = A.shape[0], self.k or 1
        if k > n:
            raise InputError(f"`solvers.lobpcg(k={k})`: at most n = {n} pairs; got {k}.")
        X = self._start(A, start, min(n, k + FURTHER) if self._by_factors else k)
        runs: list[_Run] = []
        for M, most in self._preconditioners(A, B, reuse):
            run = self._rounds(A, B, X, M, k, most)
            runs.append(run)
            if not np.any(run.lost):
                return run.values, run.vectors, {"steps": sum(run.steps for run in runs)}
            X = run.block if np.all(np.isfinite(run.block)) else X
        run, steps = runs[-1], sum(run.steps for run in runs)
        raise EigensolverError(
            f"`solvers.lobpcg(k={k})`: convergence in {steps} steps; got residuals up to "
            f"{np.max(run.norms):.1e} for {np.count_nonzero(run.lost)} pairs, where "
            f"{np.max(run.accepted):.1e} is accepted. Give a `preconditioner`, a start, a larger "
            "`maxiter` or `tol`."
        )

    @property
    def _by_factors(self) -> bool:
        return isinstance(self.preconditioner, ShiftInvert)

    def _rounds(self, A: Any, B: Any, X: np.ndarray, M: Any, k: int, most: int) -> "_Run":
        """Run until k pairs converge, or no longer."""
        wanted = slice(-k, None) if self.which == "LA" else slice(k)
        r = _random(A, 1)[:, 0]
        size = np.linalg.norm(A @ r) / np.sqrt(abs(np.vdot(r, r if B is None else B @ r)))
        zeros = np.zeros(k, np.finfo(A.dtype).dtype)
        (tol, _), steps, before = self._tolerances(size, zeros), 0, np.inf
        while True:
            length = min(ROUND, most - steps) if self._by_factors else most
            values, X, taken = self._scipy(A, X, B, M, float(np.max(tol)), length)
            lam, vectors = values[wanted], X[:, wanted]
            AX, BX = A @ vectors, vectors if B is None else B @ vectors
            norms = np.linalg.norm(AX - BX * lam, axis=0)
            asked, accepted = self._tolerances(size, np.linalg.norm(AX, axis=0))
            steps += taken
            stalled = not np.max(norms) < before / 2
            if np.all(norms <= asked) or stalled or steps >= most:
                return _Run(lam, vectors, X, norms, accepted, steps)
            before = np.max(norms)

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
        with warnings.catch_warnings(), blas_beside_solves(not isinstance(A, np.ndarray)):
            warnings.simplefilter("ignore", UserWarning)  # the caller judges the residuals
            answer: Any = spla.lobpcg(
                A,
                X,
                B,
                M,
                self.options.get("Y"),
                tol=tol,
                maxiter=steps,
                largest=self.which == "LA",
                retResidualNormsHistory=True,
            )
        values, vectors, *history = answer
        order = np.argsort(values)
        # before, after, and the best; a small problem is solved densely, without a history
        taken = max(len(history[0]) - 3, 0) if history else 0
        return values[order], vectors[:, order], taken

    def linear_solver(self) -> AutoLinearSolver | ShiftInvert:
        """Return the preconditioner, if it is `ShiftInvert`; else the default."""
        M: Any = self.preconditioner
        return M if isinstance(M, ShiftInvert) else AutoLinearSolver()

    def _start(self, A: Any, start: Any, count: int) -> np.ndarray:
        """Return the first block of vectors, the same at every call."""
        random = _random(A, count)
        given = start_vectors(self.name, start, len(random), A.dtype)
        return random if given is None else np.hstack([given, random])[:, :count]

    def _preconditioners(self, A: Any, B: Any, reuse: Any) -> Iterator[tuple[Any, int]]:
        """Yield the preconditioners to try, each with its largest number of steps."""
        given: Any = self.preconditioner
        most = self.options.get("maxiter", 500)
        if reuse is not None and not (self._by_factors and isinstance(reuse, LaggedFactors)):
            raise InputError(
                "`solve(reuse=...)`: a `LaggedFactors(A, B)`, and `solvers.lobpcg(preconditioner="
                f"ShiftInvert(sigma))`; got {type(reuse).__name__} and {type(given).__name__}. "
                "Give both, or leave `reuse` out."
            )
        if self._by_factors:
            sigma, method = given.sigma, given.factorize
            if reuse is not None:
                yield self._inverse(A, reuse.factorization(sigma, method)), min(LAGGED, most)
            yield self._inverse(A, factorize(A, B, sigma, method)), most
        elif given is None or sp.issparse(given) or not callable(given):
            yield given, most
        else:
            yield given(A, B), most

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
            `ShiftInvert` eps^0.6 of ‖A x‖ of the eigenvector), `maxiter` (default 500), and `Y`.

    Returns:
        A solver for `eigensolver(..., Hermitian(k))` that makes products alone, with A, B and the
        preconditioner. All k have to converge; the last converges slowly where the next eigenvalue
        is near, and `Hermitian(k, guard=2)` leaves two more out. The start is the same at every
        call; `solve(A, B, start=previous)` starts from a solution, which saves most of the steps
        in a sequence of problems, and `solve(..., reuse=LaggedFactors(...))` the factorisations.
        `Solution.stats["steps"]` is the number of steps.

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
    if isinstance(preconditioner, ShiftInvert) and preconditioner.sigma is None:
        raise InputError(
            "`solvers.lobpcg(preconditioner=ShiftInvert(sigma))`: a shift beyond the eigenvalues; "
            "got `None`. Give `sigma`."
        )
    return Lobpcg(k, preconditioner, which, options)
