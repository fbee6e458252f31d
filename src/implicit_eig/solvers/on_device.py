"""Dense eigenproblems on the device of the arrays, by JAX."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import lineax as lx
from jax.lax import linalg
from jaxtyping import Array, Inexact

from .._errors import InputError
from ..host import Traceable
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.factorizations import Shift, shift
from ._abstract import AbstractForwardSolver
from ._which import check_which

Matrix = Inexact[Array, "m n"]
# The order of each word: the least of these numbers comes first.
FIRST: dict[str, Callable[[Array], Array]] = {
    "SA": lambda lam: lam.real,
    "LA": lambda lam: -lam.real,
    "LM": lambda lam: -jnp.abs(lam),
    "SM": jnp.abs,
    "LR": lambda lam: -lam.real,
    "SR": lambda lam: lam.real,
    "LI": lambda lam: -jnp.abs(lam.imag),
    "SI": lambda lam: jnp.abs(lam.imag),
}


class OnDevice(Traceable, AbstractForwardSolver):
    """Find all eigenpairs or singular triplets, the k wanted ones first."""

    usual: ClassVar[str] = "LM"

    def __init__(self, k: int | None = None, sigma: Shift | None = None, which: str | None = None):
        self.k = k
        self.sigma = sigma
        self.which = which

    @property
    def fn(self) -> Callable[..., tuple[Array, ...]]:
        """Return the function that JAX traces."""
        return self.pairs

    def linear_solver(self) -> lx.AbstractLinearSolver:
        """Return the default."""
        return AutoLinearSolver(self.sigma)

    def pairs(self, A: Any, B: Any = None, *, sigma: Any = None) -> tuple[Array, ...]:
        """Return the eigenvalues and vectors of arrays, those that are wanted first."""
        for name, M in (("A", A), ("B", B)):
            if not (M is None or isinstance(M, jax.Array)):
                raise InputError(
                    f"`solvers.{self.name}(...)`: an {name} that is an array; got "
                    f"{type(M).__name__}. Use `solvers.arpack` for sparse operators, or "
                    "`solvers.lanczos` for products."
                )
        values, *vectors = self.all_pairs(A, B)
        sigma = self.sigma if sigma is None else sigma
        wanted = values if sigma is None else 1 / (values - sigma)
        first = FIRST[self.which or (self.usual if sigma is None else "LM")](wanted)
        first = jnp.where(jnp.isfinite(values), first, jnp.inf)
        # of equal numbers that of larger imaginary part comes first
        order = jnp.lexsort((-values.imag, first))
        if self.kinds[0] == "Hermitian" and self.k is not None:
            order = order.at[: self.k].set(jnp.sort(order[: self.k]))  # ascending
        return tuple(part[..., order] for part in (values, *vectors))

    def all_pairs(self, A: Matrix, B: Matrix | None = None) -> tuple[Array, ...]:
        """Return all of them, in the order of the function that finds them."""
        raise NotImplementedError


class JaxEigh(OnDevice):
    """Find eigenpairs by `jax.numpy.linalg.eigh`; made by `jax_eigh`."""

    kinds = ("Hermitian", "Subspace")
    name = "jax_eigh"
    usual = "SA"

    def all_pairs(self, A: Matrix, B: Matrix | None = None) -> tuple[Array, ...]:
        """Return the eigenvalues, ascending, and B-orthonormal eigenvectors."""
        if B is None:
            return tuple(jnp.linalg.eigh(A))
        # B = L Lᴴ, and L⁻¹A L⁻ᴴ is Hermitian
        L = jnp.linalg.cholesky(B)

        def solve(M: Matrix, transpose: int = 0) -> Matrix:
            return jax.scipy.linalg.solve_triangular(L, M, trans=transpose, lower=True)

        values, Y = jnp.linalg.eigh(solve(solve(A).conj().T))
        return values, solve(Y, 2)


class JaxEig(OnDevice):
    """Find eigenpairs by `jax.lax.linalg.eig`; made by `jax_eig`."""

    kinds = ("General", "Subspace")
    name = "jax_eig"

    def all_pairs(self, A: Matrix, B: Matrix | None = None) -> tuple[Array, ...]:
        """Return the eigenvalues, right and left eigenvectors."""
        if B is None:
            values, left, right = linalg.eig(A)
            return values, right, left
        # wᴴB⁻¹A = λ wᴴ gives yᴴA = λ yᴴB with y = B⁻ᴴw
        factors = jax.scipy.linalg.lu_factor(B)
        values, left, right = linalg.eig(jax.scipy.linalg.lu_solve(factors, A))
        complex_factors = factors[0].astype(left.dtype), factors[1]
        return values, right, jax.scipy.linalg.lu_solve(complex_factors, left, trans=2)


class JaxSvd(OnDevice):
    """Find singular triplets by `jax.numpy.linalg.svd`; made by `jax_svd`."""

    kinds = ("Singular",)
    name = "jax_svd"

    def all_pairs(self, A: Matrix, B: Matrix | None = None) -> tuple[Array, ...]:
        """Return the singular values, right and left singular vectors."""
        U, values, Vh = jnp.linalg.svd(A, full_matrices=False)
        return values, Vh.conj().T, U


def jax_eigh(
    k: int | None = None, sigma: Shift | None = None, *, which: str | None = None
) -> JaxEigh:
    """Make a solver for dense Hermitian problems by `jax.numpy.linalg.eigh`, on the device.

    A pencil is reduced by the Cholesky factor of B.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        sigma: the eigenvalues nearest to it; `solve(A, sigma=...)` gives one that JAX may trace.
        which: "SA", the lowest (default), "LA", "LM" or "SM"; with `sigma` it applies to
            1/(λ − σ), and "LM" is the default.

    Returns:
        A solver for `eigensolver(..., Hermitian(k))` without callbacks to the host: it finds all
        eigenpairs, so that no linear system is left to derivatives with k = n, and a repeated
        eigenvalue that k cuts is seen.

    Raises:
        InputError: `which` is unknown, or an operator is not an array (when traced).

    Cost: O(n³).
    Source: Golub & Van Loan (2013) Matrix Computations, section 8.7.2.

    Examples:
        >>> import jax.numpy as jnp
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(jax_eigh(which="LA"), Hermitian(k=2))
        >>> solve(jnp.diag(jnp.array([1.0, 2.0, 4.0]))).values.tolist()
        [2.0, 4.0]
    """
    return JaxEigh(k, shift(sigma), _word("jax_eigh", which, ("SA", "LA", "LM", "SM")))


def jax_eig(
    k: int | None = None, sigma: Shift | None = None, *, which: str | None = None
) -> JaxEig:
    """Make a solver for dense general problems by `jax.lax.linalg.eig`, on the device.

    A pencil is reduced by B⁻¹; one with a singular B is for `lapack`.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        sigma: the eigenvalues nearest to it; `solve(A, sigma=...)` gives one that JAX may trace.
        which: "LM" (default), "SM", "LR", "SR", "LI" or "SI"; with `sigma` it applies to 1/(λ − σ).

    Returns:
        A solver for `eigensolver(..., General(k))` with left eigenvectors, so that gradients of
        eigenvalues need no linear solve. It runs where JAX has `eig`, at least on CPUs.

    Raises:
        InputError: `which` is unknown, or an operator is not an array (when traced).

    Cost: O(n³).
    Source: Golub & Van Loan (2013) Matrix Computations, section 7.7.

    Examples:
        >>> import jax.numpy as jnp
        >>> from implicit_eig import General, eigensolver
        >>> solve = eigensolver(jax_eig(), General(k=1))
        >>> solve(jnp.array([[1.0, 1.0], [0.0, 2.0]])).values.real.round(4).tolist()
        [2.0]
    """
    return JaxEig(k, shift(sigma), _word("jax_eig", which, ("LM", "SM", *list(FIRST)[4:])))


def jax_svd(k: int | None = None, *, which: str | None = None) -> JaxSvd:
    """Make a solver for singular triplets of arrays by `jax.numpy.linalg.svd`, on the device.

    Args:
        k: the number of triplets; `None` for that of the problem.
        which: "LM" (default) or "SM", the largest or the smallest.

    Returns:
        A solver for `eigensolver(..., Singular(k))` without callbacks to the host.

    Raises:
        InputError: `which` is unknown, or the operator is not an array (when traced).

    Cost: O(m n min(m, n)).
    Source: `jax.numpy.linalg.svd`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from implicit_eig import Singular, eigensolver
        >>> eigensolver(jax_svd(), Singular(k=1))(jnp.diag(jnp.array([1.0, 3.0]))).values.tolist()
        [3.0]
    """
    return JaxSvd(k, None, _word("jax_svd", which, ("LM", "SM")))


def _word(name: str, which: str | None, known: tuple[str, ...]) -> str | None:
    if which is not None:
        check_which(name, which, known)
    return which
