"""Hermitian problems by ARPACK, through SciPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from scipy.linalg import get_blas_funcs

from .._errors import EigensolverError, InputError
from ..host.blas import blas_beside_solves
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.cache import factorize
from ..linear_solvers.factorizations import Shift, shift
from ..linear_solvers.ldlt import Ldlt
from ._abstract import AbstractForwardSolver, start_vectors


class Arpack(AbstractForwardSolver):
    """Find the lowest eigenpairs, or those nearest to a shift; made by `arpack`."""

    kinds = ("Hermitian", "Subspace")
    name = "arpack"

    def __init__(
        self,
        k: int | None,
        sigma: Shift | None,
        factorize: Callable[[Any], Any],
        options: dict[str, Any],
    ):
        self.k = k
        self.sigma = sigma
        self.factorize = factorize
        self.options = options

    def __call__(
        self, A: Any, B: Any = None, *, start: Any = None, sigma: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenvalues (k,), ascending, and eigenvectors (n, k)."""
        n, dtype, k = A.shape[0], A.dtype, self.k or 1
        sigma = self.sigma if sigma is None else shift(sigma)
        options: dict[str, Any] = {"v0": first_vector(self.name, start, n, dtype)}
        if sigma is None:
            options["which"] = "SA"
            # for nearly all pairs SciPy solves a dense problem, for which it needs the array
            A = _product(A) if isinstance(A, np.ndarray) and k < n - 1 else A
        else:
            # with this many vectors all eigenpairs converge in about one cycle: 33 solves for six
            # and 131 for forty, where SciPy's ncv and tol = 0 take 44 and 145, equally accurate
            options |= {"ncv": min(n, 2 * k + 20), "tol": float(np.finfo(dtype).eps) ** 0.7}
            A, B = _alike(A, B)
            options |= {"sigma": sigma, "OPinv": self._inverse(A, B, sigma)}
        try:
            with blas_beside_solves(options.get("OPinv") is not None):
                values, vectors = spla.eigsh(A, k, M=B, **(options | self.options))
        except spla.ArpackNoConvergence as error:
            raise not_converged(f"arpack(k={k})", error) from error
        order = np.argsort(values)
        return values[order], vectors[:, order]

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default, with the shift that is already factorised here."""
        return AutoLinearSolver(self.sigma, self.factorize)

    def _inverse(self, A: Any, B: Any, sigma: Shift) -> Any:
        given = [M for M in (A, B) if M is not None]
        if all(map(sp.issparse, given)):
            inverse = factorize(A, B, sigma, self.factorize)
            return spla.LinearOperator(A.shape, inverse.solve, dtype=A.dtype)  # pyright: ignore
        if not all(isinstance(M, np.ndarray) for M in given):
            raise InputError(
                "`solvers.arpack(sigma=...)`: operators of known entries, to factorise A − σB; "
                f"got {' and '.join(type(M).__name__ for M in given)}. Leave `sigma` out for a "
                "matrix-free operator."
            )
        return None  # dense operators are factorised by SciPy


def _alike(A: Any, B: Any) -> list[Any]:
    """Return A and B, a sparse one converted to an array where the other is an array."""
    dense = any(isinstance(M, np.ndarray) for M in (A, B))
    return [M.toarray() if dense and sp.issparse(M) else M for M in (A, B)]


def _product(A: np.ndarray) -> spla.LinearOperator:
    """Return products with a Hermitian array by SciPy's BLAS, which ARPACK uses too.

    NumPy's has its own threads, and the two thread pools wait for each other: 200 ms instead of 50
    for six eigenpairs, n = 1000.
    """
    multiply: Any = get_blas_funcs("hemv" if np.iscomplexobj(A) else "symv", (A,))
    # the transpose is in Fortran order, and equals the conjugate of A
    conjugate = A.T
    product = lambda x: multiply(1.0, conjugate, x.conj()).conj()  # noqa: E731
    return spla.LinearOperator(A.shape, product, dtype=A.dtype)  # pyright: ignore


def first_vector(name: str, start: Any, n: int, dtype: Any) -> np.ndarray:
    """Return ARPACK's first vector, a sum of those of a start, or the same one at every call.

    ARPACK's own is random, so that equal operators would give different results.
    """
    X = start_vectors(name, start, n, dtype)
    return np.random.default_rng(0).standard_normal(n).astype(dtype) if X is None else X.sum(axis=1)


def arpack(
    k: int | None = None,
    sigma: Shift | None = None,
    *,
    factorize: Callable[[Any], Any] = Ldlt(),  # noqa: B008
    **options: Any,
) -> Arpack:
    """Make a solver for k eigenpairs of a Hermitian problem by SciPy's ARPACK.

    Args:
        k: the number of eigenpairs, less than n; `None` for that of the problem.
        sigma: the shift; the eigenvalues nearest to it are found by shift-and-invert. Unit: that
            of the eigenvalues. `None` finds the lowest, by products with A (SciPy inverts a B).
            `solve(A, sigma=...)` gives one that JAX may trace.
        factorize: for sparse operators, as for `ShiftInvert`; the same factorisation serves the
            derivatives. Where A or B is dense, SciPy factorises A − σB as an array.
        **options: those of `scipy.sparse.linalg.eigsh`: `which`, `ncv`, `maxiter`, `tol`, `v0`.

    Returns:
        A solver for `eigensolver`, with eigenvalues ascending and the same start at every call,
        or that of `solve(A, start=...)`.

    Raises:
        InputError: an option is unknown, or `sigma` is given for a matrix-free operator.
        EigensolverError: ARPACK does not converge (when run).

    Source: Lehoucq, Sorensen & Yang (1998) ARPACK Users' Guide, SIAM.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(arpack(k=2, sigma=0.0), Hermitian(k=2))
        >>> A = sp.diags_array(np.arange(1.0, 9.0, dtype=np.float32))
        >>> solve(A).values.round(4).tolist()
        [1.0, 2.0]
    """
    check_options("arpack", "eigsh", options, ("which", "ncv", "maxiter", "tol", "v0", "mode"))
    return Arpack(k, shift(sigma), factorize, options)


def check_options(name: str, function: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise `InputError` unless all options are known."""
    unknown = set(given) - set(known)
    if unknown:
        raise InputError(
            f"`solvers.{name}(...)`: options of `scipy.sparse.linalg.{function}`; got "
            f"{', '.join(sorted(unknown))}. Use {', '.join(f'`{option}`' for option in known)}."
        )


def not_converged(call: str, error: Exception) -> EigensolverError:
    """Return the error of a run that did not converge."""
    return EigensolverError(
        f"`solvers.{call}`: convergence; got {error}. Give a `sigma` near the wanted values, or a "
        "larger `ncv` or `maxiter`."
    )
