"""The Hermitian eigenproblem, standard and generalised: A X = B X Λ, Xᴴ B X = I.

Tangents. The basis of a subspace moves smoothly where single eigenvectors in it do not, so the
condition is written with a block for eigenpairs whose eigenvalues are near each other,
A X = B X S. At the solution S is equal to Λ, but its tangent is full inside a block. With
W = ȦX − ḂXS and G = XᴴW,

    A Ẋ − B Ẋ S = −W + BXṠ.

Multiplied by Xᴴ from the left, with Ẋ = XC + Z and XᴴBZ = 0, it gives CS − SC = G − Ṡ, and
XᴴBX = I asks for C + Cᴴ = −N, N = XᴴḂX. So C = K − N/2 with a skew-Hermitian K, which turns the
vectors, and with the Hermitian H = G + (NS − SN)/2

    Ṡ = H            inside a block,      so λ̇ᵢ = Gᵢᵢ,
    KS − SK = H      between blocks,      so Kⱼᵢ = Hⱼᵢ / (λᵢ − λⱼ);

inside a block K = 0 is the choice that does not turn the basis (and keeps the phase: xᵢᴴBẋᵢ is
real). The remaining equations,

    A Z − B Z S = −(W − BXG),    XᴴBZ = 0,

are the only linear solves, (A − λᵢB) zᵢ = −(W − BXG)ᵢ, because S is equal to a diagonal matrix.

The single eigenpairs follow from the basis of a block, see `_separate`. Eigenvalues that are equal
to rounding, a cluster, stay one block. Derivatives of functions of its space and of sums of its
eigenvalues are exact. But λᵢ is only the diagonal of S: second derivatives of, say, a sum of
squared eigenvalues lack the contribution of the off-diagonal part of Ṡ, and so do first derivatives
of functions that mix f(λ) with the eigenvectors. `matrix_function` takes S and X from before the
eigenpairs are separated, and has it.

Source: Nelson (1976) AIAA J. 14, 1201; Andrew & Tan (1998) SIAM J. Matrix Anal. 20, 78.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact

from .._errors import InputError
from ..checks.policy import Policy, enforce, exceptional_check, forward_check, tolerance
from ..operators import apply, diagonal
from ..solution import Joint, Solution
from ..systems._abstract import AbstractFormulation, AbstractPencilSystems, Pencil
from ..systems.auto import known_in_full, pencil_systems
from ._abstract import AbstractLinearised, AbstractProblem, LinearSolve, Operators
from ._certificate import certify, check_certified
from ._couplings import couplings, diagonalise
from ._hermitian_check import (
    UnfitPairs,
    hermitian_parts,
    nearly_singular,
    normalize,
    unfit_operators,
)
from ._separate import near_blocks, separate_orthonormal
from ._turns import beyond_rounding, turn_defect_of_pairs
from ._validation import check_k, membership, whole


class Invariant(eqx.Module):
    """The state of the conditions A X = B X S, Xᴴ B X = I: the block S, the basis X, clusters.

    `near` is the `closeness` of the eigenvalues, 1 for two of one cluster; `beyond` holds
    eigenvalues and eigenvectors outside the conditions, where the solver returned some; `unseen`
    is 1 where nothing shows whether k cuts a cluster. All three are constant.
    """

    S: Inexact[Array, "k k"]
    X: Inexact[Array, "n k"]
    near: Float[Array, "k k"]
    beyond: tuple[Float[Array, " g"], Inexact[Array, "n g"]] | None = None
    unseen: Float[Array, ""] | None = None


class Hermitian(AbstractProblem):
    """Declare A X = B X Λ, Xᴴ B X = I, with A Hermitian and B Hermitian positive definite.

    `solve(A)` stands for B = I. The gradient with respect to a dense array is Hermitian, as
    that of `jnp.linalg.eigh` is; the gradient with respect to the entries of a sparse operator
    treats them as independent.

    Args:
        k: the number of eigenpairs; 1 ≤ k ≤ n.
        guard: how many more eigenpairs the solver is asked for. They show whether k cuts a
            cluster, which `Policy(cluster=...)` judges, and spare iterative linear solvers the
            directions that cost them the most steps; they are not part of the solution.
        certified: whether each solve proves by `count_below` that no eigenpair was lost: "lowest"
            that these are the k lowest ones, "highest" that they are the k highest, "between" that
            they are all between the lowest and the highest of them. True stands for "lowest". The
            operators must have known entries. `Policy(forward=...)` decides what happens if the
            proof fails.

    Raises:
        InputError: k is not a positive integer; `certified` is none of these.

    Cost: gradients of eigenvalues need no linear solve; those of eigenvectors need one for each
        eigenpair. A certificate takes one factorisation on the host, "between" two.

    Examples:
        >>> import jax, jax.numpy as jnp, scipy.linalg
        >>> from implicit_eig import eigensolver
        >>> solve = eigensolver(scipy.linalg.eigh, Hermitian(k=1))
        >>> A, B = jnp.diag(jnp.array([2.0, 6.0])), 2 * jnp.eye(2)
        >>> A_bar, B_bar = jax.grad(lambda A, B: solve(A, B).values[0], argnums=(0, 1))(A, B)
        >>> A_bar.round(4).tolist(), B_bar.round(4).tolist()  # x xᵀ, −λ x xᵀ
        ([[0.5, 0.0], [0.0, 0.0]], [[-0.5, 0.0], [0.0, 0.0]])
    """

    k: int = eqx.field(static=True, converter=whole)
    guard: int = eqx.field(static=True, default=0, converter=whole)
    certified: bool | str = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_k("Hermitian", self.k, self.guard)
        check_certified(self.certified)

    @property
    def is_hermitian(self) -> bool:
        """Return True."""
        return True

    @property
    def block_is_hermitian(self) -> bool:
        """Return True."""
        return True

    def with_guard(self) -> "Hermitian":
        """Return the problem of k + guard eigenpairs."""
        return Hermitian(self.k + self.guard)

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return A and B in one dtype; dense ones as their Hermitian parts, after the check."""
        if not 1 <= len(operators) <= 2:
            raise InputError(
                "`eigensolver(problem=Hermitian(...))`: one operator A, or two, A and B; got "
                f"{len(operators)}. Call `solve(A)` or `solve(A, B)`."
            )
        for name, operator in zip("AB", operators, strict=False):
            if operator.in_size() != operator.out_size():
                raise InputError(
                    f"`solve({name}=...)`: a square operator; got shape "
                    f"({operator.out_size()}, {operator.in_size()}). Check how it was assembled."
                )
        A = operators[0]
        for B in operators[1:]:
            if A.in_size() != B.in_size():
                raise InputError(
                    "`solve(A, B)`: operators of one size; got "
                    f"n = {A.in_size()} and {B.in_size()}. Apply the same boundary conditions to "
                    "both."
                )
        if self.k > A.in_size():
            raise InputError(
                f"`eigensolver(problem=Hermitian(k={self.k}))`: at most n pairs; got n = "
                f"{A.in_size()}. Ask for fewer pairs."
            )
        parts, figures = hermitian_parts(operators)
        return enforce(forward_check(policy, unfit_operators), figures, parts)

    def metric(self, operators: Operators) -> lx.AbstractLinearOperator | None:
        """Return B."""
        return _both(operators)[1]

    def structure(self, operators: Operators) -> Solution:
        """Return the shapes: `values` (k,), real, and `vectors` (n, k)."""
        like: Any = operators[0].in_structure()
        real = jnp.finfo(like.dtype).dtype
        values: Any = jax.ShapeDtypeStruct((self.k,), real)
        vectors: Any = jax.ShapeDtypeStruct((*like.shape, self.k), like.dtype)
        return Solution(values, vectors)

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the eigenpairs with XᴴBX = I, checked as `Policy(forward=...)` states.

        The Cholesky factor of the Gram matrix also makes the eigenvectors of a cluster orthogonal;
        others it leaves as they are, to rounding.
        """
        A, B = _both(operators)
        solution, figures, residuals, lost = normalize(solution, A, B, policy)
        rtol = tolerance(policy.residual_rtol, solution.values.dtype)
        solution = enforce(forward_check(policy, UnfitPairs(rtol)), figures, solution)
        if B is not None:
            solution = enforce(exceptional_check(policy, nearly_singular), (lost,), solution)
        return eqx.tree_at(lambda s: s.stats, solution, {"residuals": residuals})

    def complete(
        self,
        solution: Solution,
        operators: Operators,
        linear_solver: lx.AbstractLinearSolver,
        policy: Policy,
    ) -> Solution:
        """Return the solution, after the proof that `certified` asks for."""
        return certify(self.certified, solution, operators, policy)

    def state(self, solution: Solution) -> "Invariant":
        """Return (S, X) with S = Λ, and the clusters of a checked solution."""
        X = solution.vectors
        S = jnp.diag(solution.values).astype(X.dtype)
        return Invariant(S, X, membership(solution), solution._beyond)

    def solution(self, state: "Invariant") -> Solution:
        """Return the eigenpairs, λ being the diagonal of S."""
        return Solution(diagonal(state.S).real, state.X)

    def block(self, state: "Invariant") -> Inexact[Array, "k k"]:
        """Return S."""
        return state.S

    def joint(self, state: "Invariant") -> Joint:
        """Return (S, X)."""
        return Joint(state.S, state.X)

    def separate(self, state: "Invariant") -> "Invariant":
        """Return the state with the block of each cluster separated from the others."""
        S, X, near = separate_orthonormal(state.S, state.X, state.near)
        return Invariant(S, X, near, state.beyond)

    def diagonal(self, state: "Invariant") -> "Invariant":
        """Return (Λ, XQ) with S = QΛQᴴ."""
        lam, Q = diagonalise(state.S)
        return Invariant(lam, state.X @ Q, state.near, state.beyond)

    def conditions(
        self, state: "Invariant", *operators: lx.AbstractLinearOperator
    ) -> tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]]:
        """Return (A X − B X S, Xᴴ B X − I) of the state; shapes (n, k) and (k, k)."""
        A, B = _both(operators)
        S, X = state.S, state.X
        BX = apply(B, X)
        identity = jnp.eye(self.k, dtype=X.dtype)
        return apply(A, X) - BX @ S, X.conj().T @ BX - identity

    def closeness(self, state: "Invariant") -> Float[Array, "k k"]:
        """Return the `closeness` of the eigenvalues."""
        return state.near

    def gauge_defect(
        self, state: "Invariant", cotangent: "Invariant", clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return the skew-Hermitian part of the cotangent, shape (k, k), and its size."""
        lam = diagonal(state.S).real
        defect, size = turn_defect_of_pairs(lam, state.X, cotangent.S, cotangent.X, clusters)
        return beyond_rounding(defect, cotangent.near), size

    def inside(self, state: "Invariant", cotangent: "Invariant") -> Inexact[Array, "k k"]:
        """Return X̄ᵀX."""
        return cotangent.X.T @ state.X

    def values_dot(
        self,
        state: "Invariant",
        residual_dot: tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]],
    ) -> Inexact[Array, " k"]:
        """Return λ̇ᵢ = xᵢᴴ wᵢ, shape (k,)."""
        W, _ = residual_dot
        return jnp.sum(state.X.conj() * W, axis=0).real

    def block_dot(
        self,
        state: "Invariant",
        residual_dot: tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]],
    ) -> Inexact[Array, "k k"]:
        """Return G = XᴴW."""
        return state.X.conj().T @ residual_dot[0]

    def linearise(
        self, state: "Invariant", operators: Operators, system: AbstractFormulation
    ) -> "LinearisedPairs":
        """Return the linearised conditions: deflated, bordered, or by all eigenpairs if known."""
        pencil = Pencil(*_both(operators), state.S, state.X, state.beyond)
        n, k = state.X.shape
        if known_in_full(system, k == n, "Hermitian", f"n = {n} pairs", f"k = {k}"):
            return LinearisedPairs(state, pencil, None)
        return LinearisedPairs(state, pencil, pencil_systems(system, pencil, "Hermitian"))


class LinearisedPairs(AbstractLinearised):
    """The derivation above; no systems are solved where all n eigenpairs are known."""

    state: Invariant
    pencil: Pencil
    systems: AbstractPencilSystems | None

    def tangent(
        self, residual_dot: tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]], solve: LinearSolve
    ) -> Invariant:
        """Return Ṡ and Ẋ; `residual_dot` is (W, XᴴḂX)."""
        state, systems = self.state, self.systems
        S, X = state.S, state.X
        W, N = residual_dot
        N = None if self.pencil.B is None else N
        G = X.conj().T @ W
        S_dot, K = couplings(S, G, N, near_blocks(self.pencil.lam, state.near))
        X_dot = X @ (K if N is None else K - N / 2)
        if systems is not None:
            # B is kept with X, never with the transposed factor: its transposed product is slow
            R = systems.BX @ G - W
            Z = systems.solution(solve(systems, systems.right_side(R)))
            X_dot = X_dot + Z - X @ (systems.BX.conj().T @ Z)
        still = jax.tree.map(jnp.zeros_like, (state.near, state.beyond))
        return Invariant(S_dot, X_dot, *still)


def _both(
    operators: Operators,
) -> tuple[lx.AbstractLinearOperator, lx.AbstractLinearOperator | None]:
    A, *rest = operators
    return A, (rest[0] if rest else None)
