"""The polynomial eigenproblem: (A₀ + λA₁ + … + λᵈA_d) x = 0."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Inexact

from .._errors import InputError
from ..checks.clusters import closeness
from ..checks.policy import Policy
from ..checks.rounding import VALUE
from ._abstract import Operators
from ._sums import AbstractSums
from ._validation import check_k, whole


class Polynomial(AbstractSums):
    """Declare (Σⱼ λʲ Aⱼ) x = 0, of any degree, with finite eigenvalues.

    `solve(A0, A1, ..., Ad)` takes each operator in any form. Eigenvalues and eigenvectors are
    complex, also for real operators. Eigenvectors have ‖x‖₂ = 1 and the solver's phase; their
    tangent satisfies xᴴẋ = 0. Left eigenvectors y, yᴴT(λ) = 0, have yᴴT'(λ)x = 1. Repeated
    eigenvalues must have as many independent eigenvectors.

    Args:
        k: the number of eigenpairs; 1 ≤ k ≤ d n.
        left: as for `General`.
        guard: how many more eigenpairs the solver is asked for. They show whether k cuts a
            cluster, which `Policy(cluster=...)` judges, and are not part of the solution.

    Raises:
        InputError: k is not a positive integer.

    Cost: one bordered solve for each eigenpair that a derivative uses, another where the solver
        returns no more than k, and d + 1 products for each.
    Source: Andrew, Chu & Lancaster (1993) SIAM J. Matrix Anal. 14, 903; see the module `_pairs`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import eigensolver
        >>> root = lambda C, K, M: (np.sqrt(-K[0] / M[0] + 0j), np.ones((1, 1)))
        >>> solve = eigensolver(lambda K, C, M: root(C, K, M), Polynomial(k=1))
        >>> K, C, M = jnp.array([[4.0]]), jnp.array([[0.0]]), jnp.array([[1.0]])
        >>> float(jax.grad(lambda C: solve(K, C, M).values[0].real)(C).round(4)[0, 0])
        -0.5
    """

    k: int = eqx.field(static=True, converter=whole)
    left: bool = eqx.field(static=True, default=False)
    guard: int = eqx.field(static=True, default=0, converter=whole)

    def __check_init__(self):
        check_k("Polynomial", self.k, self.guard)

    @property
    def left_scale(self) -> float:
        """Return the number vᵀT'(λ)x, for yᴴT′(λ)x = 1."""
        return 1.0

    def with_guard(self) -> "Polynomial":
        """Return the problem of k + guard eigenpairs."""
        return Polynomial(self.k + self.guard, self.left)

    def most_pairs(self, count: int, n: int) -> int:
        """Return d n."""
        if count < 2:
            raise InputError(
                "`eigensolver(problem=Polynomial(...))`: two operators or more, A0, A1, ..., Ad; "
                f"got {count}. Call `solve(A0, A1, A2)` for a quadratic problem."
            )
        return (count - 1) * n

    def terms(self, operators: Operators) -> tuple[lx.AbstractLinearOperator | None, ...]:
        """Return all operators."""
        return operators

    def weights(self, lam: Inexact[Array, " k"], count: int) -> tuple[Inexact[Array, " k"], ...]:
        """Return the powers of λ."""
        return tuple(lam**j for j in range(count))

    def block_weights(
        self, S: Inexact[Array, "k k"], count: int
    ) -> tuple[Inexact[Array, "k k"], ...]:
        """Return the powers of S."""
        powers = [jnp.eye(self.k, dtype=S.dtype)]
        for _ in range(count - 1):
            powers.append(powers[-1] @ S)
        return tuple(powers)

    @property
    def smooth_sums(self) -> bool:
        """Return False: only eigenpairs of a cluster share a block."""
        return False

    def spans(self, n: int) -> bool:
        """Return False, because the eigenvectors of all dn eigenpairs are not a basis."""
        return False

    def near(self, lam: Array, error: Array, policy: Policy) -> Float[Array, "k k"]:
        """Return the closeness of the eigenvalues; the border T'(λ) allows for their spread.

        It does by less where T'(λ)x is small, because another root is near.
        """
        if policy.degeneracy_rtol is not None:
            return closeness(lam, error, policy.degeneracy_rtol)
        eps = float(jnp.finfo(lam.dtype).eps)
        size = VALUE * eps * jnp.abs(lam)
        lost = jnp.max(error / jnp.where(size > 0, size, 1), initial=1.0)
        return closeness(lam, error, eps**0.5 / lost)
