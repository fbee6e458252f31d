"""Shift and invert for sparse pencils, on the host; known parts of the solutions are separated."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..host.blas import blas_beside_solves
from ..operators.views import host_view
from ._block_krylov import add, inner, solve_each
from ._objections import STAGNATION
from ._shift_invert_krylov import PASSES, Krylov, solve_by_shifts, times, unsolved
from ._solve import Outcome
from ._systems import Border, ShiftedPencil
from .factorizations import Factorization, Shift, shift


def on_host(pencil: ShiftedPencil) -> ShiftedPencil:
    """Return the pencil, whose leaves must be concrete, with its operators as CSR matrices."""
    A, B = host_view(pencil.A), None if pencil.B is None else host_view(pencil.B)
    known = jax.tree.map(np.asarray, pencil.known)
    return pencil._replace(
        A=A, B=B, lam=np.asarray(pencil.lam), X=np.asarray(pencil.X), known=known
    )


def solve_on_host(
    pencil: ShiftedPencil,
    sigma: Shift | None,
    b: np.ndarray,
    *options: Any,
    earlier: Factorization | None = None,
) -> tuple[np.ndarray, Outcome]:
    """Solve the systems of the pencil; `options` are method, rtol and max_steps.

    With factors of an `earlier` pencil, the latter precondition, and the pencil is factorised for
    what they do not solve.

    Returns the solutions, of the shape of b, and their outcomes; a step is one block of a space
    that eigenpairs share.
    """
    outcome = Outcome.start(b.shape[1])
    todo = np.flatnonzero(np.any(b != 0, axis=0))
    U = np.zeros_like(b)
    if not todo.size:
        return U, outcome
    bordered = isinstance(pencil.known, Border)
    # Mᵀ x = b is the conjugate of Mᴴ x̄ = b̄, which the factors of A − σB solve
    b = b.conj() if pencil.transposed else b
    krylov = Krylov(pencil, earlier)
    if sigma is None:
        sigma = _among(krylov) if bordered else float(pencil.shift(np))
    solve = _solve_bordered if bordered else _solve_deflated
    with blas_beside_solves():
        U[:, todo], (outcome.verdicts[todo], outcome.steps[todo]) = solve(
            krylov, sigma, todo, b[:, todo], *options
        )
    return U.conj() if pencil.transposed else U, outcome


def _solve_deflated(
    krylov: Krylov, sigma: Shift, pairs: np.ndarray, b: np.ndarray, *options: Any
) -> tuple[np.ndarray, Outcome]:
    """Solve: on the known eigenpairs the system is BX τᵢ, on their complement A − λᵢB."""
    R = np.asfortranarray(b)
    along = inner(krylov.dual_image, R)
    R = add(R, -1.0, krylov.image, along)
    Z, outcome = solve_by_shifts(krylov, sigma, pairs, R, *options)
    return add(Z, 1.0, krylov.known, along / krylov.pencil.known[pairs]), outcome


def _solve_bordered(
    krylov: Krylov,
    sigma: Shift,
    pairs: np.ndarray,
    b: np.ndarray,
    method: Callable,
    rtol: float,
    max_steps: int,
) -> tuple[np.ndarray, Outcome]:
    """Solve among the known vectors, on their complement, and again among the known vectors.

    Let U span the known vectors, which A − λᵢB maps to the span of W = BU. In bases of U and its
    complement, and of W and its complement, A − λᵢB is block triangular. So is its adjoint, in the
    opposite order, with W in place of U. Three solves are therefore exact if the vectors are, and
    each further round gains as many digits as the vectors have.
    """
    border = _Border(krylov, pairs)
    n = len(krylov.known)
    u, outcome = np.zeros_like(b), Outcome.start(pairs.size)
    norm, size = np.linalg.norm(b, axis=0), np.ones(pairs.size)
    todo = np.arange(pairs.size)

    def residual() -> np.ndarray:
        return b[:, todo] - border.product(todo, u[:, todo])

    for _ in range(PASSES):
        u[:, todo] += border.solve_known(todo, residual())
        R = np.asfortranarray(residual()[:n])
        Z, found = solve_by_shifts(krylov, sigma, pairs[todo], R, method, rtol, max_steps)
        u[:n, todo] += Z
        outcome.verdicts[todo] = found.verdicts
        outcome.steps[todo] += found.steps
        u[:, todo] += border.solve_known(todo, residual())
        new = np.linalg.norm(residual(), axis=0) / norm[todo]
        allowed = krylov.allowed(rtol, border.lam[todo], u[:n, todo] / norm[todo])
        todo = unsolved(todo, size, new, allowed, outcome.verdicts)
        if not todo.size:
            break
    outcome.verdicts[todo] = STAGNATION
    return u, outcome


class _Border:
    """The bordered systems of some eigenpairs: products, and solutions among known eigenpairs."""

    def __init__(self, krylov: Krylov, pairs: np.ndarray):
        col, row, near, alpha = krylov.pencil.known
        self.col, self.row = (col.conj(), row.conj()) if krylov.adjoint else (col, row)
        self.near, self.rest = near[:, pairs], (1 - near[:, pairs]) * alpha[:, None]
        self.krylov, self.lam = krylov, krylov.lam[pairs]
        U, W = krylov.known, krylov.dual_image
        # the matrices among the known vectors: (k', k') and (k', p), (p, k')
        A, B = inner(W, times(krylov.A, U)), inner(W, times(krylov.B, U))
        top = A - self.lam[:, None, None] * B
        near = self.near.T
        self.matrices = np.block(
            [
                [top, (W.conj().T @ self.col) * near[:, None, :]],
                [near[:, :, None] * (self.row.T @ U), self.rest.T[:, :, None] * np.eye(len(col.T))],
            ]
        )

    def product(self, todo: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return Mᵢ uᵢ."""
        n, near = len(self.col), self.near[:, todo]
        Z, mu = u[:n], u[n:]
        top = times(self.krylov.A, Z) - self.lam[todo] * times(self.krylov.B, Z)
        top = top + self.col @ (near * mu)
        return np.concatenate([top, near * (self.row.T @ Z) + self.rest[:, todo] * mu])

    def solve_known(self, todo: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Return uᵢ among the known vectors and the border that removes rᵢ from them."""
        n, U = len(self.col), self.krylov.known
        right = np.concatenate([inner(self.krylov.dual_image, r[:n]), r[n:]])
        a = solve_each(self.matrices[todo], right)
        return np.concatenate([U @ a[: U.shape[1]], a[U.shape[1] :]])


def _among(krylov: Krylov) -> Shift:
    """Return a shift amid the eigenvalues; real for real matrices unless that is far from them."""
    lam, real = krylov.pencil.lam, krylov.is_real(0.0)
    if real:  # systems below the real axis are solved as their conjugates above it
        lam = lam.real + 1j * np.abs(lam.imag)
    centre = complex(np.mean(lam))
    spread = float(np.max(np.abs(lam - centre)))
    if real and centre.imag <= spread:
        centre = complex(centre.real)
    step = 0.1 * spread + 0.01 * krylov.size
    # of a few candidates, the one farthest from the eigenvalues
    places = centre + step * np.array([-1.0, -0.5, 0.5])
    distances = np.min(np.abs(places[:, None] - lam[None, :]), axis=1)
    return shift(places[np.argmax(distances)]) or 0.0
