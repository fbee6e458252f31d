"""Drop-ins for `jax.numpy.linalg`, `numpy.linalg` and the generalised ones of `scipy.linalg`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Shaped

from .._eigensolver import Eigensolver, eigensolver
from .._errors import InputError
from ..checks.policy import Action, Policy
from ..host import traceable
from ..problems.general import General
from ..problems.hermitian import Hermitian
from ..problems.singular import Singular
from ..solution import Solution
from ..solvers.on_device import JaxEig, jax_eigh, jax_svd

Matrices = Inexact[Array, "... _ _"]
Numbers = Shaped[Array, "... k"]
# As the originals, they return NaN where they fail. So the value needs no callback to the host.
POLICY = Policy(forward=Action.NAN)


class EighResult(NamedTuple):
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n) of a Hermitian problem.

    Examples:
        >>> import jax.numpy as jnp
        >>> eigh(jnp.diag(jnp.array([2.0, 1.0]))).eigenvalues.tolist()
        [1.0, 2.0]
    """

    eigenvalues: Numbers
    eigenvectors: Matrices


class EigResult(NamedTuple):
    """Eigenvalues (..., n) and eigenvectors (..., n, n), complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> eig(jnp.diag(jnp.array([2.0, 1.0]))).eigenvalues.real.tolist()
        [2.0, 1.0]
    """

    eigenvalues: Numbers
    eigenvectors: Matrices


class SVDResult(NamedTuple):
    """U (..., m, k), singular values S (..., k), descending, and Vh (..., k, n).

    Examples:
        >>> import jax.numpy as jnp
        >>> svd(jnp.diag(jnp.array([1.0, 2.0]))).S.tolist()
        [2.0, 1.0]
    """

    U: Matrices
    S: Numbers
    Vh: Matrices


def eigh(
    a: Any,
    b: Any = None,
    UPLO: Literal["L", "U"] | None = None,
    symmetrize_input: bool = True,
    *,
    eigvals_only: bool = False,
    policy: Policy = POLICY,
) -> Any:
    """Return the eigenvalues and eigenvectors of A x = λ x, or A x = λ B x, A and B Hermitian.

    Args:
        a: A, shape (..., n, n).
        b: B, positive definite, shape (..., n, n); `None` for I. A string stands for `UPLO`, the
            second argument of NumPy's and JAX's `eigh`.
        UPLO: the triangle that is used, "L" (default) or "U", where `symmetrize_input` is false.
        symmetrize_input: whether A and B are replaced by their Hermitian parts.
        eigvals_only: whether only the eigenvalues are returned, as by SciPy's `eigh`.
        policy: what is checked of derivatives, and what happens then. A failed check of the
            answer makes it NaN by default.

    Returns:
        `EighResult`, or the eigenvalues (..., n). Derivatives of functions that have one are right
        and finite at repeated eigenvalues too; others are warned about.

    Raises:
        InputError: an argument does not fit.

    Cost: O(n³); a derivative needs no linear solve.
    Source: see `Hermitian`; differs from `jax.numpy.linalg.eigh` in derivatives at repeated and
        near eigenvalues, where that has NaN or the rounding divided by a gap, and in B.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
        >>> projector = lambda A: (lambda X: X @ X.T)(eigh(A).eigenvectors[:, :2])
        >>> jax.grad(lambda t: projector(A + t * jnp.ones((3, 3)))[0, 2])(0.0).round(3).tolist()
        -1.0
    """
    if isinstance(b, str):
        b, UPLO = None, _triangle(b)
    matrices = [_hermitian("eigh", M, UPLO, symmetrize_input) for M in (a, b) if M is not None]
    solution = _solve(lambda n: eigensolver(jax_eigh(), Hermitian(n), policy=policy), matrices)
    if eigvals_only:
        return solution.values
    return EighResult(solution.values, solution.vectors)


def eigvalsh(
    a: Any,
    b: Any = None,
    UPLO: Literal["L", "U"] | None = None,
    *,
    symmetrize_input: bool = True,
    policy: Policy = POLICY,
) -> Numbers:
    """Return the eigenvalues of A x = λ x, or A x = λ B x, ascending, shape (..., n); see `eigh`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
        >>> jax.grad(lambda A: jnp.sum(eigvalsh(A) ** 2))(A).diagonal().tolist()
        [2.0, 2.0, 4.0]
    """
    return eigh(a, b, UPLO, symmetrize_input, eigvals_only=True, policy=policy)


def eig(
    a: Any, b: Any = None, left: bool = False, right: bool = True, *, policy: Policy = POLICY
) -> Any:
    """Return the eigenvalues and eigenvectors of A x = λ x, or A x = λ B x, complex.

    Args:
        a: A, shape (..., n, n).
        b: B, nonsingular, shape (..., n, n); `None` for I.
        left: whether left eigenvectors are returned too, yᴴA = λ yᴴB, as by SciPy's `eig`; here
            they have yᴴBx = 1.
        right: whether eigenvectors are returned.
        policy: as for `eigh`. The value, too, warns of eigenvalues near an exceptional point, by a
            callback; `Policy.nan()` has none.

    Returns:
        `EigResult`; with `left` the tuple (values, left vectors, vectors); without both the
        eigenvalues (..., n). Their order is that of `jax.numpy.linalg.eig`.

    Raises:
        InputError: an argument does not fit.

    Cost: O(n³); a derivative needs no linear solve.
    Source: see `General`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.array([[1.0, 2.0], [0.0, 3.0]])
        >>> jax.grad(lambda A: eig(A).eigenvalues[0].real)(A).round(4).tolist()
        [[1.0, 0.0], [-1.0, 0.0]]
    """
    matrices = [_array("eig", M) for M in (a, b) if M is not None]
    # in the order of `jax.numpy.linalg.eig`
    solver = traceable(JaxEig().all_pairs)
    solution = _solve(lambda n: eigensolver(solver, General(n, left=True), policy=policy), matrices)
    if left and right:
        return solution.values, solution.left_vectors, solution.vectors
    if left:
        return solution.values, solution.left_vectors
    return EigResult(solution.values, solution.vectors) if right else solution.values


def eigvals(a: Any, b: Any = None, *, policy: Policy = POLICY) -> Numbers:
    """Return the eigenvalues of A x = λ x, or A x = λ B x, complex, shape (..., n); see `eig`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.array([[2.0, 1.0], [0.0, 3.0]])
        >>> jax.grad(lambda A: eigvals(A).prod().real)(A).diagonal().round(3).tolist()  # of det A
        [3.0, 2.0]
    """
    return eig(a, b, right=False, policy=policy)


def svd(
    a: Any,
    full_matrices: bool = True,
    compute_uv: bool = True,
    hermitian: bool = False,
    *,
    policy: Policy = POLICY,
) -> Any:
    """Return the singular value decomposition U diag(S) Vh of A, shape (..., m, n).

    Args:
        a: A.
        full_matrices: whether U and Vh are square. The vectors beyond the min(m, n) triplets have
            no derivative, as their basis is arbitrary, and a derivative is refused.
        compute_uv: whether U and Vh are returned.
        hermitian: accepted, as by NumPy and JAX; it changes nothing here.
        policy: as for `eigh`.

    Returns:
        `SVDResult`, or the singular values (..., min(m, n)), descending.

    Raises:
        InputError: an argument does not fit; or U and Vh are made square and differentiated.

    Cost: O(m n min(m, n)).
    Source: see `Singular`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> A = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # a repeated singular value
        >>> jax.grad(lambda A: svd(A, full_matrices=False).S.sum())(A).round(4).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    del hermitian  # U and V differ by signs then, as in any decomposition
    A = _array("svd", a, square=False)
    solution = _solve(
        lambda k: eigensolver(jax_svd(), Singular(k), policy=policy), [A], min(A.shape[-2:])
    )
    if not compute_uv:
        return solution.values
    U, Vh = jnp.asarray(solution.left_vectors), _adjoint(solution.vectors)
    if full_matrices and A.shape[-2] != A.shape[-1]:
        U, Vh = _without_derivative(U, Vh, A)
    return SVDResult(U, solution.values, Vh)


def svdvals(a: Any, *, policy: Policy = POLICY) -> Numbers:
    """Return the singular values of A, descending, shape (..., min(m, n)); see `svd`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> jax.grad(lambda A: svdvals(A)[0])(jnp.array([[3.0, 0.0], [0.0, 1.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    return svd(a, full_matrices=False, compute_uv=False, policy=policy)


def _array(name: str, a: Any, square: bool = True) -> Matrices:
    """Return a stack of matrices of floating-point numbers, as JAX's functions take them."""
    A = jnp.asarray(a)
    if A.ndim < 2 or (square and A.shape[-1] != A.shape[-2]):
        wanted = "(..., n, n)" if square else "(..., m, n)"
        raise InputError(
            f"`linalg.{name}(a)`: an array of shape {wanted}; got shape {A.shape}. Sparse matrices "
            "are for `linalg.eigsh`, `linalg.eigs` and `linalg.svds`."
        )
    return A if jnp.issubdtype(A.dtype, jnp.inexact) else A.astype(jnp.result_type(float))


def _triangle(word: str) -> Literal["L", "U"]:
    if word not in ("L", "U"):
        raise InputError(
            f"`linalg.eigh(UPLO=...)`: 'L' or 'U'; got {word!r}. The second argument is B or that."
        )
    return "L" if word == "L" else "U"


def _hermitian(name: str, a: Any, triangle: str | None, symmetrise: bool) -> Matrices:
    """Return the Hermitian part, or the Hermitian matrix of a triangle."""
    A = _array(name, a)
    if symmetrise:
        return (A + _adjoint(A)) / 2
    upper = triangle is not None and _triangle(triangle) == "U"
    half = jnp.triu(A, 1) if upper else jnp.tril(A, -1)
    diagonal = jnp.eye(A.shape[-1], dtype=A.dtype) * (A + A.conj()) / 2
    return half + _adjoint(half) + diagonal


def _adjoint(A: Matrices) -> Matrices:
    return jnp.swapaxes(A, -1, -2).conj()


def _solve(make: Callable[[int], Eigensolver], matrices: list, k: int | None = None) -> Solution:
    """Return the solution of a stack of problems of k pairs, with the leading axes of the stack."""
    shape = jnp.broadcast_shapes(*(M.shape[:-2] for M in matrices))
    matrices = [jnp.broadcast_to(M, (*shape, *M.shape[-2:])) for M in matrices]
    k = matrices[0].shape[-1] if k is None else k
    dtype = jnp.result_type(*matrices)
    solve: Callable[..., Solution] = make(k)
    for _ in shape:
        solve = jax.vmap(solve)
    return solve(*(M.astype(dtype) for M in matrices))


def _without_derivative(U: Matrices, Vh: Matrices, A: Matrices) -> tuple[Matrices, Matrices]:
    """Return square U and Vh, whose derivatives are refused."""
    full_U, _, full_Vh = jnp.linalg.svd(jax.lax.stop_gradient(A), full_matrices=True)
    k = U.shape[-1]
    U = jnp.concatenate([U, full_U[..., k:]], axis=-1)
    return _refused(U), _refused(jnp.concatenate([Vh, full_Vh[..., k:, :]], axis=-2))


@jax.custom_jvp
def _refused(M: Matrices) -> Matrices:
    return M


@_refused.defjvp
def _refused_jvp(primals: Any, tangents: Any) -> Any:
    raise InputError(
        "`linalg.svd(full_matrices=True)`: values alone; got a derivative of U or Vh, whose "
        "vectors beyond the min(m, n) triplets are an arbitrary basis. Use `full_matrices=False`; "
        "the projector on these vectors is I − U Uᴴ of the others."
    )
