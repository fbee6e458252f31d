"""Singular triplets: A v = σ u, Aᴴ u = σ v, ‖u‖ = ‖v‖ = 1, A of shape (m, n).

Tangents. They give eigenpairs of the Hermitian H = [[0, A], [Aᴴ, 0]], two for each triplet:

    H [U; V] = [U; V] S,    H [U; −V] = −[U; −V] S.

S is equal to Σ, and its tangent has a full block for each cluster (`problems.hermitian`). So a
tangent has parts along the known (U; V) and (U; −V), both by division, and a rest Y outside them:

    U̇ = U (C + D) + Y_u,    V̇ = V (C − D) + Y_v.

With W_u = ȦV, W_v = ȦᴴU, K = UᴴW_u and L = VᴴW_v, the rule for H says

    Ṡ = (K + L)/2            inside a cluster,      so σ̇ᵢ = Re uᵢᴴȦvᵢ,
    CS − SC = (K + L)/2      between clusters,      so Cⱼᵢ = (K + L)ⱼᵢ / 2(σᵢ − σⱼ), a turn,
    DS + SD = (K − L)/2,  L = Kᴴ,                   so Dⱼᵢ = (K − L)ⱼᵢ / 2(σᵢ + σⱼ),
    H Y − Y S = −(W_u − UK; W_v − VL),    UᴴY_u = 0,  VᴴY_v = 0,

the last being the only linear solves, (H − σᵢ) yᵢ = rᵢ. Where all min(m, n) triplets are known,
Y lies in the null space of H, so −YS is the right side, and Y follows without a solve.

Source: Papadopoulo & Lourakis (2000) ECCV, 554, doi:10.1007/3-540-45054-8_36; differs in: some
triplets instead of all, complex ones, clusters.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Inexact

from .._errors import InputError
from ..checks.policy import Policy, enforce, forward_check, tolerance
from ..operators import apply, apply_adjoint, diagonal, dtype_of
from ..solution import Joint, Solution
from ..systems._abstract import AbstractFormulation, AbstractPencilSystems, Pencil
from ..systems.auto import known_in_full, pencil_systems
from ._abstract import AbstractLinearised, AbstractProblem, LinearSolve, Operators
from ._couplings import couplings, diagonalise, divide
from ._embedding import embedding, join, split
from ._separate import near_blocks, separate_orthonormal
from ._singular_check import UnfitFactors, UnfitTriplets, normalize
from ._turns import beyond_rounding, turn_defect_of_pairs
from ._validation import check_k, membership, whole
from .normalization import AbstractNormalization, rescale


class Triplets(eqx.Module):
    """The state of the conditions A V = U S, Aᴴ U = V S, UᴴU + VᴴV = 2I, and its clusters."""

    S: Inexact[Array, "k k"]
    U: Inexact[Array, "m k"]
    V: Inexact[Array, "n k"]
    near: Float[Array, "k k"]


class Singular(AbstractProblem):
    """Declare A V = U Σ, Aᴴ U = V Σ, UᴴU = VᴴV = I, with A of shape (m, n), Σ positive.

    The solver returns (values, vectors, left_vectors) = (σ, V, U), columns v and u; or (σ, V),
    and U is then A V Σ⁻¹. A zero singular value has no derivative and is refused. The
    gradient with respect to a dense array is an array (m, n), whose entries are independent.

    Args:
        k: the number of singular triplets; 1 ≤ k ≤ min(m, n).
        guard: how many more triplets the solver is asked for. They show whether k cuts a
            cluster, which `Policy(cluster=...)` judges, and are not part of the solution.

    Raises:
        InputError: k is not a positive integer.

    Cost: products with A and Aᴴ. Gradients of singular values, and all gradients where
        k = min(m, n), need no linear solve; those of singular vectors need one with
        [[0, A], [Aᴴ, 0]] for each triplet. This matrix is sparse for a sparse A, is known by its
        products for a matrix-free one, and is formed for a dense A unless m and n differ sixfold
        and m + n > 256. Its vectors, on which a preconditioner acts, have with g = gcd(m, n) first
        m/g components of u, then n/g of v, and so on: u₁, v₁, u₂, v₂, … where m = n.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import eigensolver
        >>> def svd(A):
        ...     U, sigma, Vh = np.linalg.svd(A, full_matrices=False)
        ...     return sigma, Vh.conj().T, U
        >>> solve = eigensolver(svd, Singular(k=1))
        >>> A = jnp.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> abs(jax.grad(lambda A: solve(A).values[0])(A)).round(4).tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    k: int = eqx.field(static=True, converter=whole)
    guard: int = eqx.field(static=True, default=0, converter=whole)

    def __check_init__(self):
        check_k("Singular", self.k, self.guard)

    @property
    def block_is_hermitian(self) -> bool:
        """Return True."""
        return True

    def with_guard(self) -> "Singular":
        """Return the problem of k + guard singular triplets."""
        return Singular(self.k + self.guard)

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return A, of any shape with at least k rows and columns."""
        if len(operators) != 1:
            raise InputError(
                "`eigensolver(problem=Singular(...))`: one operator A; got "
                f"{len(operators)}. Call `solve(A)`."
            )
        m, n = operators[0].out_size(), operators[0].in_size()
        if self.k > min(m, n):
            raise InputError(
                f"`eigensolver(problem=Singular(k={self.k}))`: at most min(m, n) triplets; got A "
                f"of shape ({m}, {n}). Ask for fewer triplets."
            )
        return operators

    def structure(self, operators: Operators) -> Solution:
        """Return the shapes: `values` (k,), real, `vectors` (n, k), `left_vectors` (m, k)."""
        (A,) = operators
        dtype = dtype_of(A)
        shapes = (self.k,), (A.in_size(), self.k), (A.out_size(), self.k)
        dtypes = jnp.finfo(dtype).dtype, dtype, dtype
        parts: Any = map(jax.ShapeDtypeStruct, shapes, dtypes)
        return Solution(*parts)

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the triplets with UᴴU = VᴴV = I, checked as `Policy(forward=...)` states."""
        solution, figures, residuals = normalize(solution, operators[0], policy)
        rtol = tolerance(policy.residual_rtol, solution.values.dtype)
        solution = enforce(forward_check(policy, UnfitTriplets(rtol)), figures, solution)
        return eqx.tree_at(lambda s: s.stats, solution, {"residuals": residuals})

    def rescale(
        self,
        normalization: AbstractNormalization,
        solution: Solution,
        operators: Operators,
        policy: Policy,
    ) -> Solution:
        """Return the triplets with u and v turned by one phase; refuse other factors."""
        metric = lambda: self.metric(operators)  # noqa: E731
        modulus = jnp.abs(normalization.factors(solution.vectors, metric))
        rtol = tolerance(None, modulus.dtype)
        forward = forward_check(policy, UnfitFactors(type(normalization).__name__, rtol))
        check = dataclasses.replace(forward, error=InputError)
        solution = enforce(check, (modulus,), solution)
        # left vectors times the conjugate of a phase are left vectors divided by it
        return rescale(normalization, solution, metric, policy)

    def state(self, solution: Solution) -> Triplets:
        """Return (S, U, V) with S = Σ, and the clusters of a checked solution."""
        U, V = jnp.asarray(solution.left_vectors), solution.vectors
        S = jnp.diag(solution.values).astype(V.dtype)
        return Triplets(S, U, V, membership(solution))

    def solution(self, state: Triplets) -> Solution:
        """Return the triplets, σ being the diagonal of S."""
        return Solution(diagonal(state.S).real, state.V, state.U)

    def block(self, state: Triplets) -> Inexact[Array, "k k"]:
        """Return S."""
        return state.S

    def joint(self, state: Triplets) -> Joint:
        """Return (S, U, V)."""
        return Joint(state.S, state.U, state.V)

    def separate(self, state: Triplets) -> Triplets:
        """Return the state with the block of each cluster separated from the others."""
        W = join(state.U, state.V)
        S, W, near = separate_orthonormal(state.S, W, state.near)
        return Triplets(S, *split(W, len(state.U)), near)

    def diagonal(self, state: Triplets) -> Triplets:
        """Return (Σ, UQ, VQ) with S = QΣQᴴ."""
        sigma, Q = diagonalise(state.S)
        return Triplets(sigma, state.U @ Q, state.V @ Q, state.near)

    def conditions(
        self, state: Triplets, *operators: lx.AbstractLinearOperator
    ) -> tuple[Inexact[Array, "m k"], Inexact[Array, "n k"], Inexact[Array, "k k"]]:
        """Return (A V − U S, Aᴴ U − V S, (UᴴU + VᴴV)/2 − I) of the state."""
        (A,) = operators
        S, U, V = state.S, state.U, state.V
        gram = (U.conj().T @ U + V.conj().T @ V) / 2
        return (
            apply(A, V) - U @ S,
            apply_adjoint(A, U) - V @ S,
            gram - jnp.eye(*gram.shape, dtype=gram.dtype),
        )

    def closeness(self, state: Triplets) -> Float[Array, "k k"]:
        """Return the `closeness` of the singular values."""
        return state.near

    def gauge_defect(
        self, state: Triplets, cotangent: Triplets, clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return the skew-Hermitian part of the cotangent, shape (k, k), and its size."""
        W, W_bar = (join(t.U, t.V) for t in (state, cotangent))
        sigma = diagonal(state.S).real
        defect, size = turn_defect_of_pairs(sigma, W, cotangent.S, W_bar, clusters)
        return beyond_rounding(defect, cotangent.near), size

    def inside(self, state: Triplets, cotangent: Triplets) -> Inexact[Array, "k k"]:
        """Return ŪᵀU + V̄ᵀV."""
        return cotangent.U.T @ state.U + cotangent.V.T @ state.V

    def values_dot(
        self, state: Triplets, residual_dot: tuple[Array, Array, Array]
    ) -> Inexact[Array, " k"]:
        """Return σ̇ᵢ = Re uᵢᴴȦvᵢ, shape (k,), as the mean of its two forms."""
        W_u, W_v, _ = residual_dot
        along = jnp.sum(state.U.conj() * W_u, axis=0) + jnp.sum(state.V.conj() * W_v, axis=0)
        return along.real / 2

    def block_dot(
        self, state: Triplets, residual_dot: tuple[Array, Array, Array]
    ) -> Inexact[Array, "k k"]:
        """Return (K + L)/2."""
        W_u, W_v, _ = residual_dot
        return (state.U.conj().T @ W_u + state.V.conj().T @ W_v) / 2

    def linearise(
        self, state: Triplets, operators: Operators, system: AbstractFormulation
    ) -> "LinearisedTriplets":
        """Return the linearised conditions: of the embedding, or by all triplets if known."""
        m, n = len(state.U), len(state.V)
        complete, found = self.k == min(m, n), f"k = {self.k}"
        if known_in_full(system, complete, "Singular", "min(m, n) triplets", found):
            return LinearisedTriplets(state, None)
        pencil = _pencil(state, operators)
        return LinearisedTriplets(state, pencil_systems(system, pencil, "Singular"))


class LinearisedTriplets(AbstractLinearised):
    """The derivation above; no systems are solved where all min(m, n) triplets are known."""

    state: Triplets
    systems: AbstractPencilSystems | None
    rough: bool = eqx.field(static=True, default=False)

    def of_rough(self) -> "LinearisedTriplets":
        """Return them where UᴴU and VᴴV differ."""
        return dataclasses.replace(self, rough=True)

    def tangent(self, residual_dot: tuple[Array, Array, Array], solve: LinearSolve) -> Triplets:
        """Return Ṡ, U̇ and V̇; `residual_dot` is (W_u, W_v, 0)."""
        state, systems = self.state, self.systems
        S, U, V = state.S, state.U, state.V
        W_u, W_v, _ = residual_dot
        K, L = U.conj().T @ W_u, V.conj().T @ W_v
        lam = diagonal(S)
        S_dot, turn = couplings(S, (K + L) / 2, None, near_blocks(lam.real, state.near))
        M = (K - L) / 2
        if not self.rough:  # L is Kᴴ, and rounding would be divided by small singular values
            M = (M - M.conj().T) / 2
        D = divide(lambda D: D @ S + S @ D, M, lam[None, :] + lam[:, None])
        R_u, R_v = U @ K - W_u, V @ L - W_v
        m, n, k = len(U), len(V), len(S)
        if systems is None:
            over = lambda R: divide(lambda Y: -(Y @ S), R, jnp.broadcast_to(-lam[None, :], R.shape))  # noqa: E731
            # nothing is outside a complete basis but rounding
            Y_u = jnp.zeros_like(R_u) if m == k else over(R_u)
            Y_v = jnp.zeros_like(R_v) if n == k else over(R_v)
        else:
            Y = systems.solution(solve(systems, systems.right_side(join(R_u, R_v))))
            Y_u, Y_v = split(Y, m)
        # the systems do not deflate (U; −V): its components, which are rounding, are removed here
        Y_u, Y_v = Y_u - U @ (U.conj().T @ Y_u), Y_v - V @ (V.conj().T @ Y_v)
        U_dot, V_dot = U @ (turn + D) + Y_u, V @ (turn - D) + Y_v
        return Triplets(S_dot, U_dot, V_dot, jnp.zeros_like(state.near))


def _pencil(state: Triplets, operators: Operators) -> Pencil:
    """Return the embedding with its known eigenpairs, (u; v)/√2."""
    W = join(state.U, state.V) / 2**0.5
    return Pencil(embedding(operators[0]), None, state.S, W)
