"""The general eigenproblem, standard and generalised: A x = λ B x."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact

from .._errors import InputError
from ..checks.clusters import closeness, rounding_only
from ..checks.policy import Policy, enforce, exceptional_check
from ..operators import column_norms, scale_columns
from ..solution import Joint
from ..systems.matrices import Shifted
from ._abstract import Operators
from ._pairs import Pairs
from ._pairs_check import near_exceptional_blocks
from ._separate import near_blocks, separate
from ._sums import AbstractSums
from ._validation import check_k, whole


class General(AbstractSums):
    """Declare A x = λ B x for square A and B, with finite eigenvalues; B may be singular.

    `solve(A)` stands for B = I. Eigenvalues and eigenvectors are complex, also for real operators,
    and the gradient with respect to real operators is real. Eigenvectors have ‖x‖₂ = 1 and the
    solver's phase; their tangent satisfies xᴴẋ = 0. Left eigenvectors y, yᴴA = λ yᴴB, have
    yᴴBx = 1. Repeated eigenvalues must have as many independent eigenvectors.

    Args:
        k: the number of eigenpairs; 1 ≤ k ≤ n.
        left: whether left eigenvectors are part of the solution, `solution.left_vectors` (n, k):
            the solver's third output, or otherwise by one transposed solve for each eigenpair.
        guard: how many more eigenpairs the solver is asked for. They show whether k cuts a
            cluster, which `Policy(cluster=...)` judges, and are not part of the solution.

    Raises:
        InputError: k is not a positive integer.

    Cost: one linear solve for each eigenpair that a derivative uses, and another where the solver
        returns no more than k, which shows that k cuts no cluster; with sparse operators one
        factorisation serves all of them (`ShiftInvert`). Where the solver returns left
        eigenvectors, and with `left=True`, a gradient of eigenvalues needs no solve.
    Source: see the module `_pairs`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import eigensolver
        >>> solve = eigensolver(np.linalg.eig, General(k=1))
        >>> A = jnp.array([[1.0, 2.0], [0.0, 3.0]])
        >>> jax.grad(lambda A: solve(A).values[0].real)(A).round(4).tolist()
        [[1.0, 0.0], [-1.0, 0.0]]
    """

    k: int = eqx.field(static=True, converter=whole)
    left: bool = eqx.field(static=True, default=False)
    guard: int = eqx.field(static=True, default=0, converter=whole)

    def __check_init__(self):
        check_k("General", self.k, self.guard)

    @property
    def left_scale(self) -> float:
        """Return the number vᵀT'(λ)x, T′ = −B: yᴴBx = 1."""
        return -1.0

    def with_guard(self) -> "General":
        """Return the problem of k + guard eigenpairs."""
        return General(self.k + self.guard, self.left)

    def most_pairs(self, count: int, n: int) -> int:
        """Return n."""
        if not 1 <= count <= 2:
            raise InputError(
                "`eigensolver(problem=General(...))`: one operator A, or two, A and B; got "
                f"{count}. Call `solve(A)` or `solve(A, B)`."
            )
        return n

    def metric(self, operators: Operators) -> lx.AbstractLinearOperator | None:
        """Return B."""
        return self.terms(operators)[1]

    def terms(self, operators: Operators) -> tuple[lx.AbstractLinearOperator | None, ...]:
        """Return (A, B), B = `None` for I."""
        return operators if len(operators) == 2 else (*operators, None)

    def matrices(self, lam: Inexact[Array, " k"], operators: Operators) -> Shifted:
        """Return A − λᵢB."""
        return Shifted(self.terms(operators), self.weights(lam, 2))

    def weights(self, lam: Inexact[Array, " k"], count: int) -> tuple[Inexact[Array, " k"], ...]:
        """Return (1, −λ)."""
        return jnp.ones_like(lam), -lam

    def block_weights(
        self, S: Inexact[Array, "k k"], count: int
    ) -> tuple[Inexact[Array, "k k"], ...]:
        """Return (I, −S)."""
        return jnp.eye(self.k, dtype=S.dtype), -S

    def spans(self, n: int) -> bool:
        """Return whether k = n."""
        return self.k == n

    def near(self, lam: Array, error: Array, policy: Policy) -> Float[Array, "k k"]:
        """Return the closeness of the eigenvalues."""
        return closeness(lam, error, rounding_only(policy))

    def least_conditions(self, border: Inexact[Array, "n k"]) -> Float[Array, " k"]:
        """Return ‖zᵢ‖ ‖Bxᵢ‖ of the shortest zᵢ with zᵢᴴBxⱼ = δᵢⱼ, as the left vector has."""
        norms = column_norms(border)
        _, R = jnp.linalg.qr(scale_columns(border, 1 / jnp.where(norms > 0, norms, 1)))
        identity = jnp.eye(len(norms), dtype=R.dtype)
        inverse = jax.scipy.linalg.solve_triangular(R, identity)
        return jnp.nan_to_num(column_norms(inverse.T), nan=jnp.inf)

    def blocks(self, lam: Array, near: Float[Array, "k k"]) -> Bool[Array, "k k"]:
        """Return which eigenpairs share a block: also those with near eigenvalues."""
        return near_blocks(lam, near)

    def joint(self, state: Pairs) -> Joint | None:
        """Return (S, X, Y), YᴴBX = I, where left vectors are part of the solution."""
        return Joint(state.S, state.X, state.V.conj()) if self.left else None

    def watch_joint(
        self, state: Pairs, operators: Operators, policy: Policy, tangent: Pairs
    ) -> Pairs:
        """Return the tangent, warned about where eigenvalues that share a block are defective."""
        conditions = self.condition_numbers(state, operators)
        shared = jnp.sum(self.blocks_of(state), axis=0) > 1
        figures = jnp.where(shared, conditions, 0), state.lam
        return enforce(exceptional_check(policy, near_exceptional_blocks), figures, tangent)

    def separate(self, state: Pairs) -> Pairs:
        """Return the state with the block of each cluster separated from the others."""
        return Pairs(*separate(state.S, state.X, state.V, state.near), state.unseen)
