"""Singular triplets by PRIMME."""

from typing import Any

import numpy as np

from ..linear_solvers.auto import AutoLinearSolver
from ._abstract import AbstractForwardSolver, start_vectors
from ._which import check_which
from .primme import (
    LEAST_PRODUCTS,
    LEAST_TOLERANCE,
    Products,
    check_k,
    check_options,
    library,
    not_converged,
)

# The default method for either stage is one that does not choose by the time that steps take.
METHODS = {
    "method": "primme_svds_hybrid",
    "methodStage1": "PRIMME_DEFAULT_MIN_MATVECS",
    "methodStage2": "PRIMME_DEFAULT_MIN_MATVECS",
}
OPTIONS = ("tol", "maxiter", "ncv", "maxBlockSize", *METHODS, "precAHA", "precAAH", "precAug")


class PrimmeSVD(AbstractForwardSolver):
    """Find the largest or smallest singular triplets; made by `primme_svd`."""

    kinds = ("Singular",)
    name = "primme_svd"

    def __init__(self, k: int | None, which: str, options: dict[str, Any]):
        self.k = k
        self.which = which
        self.options = options

    def __call__(
        self, A: Any, B: Any = None, *, start: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return singular values (k,), right vectors (n, k) and left vectors (m, k)."""
        (m, n), dtype, k = A.shape, A.dtype, self.k or 1
        check_k("primme_svd", k, min(m, n), f"A of shape ({m}, {n})")
        products = Products()
        options: dict[str, Any] = {
            "k": k,
            "which": self.which,
            "tol": LEAST_TOLERANCE * float(np.finfo(dtype).eps),
            "maxiter": max(LEAST_PRODUCTS, 10 * (m + n)),
            **METHODS,
        }
        V = start_vectors(self.name, start, n, dtype)
        if V is not None:
            V = V[:, :k]
            # PRIMME fails to find the left vectors from the right ones itself
            options |= {"v0": np.linalg.qr(V)[0], "u0": np.linalg.qr(A @ V)[0]}
        call = f"primme_svd(k={k})"
        run = lambda: library().svds(products.of(A), **(options | self.options))  # noqa: E731
        U, values, Vh = products.run(call, run)
        if len(values) < k:
            raise not_converged(call, f"{len(values)} singular triplets")
        return values, Vh.conj().T, U

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver()


def primme_svd(k: int | None = None, *, which: str = "LM", **options: Any) -> PrimmeSVD:
    """Make a solver for k singular triplets by PRIMME, from products with A and Aᴴ.

    Args:
        k: the number of triplets; `None` for that of the problem.
        which: "LM" for the largest singular values, "SM" for the smallest.
        **options: those of `primme.svds`: `tol` (relative to ‖A‖), `maxiter` (products), `ncv`,
            `maxBlockSize`, `method`, `methodStage1`, `methodStage2`, and the preconditioners
            `precAHA`, `precAAH` and `precAug`, approximate inverses of AᴴA, AAᴴ and
            [[0, Aᴴ], [A, 0]].

    Returns:
        A solver for `eigensolver`, with singular values descending for "LM" and ascending for
        "SM", and the same start at every call. `solve(A, start=...)` takes an earlier solution, or
        its right vectors.

    Raises:
        InputError: primme is not installed; an option is unknown; or k is larger than min(m, n)
            (when run).
        EigensolverError: PRIMME does not converge (when run).

    Source: Wu, Romero & Stathopoulos (2017) SIAM J. Sci. Comput. 39, S248,
        doi:10.1137/16M1082214.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Singular, eigensolver
        >>> solve = eigensolver(primme_svd(), Singular(k=2))
        >>> A = sp.diags_array(np.arange(1.0, 9.0, dtype=np.float32), shape=(10, 8))
        >>> solve(A).values.round().tolist()
        [8.0, 7.0]
    """
    library()
    check_which("primme_svd", which, ("LM", "SM"))
    check_options("primme_svd", "svds", options, OPTIONS)
    return PrimmeSVD(k, which, options)
