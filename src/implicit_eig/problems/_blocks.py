"""What problems with several vectors at once share: S is diagonal in value, not in its tangent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from .._compiled import constant_like
from .._errors import InputError
from ..checks.policy import Objection
from ..linear_solvers._systems import AbstractLinearisation, AbstractLinearSystems
from ..operators import diagonal, scale_columns
from ..solution import Solution
from ..systems._abstract import AbstractFormulation, Pencil

# An inner product is rounding below so many eps of its factors' sizes.
QUIET = 10.0
# Unit vectors whose Gram matrix has an eigenvalue below this do not span their space.
INDEPENDENCE = 1e-3


class Linearisation(AbstractLinearisation):
    """A pencil, and the form of its systems."""

    system: AbstractFormulation
    pencil: Pencil

    def assemble(self) -> AbstractLinearSystems:
        """Return the systems."""
        return self.system.assemble(self.pencil)


def divide(fn: Callable[[Array], Array], b: Array, divisor: Array) -> Array:
    """Return the solution of fn(C) = b, where `fn` multiplies by `divisor` in value.

    As a solve it also has the derivative with respect to what `fn` closes over.
    """

    def solve(_: Any, b: Array) -> Array:
        return b / divisor

    # the transpose of a diagonal map is itself
    return lax.custom_linear_solve(fn, b, solve, solve)


def couplings(
    S: Inexact[Array, "k k"],
    G: Inexact[Array, "k k"],
    N: Inexact[Array, "k k"] | None,
    equal: Bool[Array, "k k"],
) -> tuple[Inexact[Array, "k k"], Inexact[Array, "k k"]]:
    """Return Ṡ and the turn K: with C = K − N/2, CS − SC = G − Ṡ, Ṡ within blocks, K between.

    That is KS − SK = H − Ṡ with H = G + (NS − SN)/2, which is Hermitian where operators cause G
    and N; K is skew-Hermitian then. Without an N it is zero.
    """
    H = G if N is None else G + (N @ S - S @ N) / 2

    def commutator(K: Inexact[Array, "k k"]) -> Inexact[Array, "k k"]:
        return jnp.where(equal, K, K @ S - S @ K)

    lam = diagonal(S)
    gaps = jnp.where(equal, jnp.ones_like(S), lam[None, :] - lam[:, None])
    K = divide(commutator, jnp.where(equal, jnp.zeros_like(H), H), gaps)
    return jnp.where(equal, H, jnp.zeros_like(H)), K


def orthonormalize(
    gram: Inexact[Array, "k k"], *bases: Inexact[Array, "... k"]
) -> tuple[tuple[Inexact[Array, "... k"], ...], "Gram"]:
    """Return `bases` in the basis M with Mᴴ gram M = I, and what there is to judge.

    By the Cholesky factor, which also makes the vectors of a cluster orthogonal; others it leaves
    as they are, to rounding. Vectors that are orthogonal already are scaled and no more.
    """
    norms = jnp.sqrt(jnp.maximum(diagonal(gram).real, 0))
    inverse = 1 / jnp.where(norms > 0, norms, 1)
    gram = gram * (inverse[:, None] * inverse[None, :]).astype(gram.dtype)
    identity = constant_like(jnp.eye(len(gram), dtype=gram.dtype), gram)
    bases = tuple(scale_columns(X, inverse) for X in bases)

    def mixed(independent: Array, bases: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        factor = jnp.linalg.cholesky(gram)
        mix = jax.scipy.linalg.solve_triangular(factor, identity, lower=True).conj().T
        independent = jnp.linalg.cholesky(gram - INDEPENDENCE * identity)
        return jnp.all(jnp.isfinite(independent)), tuple(X @ mix for X in bases)

    eps = float(jnp.finfo(norms.dtype).eps)
    orthonormal = jnp.all(jnp.abs(gram - identity) <= QUIET * eps)
    same = lambda orthonormal, bases: (orthonormal, bases)  # noqa: E731
    independent, bases = lax.cond(orthonormal, same, mixed, orthonormal, bases)
    return bases, Gram(gram, norms, independent)


class Gram(NamedTuple):
    """The Gram matrix of unit vectors, their norms before, and whether they span their space."""

    matrix: Any
    norms: Any
    independent: Any


def dependent(requirement: str, overlap: str, gram: Any, independent: Any) -> Objection:
    """Object to unit vectors that are not independent; the entries of `gram` are `overlap`."""

    def message(_: np.ndarray) -> str:
        spectrum, mixes = np.linalg.eigh(gram)
        i, j = np.sort(np.argsort(-np.abs(mixes[:, 0]))[:2])
        return (
            f"{requirement}independent vectors; got pairs {i} and {j} with {overlap} = "
            f"{np.abs(gram[i, j]):.6f} of 1 (smallest eigenvalue of the Gram matrix "
            f"{spectrum[0]:.1e}). The solver lost a member of a cluster: ask it for more "
            "pairs, a larger subspace, or use a block method."
        )

    return Objection(~independent, message)


def diagonalise(S: Inexact[Array, "k k"]) -> tuple[Inexact[Array, "k k"], Inexact[Array, "k k"]]:
    """Return Λ, in the order of the diagonal of S, and Q with S = QΛQᴴ; S is nearly diagonal."""
    lam, Q = jnp.linalg.eigh((S + S.conj().T) / 2)
    rank = jnp.argsort(jnp.argsort(diagonal(S).real))
    return jnp.diag(lam[rank]).astype(S.dtype), Q[:, rank]


def membership(solution: Solution) -> Float[Array, "k k"]:
    """Return 1 for two pairs of a cluster, else 0; a solution that is not checked has none."""
    k = solution.vectors.shape[1]
    equal = jnp.eye(k, dtype=bool) if solution._equal is None else jnp.asarray(solution._equal)
    return equal.astype(jnp.finfo(solution.vectors.dtype).dtype)


def turn_defect(
    S: Inexact[Array, "k k"],
    X: Inexact[Array, "n k"],
    S_bar: Inexact[Array, "k k"],
    X_bar: Inexact[Array, "n k"],
    clusters: Bool[Array, "k k"],
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return |D| and the size of X̄, D being what X → X exp(K), S → exp(−K) S exp(K) changes.

    For skew-Hermitian K within clusters the change is Re tr(DK), D the skew-Hermitian part of
    X̄ᵀX + S̄ᵀS − SS̄ᵀ, for JAX pairs a cotangent with a tangent by Re ΣX̄Ẋ.
    """
    M = X_bar.T @ X + S_bar.T @ S - S @ S_bar.T
    D = jnp.where(clusters, (M - M.conj().T) / 2, jnp.zeros_like(M))
    return jnp.abs(D), jnp.max(product_sizes(X_bar, X))


def turn_defect_of_pairs(
    lam: Float[Array, " k"],
    X: Inexact[Array, "n k"],
    S_bar: Inexact[Array, "k k"],
    X_bar: Inexact[Array, "n k"],
    clusters: Bool[Array, "k k"],
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return what `turn_defect` does, of a function that is shown the diagonal of S = Λ alone.

    A cotangent S̄ that is not diagonal stands in a gradient that is differentiated again, where it
    balances that of X; or the block was asked for on purpose, and has no part in the defect.
    """
    # the order of the factors is that of a transposed X @ K: a compiler computes it once
    M = (X.T @ X_bar).T
    of_block = S_bar.T * (lam[None, :] - lam[:, None]).astype(M.dtype)
    parts = [jnp.abs(D - D.conj().T) / 2 for D in (M, M + of_block)]
    defect = jnp.where(clusters, jnp.minimum(*parts), 0)
    return defect, jnp.max(product_sizes(X, X_bar))


def beyond_rounding(
    defect: Float[Array, "k k"], near_bar: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """Return what is left of a defect beyond the rounding of what `_separate` divided by gaps."""
    eps = float(jnp.finfo(defect.dtype).eps)
    return jnp.maximum(defect - QUIET * eps * jnp.max(jnp.abs(near_bar)), 0)


def product_sizes(X: Inexact[Array, "n k"], Y: Inexact[Array, "n k"]) -> Float[Array, "k k"]:
    """Return |X|ᵀ|Y|, the sizes of what is summed in XᵀY: in no unit of the unknowns."""
    return jnp.abs(X).T @ jnp.abs(Y)


def check_k(name: str, k: Any, guard: Any = 0) -> None:
    """Raise `InputError` unless k is a positive integer, and `guard` none below 0."""
    for argument, value, least, wanted in (
        ("k", k, 1, "a positive number of pairs"),
        ("guard", guard, 0, "a number of pairs, 0 or more"),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"`{name}({argument}=...)`: {wanted}; got {value!r}. Give {argument} as an integer."
            )
