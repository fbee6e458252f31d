"""Singular triplets by ARPACK, through SciPy."""

from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

from .._errors import InputError
from ..linear_solvers.auto import AutoLinearSolver
from ..solution import Solution
from ._abstract import AbstractForwardSolver, start_vectors
from ._which import check_which
from .arpack import check_options, not_converged


class ArpackSvd(AbstractForwardSolver):
    """Find the largest singular triplets; made by `arpack_svd`."""

    kinds = ("Singular",)
    name = "arpack_svd"

    def __init__(self, k: int | None, options: dict[str, Any]):
        self.k = k
        self.options = options

    def __call__(self, A: Any, B: Any = None, *, start: Any = None) -> tuple[np.ndarray, ...]:
        """Return singular values (k,), descending, right (n, k) and left vectors (m, k)."""
        k, shortest = self.k or min(A.shape), min(A.shape)
        if k >= shortest:
            raise InputError(
                f"`solvers.arpack_svd(k={k})`: fewer triplets than rows and columns; got an "
                f"operator of shape {A.shape}. Use `solvers.lapack`, or ask for fewer."
            )
        v0 = np.random.default_rng(0).standard_normal(shortest).astype(A.dtype)
        if start is not None:
            # a right singular vector, or a left one where these are shorter
            wide = A.shape[1] > A.shape[0] and isinstance(start, Solution)
            vectors = start.left_vectors if wide else start
            X = start_vectors(self.name, vectors, shortest, A.dtype)
            v0 = v0 if X is None else X.sum(axis=1)
        options: dict[str, Any] = {"which": "LM", "v0": v0, "solver": "arpack"} | self.options
        try:
            answer: Any = spla.svds(A, k, **options)
        except spla.ArpackNoConvergence as error:
            raise not_converged(f"arpack_svd(k={k})", error) from error
        U, values, Vh = answer
        order = np.argsort(values if options["which"] == "SM" else -values, kind="stable")
        return values[order], Vh.conj().T[:, order], U[:, order]

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver()


def arpack_svd(k: int | None = None, **options: Any) -> ArpackSvd:
    """Make a solver for k singular triplets by SciPy's `svds`, with ARPACK.

    Args:
        k: the number of triplets, less than the rows and the columns; `None` for that of the
            problem.
        **options: those of `scipy.sparse.linalg.svds`: `which` ("LM", the default, or "SM"),
            `ncv`, `tol`, `maxiter`, `v0`.

    Returns:
        A solver for `eigensolver(..., Singular(k))`, for arrays, sparse matrices and products;
        singular values are descending, with "SM" ascending, and the start is the same at every
        call. ARPACK works on AᴴA, so that singular values below √eps of the largest are rounding,
        which the check of the answer reports. `solve(A, start=...)` takes a solution.

    Raises:
        InputError: an option is unknown, or k is too large (when run).
        EigensolverError: ARPACK does not converge (when run).

    Source: Lehoucq, Sorensen & Yang (1998) ARPACK Users' Guide, SIAM, section 3.6.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Singular, eigensolver
        >>> A = sp.diags_array(np.arange(1.0, 9.0, dtype=np.float32))
        >>> eigensolver(arpack_svd(), Singular(k=2))(A).values.round(4).tolist()
        [8.0, 7.0]
    """
    check_options("arpack_svd", "svds", options, ("which", "ncv", "tol", "maxiter", "v0"))
    check_which("arpack_svd", options.get("which", "LM"), ("LM", "SM"))
    return ArpackSvd(k, options)
