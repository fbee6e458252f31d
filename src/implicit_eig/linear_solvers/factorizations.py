"""Sparse factorisations on the host.

A factorisation is made by `factorize(matrix)`: by one of the classes below or a user's function.
"""

import abc
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import InputError, LinearSolveError
from ..host import is_traced

# A pivot on the diagonal is kept while it is above this fraction of its column. This keeps the
# fill-reducing order, and the small last pivot of a bordered matrix is still avoided.
PIVOT_THRESHOLD = 0.01
# |M − Mᴴ| below this part of |M| is rounding, and the ordering for symmetric matrices applies.
SYMMETRIC = 1e-10
# The number of right sides at which a triangular solve costs least for each of them: 5.7 ms,
# against 11.4 alone and 6.6 with forty (n = 90,000).
COLUMNS = 8
# The assumed memory of a user's factors, as a multiple of that of their matrix.
FILL = 15

Solve = Callable[[np.ndarray], Any]
Shift = complex | float | int


def shift(given: Any) -> Shift | None:
    """Return the shift as a Python number; `None` stays.

    Raises:
        InputError: it is traced by JAX.
    """
    if given is None:
        return None
    if is_traced(given):
        raise InputError(
            "`sigma=...`: a number that is known when the solver is made; got a value traced by "
            "JAX. Make the solver outside of `jit`, or give a Python number."
        )
    number = complex(given)
    return number if number.imag else number.real


class SingularError(LinearSolveError):
    """The matrix to factorise is singular."""


class Factors(NamedTuple):
    """The factors of M: b -> M⁻¹ b, b -> M⁻ᴴ b if there is one, and their size in memory."""

    solve: Solve
    solve_adjoint: Solve | None
    nbytes: int


class Factorization:
    """Hold the factors of a matrix M; call it to solve M x = b.

    `solve(b)` and `solve_adjoint(b)` return M⁻¹ b and M⁻ᴴ b for b of shape (n,) or (n, m).

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import factorize
        >>> solve = factorize(sp.csr_array([[1.0, 1.0], [0.0, 1.0]]), sigma=0.0)
        >>> solve(np.array([3.0, 1.0])).tolist(), solve.solve_adjoint(np.array([3.0, 1.0])).tolist()
        ([2.0, 1.0], [3.0, -2.0])
    """

    def __init__(self, factorize: Callable[[Any], Any], matrix: sp.csc_matrix):
        self._box = _owner.run(lambda: [_factors(factorize, matrix)])
        self.nbytes = self._box[0].nbytes
        self._real = not np.iscomplexobj(matrix)
        self._make_adjoint: Callable[[], Factorization] | None = None
        self._adjoint: Factorization | None = None
        if self._box[0].solve_adjoint is None:  # else the matrix is not needed any more
            self._make_adjoint = lambda: Factorization(factorize, matrix.conj().T.tocsc())
            self.nbytes = 2 * self.nbytes + matrix.nnz * (matrix.dtype.itemsize + 4)
        weakref.finalize(self, _owner.drop, self._box).atexit = False

    def __call__(self, b: np.ndarray) -> np.ndarray:
        """Return M⁻¹ b."""
        return self.solve(b)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return M⁻¹ b, of the shape of b."""
        return self._run(self._box[0].solve, b)

    def solve_adjoint(self, b: np.ndarray) -> np.ndarray:
        """Return M⁻ᴴ b, of the shape of b."""
        solve = self._box[0].solve_adjoint
        if solve is not None:
            return self._run(solve, b)
        if self._adjoint is None and self._make_adjoint is not None:
            self._adjoint = self._make_adjoint()
        return self._adjoint.solve(b)  # pyright: ignore[reportOptionalMemberAccess]

    def _run(self, solve: Solve, b: np.ndarray) -> np.ndarray:
        if self._real and np.iscomplexobj(b):
            return self._run(solve, np.real(b)) + 1j * self._run(solve, np.imag(b))
        x = np.asarray(solve(b))
        if x.shape != b.shape:
            raise LinearSolveError(
                f"`factorize=...`: a solve that returns the shape of its right sides, {b.shape}; "
                f"got {x.shape}. Solve for each column of b and stack the solutions as columns."
            )
        return x


class _Owner:
    """The thread on which all factors are made and released.

    SuperLU in SciPy frees memory only on the thread that allocated it, and JAX may run callbacks on
    any thread: https://github.com/scipy/scipy/issues/15921
    """

    def __init__(self):
        self.start()
        # threads do not survive a fork of the process
        os.register_at_fork(after_in_child=self.start)

    def start(self) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="implicit_eig factors")
        self.thread: int | None = None

    def run(self, fn: Callable[[], Any]) -> Any:
        """Return `fn()`, run on this thread."""
        if threading.get_ident() == self.thread:
            return fn()

        def on_the_thread() -> Any:
            self.thread = threading.get_ident()
            return fn()

        return self.executor.submit(on_the_thread).result()

    def drop(self, box: list) -> None:
        """Empty the box, the last reference to some factors, on this thread."""
        # at the end of the process the thread is gone, and the memory is freed anyway
        with contextlib.suppress(RuntimeError):
            self.executor.submit(box.clear)


_owner = _Owner()


def _factors(factorize: Callable[[Any], Any], matrix: sp.csc_matrix) -> Factors:
    """Factorise by one of the classes below or by the user's function `matrix -> solve`."""
    if not np.all(np.isfinite(matrix.data)):
        raise SingularError(
            "`factorize(A, B)`: finite entries of A − σB; got NaN or inf. Check the operators."
        )
    made: Any = factorize(matrix)
    if isinstance(made, Factors):
        return made
    if not isinstance(made, Callable):
        raise LinearSolveError(
            "`factorize=...`: a function matrix -> solve, where solve(b) returns x; got a "
            f"{type(made).__name__} from it. Return the solve itself, for example `splu(M).solve`."
        )

    def solve(b: np.ndarray) -> np.ndarray:
        # copied, because the user's code may reuse its arrays
        return np.array(made(b))

    return Factors(
        solve,
        solve if is_hermitian(matrix) else None,
        FILL * matrix.nnz * (matrix.dtype.itemsize + 4),
    )


class AbstractFactorize(eqx.Module):
    """A way to factorise sparse matrices, with its options."""

    @abc.abstractmethod
    def __call__(self, matrix: sp.csc_matrix) -> Factors:
        """Factorise a square matrix."""


class SuperLU(AbstractFactorize):
    """Factorise by SciPy's SuperLU, in its symmetric mode where the matrix is Hermitian.

    That mode, a minimum-degree ordering of M + Mᵀ that prefers diagonal pivots, produces far less
    fill-in.

    Args:
        pivot_threshold: a diagonal pivot is kept while it exceeds this fraction of the largest
            entry in its column.

    Raises:
        LinearSolveError: the matrix is singular.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import factorize
        >>> solve = factorize(sp.diags_array([1.0, 5.0]), sigma=3.0, method=SuperLU())
        >>> solve(np.array([2.0, 2.0])).tolist()  # by A − 3 I, which is indefinite
        [-1.0, 1.0]
    """

    pivot_threshold: float = PIVOT_THRESHOLD

    def __call__(self, matrix: sp.csc_matrix) -> Factors:
        """Factorise a real or complex matrix, in its own precision."""
        options: dict[str, Any] = {}
        if is_hermitian(matrix):
            options = {
                "permc_spec": "MMD_AT_PLUS_A",
                "diag_pivot_thresh": self.pivot_threshold,
                "options": {"SymmetricMode": True},
            }
        try:
            lu = spla.splu(matrix, **options)
        except RuntimeError as error:
            raise SingularError(
                f"`SuperLU()`: a nonsingular matrix; got one that is not ({error}). A − σB is "
                "singular where `sigma` is an eigenvalue: choose another. A bordered matrix is "
                "where k cuts a cluster, or an eigenvalue is defective."
            ) from error
        dtype = matrix.dtype

        def solve(b: np.ndarray, transposed: str = "N") -> np.ndarray:
            b = b.astype(dtype, copy=False)
            if b.ndim == 1 or b.shape[1] <= COLUMNS:
                return lu.solve(b, transposed)
            x = np.empty_like(b, order="F")
            for j in range(0, b.shape[1], COLUMNS):
                x[:, j : j + COLUMNS] = lu.solve(b[:, j : j + COLUMNS], transposed)
            return x

        return Factors(solve, lambda b: solve(b, "H"), _superlu_size(lu.nnz, matrix))


def _superlu_size(nnz: int, matrix: sp.csc_matrix) -> int:
    """Return the resident memory of SuperLU's factors with nnz entries, to a factor of about 1.5.

    SuperLU reserves two arrays of numbers and two of indices for 30 times the entries of the
    matrix. What it does not fill of them is resident where the allocator takes it from memory that
    was used before, which is some multiple of SuperLU's workspace, as measured with glibc.
    """
    n, itemsize = len(matrix.indptr) - 1, matrix.dtype.itemsize
    idle = min(30 * matrix.nnz, 2_700 + 8 * n, 150_000)
    # the entries of a supernode share their indices; seven vectors of indices of rows
    return nnz * (itemsize + 2) + 28 * n + idle * (2 * itemsize + 8)


def is_hermitian(matrix: Any) -> bool:
    """Return whether M = Mᴴ, to rounding."""
    return _agree(matrix, matrix.conj().T)


def is_symmetric(matrix: Any) -> bool:
    """Return whether M = Mᵀ, to rounding."""
    return _agree(matrix, matrix.T)


def _agree(matrix: Any, other: Any) -> bool:
    difference = abs(matrix - other)
    return bool(not difference.nnz or difference.max() <= SYMMETRIC * abs(matrix).max())


def backward_error(matrix: Any, solve: Solve) -> float:
    """Return ‖M x − b‖ / (‖M‖ ‖x‖ + ‖b‖) of the solution for a random b, in any units of M."""
    b = np.random.default_rng(0).standard_normal(matrix.shape[0]).astype(matrix.dtype)
    unit = abs(matrix).max()
    scaled, x = matrix / unit, solve(b) * unit
    size = np.max(abs(scaled).sum(axis=0)) * np.linalg.norm(x) + np.linalg.norm(b)
    return float(np.linalg.norm(scaled @ x - b) / size)


def shifted(A: Any, B: Any, sigma: Shift) -> sp.csc_matrix:
    """Return A − σB as CSC, real where A, B and σ are real."""
    # with σ = 0, A keeps its dtype and its pattern
    if sigma == 0:
        return sp.csc_matrix(A)
    factor = A.dtype.type(sigma) if not np.iscomplex(sigma) else sigma
    B = sp.eye_array(A.shape[0], dtype=A.dtype, format="csr") if B is None else B
    return sp.csc_matrix(A - factor * B)
