"""The shifted systems of all eigenpairs, by a preconditioner near the inverse of A − σB.

Where only the factors of a matrix M near A − σB are known, the operators M⁻¹(A − λᵢB) differ by
more than a multiple of the identity, and no Krylov space belongs to all of them. But one space can
still serve all: it grows by the preconditioned residuals M⁻¹rᵢ of the systems that are not solved,
and each system is solved in it by Galerkin's condition,

    Vᴴ(A − λᵢB)V yᵢ = Vᴴbᵢ,      zᵢ = V yᵢ,      rᵢ = bᵢ − (A − λᵢB) zᵢ .

If A − λᵢB is definite on the complement of the known vectors, no element of the space has a smaller
error in the energy norm. The space holds those of the k separate conjugate gradient iterations, so
that this never takes more steps, and usually far fewer. With M = A − σB it is the block Krylov
space of the module `_block_krylov`.

Source: Morgan & Scott (1986) SIAM J. Sci. Stat. Comput. 7, 817, the generalised Davidson method,
here for linear systems.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg as sla

from ._block_krylov import add, combine, inner, solve_each

# The largest number of blocks of a space, which has memory and products of all of them; the caller
# then starts another from the true residuals.
LENGTH = 30
# Of a direction of which less than this is left, beside the space, that is orthogonalised again.
NEARLY = 1e-2

Map = Callable[[np.ndarray], np.ndarray]


def solve_preconditioned(
    products: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    residual: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    inverse: Map,
    R: np.ndarray,
    S: np.ndarray,
    lam: np.ndarray,
    tol: np.ndarray,
    max_steps: int,
) -> tuple[np.ndarray, int]:
    """Return Z with (A − λᵢB) zᵢ ≈ rᵢ on a complement, and the number of blocks of the space.

    Args:
        products: block V -> AV, BV.
        residual: R, Z, λ -> rᵢ − (A − λᵢB) zᵢ on the dual of the complement.
        inverse: block -> the preconditioner applied to it, on the complement.
        R: right sides, shape (n, k).
        S: the preconditioner applied to them; no column is zero.
        lam: shape (k,).
        tol: the norm of the residual that ends each system; shape (k,).
        max_steps: largest number of blocks, if that is below `LENGTH`.
    """
    (n, k), max_steps = R.shape, min(max_steps, LENGTH)
    # memory is taken as the columns are written
    V = np.empty((n, min(n, k * max_steps)), R.dtype, order="F")
    A = B = np.zeros((0, 0), R.dtype)
    C, Z, m, steps = np.zeros((0, k), R.dtype), np.zeros_like(R), 0, 0
    while steps < max_steps and (W := _beside(V[:, :m], S)[:, : V.shape[1] - m]).size:
        m, steps = m + W.shape[1], steps + 1
        V[:, m - W.shape[1] : m] = W
        A, B = (
            _extended(M, inner(V[:, :m], MW)) for M, MW in zip((A, B), products(W), strict=True)
        )
        C = np.concatenate([C, inner(W, R)])
        Z = combine(V[:, :m], solve_each(A - lam[:, None, None] * B, C))
        rest = residual(R, Z, lam)
        active = ~(np.linalg.norm(rest, axis=0) <= tol)
        if not active.any():
            break
        S = inverse(rest[:, active])
    return Z, steps


def _beside(V: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of what W adds to the span of the orthonormal V."""
    dependent = np.finfo(W.dtype).eps ** 0.5
    for _ in range(2):
        norm = np.linalg.norm(W, axis=0)
        W = np.asfortranarray(W[:, norm > 0] / norm[norm > 0])
        W = add(W, -1.0, V, inner(V, W)) if V.size and W.size else W
        if not W.size:
            break
        qr: Any = sla.qr(W, mode="economic", pivoting=True, check_finite=False)
        Q, R, _ = qr
        left = np.abs(np.diagonal(R))
        # what is left of a dependent direction is rounding
        W = np.asfortranarray(Q[:, left > dependent])
        # and of one that is nearly so is not orthogonal yet
        if np.all(left > NEARLY):
            break
    return W


def _extended(M: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the Hermitian matrix M with further rows and columns."""
    m = len(M)
    return np.block([[M, columns[:m]], [columns[:m].conj().T, columns[m:]]])
