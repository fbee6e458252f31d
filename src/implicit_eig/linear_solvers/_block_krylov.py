"""The shifted systems of all eigenpairs, solved in one block Krylov space on the host.

With T = (A − σB)⁻¹ B and μᵢ = λᵢ − σ,

    (A − λᵢB) zᵢ = rᵢ      ⇔      (I − μᵢ T) zᵢ = sᵢ,      sᵢ = (A − σB)⁻¹ rᵢ :

T is the same for every eigenpair; only a multiple of it and the identity enter. So one space
span(S, TS, T²S, …) serves them all. With an orthonormal basis V of it, T V = V H + W Eᴴ,

    (I − μᵢ H) yᵢ = Vᴴ sᵢ,      zᵢ = V yᵢ,      residual = μᵢ W Eᴴ yᵢ :

all residuals lie in the span of the newest block W. The directions of W in which no residual
exceeds its tolerance are left out of the next block, so that converged eigenpairs, and linearly
dependent right sides, cost no further solves. What is left out counts as a residual from then on;
when it is the larger part, the caller starts again from the true residual.

The residual ρ here is that of (I − μT) z = s. It may be small while the true residual,
(A − σB) ρ, is large in its rough components. One further step of the fixed-point iteration,
z' = s + μTz, leaves μTρ here and

    μ B ρ

as the true residual, and T z is known in the space. So the step costs no solve, it bounds both
residuals, and it saves a second pass to smooth the first: 59 solves instead of 69, 416 instead of
469.

For a Hermitian pencil T is self-adjoint in the inner product of B, whatever the sign of A − σB, so
H is block tridiagonal and a new block is orthogonalised against the last two only.

Where T is real and the right sides are not, the space is spanned by real vectors, which are
combined with complex coefficients. A conjugate pair of systems then costs as much as one of them,
and a real system half as much.

Blocks of vectors are in Fortran order, the layout that the triangular solves expect. Products use
SciPy's BLAS, as these solves do: NumPy's has its own threads, and the two thread pools wait for
each other (0.9 s instead of 0.65 s for six eigenpairs, n = 90,000).

Source: Simoncini & Gallopoulos (1996) Math. Comp. 65, 1429 and O'Leary (1980) Linear Algebra
Appl. 29, 293 for block spaces; Li & Kennedy (2025) Struct. Multidisc. Optim. 68:4 for shift and
invert; differs in: one space for all shifts, reduced by its residuals.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import eigh, get_blas_funcs

Map = Callable[[np.ndarray], np.ndarray]

# Eigenvalues of the block Gram matrix below this many eps of its largest mean linear dependence.
DEPENDENT = 50


def inner(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return Uᴴ V."""
    gemm: Any = get_blas_funcs("gemm", (U, V))
    return gemm(1.0, U, V, trans_a=2)


def combine(V: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return V C."""
    gemm: Any = get_blas_funcs("gemm", (V, C))
    return gemm(1.0, V, C)


def add(W: np.ndarray, factor: float, V: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return W + factor V C, computed in the memory of W."""
    gemm: Any = get_blas_funcs("gemm", (W,))
    return gemm(factor, V, C, 1.0, W, overwrite_c=True)


def side_by_side(V: Any) -> np.ndarray:
    """Return the real parts of the columns followed by their imaginary parts, as columns."""
    return np.asfortranarray(np.concatenate([V.real, V.imag], axis=1))


def solve_shifted(
    T: Map,
    dual: Map,
    S: np.ndarray,
    mu: np.ndarray,
    rtol: np.ndarray,
    atol: np.ndarray,
    max_steps: int,
    hermitian: bool,
    real: bool,
) -> tuple[np.ndarray, int]:
    """Return Z with (I − μᵢ T) zᵢ ≈ sᵢ, columns of shape (n, k), and the number of blocks.

    Args:
        T: block V -> the projected T V; it receives the dual of V.
        dual: V -> B V for Hermitian pencils, V itself otherwise: it defines the inner product.
        S: right sides, none of them zero, in the range of the projection.
        mu: λᵢ − σ; shape (k,).
        rtol: allowed residual of each system before the last step, relative to ‖sᵢ‖; shape (k,).
        atol: the same, absolute. Norms are those of `dual`; the smaller of the two counts.
        max_steps: largest number of blocks.
        hermitian: whether T is self-adjoint in the inner product of `dual`.
        real: whether T is real; the space is then one of real vectors.
    """
    scale = np.max(np.abs(S), axis=0)  # so that no square underflows
    W = S / scale
    BW = dual(W)
    norm = np.sqrt(np.abs(np.einsum("ij,ij->j", W.conj(), BW)))
    scale, same = scale * norm, BW is W
    W /= norm
    tol = np.minimum(rtol, atol / scale)
    space = _Space(T, dual, mu, hermitian, W, W if same else BW / norm, real)
    weights = space.coordinates(space.sides / tol)  # residuals over their tolerances, in W
    for _ in range(max_steps):
        space.extend(weights)
        residual, left_out = space.solve()
        active = (residual > tol) & (residual > left_out)
        if not active.any():
            break
        weights = space.coordinates((space.last / np.maximum(tol, left_out))[:, active])
    return space.solution(S / scale) * scale, len(space.blocks)


class _Space:
    """An orthonormal basis V of blocks, with T V = V H + W Eᴴ, and the solutions in it.

    Attributes:
        blocks, duals: those of V; of the duals, those against which a new block is orthogonalised.
        offsets: where each block begins among the columns of V, and where the last ends.
        omitted: for each block the directions that were left out, and coordinates in them.
        W, BW, G: T applied to the newest block, orthogonal to V; its dual; its Gram matrix.
        sides, C: the right sides, in the first W and in V.
        Y, last: the solutions in V; the coefficients of W in the residuals.
    """

    def __init__(
        self,
        T: Map,
        dual: Map,
        mu: np.ndarray,
        hermitian: bool,
        W: np.ndarray,
        BW: np.ndarray,
        real: bool,
    ):
        self.T, self.dual, self.mu, self.hermitian = T, dual, mu, hermitian
        k, dtype = len(mu), W.dtype
        self.sides = np.eye(k, dtype=dtype)
        if real and np.iscomplexobj(W):
            self.sides = np.concatenate([self.sides, 1j * self.sides])
            same = BW is W
            W = side_by_side(W)
            BW = W if same else side_by_side(BW)
        self.W, self.BW, self.G = W, BW, inner(W, BW)
        self.blocks: list[np.ndarray] = []
        self.duals: list[np.ndarray] = []
        self.offsets = [0]
        self.omitted: list[tuple[np.ndarray, np.ndarray]] = []
        self.H, self.C = np.zeros((0, 0), W.dtype), np.zeros((0, k), dtype)
        self.Y = self.last = self.C

    def coordinates(self, C: np.ndarray) -> np.ndarray:
        """Return the coordinates C in W, as real numbers where W is real."""
        return side_by_side(C) if np.isrealobj(self.W) and np.iscomplexobj(C) else C

    def extend(self, weights: np.ndarray) -> None:
        """Add those directions of W in which there are residuals, and multiply them by T."""
        mix, coordinates, q = _next_block(self.G, weights)
        m, (k, dtype) = self.offsets[-1], (len(self.mu), self.C.dtype)
        self.H = np.pad(self.H, ((0, q), (0, q)))
        if m:
            self.H[m:, self.offsets[-2] : m] = coordinates[:q]
            self.C = np.concatenate([self.C, np.zeros((q, k), dtype)])
        else:
            coordinates = coordinates @ self.sides
            self.C = coordinates[:q]
        self.blocks.append(combine(self.W, mix[:, :q]))
        same = self.BW is self.W
        self.duals.append(self.blocks[-1] if same else combine(self.BW, mix[:, :q]))
        self.omitted.append((combine(self.W, mix[:, q:]), coordinates[q:]))
        self.offsets.append(m + q)
        self.W = self._orthogonal(self.T(self.duals[-1]))
        self.BW = self.dual(self.W)
        self.G = inner(self.W, self.BW)

    def _orthogonal(self, W: np.ndarray) -> np.ndarray:
        """Return W without its component in V, which is added to H."""
        start, end = self.offsets[-2:]
        for j in range(max(0, len(self.blocks) - 2) if self.hermitian else 0, len(self.blocks)):
            h = inner(self.duals[j], W)
            W = add(W, -1.0, self.blocks[j], h)
            self.H[self.offsets[j] : self.offsets[j + 1], start:end] = h
        if self.hermitian and len(self.duals) > 1:
            self.duals[-2] = np.empty(0)  # frees its memory
        return W

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Solve in V; return the norms of the residuals in W and in what was left out, (k,)."""
        self.Y = _solve_small(self.H, self.mu, self.C, self.hermitian)
        self.last = self.mu * self.Y[self.offsets[-2] :]
        residual = np.sqrt(np.abs(np.sum(self.last.conj() * (self.G @ self.last), axis=0)))
        squares = np.sum(np.abs(self.omitted[0][1]) ** 2, axis=0)
        for j, (_, part) in enumerate(self.omitted[1:]):
            squares = squares + np.sum(
                np.abs(part @ (self.mu * self._rows(self.Y, j))) ** 2, axis=0
            )
        return residual, np.sqrt(squares)

    def solution(self, S: np.ndarray) -> np.ndarray:
        """Return s + μ T z, with T z computed from the basis."""
        Z = add(S, 1.0, self.W, self.last)
        HY = self.H @ self.Y
        for j, block in enumerate(self.blocks):
            Z = add(Z, 1.0, block, self._rows(HY, j) * self.mu)
        for j, (directions, coordinates) in enumerate(self.omitted[1:]):
            Z = add(Z, 1.0, directions, coordinates @ self._rows(self.Y, j) * self.mu)
        return Z

    def _rows(self, Y: np.ndarray, j: int) -> np.ndarray:
        return Y[self.offsets[j] : self.offsets[j + 1]]


def _next_block(G: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Choose an orthonormal block from vectors of Gram matrix G by their residuals.

    Returns the matrix (p, r) that turns the p vectors into r orthonormal ones, the coordinates of
    the p vectors in these (r, p), and how many of the r, from the first, form the block.
    """
    spectrum, vectors = np.linalg.eigh((G + G.conj().T) / 2)
    kept = spectrum > DEPENDENT * np.finfo(G.dtype).eps * spectrum[-1]
    root = np.sqrt(spectrum[kept])
    vectors = vectors[:, kept]
    coordinates = root[:, None] * vectors.conj().T
    directions, sizes, _ = np.linalg.svd(coordinates @ weights)
    q = max(1, int(np.sum(sizes > 1)))
    coordinates = directions.conj().T @ coordinates
    return (vectors / root) @ directions, coordinates, q


def _solve_small(H: np.ndarray, mu: np.ndarray, C: np.ndarray, hermitian: bool) -> np.ndarray:
    """Return Y with (I − μᵢ H) yᵢ = cᵢ, columns."""
    if hermitian:
        theta, vectors = eigh((H + H.conj().T) / 2, driver="evd", check_finite=False)
        gap = 1 - theta[:, None] * mu
        gap[gap == 0] = np.finfo(theta.dtype).eps  # an unknown eigenvalue equal to a known one
        return vectors @ ((vectors.conj().T @ C) / gap)
    shifted = np.eye(len(H), dtype=H.dtype) - mu[:, None, None] * H
    return solve_each(shifted, C)


def solve_each(M: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return uᵢ = Mᵢ⁻¹ rᵢ, columns of shape (m, k), for M of shape (k, m, m); NaN if singular."""
    try:
        return np.linalg.solve(M, R.T[:, :, None])[:, :, 0].T
    except np.linalg.LinAlgError:
        if len(M) == 1:
            return np.full_like(R, np.nan)
        columns = [solve_each(M[i : i + 1], R[:, i : i + 1]) for i in range(len(M))]
        return np.concatenate(columns, axis=1)
