"""Drop-ins for `scipy.sparse.linalg`."""

from typing import Any

import numpy as np
from jaxtyping import Array, Inexact, Shaped

from .._eigensolver import eigensolver
from .._errors import InputError
from ..checks.policy import DEFAULT_POLICY, Policy
from ..host import is_traced
from ..problems.general import General
from ..problems.hermitian import Hermitian
from ..problems.singular import Singular
from ..solvers import arpack, arpack_general, arpack_svd
from ..solvers import lobpcg as lobpcg_solver

Values = Shaped[Array, " k"]
Vectors = Inexact[Array, "n k"]


def eigsh(
    A: Any,
    k: int = 6,
    M: Any = None,
    sigma: Any = None,
    which: str = "LM",
    v0: Any = None,
    ncv: int | None = None,
    maxiter: int | None = None,
    tol: float = 0,
    return_eigenvectors: bool = True,
    Minv: Any = None,
    OPinv: Any = None,
    mode: str = "normal",
    *,
    linear_solver: Any = None,
    policy: Policy = DEFAULT_POLICY,
) -> Any:
    """Find k eigenvalues and eigenvectors of A x = λ x, or A x = λ M x, A Hermitian, by ARPACK.

    Args:
        A: an array, a SciPy matrix, a `SparseOperator`, whose entries JAX may trace, or any other
            operator that `eigensolver` takes; shape (n, n).
        k: the number of eigenpairs, less than n.
        M: positive definite, as A; `None` for I.
        sigma: the shift; the eigenvalues nearest to it. JAX may trace it; it has no derivative.
        which: as of SciPy: "LM", "SM", "LA", "SA", "BE"; with `sigma` it applies to 1/(λ − σ).
        v0: the first vector, without a derivative; by default the same at every call.
        ncv: as of SciPy, and so are `maxiter`, `tol` and `mode`.
        maxiter: the largest number of restarts.
        tol: the relative accuracy of eigenvalues; 0 for that of the machine.
        return_eigenvectors: whether the eigenvectors are returned.
        Minv: not supported: a factorisation replaces it.
        OPinv: not supported: `solvers.arpack(factorize=...)` takes a factorisation.
        mode: as of SciPy, with `sigma`.
        linear_solver: of the derivatives, as for `eigensolver`.
        policy: of the checks, as for `eigensolver`.

    Returns:
        Eigenvalues (k,), ascending, and eigenvectors (n, k); or the eigenvalues.

    Raises:
        InputError: an argument does not fit.
        EigensolverError: ARPACK does not converge (when run).

    Source: `scipy.sparse.linalg.eigsh`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import SparseOperator
        >>> i = np.arange(9)
        >>> stiffness = lambda p: SparseOperator(p, i, i, (9, 9))
        >>> lowest = lambda p: eigsh(stiffness(p), k=1, sigma=0.0)[0][0]
        >>> jax.grad(lowest)(jnp.arange(1.0, 10.0)).round(4).tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    _refuse("eigsh", Minv=Minv, OPinv=OPinv)
    options = _given(which=which, ncv=ncv, maxiter=maxiter, tol=tol, mode=mode)
    if mode == "normal":
        del options["mode"]
    elif sigma is None:
        raise InputError(
            f"`linalg.eigsh(mode={mode!r})`: a shift `sigma`; got none. Give it, or leave `mode` "
            "out."
        )
    known, traced = _shifts(sigma)
    solver = arpack(k, known, **options)
    solve = eigensolver(solver, Hermitian(k), linear_solver=linear_solver, policy=policy)
    call = _given(start=v0, sigma=traced)
    operators = (A,) if M is None else (A, M)
    if not return_eigenvectors:
        return solve.values(*operators, **call)
    return tuple(solve(*operators, **call))


def eigs(
    A: Any,
    k: int = 6,
    M: Any = None,
    sigma: Any = None,
    which: str = "LM",
    v0: Any = None,
    ncv: int | None = None,
    maxiter: int | None = None,
    tol: float = 0,
    return_eigenvectors: bool = True,
    Minv: Any = None,
    OPinv: Any = None,
    OPpart: Any = None,
    *,
    linear_solver: Any = None,
    policy: Policy = DEFAULT_POLICY,
) -> Any:
    """Find k eigenvalues and eigenvectors of A x = λ x, or A x = λ M x, by ARPACK.

    Args:
        A: as for `eigsh`, but any matrix.
        k: the number of eigenpairs, at most n − 2.
        M: any matrix here, with a shift a singular one too; `None` for I.
        sigma: the shift, real or complex; the eigenvalues nearest to it. JAX may trace it.
        which: "LM", "SM", "LR", "SR", "LI", "SI"; with `sigma` it applies to 1/(λ − σ).
        v0: the first vector, without a derivative; by default the same at every call.
        ncv: as of SciPy, and so are `maxiter` and `tol`.
        maxiter: the largest number of restarts.
        tol: the relative accuracy of eigenvalues; 0 for that of the machine.
        return_eigenvectors: whether the eigenvectors are returned.
        Minv: not supported: a factorisation replaces it.
        OPinv: not supported: `solvers.arpack_general(factorize=...)` takes a factorisation.
        OPpart: not supported: a real pencil with a complex shift is treated in complex arithmetic.
        linear_solver: of the derivatives, as for `eigensolver`.
        policy: of the checks, as for `eigensolver`.

    Returns:
        Eigenvalues (k,), in the order that `which` says, and eigenvectors (n, k), ‖x‖ = 1,
        complex; or the eigenvalues.

    Raises:
        InputError: an argument does not fit.
        EigensolverError: ARPACK does not converge (when run).

    Source: `scipy.sparse.linalg.eigs`; differs in: M need not be Hermitian.

    Examples:
        >>> import jax.numpy as jnp
        >>> A = jnp.diag(jnp.arange(1.0, 9.0)).at[0, 1].set(1.0)
        >>> eigs(A, k=2, sigma=0.5)[0].real.round(3).tolist()
        [1.0, 2.0]
    """
    _refuse("eigs", Minv=Minv, OPinv=OPinv, OPpart=OPpart)
    known, traced = _shifts(sigma)
    solver = arpack_general(k, known, **_given(which=which, ncv=ncv, maxiter=maxiter, tol=tol))
    solve = eigensolver(solver, General(k), linear_solver=linear_solver, policy=policy)
    call = _given(start=v0, sigma=traced)
    operators = (A,) if M is None else (A, M)
    if not return_eigenvectors:
        return solve.values(*operators, **call)
    return tuple(solve(*operators, **call))


def svds(
    A: Any,
    k: int = 6,
    ncv: int | None = None,
    tol: float = 0,
    which: str = "LM",
    v0: Any = None,
    maxiter: int | None = None,
    return_singular_vectors: bool = True,
    solver: str = "arpack",
    *,
    linear_solver: Any = None,
    policy: Policy = DEFAULT_POLICY,
) -> Any:
    """Find k singular values and vectors of A, by ARPACK.

    Args:
        A: as for `eigsh`; shape (m, n).
        k: the number of triplets, less than m and n.
        ncv: as of SciPy, and so are `tol` and `maxiter`.
        tol: the relative accuracy; 0 for that of the machine.
        which: "LM" or "SM".
        v0: the first vector, of length min(m, n), without a derivative; by default the same at
            every call.
        maxiter: the largest number of restarts.
        return_singular_vectors: whether U and Vh are returned.
        solver: "arpack".
        linear_solver: of the derivatives, as for `eigensolver`.
        policy: of the checks, as for `eigensolver`.

    Returns:
        U (m, k), singular values (k,), ascending as SciPy's are, and Vh (k, n); or the values.

    Raises:
        InputError: an argument does not fit.
        EigensolverError: ARPACK does not converge (when run).

    Source: `scipy.sparse.linalg.svds`.

    Examples:
        >>> import jax.numpy as jnp
        >>> U, s, Vh = svds(jnp.diag(jnp.arange(1.0, 9.0)), k=2)
        >>> [round(float(value), 3) for value in s], U.shape, Vh.shape
        ([7.0, 8.0], (8, 2), (2, 8))
    """
    if solver != "arpack":
        raise InputError(
            f"`linalg.svds(solver={solver!r})`: 'arpack'; got another. Use "
            "`eigensolver(solvers.primme_svd(), Singular(k))` or any function of your own."
        )
    options = _given(which=which, ncv=ncv, maxiter=maxiter, tol=tol)
    solve = eigensolver(
        arpack_svd(k, **options), Singular(k), linear_solver=linear_solver, policy=policy
    )
    call = _given(start=v0)
    ascending = slice(None, None, -1 if which == "LM" else 1)
    if not return_singular_vectors:
        return solve.values(A, **call)[ascending]
    solution: Any = solve(A, **call)
    U, V = solution.left_vectors, solution.vectors
    return U[:, ascending], solution.values[ascending], V.conj().T[ascending]


def lobpcg(
    A: Any,
    X: Any,
    B: Any = None,
    M: Any = None,
    Y: Any = None,
    tol: float | None = None,
    maxiter: int | None = None,
    largest: bool = True,
    *,
    linear_solver: Any = None,
    policy: Policy = DEFAULT_POLICY,
) -> tuple[Values, Vectors]:
    """Find eigenvalues and eigenvectors of A x = λ x, or A x = λ B x, A Hermitian, by LOBPCG.

    Args:
        A: as for `eigsh`; shape (n, n).
        X: the start, shape (n, k), which JAX may trace; it has no derivative.
        B: positive definite, as A; `None` for I.
        M: the preconditioner: a matrix or a `LinearOperator` of SciPy or NumPy.
        Y: the space that is left out, shape (n, m), NumPy.
        tol: the largest norm of a residual; `None` for eps^0.7 of the size of A.
        maxiter: the largest number of steps; `None` for 500.
        largest: whether the highest eigenvalues are found, or the lowest.
        linear_solver: of the derivatives, as for `eigensolver`.
        policy: of the checks, as for `eigensolver`.

    Returns:
        Eigenvalues (k,) and eigenvectors (n, k), B-orthonormal; descending if `largest`.

    Raises:
        InputError: an argument does not fit.
        EigensolverError: it does not converge (when run).

    Source: `scipy.sparse.linalg.lobpcg`; differs in: a run that does not converge is an error.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> A, X = jnp.diag(jnp.arange(1.0, 41.0)), np.random.default_rng(0).random((40, 2))
        >>> lobpcg(A, X.astype(np.float32), largest=False, maxiter=200)[0].round(2).tolist()
        [1.0, 2.0]
    """
    k = np.shape(X)[1] if np.ndim(X) == 2 else 0
    if not k:
        raise InputError(
            f"`linalg.lobpcg(X)`: a start of shape (n, k); got shape {np.shape(X)}. Give one "
            "column for each eigenpair."
        )
    options = _given(tol=tol, maxiter=maxiter, Y=Y)
    solver = lobpcg_solver(k, M, which="LA" if largest else "SA", **options)
    solve = eigensolver(solver, Hermitian(k), linear_solver=linear_solver, policy=policy)
    values, vectors = solve(*((A,) if B is None else (A, B)), start=X)
    return (values[::-1], vectors[:, ::-1]) if largest else (values, vectors)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not `None`."""
    return {name: value for name, value in options.items() if value is not None}


def _shifts(sigma: Any) -> tuple[Any, Any]:
    """Return a shift that is known here, whose factors serve the derivatives too, and a traced one.

    One of them is `None`.
    """
    return (None, sigma) if is_traced(sigma) else (sigma, None)


def _refuse(function: str, **options: Any) -> None:
    for name in _given(**options):
        raise InputError(
            f"`linalg.{function}({name}=...)`: `None`; got an operator. Leave it out: the package "
            "factorises, and keeps the factors for the derivatives."
        )
