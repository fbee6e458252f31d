"""Solve (A − λᵢB) zᵢ = rᵢ on the complement of known vectors by factors of A − σB, on the host."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import LinearSolveWarning
from ..checks.rounding import SOLVED
from ._block_krylov import add, inner, side_by_side, solve_shifted
from ._objections import MAX_STEPS, STAGNATION, SUCCESS
from ._preconditioned import solve_preconditioned
from ._solve import Outcome
from ._systems import INSIDE, ShiftedPencil
from .cache import factorize
from .factorizations import Factorization, Shift, SingularError, shift

# Eigenpairs that share a space. A larger group needs fewer steps, but memory for all its blocks.
GROUP = 20
# The rounding error of a sum is below this many eps of its terms.
ZERO = 10
# Passes, each from one true residual to the next; each gains many digits, or reaches rounding.
PASSES = 10


def solve_by_shifts(
    krylov: "Krylov", sigma: Shift, pairs: np.ndarray, R: np.ndarray, *options: Any
) -> tuple[np.ndarray, Outcome]:
    """Solve by one shift for all eigenpairs, then by one for each that it did not solve.

    Before, by the factors of an earlier pencil where there are any.
    """
    if krylov.earlier is None:
        return _by_shifts(krylov, sigma, pairs, R, *options)
    Z, outcome = krylov.solve(sigma, pairs, R, *options, earlier=krylov.earlier)
    todo = np.flatnonzero(outcome.verdicts != SUCCESS)
    if not todo.size:
        return Z, outcome
    Z[:, todo], new = _by_shifts(krylov, sigma, pairs[todo], R[:, todo], *options)
    outcome.verdicts[todo] = new.verdicts
    outcome.steps[todo] += new.steps
    return Z, outcome


def _by_shifts(
    krylov: "Krylov", sigma: Shift, pairs: np.ndarray, R: np.ndarray, *options: Any
) -> tuple[np.ndarray, Outcome]:
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
        lam = complex(krylov.pencil.lam[pairs[j]])
        side = 1 if np.real(sigma) > lam.real else -1
        own = shift(lam + side * 1e-3 * krylov.size)
        one = slice(j, j + 1)
        Z[:, one], alone = krylov.solve(own or 0.0, pairs[one], R[:, one], *options)
        outcome.verdicts[one] = alone.verdicts
        outcome.steps[one] += alone.steps
    return Z, outcome


class Krylov:
    """A pencil or its adjoint on the complement of known vectors, and the spaces to solve in.

    Attributes:
        earlier: factors of a pencil like this one, `None` if there are none.
        norms: bounds of the norms of A and B.
        size: the largest |λᵢ|, or a fraction of ‖A‖/‖B‖ where that is rounding.
        known, image: bases of the space of the known vectors and of its image under A − λB.
        dual, dual_image: with them dualᴴ known = I and dual_imageᴴ image = I.
    """

    def __init__(self, pencil: ShiftedPencil, earlier: Factorization | None = None):
        self.pencil, self.earlier = pencil, earlier
        self.hermitian = pencil.hermitian
        self.A, self.B, self.lam = pencil[:3]
        self.norms = _norm(self.A), _norm(self.B)
        # the eigenvalues may be 0 to rounding
        size, spectrum = float(np.max(np.abs(self.lam))), self.norms[0] / self.norms[1]
        zero = ZERO * float(np.finfo(self.lam.dtype).eps) * spectrum
        self.size = size if size > zero else 1e-3 * spectrum
        # a Hermitian pencil is its own adjoint
        self.adjoint = pencil.transposed and not pencil.hermitian
        if self.hermitian:
            self.known = self.dual_image = np.asfortranarray(pencil.X)
            self.image = self.dual = times(self.B, self.known)
        else:
            # with orthonormal bases no left eigenvectors are needed
            real = self.is_real(0.0)
            known = _real_orthonormal(pencil.X, pencil.lam) if real else _orthonormal(pencil.X)
            image = known if self.B is None else _orthonormal(times(self.B, known))
            if self.adjoint:
                self.A, self.B, self.lam = _adjoint(self.A), _adjoint(self.B), self.lam.conj()
                known, image = image, known
            self.known, self.dual, self.image, self.dual_image = known, known, image, image
        # a bound of B from the norm of `to_dual` to the norm of vectors
        self.size_B = self.norms[1] ** (0.5 if self.hermitian else 1.0)

    def is_real(self, sigma: Shift) -> bool:
        """Return whether (A − σB)⁻¹B is a real matrix."""
        return not any(map(np.iscomplexobj, (self.pencil.A, self.pencil.B, sigma)))

    def to_dual(self, V: np.ndarray) -> np.ndarray:
        return times(self.B, V) if self.hermitian else V

    def complement(self, V: np.ndarray) -> np.ndarray:
        """Project a block on the complement of the known vectors, in place."""
        return add(V, -1.0, self.known, inner(self.dual, V))

    def allowed(self, rtol: float, lam: np.ndarray, Z: np.ndarray) -> np.ndarray:
        """Return the residual that counts as solved, of right sides of norm 1."""
        parts = self.norms[0] + np.abs(lam) * self.norms[1]
        rounding = np.finfo(Z.dtype).eps * np.linalg.norm(parts * Z, axis=0)
        return np.maximum(rtol, np.minimum(rounding, SOLVED))

    def products(self, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AV and BV."""
        return times(self.A, V), times(self.B, V)

    def residual(self, R: np.ndarray, Z: np.ndarray, lam: np.ndarray) -> np.ndarray:
        """Return rᵢ − (A − λᵢB) zᵢ without its part in the image of the known vectors."""
        rest = R - times(self.A, Z) + lam * times(self.B, Z)
        return add(rest, -1.0, self.image, inner(self.dual_image, rest))

    def solve(
        self,
        sigma: Shift,
        pairs: np.ndarray,
        R: np.ndarray,
        method: Callable,
        rtol: float,
        max_steps: int,
        earlier: Factorization | None = None,
    ) -> tuple[np.ndarray, Outcome]:
        """Return Z with (A − λᵢB) zᵢ = rᵢ for these eigenpairs.

        By factors of A − σB, or with those of an `earlier` pencil as a preconditioner.
        """
        factors = earlier
        if factors is None:
            factors = factorize(self.pencil.A, self.pencil.B, sigma, method)
        solve = factors.solve_adjoint if self.adjoint else factors.solve
        at = np.conj(sigma) if self.adjoint else sigma

        def inverse(V: np.ndarray) -> np.ndarray:
            return self.complement(np.asfortranarray(solve(V)))

        def power(V: np.ndarray) -> np.ndarray:
            return inverse(V if self.hermitian else times(self.B, V))

        lam = self.lam[pairs].astype(R.dtype)
        # for a real pencil, solve the conjugate system where σ is nearer to the conjugate of λᵢ
        turned = (np.imag(lam) * np.imag(at) < 0) & self.is_real(0.0)
        lam, R = _conjugate(lam, turned), _conjugate(R, turned)
        norm = np.linalg.norm(R, axis=0)
        size = np.sign(norm)
        norm[norm == 0] = 1
        R = R / norm  # of whatever size: rounding, where the known vectors are all
        Z, rest = np.zeros_like(R), R
        verdicts, taken = outcome = Outcome.start(pairs.size)
        active = np.flatnonzero(size > rtol)
        # neighbours share a space, because they need about the same number of steps
        active = active[np.argsort(np.abs(lam[active] - at))]
        for _ in range(PASSES):
            if not active.size:
                break
            for start in range(0, active.size, GROUP):
                group = active[start : start + GROUP]
                S = inverse(rest[:, group])
                # the projection may leave nothing, where the known vectors are all
                left = np.any(S != 0, axis=0)
                group, S = group[left], np.asfortranarray(S[:, left])
                if not group.size:
                    continue
                target = np.minimum(INSIDE * rtol / size[group], 0.1)
                if earlier is None:
                    mu = lam[group] - lam.dtype.type(at)
                    unit = np.max(np.abs(mu)) or 1.0
                    dZ, steps = solve_shifted(
                        lambda V, unit=unit: unit * power(V),
                        self.to_dual,
                        S,
                        mu / unit,
                        target,
                        INSIDE * rtol / (np.where(mu == 0, 1, np.abs(mu)) * self.size_B),
                        max_steps,
                        self.hermitian,
                        self.is_real(sigma),
                    )
                else:
                    dZ, steps = solve_preconditioned(
                        self.products,
                        self.residual,
                        inverse,
                        rest[:, group],
                        S,
                        lam[group],
                        target * size[group],
                        max_steps,
                    )
                    dZ = self.complement(dZ)
                Z[:, group] += dZ
                taken[group] += steps
                if steps == max_steps:
                    verdicts[group] = MAX_STEPS
            rest = R.copy(order="F")
            rest[:, active] = self.residual(R[:, active], Z[:, active], lam[active])
            new = np.linalg.norm(rest[:, active], axis=0)
            allowed = self.allowed(rtol, lam[active], Z[:, active])
            active = unsolved(active, size, new, allowed, verdicts)
        verdicts[active] = STAGNATION
        return _conjugate(Z * norm, turned), outcome


def unsolved(
    todo: np.ndarray, size: np.ndarray, new: np.ndarray, allowed: np.ndarray, verdicts: np.ndarray
) -> np.ndarray:
    """Return those of `todo` to continue with; record the new residuals and the verdicts."""
    solved, stalled = new <= allowed, ~(new < 0.5 * size[todo])
    verdicts[todo[solved]] = SUCCESS
    verdicts[todo[~solved & stalled & (verdicts[todo] == SUCCESS)]] = STAGNATION
    size[todo] = new
    return todo[~solved & (verdicts[todo] == SUCCESS)]


def times(M: sp.csr_matrix | None, V: np.ndarray) -> np.ndarray:
    """Return M V, column by column: faster than SciPy's product with a block, stored by rows."""
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
    return float(np.sqrt(size.sum(axis=0).max()) * np.sqrt(size.sum(axis=1).max()))


def _orthonormal(V: np.ndarray) -> np.ndarray:
    return np.asfortranarray(np.linalg.qr(V / np.linalg.norm(V, axis=0))[0])


def _real_orthonormal(V: Any, lam: Any) -> np.ndarray:
    """Return a real orthonormal basis of a real pencil's eigenvectors and their conjugates.

    It has one column for a real eigenvalue, and two for a conjugate pair, also where only one of
    the pair is known. Further components are the solver's error, not known eigenvectors.
    """
    eps = float(np.finfo(lam.dtype).eps)
    close = eps ** (1 / 3) * np.abs(lam)
    above, below = lam[lam.imag > close], lam[lam.imag < -close].conj()
    distances = np.abs(above[:, None] - below[None, :])
    halves = int(np.sum(np.all(distances > np.max(close), axis=0)))
    real = len(lam) - len(above) - len(below)
    size = real + 2 * (len(above) + halves)
    # the eigenvectors of real eigenvalues are real up to a phase
    V = V / np.linalg.norm(V, axis=0)
    largest = V[np.argmax(np.abs(V), axis=0), np.arange(V.shape[1])]
    parts = side_by_side(V * (largest.conj() / np.abs(largest)))
    qr: Any = sla.qr(parts, mode="economic", pivoting=True)
    Q, R, _ = qr
    independent = np.abs(np.diagonal(R))[:size] > eps**0.5
    return np.asfortranarray(Q[:, : len(independent)][:, independent])


def _conjugate(V: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.asfortranarray(np.where(which, V.conj(), V)) if which.any() else V


def _adjoint(M: sp.csr_matrix | None) -> Any:
    return None if M is None else M.conj().T.tocsr()
