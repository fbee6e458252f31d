"""The checks of distributed solves, whose figures, and so whose verdicts, all ranks share."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checks.clusters import loose
from ..checks.gauge import EXCUSE, Dependence, of_vectors
from ..checks.pairs import inexact, near_pairs, of_values
from ..checks.policy import (
    Action,
    Check,
    Objection,
    Policy,
    cluster_check,
    exceptional_check,
    forward_check,
    gauge_check,
    linear_solver_check,
    tolerance,
)
from ..problems._pairs_check import near_exceptional_points
from ._adjoint import Solves
from ._clusters import closeness, dual
from ._forward import Found
from ._ranks import norms

# A loss may depend on the gauge by this much of its cotangent, in double and single precision.
GAUGE = 1e-8, 1e-4


def holds(check: Check, *figures: Any) -> bool:
    """Return whether a check passes; where it does not, raise, warn, or return False for NaN."""
    if check.action is Action.IGNORE:
        return True
    if not any(np.any(objection.found) for objection in check.objections(*figures)):
        return True
    if check.action is Action.NAN:
        return False
    check(np.asarray(True), *figures)
    return True


def check_forward(policy: Policy, problem: Any, found: Found) -> bool:
    """Judge the residuals, and whether the next eigenvalue belongs to a cluster of the k."""
    allowed = tolerance(policy.residual_rtol, float)

    def unsolved(excess: np.ndarray) -> Iterator[Objection]:
        yield Objection(
            ~(excess <= allowed),
            lambda pairs: (
                f"`petsc.eigensolver(problem={type(problem).__name__}(k={problem.k}))`: pairs "
                f"with A x = λ B x; got a residual of {excess[pairs[0]]:.1e} of its terms for pair "
                f"{pairs[0]}, both beyond rounding of each row, above the {allowed:.1e} allowed. "
                "Lower `eps_tol`, or accept this with `Policy(residual_rtol=...)`."
            ),
        )

    def cut(lam: np.ndarray, rest: np.ndarray, error: np.ndarray) -> Iterator[Objection]:
        k = len(lam)
        apart = np.abs(lam[:, None] - rest[None, :])
        limit = error[:k, None] + error[None, k:]
        if policy.degeneracy_rtol is not None:
            limit = np.maximum(limit, policy.degeneracy_rtol * np.abs(lam)[:, None])
        yield Objection(
            np.any(apart <= limit, axis=1),
            lambda pairs: (
                f"`petsc.eigensolver(problem={type(problem).__name__}(k={k}))`: a k that keeps "
                f"clusters whole; got one that separates pair {pairs[0]}, of value "
                f"{lam[pairs[0]]:.8g}, from an equal value beyond the k. Ask for more or fewer "
                "pairs, or accept this with `Policy(cluster=...)`."
            ),
        )

    solved = holds(forward_check(policy, unsolved), found.excess)
    return holds(cluster_check(policy, cut), found.lam, found.rest, found.error) and solved


def check_condition(policy: Policy, found: Found, equal: np.ndarray) -> bool:
    """Judge the condition numbers of eigenvalues of a problem that is not Hermitian."""
    if found.Y is None:
        return True
    comm, left = found.A.getComm().tompi4py(), dual(found, equal)
    condition = np.full(found.lam.size, np.inf)
    if left is not None:
        condition = norms(comm, left) * norms(comm, found.BX)
    near, edge = closeness(found, equal)
    np.fill_diagonal(near, 0)
    crowded = (np.maximum(edge, np.max(near, axis=1)) > loose(near.dtype)).astype(near.dtype)
    check = exceptional_check(policy, near_exceptional_points)
    return holds(check, condition, found.lam, crowded)


def check_cotangents(
    policy: Policy,
    found: Found,
    equal: np.ndarray,
    lam_bar: np.ndarray,
    inside: Any,
    sizes: np.ndarray,
    single: bool,
) -> bool:
    """Judge whether a loss depends on phases or bases of clusters, or on pairs that rounding mixes.

    `inside` is Xᴴ X̄, `sizes` are ‖xᵢ‖ ‖x̄ᵢ‖, and `single` is whether X̄ has single precision.
    """
    size = float(np.max(sizes))
    rtol = GAUGE[single] if policy.gauge_rtol is None else policy.gauge_rtol
    apart = np.abs(lam_bar[:, None] - lam_bar[None, :]) * equal
    # without orthogonal eigenvectors a cluster has no basis of its own
    hermitian = found.Y is None
    defect = np.abs(inside - inside.conj().T) if hermitian else np.abs(inside)
    turned = np.where(equal, defect, 0)
    if not hermitian:
        np.fill_diagonal(turned, np.abs(np.imag(np.diagonal(inside))))
    values = gauge_check(policy, Dependence(of_values, rtol))
    vectors = gauge_check(policy, Dependence(of_vectors, rtol))
    largest = np.max(np.abs(lam_bar))
    passed = holds(values, apart, np.asarray(largest), found.lam)
    passed = holds(vectors, turned, np.asarray(size), found.lam) and passed
    turn = np.where(equal, 0, defect / 2 if hermitian else defect), size
    kind = hermitian, True, found.lam.size == found.A.getSize()[0]
    near, edge = closeness(found, equal)
    figures = near_pairs(np, near, found.lam, lam_bar, turn, *kind)
    passed = holds(gauge_check(policy, inexact), *figures) and passed
    return holds(gauge_check(policy, _beside_others), edge * (sizes > 0)) and passed


def _beside_others(near: np.ndarray) -> Iterator[Objection]:
    """Object to vectors that rounding turns into those beyond the k."""
    yield Objection(
        near > loose(near.dtype),
        lambda pairs: (
            "`pullback(vectors_bar=...)`: vectors of values far enough from those beyond the k; "
            f"got pair {pairs[0]}, next to another value. Rounding turns their vectors into each "
            f"other, and the gradient may be wrong by {near[pairs[0]]:.1e} of itself. Ask for more "
            f"or fewer pairs, {EXCUSE}"
        ),
    )


def check_residuals(policy: Policy, solves: Solves, rtol: float) -> bool:
    """Judge the residuals of the adjoint systems."""

    def unsolved(residuals: np.ndarray, rounding: np.ndarray) -> Iterator[Objection]:
        yield Objection(
            ~(residuals <= rtol + rounding),
            lambda pairs: (
                "`pullback(...)`: adjoint systems solved to a residual of "
                f"{rtol:.1e}; got {residuals[pairs[0]]:.1e} for pair {pairs[0]} ({len(pairs)} of "
                f"{len(residuals)} pairs fail). Give a preconditioner or more steps by "
                "`adjoint={'pc_type': ..., 'ksp_max_it': ...}`, or accept this with "
                "`Policy(linear_solve_rtol=...)`."
            ),
        )

    return holds(linear_solver_check(policy, unsolved), solves.residuals, solves.rounding)
