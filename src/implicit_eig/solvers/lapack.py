"""Dense eigenproblems by LAPACK, through SciPy."""

import copy
from typing import Any

import numpy as np
import scipy.linalg as sla

from .._errors import EigensolverError, InputError
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.factorizations import Shift, shift
from ._abstract import AbstractForwardSolver, kind_of, to_array
from ._which import FIRST, FIRST_OF_REAL, by_pairs, check_which, preference

# The words for each kind of problem, the default first.
WORDS = {
    "Hermitian": ("SA", *FIRST_OF_REAL),
    "General": tuple(FIRST),
    "Subspace": tuple(FIRST),
    "Polynomial": tuple(FIRST),
    "Singular": ("LM", "SM"),
}


class Lapack(AbstractForwardSolver):
    """Find eigenpairs or singular triplets of arrays; made by `lapack`."""

    name = "lapack"
    kinds = tuple(WORDS)

    def __init__(
        self,
        k: int | None,
        sigma: Shift | None,
        which: str | None,
        subset_by_value: tuple[float | int, float | int] | None,
    ):
        self.k = k
        self.sigma = sigma
        self.which = which
        self.subset_by_value = subset_by_value
        self.kind = "Hermitian"

    def suited_to(self, problem: Any) -> "Lapack":
        """Return the solver for the kind of a problem, with its k."""
        solver = copy.copy(super().suited_to(problem))
        solver.kind = kind = kind_of(problem) or "Hermitian"
        if self.which is not None:
            check_which("lapack", self.which, dict.fromkeys(WORDS[kind]))
        if self.subset_by_value is not None and kind != "Hermitian":
            raise InputError(
                f"`solvers.lapack(subset_by_value=...)`: a `Hermitian` problem; got `{kind}`. Name "
                "the eigenvalues by `which` or `sigma`."
            )
        return solver

    def __call__(self, *operators: Any, sigma: Any = None) -> tuple[np.ndarray, ...]:
        """Return more pairs than k, with left vectors of a general problem, or triplets."""
        arrays = [to_array(M) for M in operators]
        for M in arrays:
            if not isinstance(M, np.ndarray):
                raise InputError(
                    "`solvers.lapack(...)`: operators of known entries; got "
                    f"{type(M).__name__}. Use `solvers.lobpcg` or `solvers.lanczos`, which need "
                    "products alone."
                )
        sigma = self.sigma if sigma is None else shift(sigma)
        if self.kind == "Singular":
            return self._singular(*arrays)
        if self.kind == "Polynomial":
            return self._polynomial(arrays, sigma)
        A, B = arrays if len(arrays) == 2 else (*arrays, None)
        find = {"Hermitian": self._hermitian, "General": self._general, "Subspace": self._space}
        return find[self.kind](A, B, sigma)

    def _word(self, sigma: Shift | None) -> str:
        """Return which eigenvalues are wanted: with a shift by default the nearest."""
        return self.which or (WORDS[self.kind][0] if sigma is None else "LM")

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver(self.sigma)

    def _hermitian(self, A: np.ndarray, B: np.ndarray | None, sigma: Shift | None) -> tuple:
        n = len(A)
        k = n if self.k is None else self.k
        if self.subset_by_value is not None:
            values, vectors = sla.eigh(A, B, subset_by_value=self.subset_by_value)
            if len(values) != k:
                low, high = self.subset_by_value
                raise EigensolverError(
                    f"`solvers.lapack(subset_by_value=({low:g}, {high:g}))`: k = {k} eigenvalues "
                    f"in the interval; got {len(values)}. Choose another interval, or k."
                )
            return values, vectors
        which = self._word(sigma)
        if sigma is None and which in ("SA", "LA") and k < n:
            # one more shows whether k cuts a repeated eigenvalue
            ends = (0, k) if which == "SA" else (n - 1 - k, n - 1)
            values, vectors = sla.eigh(A, B, subset_by_index=ends)
            first = np.arange(k + 1) if which == "SA" else np.roll(np.arange(k + 1), -1)
        else:
            values, vectors = sla.eigh(A, B)
            order = np.argsort(preference(which, sigma, values), kind="stable")
            first = np.concatenate([np.sort(order[:k]), order[k:]])
        return values[first], vectors[:, first]

    def _general(self, A: np.ndarray, B: np.ndarray | None, sigma: Shift | None) -> tuple:
        with np.errstate(divide="ignore", invalid="ignore"):  # infinite eigenvalues
            answer: Any = sla.eig(A, B, left=True, right=True)
        values, left, right = answer
        order = by_pairs(_last_if_infinite(self._word(sigma), sigma, values), values)
        return values[order], right[:, order], left[:, order]

    def _polynomial(self, matrices: list[np.ndarray], sigma: Shift | None) -> tuple:
        """Return the eigenpairs of Σ λⁱ Aᵢ, as those of its companion pencil.

        With λ = γμ the sizes of the first and of the last coefficient are equal. The eigenvectors
        of the pencil are (x, μx, …), of which the largest block is taken, and their left ones have
        y as the last.
        """
        n, degree = len(matrices[0]), len(matrices) - 1
        first, last = (np.linalg.norm(matrices[i]) for i in (0, -1))
        unit = float(first / last) ** (1 / degree) if first > 0 and last > 0 else 1.0
        scaled = [(M * (unit**i / (first or 1))).astype(M.dtype) for i, M in enumerate(matrices)]
        A = np.eye(n * degree, k=n, dtype=scaled[0].dtype)
        B = np.eye(n * degree, dtype=scaled[0].dtype)
        A[-n:], B[-n:, -n:] = -np.hstack(scaled[:-1]), scaled[-1]
        scaled_sigma = None if sigma is None else sigma / unit
        values, vectors, left = self._general(A, B, scaled_sigma)
        blocks = vectors.reshape(degree, n, -1)
        largest = np.argmax(np.linalg.norm(blocks, axis=1), axis=0)
        return values * unit, blocks[largest, :, np.arange(len(values))].T, left[-n:]

    def _space(self, A: np.ndarray, B: np.ndarray | None, sigma: Shift | None) -> tuple:
        """Return a Schur basis, which defective eigenvalues have too."""
        dtype = np.result_type(A.dtype, np.complex64)
        A, B = A.astype(dtype), None if B is None else B.astype(dtype)
        values: Any = sla.eigvals(A, B)
        k = len(A) if self.k is None else self.k
        numbers = _last_if_infinite(self._word(sigma), sigma, values)
        inner, outer = np.sort(numbers)[[k - 1, min(k, len(A) - 1)]]

        def wanted(values: Any) -> Any:
            return _last_if_infinite(self._word(sigma), sigma, values) <= (inner + outer) / 2

        if B is None:
            answer: Any = sla.schur(A, output="complex", sort=lambda value: bool(wanted(value)))
            return np.diagonal(answer[0])[:k], answer[1][:, :k]
        sort: Any = lambda a, b: wanted(_ratio(a, b))  # noqa: E731
        *_, alpha, beta, _, Z = sla.ordqz(A, B, sort=sort, output="complex")
        return _ratio(alpha, beta)[:k], Z[:, :k]

    def _singular(self, A: np.ndarray) -> tuple:
        left, values, right = sla.svd(A, full_matrices=False)
        order = np.arange(len(values))[:: -1 if self.which == "SM" else 1]
        return values[order], right.conj().T[:, order], left[:, order]


def _ratio(a: Any, b: Any) -> Any:
    """Return a / b, infinite where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, np.inf, np.asarray(a) / np.asarray(b))


def _last_if_infinite(which: str, sigma: Shift | None, values: Any) -> Any:
    """Return the numbers by which eigenvalues are ordered, infinite ones being the last."""
    finite = np.isfinite(values)
    return np.where(finite, preference(which, sigma, np.where(finite, values, 0)), np.inf)


def lapack(
    k: int | None = None,
    sigma: Shift | None = None,
    *,
    which: str | None = None,
    subset_by_value: tuple[float | int, float | int] | None = None,
) -> Lapack:
    """Make a solver for dense problems by SciPy's `eigh`, `eig` and `svd`, which are LAPACK's.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        sigma: the eigenvalues nearest to it. Unit: that of the eigenvalues. `solve(A, sigma=...)`
            gives one that JAX may trace.
        which: which eigenvalues, in SciPy's words: "SA" (default) and "LA", the lowest and the
            highest, "LM" and "SM" of `Hermitian`; "LM" (default), "SM", "LR", "SR", "LI", "SI" of
            `General`, `Polynomial` and `Subspace`; "LM" (default) and "SM" of `Singular`. With
            `sigma` it applies to 1/(λ − σ), and "LM" is the default.
        subset_by_value: of `Hermitian`: the eigenvalues in this half-open interval, of which there
            must be k.

    Returns:
        A solver for `eigensolver` with every kind but `Nonlinear`, `Polynomial` by its companion
        pencil; sparse operators are made dense. Eigenvalues of `Hermitian` are ascending, others
        in the order of `which`. `General` has left eigenvectors, so that gradients of eigenvalues
        need no linear solve; `Subspace` has a Schur basis. Whether k cuts a repeated eigenvalue
        is seen.

    Raises:
        InputError: an option does not suit the problem, or an operator has no entries (when run).
        EigensolverError: there are not k eigenvalues in the interval (when run).

    Cost: O(n³), with memory for some n×n arrays.
    Source: Anderson et al. (1999) LAPACK Users' Guide, SIAM.

    Examples:
        >>> import jax.numpy as jnp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> A = jnp.diag(jnp.array([1.0, 2.0, 4.0, 8.0]))
        >>> eigensolver(lapack(which="LA"), Hermitian(k=2))(A).values.round(4).tolist()
        [4.0, 8.0]
        >>> eigensolver(lapack(sigma=2.1), Hermitian(k=2))(A).values.round(4).tolist()
        [1.0, 2.0]
    """
    if which is not None:
        known = dict.fromkeys(word for words in WORDS.values() for word in words)
        check_which("lapack", which, known)
    if subset_by_value is not None:
        if sigma is not None or which is not None:
            raise InputError(
                "`solvers.lapack(subset_by_value=...)`: an interval alone; got `sigma` or `which` "
                "too. Leave one of them out."
            )
        low, high = map(float, subset_by_value)
        subset_by_value = (low, high)
    return Lapack(k, shift(sigma), which, subset_by_value)
