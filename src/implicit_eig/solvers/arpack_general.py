"""ARPACK, through SciPy, for problems that are not Hermitian, with left eigenvectors.

ARPACK receives one standard operator: with M = A − σB and N = B, or M = B and N = A without a
shift,

    M⁻¹N x = θ x,        λ = σ + 1/θ, or λ = θ.

So B may be any matrix, and with a shift a singular one, whereas SciPy's `eigs` needs a Hermitian B.
The adjoint operator has the conjugate eigenvalues, and its eigenvectors give the left ones,
yᴴA = λ yᴴB:

    NᴴM⁻ᴴ w = θ̄ w,       y = M⁻ᴴ w,

by the same factors of M.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from ..host.blas import blas_beside_solves
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.cache import factorize
from ..linear_solvers.factorizations import Shift, SingularError, shift
from ..linear_solvers.ldlt import Ldlt
from ._abstract import AbstractForwardSolver
from ._which import FIRST, by_pairs, check_which
from .arpack import check_options, first_vector, not_converged

# This many more left eigenpairs are sought, because the two runs may select different ones where
# eigenvalues of equal modulus lie at the end of the k eigenpairs.
SPARE = 2
# Eigenvalues θ below this many eps of the largest are rounding, so λ = σ + 1/θ is infinite. Those
# within this many √eps of it count as equal, and cannot be distinguished by their eigenvalues.
ROUNDING = 10


class ArpackGeneral(AbstractForwardSolver):
    """Find eigenpairs of a general pencil; made by `arpack_general`."""

    kinds = ("General", "Subspace")
    name = "arpack_general"

    def __init__(
        self,
        k: int | None,
        sigma: Shift | None,
        left: bool,
        factorize: Callable[[Any], Any],
        options: dict[str, Any],
    ):
        self.k = k
        self.sigma = sigma
        self.left = left
        self.factorize = factorize
        self.options = options

    def __call__(
        self, A: Any, B: Any = None, *, start: Any = None, sigma: Any = None
    ) -> tuple[np.ndarray, ...]:
        """Return eigenvalues (k,), eigenvectors (n, k), and left ones (n, k) if wanted."""
        n, k = A.shape[0], self.k or 1
        if k > n - 2:
            raise InputError(
                f"`solvers.arpack_general(k={k})`: at most n − 2 pairs; got n = {n}. Ask for "
                "fewer pairs, or use `solvers.lapack`."
            )
        sigma = self.sigma if sigma is None else shift(sigma)
        seen = self._seen(A, B, sigma)
        with blas_beside_solves(sp.issparse(A) and (B is None or sp.issparse(B))):
            right = self._pairs(seen.operator, k, sigma, start, adjoint=False)
            if not self.left:
                return right.lam, right.X
            count = min(k + SPARE, n - 2)
            left = self._pairs(seen.operator.H, count, sigma, None, adjoint=True)
        BX = right.X if B is None else B @ right.X
        return right.lam, right.X, _match(right, BX, left.theta, seen.solve_adjoint(left.X))

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default, with the shift that is already factorised here."""
        return AutoLinearSolver(self.sigma, self.factorize)

    def _seen(self, A: Any, B: Any, sigma: Shift | None) -> "_Seen":
        if sigma is not None:
            inverse, N = self._inverse(A, B, sigma), B
        elif B is not None:
            inverse, N = self._inverse(B, None, 0.0), A
        else:
            return _Seen(spla.aslinearoperator(A), lambda W: W)
        operator = inverse if N is None else inverse @ spla.aslinearoperator(N)
        return _Seen(operator, inverse.H.matmat)

    def _inverse(self, A: Any, B: Any, sigma: Shift) -> spla.LinearOperator:
        """Return (A − σB)⁻¹, with its adjoint by the same factors."""
        given = [M for M in (A, B) if M is not None]
        if not all(sp.issparse(M) or isinstance(M, np.ndarray) for M in given):
            raise InputError(
                "`solvers.arpack_general(...)`: operators of known entries, to factorise A − σB, "
                f"or B without a shift; got {' and '.join(type(M).__name__ for M in given)}. "
                "Without B leave `sigma` out for a matrix-free operator."
            )
        if all(map(sp.issparse, given)):
            factors = factorize(A, B, sigma, self.factorize)
            solve, adjoint = factors.solve, factors.solve_adjoint
        else:
            solve, adjoint = _dense_inverse(*(_dense(M) for M in given), sigma=sigma)
        number = np.complex64(0) if np.iscomplexobj(sigma) else np.float32(0)
        options: dict[str, Any] = {
            "matvec": solve,
            "rmatvec": adjoint,
            "rmatmat": adjoint,
            "dtype": np.result_type(*given, number),
        }
        return spla.LinearOperator(A.shape, **options)

    def _pairs(
        self, operator: Any, k: int, sigma: Shift | None, start: Any, *, adjoint: bool
    ) -> "_Pairs":
        """Return k eigenpairs of an operator, or of a given adjoint operator, in order."""
        n, dtype = operator.shape[0], operator.dtype
        v0 = first_vector(self.name, start, n, dtype)
        options = {"which": "LM", "v0": v0, "ncv": min(n, 2 * k + 20)} | self.options
        options["ncv"] = max(options["ncv"], k + 2)
        try:
            answer: Any = spla.eigs(operator, k, **options)
        except spla.ArpackNoConvergence as error:
            raise not_converged(f"arpack_general(k={self.k})", error) from error
        theta, X = answer
        theta = theta.conj() if adjoint else theta
        eps = float(np.finfo(dtype).eps)
        theta[np.abs(theta) <= ROUNDING * eps * np.max(np.abs(theta))] = 0
        with np.errstate(divide="ignore", invalid="ignore"):
            lam = theta if sigma is None else sigma + 1 / theta
        if not np.issubdtype(dtype, np.complexfloating):
            # where k cuts a conjugate pair, the one with Im λ > 0 is kept, to be deterministic
            alone = (lam.imag < 0) & ~np.isin(lam, lam.conj())
            theta, lam = (np.where(alone, part.conj(), part) for part in (theta, lam))
            X = np.where(alone, X.conj(), X)
        order = by_pairs(FIRST[options["which"]](theta), lam)
        return _Pairs(theta[order], lam[order], X[:, order])


class _Seen(NamedTuple):
    """The operator M⁻¹N that ARPACK receives, and M⁻ᴴ."""

    operator: Any
    solve_adjoint: Callable[[np.ndarray], np.ndarray]


class _Pairs(NamedTuple):
    theta: np.ndarray
    lam: np.ndarray
    X: np.ndarray


def _match(right: _Pairs, BX: np.ndarray, theta: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Return the columns of Y that match the right eigenvectors, by eigenvalue, then by yᴴBx."""
    # here, because it takes 0.1 s to import
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    eps = float(np.finfo(Y.dtype).eps)
    distance = np.abs(right.theta[:, None] - theta[None, :])
    near = distance <= ROUNDING * np.sqrt(eps) * np.max(np.abs(right.theta))
    sizes = np.linalg.norm(BX, axis=0)[:, None] * np.linalg.norm(Y, axis=0)[None, :]
    overlap = np.abs(BX.T @ Y.conj()) / np.where(sizes > 0, sizes, 1)
    # the overlap of different eigenvalues is 0, and that of a defective one is small
    _, chosen = linear_sum_assignment(np.where(near, -overlap, 1))
    rows = np.arange(len(chosen))
    lost = np.flatnonzero(~near[rows, chosen])
    if lost.size:
        i = lost[0]
        raise EigensolverError(
            f"`solvers.arpack_general(k={len(rows)}, left=True)`: a left vector for each value; "
            f"got none near value {i}, {right.lam[i]:.6g}. Ask for a pair more or less, where "
            "values of one distance meet the end of the k, or choose another `sigma`."
        )
    return Y[:, chosen]


def _dense(M: Any) -> np.ndarray:
    return M.toarray() if sp.issparse(M) else M


def _dense_inverse(
    A: np.ndarray, B: np.ndarray | None = None, *, sigma: Shift
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return b -> (A − σB)⁻¹ b and b -> (A − σB)⁻ᴴ b."""
    B = np.eye(len(A), dtype=A.dtype) if B is None else B
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sla.LinAlgWarning)
        factors = sla.lu_factor(A - sigma * B)
    if not np.all(np.diagonal(factors[0])):
        raise SingularError(
            "`solvers.arpack_general(...)`: a nonsingular matrix A − σB, or B without a shift; got "
            "one that is not. Choose a `sigma` that is not an eigenvalue."
        )
    return (
        lambda b: sla.lu_solve(factors, b),
        lambda b: sla.lu_solve(factors, b, trans=2),
    )


def arpack_general(
    k: int | None = None,
    sigma: Shift | None = None,
    *,
    left: bool = False,
    factorize: Callable[[Any], Any] = Ldlt(),  # noqa: B008
    **options: Any,
) -> ArpackGeneral:
    """Make a solver for k eigenpairs of a general problem by SciPy's ARPACK.

    Args:
        k: the number of eigenpairs, at most n − 2; `None` for that of the problem.
        sigma: the shift, real or complex; the eigenvalues nearest to it are found by
            shift-and-invert. Unit: that of the eigenvalues. `None` finds those of largest |λ|, by
            products with A; a B is factorised. `solve(A, sigma=...)` gives one that JAX may trace.
        left: whether left eigenvectors are found too, by adjoint solves with the same factors;
            gradients of eigenvalues then need no linear solve.
        factorize: for sparse operators, as for `ShiftInvert`. Where A or B is dense, LAPACK
            factorises.
        **options: those of `scipy.sparse.linalg.eigs`: `which` (applied to λ, or with a shift to
            1/(λ − σ)), `ncv`, `maxiter`, `tol`, `v0`.

    Returns:
        A solver for `eigensolver`, with eigenvalues ordered by their distance to `sigma`, or as
        `which` states. Of equally distant ones that of larger imaginary part comes first, which
        also decides where k cuts a conjugate pair. The start is the same at every call, or that of
        `solve(A, start=...)`. Real
        operators with a real shift, or with none, are treated in real arithmetic.

    Raises:
        InputError: an option is unknown; or k is too large, or an operator to factorise is
            matrix-free (when run).
        LinearSolveError: `sigma` is an eigenvalue (when run).
        EigensolverError: ARPACK does not converge, or an eigenvalue has no left eigenvector (when
            run).

    Cost: one factorisation; with `left` twice as many solves.
    Source: Lehoucq, Sorensen & Yang (1998) ARPACK Users' Guide, SIAM, section 3.2.

    Examples:
        >>> import jax, numpy as np, scipy.sparse as sp
        >>> from implicit_eig import General, eigensolver
        >>> solve = eigensolver(arpack_general(k=2, sigma=0.0, left=True), General(k=2))
        >>> A = sp.diags_array([np.ones(7), np.arange(1.0, 9.0)], offsets=[1, 0], dtype=np.float32)
        >>> solve(A).values.real.round(4).tolist()
        [1.0, 2.0]
    """
    check_options("arpack_general", "eigs", options, ("which", "ncv", "maxiter", "tol", "v0"))
    check_which("arpack_general", options.get("which", "LM"), FIRST)
    return ArpackGeneral(k, shift(sigma), left, factorize, options)
