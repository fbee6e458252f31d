"""Hermitian problems by PRIMME: preconditioned, and inside the spectrum.

PRIMME accepts an eigenpair where ‖A x − λ B x‖ ≤ tol max|λ|, xᴴBx = 1, which depends on the unit
of B. So it receives B/β, β = ‖Bv‖/‖v‖ for a random v, whose eigenvalues are βλ.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from .._optional import extra, optional
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.cache import factorize as factorize_sparse
from ..linear_solvers.factorizations import Shift, SingularError, shift
from ..linear_solvers.ldlt import Ldlt
from ._abstract import AbstractForwardSolver, start_vectors, to_array
from ._which import FIRST_OF_REAL, check_which

OPTIONS = ("tol", "maxiter", "ncv", "method", "maxBlockSize", "minRestartSize", "maxPrevRetain")
# PRIMME's words where there is a shift, for SciPy's, which are those of 1/(λ − σ).
WHICH_OF_SHIFT = {"LM": "SM", "SA": "CLT", "LA": "CGT"}
# Of few products, and of least work besides them: 1.7 and 0.8 s for six eigenpairs, n = 10,000,
# where a product takes little. PRIMME's default chooses by the time that its steps take, so that
# two runs differ.
FEW_PRODUCTS, LITTLE_WORK = "PRIMME_DEFAULT_MIN_MATVECS", "PRIMME_DEFAULT_MIN_TIME"
# The default tolerance in eps. In generalised problems a residual of 30 eps is not always attained.
LEAST_TOLERANCE = 100
# PRIMME's own limit is the largest integer: a run that does not converge would not end.
LEAST_PRODUCTS = 10_000


class Primme(AbstractForwardSolver):
    """Find extreme or interior eigenpairs of a Hermitian pencil; made by `primme`."""

    kinds = ("Hermitian", "Subspace")
    name = "primme"

    def __init__(
        self,
        k: int | None,
        sigma: Shift | None,
        which: str | None,
        preconditioner: Any,
        factorize: Callable[[Any], Any] | None,
        options: dict[str, Any],
    ):
        self.k = k
        self.sigma = sigma
        self.which = which
        self.preconditioner = preconditioner
        self.factorize = factorize
        self.options = options

    def __call__(
        self, A: Any, B: Any = None, *, start: Any = None, sigma: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenvalues (k,) and eigenvectors (n, k), in the order of `which`."""
        sigma = self.sigma if sigma is None else _real_shift(sigma)
        n, dtype, k = A.shape[0], A.dtype, self.k or 1
        check_k("primme", k, n, f"n = {n}")
        which = _word(self.which, sigma)
        v0 = start_vectors(self.name, start, n, dtype)
        # the same at every call, where there is no start
        random = np.random.default_rng(0).standard_normal((n, 1)).astype(dtype)
        products = Products()
        inverse = self._inverse(A, B, sigma, products)
        cheap = inverse is None and not isinstance(A, spla.LinearOperator)
        size = 1.0 if B is None else float(np.linalg.norm(B @ random) / np.linalg.norm(random))
        options: dict[str, Any] = {
            "k": k,
            "M": None if B is None else products.of(B, 1 / size),
            "v0": random if v0 is None else np.asfortranarray(v0[:, :k]),
            "which": which,
            "sigma": None if sigma is None else sigma * size,
            "OPinv": inverse,
            "tol": LEAST_TOLERANCE * float(np.finfo(dtype).eps),
            "maxiter": max(LEAST_PRODUCTS, 10 * n),
            "method": LITTLE_WORK if cheap else FEW_PRODUCTS,
        }
        call = f"primme(k={k})"
        run = lambda: library().eigsh(products.of(A), **(options | self.options))  # noqa: E731
        values, vectors = products.run(call, run)
        if len(values) < k:
            raise not_converged(call, f"the eigenvalues {values / size}")
        return values / size, vectors / size**0.5

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default, with the shift that is already factorised here."""
        return AutoLinearSolver(self.sigma, self.factorize or Ldlt())

    def _inverse(self, A: Any, B: Any, sigma: Any, products: "Products") -> Any:
        """Return the preconditioner, an approximation to (A − σB)⁻¹; `None` for none."""
        given = self.preconditioner
        if given is not None:
            made = given if _is_matrix(given) or not callable(given) else given(A, B)
            return products.of(_as_preconditioner(made, A.shape))
        known = all(sp.issparse(M) or isinstance(M, np.ndarray) for M in (A, B) if M is not None)
        if sigma is None or not known:
            return None
        if sp.issparse(A) and (B is None or sp.issparse(B)):
            solve = factorize_sparse(A, B, sigma, self.factorize or Ldlt()).solve
        else:
            metric = np.eye(A.shape[0], dtype=A.dtype) if B is None else to_array(B)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", sla.LinAlgWarning)  # a zero pivot, judged here
                factors = sla.lu_factor(to_array(A) - sigma * metric)
            if not np.all(np.diagonal(factors[0])):
                raise SingularError(
                    "`solvers.primme(sigma=...)`: a nonsingular matrix A − σB; got one that is "
                    "not. Choose a `sigma` that is not an eigenvalue."
                )
            solve = lambda b: sla.lu_solve(factors, b)  # noqa: E731
        return products.of(_operator(A.shape, A.dtype, solve))


class Products:
    """Products for PRIMME, which does not pass on the exceptions that they raise."""

    def __init__(self):
        self.raised: BaseException | None = None

    def of(self, A: Any, factor: float = 1.0) -> Any:
        """Return the operator `factor` A, which remembers an exception."""
        operator = spla.aslinearoperator(A)

        def remembering(times: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
            def product(X: np.ndarray) -> np.ndarray:
                try:
                    return factor * np.asarray(times(X))
                except BaseException as error:
                    self.raised = error
                    raise RuntimeError from error

            return product

        return _operator(
            operator.shape,
            operator.dtype,
            remembering(operator.matmat),
            remembering(operator.rmatmat),
        )

    def run(self, call: str, run: Callable[[], Any]) -> Any:
        """Return what PRIMME returns, or raise the exception of a product, or ours."""
        try:
            return run()
        except RuntimeError as error:  # the base class of PRIMME's own
            if self.raised is not None:
                raise self.raised from None
            raise not_converged(call, str(error)) from error
        except ValueError as error:
            raise InputError(
                f"`solvers.{call}`: options of a kind that PRIMME takes; got {error}. Its "
                "documentation describes them."
            ) from error


def primme(
    k: int | None = None,
    sigma: Shift | None = None,
    *,
    which: str | None = None,
    preconditioner: Any = None,
    factorize: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Primme:
    """Make a solver for k eigenpairs of a Hermitian problem by PRIMME.

    It is worth its installation where a preconditioner is known, where eigenpairs on one side of a
    shift are wanted, and where only products with B are known.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        sigma: the shift; the eigenvalues nearest to it are found, with A − σB factorised as the
            preconditioner, unless another is given. Unit: that of the eigenvalues. `None` finds
            those at an end of the spectrum.
        which: "SA" for the lowest (the default), "LA" for the highest, "SM" and "LM" for those of
            smallest and largest modulus. With a shift it applies to 1/(λ − σ): "LM" for the
            nearest (the default), "SA" for the nearest below the shift, "LA" for those above it.
        preconditioner: an approximation to (A − σB)⁻¹, or to A⁻¹ without a shift, Hermitian: a
            `scipy.sparse.linalg.LinearOperator` or a matrix; or a function `preconditioner(A, B)`
            that makes one, as an algebraic multigrid does:
            `lambda A, B: pyamg.smoothed_aggregation_solver(A).aspreconditioner()`.
        factorize: for sparse operators, as for `ShiftInvert`; the same factorisation serves the
            derivatives. `None` for `Ldlt()`.
        **options: those of `primme.eigsh`: `tol` (relative to the largest |λ|), `maxiter` (products
            with A), `ncv`, `method`, `maxBlockSize`, `minRestartSize`, `maxPrevRetain`.

    Returns:
        A solver for `eigensolver`, with the eigenvalues in the order of `which`, the most wanted
        first, and the same start at every call. `solve(A, start=..., sigma=...)` takes an earlier
        solution, or its vectors, and another shift, which JAX may trace.

    Raises:
        InputError: primme is not installed; an option is unknown or does not fit; or k is larger
            than n (when run).
        LinearSolveError: `sigma` is an eigenvalue (when run).
        EigensolverError: PRIMME does not converge (when run).

    Cost: with a good preconditioner some ten products and preconditionings for each eigenpair,
        without one some hundred. Operators of single precision are treated in single precision.
        PRIMME's BLAS may have threads that wait for those of NumPy on a busy machine; the
        environment variable `OPENBLAS_NUM_THREADS=1` avoids that.
    Source: Stathopoulos & McCombs (2010) ACM Trans. Math. Softw. 37, 21,
        doi:10.1145/1731022.1731031.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(primme(sigma=2.9, which="SA"), Hermitian(k=2))
        >>> A = sp.diags_array(np.arange(1.0, 9.0, dtype=np.float32))
        >>> solve(A).values.round(2).tolist()
        [2.0, 1.0]
    """
    library()
    number = None if sigma is None else _real_shift(sigma)
    if which is not None:
        check_which("primme", which, FIRST_OF_REAL if sigma is None else WHICH_OF_SHIFT)
    if preconditioner is not None and factorize is not None:
        raise InputError(
            "`solvers.primme(preconditioner=..., factorize=...)`: one of the two; got both. Leave "
            "out `factorize`, which makes a preconditioner of A − σB."
        )
    check_options("primme", "eigsh", options, OPTIONS)
    return Primme(k, number, which, preconditioner, factorize, options)


def library() -> Any:
    """Return the package primme, or raise an error that names the command to install it."""
    return optional(
        "primme",
        "solvers.primme(...)`, `solvers.primme_svd(...)",
        f"{extra('primme')}, on Debian after `apt install libopenblas-dev liblapack-dev`. If it is "
        "installed, import it before slepc4py, whose BLAS may have the same name",
    )


def check_options(name: str, function: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise `InputError` unless all options are known."""
    unknown = set(given) - set(known)
    if unknown:
        raise InputError(
            f"`solvers.{name}(...)`: options of `primme.{function}`; got "
            f"{', '.join(sorted(unknown))}. Use {', '.join(f'`{option}`' for option in known)}."
        )


def not_converged(call: str, found: str) -> EigensolverError:
    """Return the error of a run that did not converge."""
    return EigensolverError(
        f"`solvers.{call}`: convergence; got {found}. Give a `preconditioner` or a `sigma`, "
        "a larger `maxiter` or `ncv`, or a looser `tol`."
    )


def check_k(name: str, k: int, most: int, size: str) -> None:
    """Raise `InputError` unless k is at most `most`."""
    if k > most:
        raise InputError(
            f"`solvers.{name}(k={k})`: at most {most} pairs; got {size}. Ask for fewer."
        )


def _as_preconditioner(given: Any, shape: tuple[int, int]) -> spla.LinearOperator:
    """Return a preconditioner as an operator of the given shape."""
    if not _is_matrix(given) or given.shape != shape:
        found = given.shape if _is_matrix(given) else type(given).__name__
        raise InputError(
            "`solvers.primme(preconditioner=...)`: a `LinearOperator` or a matrix of shape "
            f"{shape}, or a function of A and B that returns one; got {found}. Wrap a function of "
            "vectors in `scipy.sparse.linalg.LinearOperator`."
        )
    return spla.aslinearoperator(given)


def _is_matrix(given: Any) -> bool:
    return sp.issparse(given) or isinstance(given, (np.ndarray, spla.LinearOperator))


def _operator(shape: Any, dtype: Any, matmat: Any, rmatmat: Any = None) -> spla.LinearOperator:
    """Return an operator from its products with arrays of two dimensions."""
    on_vector = lambda times: lambda x: times(x.reshape(-1, 1)).reshape(-1)  # noqa: E731
    rmatmat = matmat if rmatmat is None else rmatmat
    options: dict[str, Any] = {
        "matvec": on_vector(matmat),
        "rmatvec": on_vector(rmatmat),
        "matmat": matmat,
        "rmatmat": rmatmat,
        "dtype": dtype,
    }
    return spla.LinearOperator(shape, **options)


def _real_shift(sigma: Any) -> Shift:
    number: Any = shift(sigma)
    if isinstance(number, complex):
        raise InputError(
            f"`solvers.primme(sigma=...)`: a real shift, because eigenvalues are real; got {sigma}."
            " Use `solvers.arpack_general` for problems that are not Hermitian."
        )
    return number


def _word(which: str | None, sigma: Shift | None) -> str:
    """Return PRIMME's word for SciPy's."""
    if sigma is None:
        return which or "SA"
    check_which("primme", which or "LM", WHICH_OF_SHIFT)
    return WHICH_OF_SHIFT[which or "LM"]
