"""Counting eigenvalues by the inertia of a factorisation.

Congruent matrices have as many negative eigenvalues as each other (Sylvester's law). So with a
positive definite B = C Cᴴ and A − σB = L D Lᴴ, the negative eigenvalues of D, of C⁻¹A C⁻ᴴ − σI, and
the eigenvalues of A x = λ B x below σ are equally many.

What is factorised is A − σB + E, with E of the size of the backward error. The count is therefore
right unless an eigenvalue of A − σB is as small as that, which is tested. Before, rows and columns
are scaled by another congruence, so that the terms of the largest entry of each row are of size 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Int

from .. import host
from .._errors import InputError, LinearSolveError
from ..operators import as_operator, has_entries, promoted
from ..operators.views import host_view
from .ldlt import factor_symmetric

# The number that stands for one that is not known.
UNKNOWN = -1
# Steps of inverse iteration for the smallest eigenvalue, which ends within a factor of a few.
STEPS = 3
# That many times the backward error is the smallest eigenvalue whose sign is trusted.
TRUSTED = 100.0
# Up to this size a matrix of which rslab finds no pivots is factorised as a dense one.
DENSE = 3_000


def count_below(A: Any, B: Any, sigma: Any) -> Int[Array, ""]:
    """Return the number of eigenvalues of A x = λ B x below σ.

    It proves that none was lost: if A has k eigenvalues below σ and a solver returned k different
    ones, these are all. `Hermitian(k, certified=True)` does so at each solve.

    Args:
        A: Hermitian, with known entries, as for `eigensolver`; shape (n, n).
        B: positive definite, the same; `None` for the identity.
        sigma: a real number, also one that JAX traces. It has no derivative.

    Returns:
        An integer, shape ().

    Raises:
        InputError: an operator is known by its products alone, or the shapes do not fit.
        LinearSolveError: σ is an eigenvalue, to rounding.

    Cost: a factorisation L D Lᴴ of A − σB in double precision, on the host: by rslab for sparse
        operators, of twice the size where they are complex. All eigenvalues for dense ones.
    Source: Parlett (1998) The Symmetric Eigenvalue Problem, section 3.3.

    Examples:
        >>> import jax.numpy as jnp
        >>> count_below(jnp.diag(jnp.array([1.0, 3.0, 8.0])), None, 5.0).tolist()
        2
    """
    names = ("A", A), ("B", B)
    given = tuple(as_operator(name, M) for name, M in names if M is not None)
    return count(promoted("count_below(A, B)", given), sigma)


def count(
    operators: tuple[lx.AbstractLinearOperator, ...], sigma: Any, forgiving: bool = False
) -> Int[Array, ""]:
    """Return the same of one operator A, or of two, A and B.

    `forgiving` is to return `UNKNOWN` where σ is an eigenvalue.
    """
    if not all(map(has_entries, operators)):
        raise InputError(
            "`count_below(A, B, sigma)`: operators whose entries are known, to factorise A − σB; "
            "got one that is known by its products alone. Give arrays or sparse matrices."
        )
    shapes = {(o.out_size(), o.in_size()) for o in operators}
    n, m = next(iter(shapes))
    if len(shapes) > 1 or n != m:
        raise InputError(
            "`count_below(A, B, sigma)`: square operators of one size; got shapes "
            f"{', '.join(map(str, shapes))}. Check how they were assembled."
        )
    if np.ndim(sigma) or jnp.iscomplexobj(sigma):
        raise InputError(
            "`count_below(A, B, sigma)`: a real number sigma; got an array of shape "
            f"{np.shape(sigma)} and dtype {jnp.result_type(sigma)}. Call it for each shift."
        )
    still = jax.lax.stop_gradient((operators, jnp.asarray(sigma)))
    like = jax.ShapeDtypeStruct((), jnp.int32)
    return host.call(host.Forgiving(_count, like) if forgiving else _count, like, *still)


def _count(operators: tuple[Any, ...], sigma: np.ndarray) -> np.ndarray:
    A, *rest = map(host_view, operators)
    A = A.astype(np.result_type(A.dtype, np.float64))
    B: Any = rest[0] if rest else sp.eye_array(A.shape[0], format="csr")
    B = float(sigma) * (B if sp.issparse(A) or rest else B.toarray())
    M, terms = A - B, abs(A) + abs(B)
    size = terms.max(axis=1)
    size = np.ravel(size.toarray() if sp.issparse(size) else size)
    scale = sp.diags_array(1 / np.sqrt(np.where(size > 0, size, 1.0)))
    M, terms = scale @ ((M + M.conj().T) / 2) @ scale, scale @ terms @ scale
    count = _of_sparse if sp.issparse(M) else _of_dense
    return np.asarray(count(M, float(np.max(terms.sum(axis=0))), sigma), np.int32)


def _of_sparse(M: Any, norm: float, sigma: Any) -> int:
    """Return the number of negative eigenvalues of a sparse Hermitian matrix.

    `norm` is that of the terms of its entries, of which rounding is a part.
    """
    if np.iscomplexobj(M):  # each eigenvalue twice
        M = sp.block_array([[M.real, -M.imag], [M.imag, M.real]])
        return _of_sparse(M, 2 * norm, sigma) // 2
    n, M = M.shape[0], sp.csc_matrix(M)
    try:
        factor = factor_symmetric(M)
    except RuntimeError:
        factor = None
    if factor is not None:
        error, smallest = _accuracy(M, norm, factor.solve)
        if smallest > TRUSTED * error:
            return factor.inertia[1]
    if n > DENSE:
        raise _is_eigenvalue(sigma)
    return _of_dense(M.toarray(), norm, sigma)


def _of_dense(M: np.ndarray, norm: float, sigma: Any) -> int:
    """Return the same of a dense Hermitian matrix."""
    lam = np.linalg.eigvalsh(M)
    if not np.min(abs(lam)) > TRUSTED * np.finfo(float).eps * norm:
        raise _is_eigenvalue(sigma)
    return int(np.sum(lam < 0))


def _accuracy(M: Any, norm: float, solve: Any) -> tuple[float, float]:
    """Return the backward error of the factors and the smallest |eigenvalue|, over `norm`."""
    error = float(np.finfo(float).eps)
    x = np.random.default_rng(0).standard_normal(M.shape[0])
    for _ in range(STEPS):
        b = x / np.linalg.norm(x)
        x = solve(b)
        error = max(error, np.linalg.norm(M @ x - b) / (norm * np.linalg.norm(x) + 1))
    return error, 1 / (norm * np.linalg.norm(x))


def _is_eigenvalue(sigma: Any) -> LinearSolveError:
    return LinearSolveError(
        f"`count_below(A, B, sigma)`: a sigma that is no eigenvalue; got {float(sigma):.6g}, of "
        "which rounding does not show on which side an eigenvalue lies. Choose a shift between "
        "two eigenvalues."
    )
