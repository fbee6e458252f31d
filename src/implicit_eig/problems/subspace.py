"""An invariant subspace, whatever its basis: A X = B X S, Xᴴ B X = I, S any block.

Tangents. With W = ȦX − ḂXS the conditions move as

    A Ẋ − B Ẋ S − BX Ṡ = −W,    XᴴBẊ + ẊᴴBX = −XᴴḂX.

The basis may turn within the space; Ẋ = XC + Z, C = −½ XᴴḂX, XᴴBZ = 0, does not turn it. Then
Ṡ = Ṡ' + SC − CS, and

    A Z − B Z S − BX Ṡ' = −W,    (BX)ᴴ Z = 0

is a Sylvester equation with a border, nonsingular exactly when S shares no eigenvalue with the rest
of the spectrum. How close the eigenvalues of S are, and whether they are defective, is irrelevant.

Source: Karow & Kressner (2014) SIAM J. Matrix Anal. 35, 599, for the equation; Stewart & Sun (1990)
Matrix perturbation theory, section V.2.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from .._errors import InputError
from ..checks.clusters import closeness, near_and_edge, rounding_only
from ..checks.policy import Policy, enforce, forward_check, tolerance
from ..checks.rounding import PRODUCT
from ..operators import (
    apply_complex,
    as_operator,
    column_norms,
    diagonal,
    dtype_of,
    scale_columns,
)
from ..solution import Solution
from ..systems._abstract import AbstractFormulation
from ..systems.auto import AutoSystem, refusal
from ..systems.bordered import Bordered
from ..systems.bordered_pairs import BORDER, BorderedBasis
from ..systems.matrices import Shifted
from ..systems.sylvester import Sylvester
from ._abstract import AbstractLinearised, AbstractProblem, LinearSolve, Operators
from ._subspace_check import UnfitBasis, schur_basis
from ._sums import check_square
from ._turns import turn_defect
from ._validation import check_k, unseen, whole
from .hermitian import Invariant
from .normalization import AbstractNormalization


class Subspace(AbstractProblem):
    """Declare A X = B X S, Xᴴ B X = I, with any A and a Hermitian positive definite B.

    `solve(A)` stands for B = I; `S, X = solve(A, B)`, S (k, k) and X (n, k), complex also for real
    operators. The solver returns k eigenpairs, or any k vectors that span the space, such as those
    of a Schur form; the eigenvalues that it returns are not used. X is a Schur basis, so that S is
    upper triangular.

    It is for functions that do not depend on the basis, such as traces of functions of S and
    projections on the space. They have exact derivatives of every order through crossings and
    defective eigenvalues inside it. For defective eigenvalues let the solver return a Schur basis:
    their eigenvectors are parallel, and determine the space only to half the digits.

    Args:
        k: the dimension of the space; 1 ≤ k ≤ n.

    Raises:
        InputError: k is not a positive integer.

    Cost: k bordered solves for a derivative, one after the other.
    Source: see the module.

    Examples:
        >>> import jax, jax.numpy as jnp, scipy.linalg
        >>> from implicit_eig import eigensolver
        >>> def schur(A):
        ...     T, Z, _ = scipy.linalg.schur(A, output="complex", sort=lambda value: abs(value) < 2)
        ...     return T.diagonal(), Z
        >>> solve = eigensolver(schur, Subspace(k=2))
        >>> A = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])  # defective
        >>> jax.grad(lambda A: jnp.trace(solve(A).values).real)(A).round(4).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    k: int = eqx.field(static=True, converter=whole)

    def __check_init__(self):
        check_k("Subspace", self.k)

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return A, or A and B, square and of one size, in one dtype."""
        if not 1 <= len(operators) <= 2:
            raise InputError(
                "`eigensolver(problem=Subspace(...))`: one operator A, or two, A and B; got "
                f"{len(operators)}. Call `solve(A)` or `solve(A, B)`."
            )
        return check_square("Subspace", self.k, operators[0].in_size(), operators)

    def metric(self, operators: Operators) -> lx.AbstractLinearOperator | None:
        """Return B."""
        return _both(operators)[1]

    def rescale(
        self,
        normalization: AbstractNormalization,
        solution: Solution,
        operators: Operators,
        policy: Policy,
    ) -> Solution:
        """Refuse, because single vectors of a basis have no meaning of their own."""
        raise InputError(
            "`eigensolver(problem=Subspace(...), normalization=...)`: a problem whose vectors mean "
            "something one by one; got a basis of a space. Leave `normalization` out."
        )

    def structure(self, operators: Operators) -> Solution:
        """Return the shapes of what the solver returns, complex."""
        dtype = np.result_type(dtype_of(operators[0]), np.complex64)
        values: Any = jax.ShapeDtypeStruct((self.k,), dtype)
        vectors: Any = jax.ShapeDtypeStruct((operators[0].in_size(), self.k), dtype)
        return Solution(values, vectors)

    def normalize(self, solution: Solution, operators: Operators, policy: Policy) -> Solution:
        """Return the Schur form of the space that the solver's vectors span, checked."""
        S, X, figures, stats, rounding = schur_basis(solution.vectors, *_both(operators))
        rtol = tolerance(policy.residual_rtol, figures[0].dtype)
        S, X = enforce(forward_check(policy, UnfitBasis(rtol)), figures, (S, X))
        near = lambda lam, error: closeness(lam, error, rounding_only(policy))  # noqa: E731
        _, edge = near_and_edge(near, diagonal(S), rounding, solution._rest)
        one = jnp.ones((self.k, self.k), stats.dtype)
        return Solution(S, X, None, {"residuals": stats}, _near=one, _edge=edge)

    def state(self, solution: Solution) -> Invariant:
        """Return (S, X), all in one cluster."""
        near = jnp.ones((self.k, self.k), jnp.finfo(solution.vectors.dtype).dtype)
        return Invariant(solution.values, solution.vectors, near, unseen=unseen(solution))

    def solution(self, state: Invariant) -> Solution:
        """Return S as `values` and X as `vectors`."""
        return Solution(state.S, state.X)

    def conditions(
        self, state: Invariant, *operators: lx.AbstractLinearOperator
    ) -> tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]]:
        """Return (A X − B X S, Xᴴ B X − I); shapes (n, k) and (k, k)."""
        A, B = _both(operators)
        S, X = state.S, state.X
        BX = apply_complex(B, X)
        return apply_complex(A, X) - BX @ S, X.conj().T @ BX - jnp.eye(self.k, dtype=X.dtype)

    def closeness(self, state: Invariant) -> Float[Array, "k k"]:
        """Return that all eigenvalues form one cluster."""
        return state.near

    def gauge_defect(
        self, state: Invariant, cotangent: Invariant, clusters: Bool[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
        """Return how much a function changes with the basis, and its size."""
        S = state.S
        defect, size = turn_defect(S, state.X, cotangent.S, cotangent.X, clusters)
        # a multiple of I in S commutes with every turn
        spread = S - jnp.trace(S) / self.k * jnp.eye(self.k, dtype=S.dtype)
        eps = float(jnp.finfo(S.dtype).eps)
        norms = jnp.linalg.norm(spread) + PRODUCT * eps * jnp.linalg.norm(S)
        return defect, size + jnp.linalg.norm(cotangent.S) * norms

    def linearise(
        self, state: Invariant, operators: Operators, system: AbstractFormulation
    ) -> "LinearisedSpace":
        """Return the linearised conditions: a Sylvester equation with a border."""
        if not isinstance(system, (AutoSystem, Bordered)):
            raise refusal(system, "Subspace", "`Bordered()`; the block needs its border")
        A, B = _both(operators)
        S, X = state.S, state.X
        lam = diagonal(S)
        matrices = Shifted((A, B), (jnp.ones_like(lam), -lam))
        BX = apply_complex(B, X)
        structure = matrices.structure(len(X))
        norms, size = column_norms(BX), jnp.max(matrices.typical(X[:, :1]))
        scale = lax.stop_gradient(BORDER[structure] * size / jnp.where(norms > 0, norms, 1))
        border = scale_columns(BX, scale)
        systems = BorderedBasis(
            structure,
            matrices,
            -border,
            border.conj(),
            jnp.ones((self.k, self.k), scale.dtype),
            scale,
            X,
            jnp.zeros_like(border),
            jnp.zeros((self.k, self.k), scale.dtype),
            float(jnp.finfo(scale.dtype).eps) * _unproved(state),
        )
        return LinearisedSpace(state, BX, scale, Sylvester(systems, B, S - jnp.diag(lam)))


class LinearisedSpace(AbstractLinearised):
    """The derivation above."""

    state: Invariant
    BX: Inexact[Array, "n k"]
    scale: Float[Array, " k"]
    sylvester: Sylvester

    def tangent(
        self, residual_dot: tuple[Inexact[Array, "n k"], Inexact[Array, "k k"]], solve: LinearSolve
    ) -> Invariant:
        """Return Ṡ and Ẋ; `residual_dot` is (W, XᴴḂX)."""
        S, X = self.state.S, self.state.X
        W, N = residual_dot
        C = -0.5 * N
        Z, mu = solve(self.sylvester, (-W, jnp.zeros_like(N)))
        S_dot = mu * self.scale.astype(mu.dtype)[:, None]
        Z = Z - X @ (self.BX.conj().T @ Z)
        still = jax.tree.map(jnp.zeros_like, (self.state.near, self.state.unseen))
        return Invariant(S_dot + S @ C - C @ S, X @ C + Z, still[0], unseen=still[1])


def apply_projector(
    solution: Solution, v: Inexact[Array, "n ..."], B: Any = None
) -> Inexact[Array, "n ..."]:
    """Project v on the space that the eigenvectors span: X Xᴴ v, or X Xᴴ B v for a pencil.

    Args:
        solution: that of a `Subspace` or `Hermitian` problem, whose vectors are B-orthonormal.
        v: shape (n,) or (n, m).
        B: as for the solve; `None` for I.

    Returns:
        The B-orthogonal projection, shape (n,) or (n, m). It does not depend on the basis; no n×n
        array is made.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solution = eigensolver(np.linalg.eigh, Hermitian(k=2))(jnp.diag(jnp.arange(3.0)))
        >>> apply_projector(solution, jnp.ones(3)).tolist()
        [1.0, 1.0, 0.0]
    """
    X = solution.vectors
    columns = v.reshape(len(v), -1).astype(jnp.result_type(v, X.dtype))
    Bv = apply_complex(None if B is None else as_operator("B", B), columns)
    return (X @ (X.conj().T @ Bv)).reshape(v.shape)


def _both(
    operators: Operators,
) -> tuple[lx.AbstractLinearOperator, lx.AbstractLinearOperator | None]:
    A, *rest = operators
    return A, (rest[0] if rest else None)


def _unproved(state: Invariant) -> Float[Array, " k"]:
    """Return 1 for each column of the basis where it has to be shown that k cuts no cluster."""
    unseen = jnp.zeros((), state.near.dtype) if state.unseen is None else state.unseen
    return jnp.broadcast_to(lax.stop_gradient(unseen), state.near.shape[:1])
