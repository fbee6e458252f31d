"""Shift and invert for sparse pencils, on the host: shifts, groups of pairs, true residuals."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import LinearSolveWarning
from ..operators import host_view
from ._block_krylov import add, inner, solve_shifted
from ._solve import MAX_STEPS, STAGNATION, SUCCESS, Outcome
from ._systems import INSIDE, ShiftedPencil
from .cache import factorize
from .factorizations import Shift, SingularError

# Pairs that share a space. A larger group needs fewer steps, and memory for all its blocks.
GROUP = 20
# From true residual to true residual; each pass gains many digits, or rounding is met.
PASSES = 10


def on_host(pencil: ShiftedPencil) -> ShiftedPencil:
    """Return the pencil with its operators as CSR matrices, whose leaves must be concrete."""
    A, B = host_view(pencil.A), None if pencil.B is None else host_view(pencil.B)
    lam, X, Y, tau = map(np.asarray, pencil[2:6])
    return ShiftedPencil(A, B, lam, X, Y, tau, pencil.hermitian)


def solve_on_host(
    pencil: ShiftedPencil,
    sigma: Shift,
    method: Callable,
    rtol: float,
    max_steps: int,
    b: np.ndarray,
    adjoint: bool,
) -> tuple[np.ndarray, Outcome]:
    """Solve (A − λᵢB) uᵢ + BX Dᵢ YᴴB uᵢ = bᵢ, or with the adjoint of these matrices.

    Returns U, shape (n, k), and what became of it; a step is one of a space that pairs share.
    """
    outcome = Outcome.start(b.shape[1])
    todo = np.flatnonzero(np.any(b != 0, axis=0))
    U = np.zeros_like(b)
    if not todo.size:
        return U, outcome
    krylov = _Krylov(pencil, adjoint)
    R = np.asfortranarray(b[:, todo])
    # on the known pairs the system is BX τᵢ, on their complement A − λᵢB
    along = inner(krylov.Y, R)
    R = add(R, -1.0, krylov.BX, along)
    Z, (outcome.verdicts[todo], outcome.steps[todo]) = _solve_by_shifts(
        krylov, sigma, todo, R, method, rtol, max_steps
    )
    U[:, todo] = add(Z, 1.0, krylov.X, along / krylov.tau[todo])
    return U, outcome


def _solve_by_shifts(
    krylov: "_Krylov", sigma: Shift, pairs: np.ndarray, R: np.ndarray, *options: Any
) -> tuple[np.ndarray, Outcome]:
    """Solve by one shift for all pairs, then by one for each pair that it did not solve."""
    try:
        Z, outcome = krylov.solve(sigma, pairs, R, *options)
        reason = "does not converge"
    except SingularError:
        Z = np.zeros_like(R)
        outcome = Outcome.start(pairs.size)
        outcome.verdicts[:] = STAGNATION
        reason = "is an eigenvalue"
    failed = np.flatnonzero(outcome.verdicts != SUCCESS)
    if failed.size:
        warnings.warn(
            f"`ShiftInvert()`: the shift {sigma:.6g} {reason} for {failed.size} of {pairs.size} "
            f"pairs, the first of them pair {pairs[failed[0]]}; trying a shift next to each. "
            "Give a `sigma` nearer to the pairs to save factorisations.",
            LinearSolveWarning,
            stacklevel=2,
        )
    for j in failed:
        lam = float(np.real(krylov.pencil.lam[pairs[j]]))
        side = 1 if np.real(sigma) > lam else -1
        own = lam + side * 1e-3 * max(float(krylov.pencil.size(np)), abs(lam))
        one = slice(j, j + 1)
        Z[:, one], alone = krylov.solve(own, pairs[one], R[:, one], *options)
        outcome.verdicts[one] = alone.verdicts
        outcome.steps[one] += alone.steps
    return Z, outcome


class _Krylov:
    """The pencil, or its adjoint, with what all systems share."""

    def __init__(self, pencil: ShiftedPencil, adjoint: bool):
        self.pencil = pencil
        self.hermitian = pencil.hermitian
        # a Hermitian pencil is its own adjoint
        self.adjoint = adjoint and not pencil.hermitian
        self.A, self.B, self.lam, X, Y, self.tau, _ = pencil
        if self.adjoint:
            self.A, self.B = _adjoint(self.A), _adjoint(self.B)
            self.lam, self.tau = self.lam.conj(), self.tau.conj()
            X, Y = Y, X
        self.X = np.asfortranarray(X)
        self.Y = self.X if self.hermitian else np.asfortranarray(Y)
        self.BX = _times(self.B, self.X)
        # of B from the norm of `dual` to the norm of vectors, at most
        self.size_B = _norm(self.B) ** (0.5 if self.hermitian else 1.0)
        # BᴴY, which is BX for a Hermitian pencil
        self.BY = self.BX if self.hermitian else _times(_adjoint(self.B), self.Y)

    def dual(self, V: np.ndarray) -> np.ndarray:
        return _times(self.B, V) if self.hermitian else V

    def project(self, V: np.ndarray) -> np.ndarray:
        return add(V, -1.0, self.X, inner(self.BY, V))

    def residual(self, R: np.ndarray, Z: np.ndarray, lam: np.ndarray) -> np.ndarray:
        rest = R - _times(self.A, Z) + lam * _times(self.B, Z)
        return add(rest, -1.0, self.BX, inner(self.Y, rest))

    def solve(
        self,
        sigma: Shift,
        pairs: np.ndarray,
        R: np.ndarray,
        method: Callable,
        rtol: float,
        max_steps: int,
    ) -> tuple[np.ndarray, Outcome]:
        """Return Z with (A − λᵢB) zᵢ = rᵢ for these pairs."""
        factors = factorize(self.pencil.A, self.pencil.B, sigma, method)
        solve = factors.solve_adjoint if self.adjoint else factors.solve
        shift = np.conj(sigma) if self.adjoint else sigma

        def inverse(V: np.ndarray) -> np.ndarray:
            return self.project(np.asfortranarray(solve(V)))

        def power(V: np.ndarray) -> np.ndarray:
            return inverse(V if self.hermitian else _times(self.B, V))

        lam = self.lam[pairs].astype(R.dtype)
        Z, rest = np.zeros_like(R), R
        norm = np.linalg.norm(R, axis=0)
        size = np.sign(norm)
        norm[norm == 0] = 1
        verdicts, taken = outcome = Outcome.start(pairs.size)
        active = np.flatnonzero(size > rtol)
        # neighbours share a space: they need steps of about the same number
        active = active[np.argsort(np.abs(lam[active] - shift))]
        for _ in range(PASSES):
            if not active.size:
                break
            before = size[active]
            for start in range(0, active.size, GROUP):
                group = active[start : start + GROUP]
                mu = lam[group] - lam.dtype.type(shift)
                dZ, steps = solve_shifted(
                    power,
                    self.dual,
                    inverse(rest[:, group]),
                    mu,
                    np.minimum(INSIDE * rtol / size[group], 0.1),
                    INSIDE * rtol * norm[group] / (np.where(mu == 0, 1, np.abs(mu)) * self.size_B),
                    max_steps,
                    self.hermitian,
                )
                Z[:, group] += dZ
                taken[group] += steps
                if steps == max_steps:
                    verdicts[group] = MAX_STEPS
            rest = R.copy(order="F")
            rest[:, active] = self.residual(R[:, active], Z[:, active], lam[active])
            size[active] = np.linalg.norm(rest[:, active], axis=0) / norm[active]
            solved = size[active] <= rtol
            verdicts[active[solved]] = SUCCESS
            stalled = ~solved & ~(size[active] < 0.5 * before)
            verdicts[active[stalled & (verdicts[active] == SUCCESS)]] = STAGNATION
            active = active[~solved & ~stalled & (verdicts[active] != MAX_STEPS)]
        return Z, outcome


def _times(M: sp.csr_matrix | None, V: np.ndarray) -> np.ndarray:
    """Return M V, by columns: faster than SciPy's product with a block, which is in rows."""
    if M is None:
        return V
    out = np.empty(V.shape, np.result_type(M.dtype, V.dtype), order="F")
    for j in range(V.shape[1]):
        out[:, j] = M @ V[:, j]
    return out


def _norm(M: sp.csr_matrix | None) -> float:
    """Return a bound of the 2-norm: √(‖M‖₁ ‖M‖∞)."""
    if M is None:
        return 1.0
    size: Any = abs(M)
    return float(np.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max()))


def _adjoint(M: sp.csr_matrix | None) -> Any:
    return None if M is None else M.conj().T.tocsr()
