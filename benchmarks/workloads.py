"""The problems that are measured: NumPy and SciPy only, so that every contestant can import it.

Each has `forward inputs`, a loss of eigenvalues and squared eigenvectors, and the cotangents of
that loss.
"""

import functools
import itertools

import numpy as np
import scipy.sparse as sp


class DenseSymmetric:
    """W1: lowest eigenpairs of a dense symmetric matrix; gradient with respect to the matrix."""

    def __init__(self, n=1000, k=6):
        rng = np.random.default_rng(0)
        G = rng.standard_normal((n, n))
        self.n, self.k = n, k
        self.A = (G + G.T) / np.sqrt(2 * n)
        self.w = rng.standard_normal(k)
        self.g = rng.standard_normal((n, k))

    def loss(self, lam, X):
        return self.w @ lam + (self.g * X**2).sum()

    def cotangents(self, lam, X):
        return self.w, 2 * self.g * X


class Elements:
    """W2, W6: K(p) u = λ M(p) u, one parameter for each cell of a grid with m points each way.

    K = Σ p_e K_e, M = Σ (1 + p_e)/2 M_e, bilinear elements on a rectangle of 1 by 1.2 (W2), or
    trilinear ones on a block of 1 by 1.2 by 1.4 (W6), held at its surface.
    """

    def __init__(self, m=300, k=6, dimensions=2):
        cells = m + 1
        sides = [(1 + 0.2 * axis) / cells for axis in range(dimensions)]
        k1, m1 = np.array([[1, -1], [-1, 1.0]]), np.array([[2, 1], [1, 2.0]]) / 6
        masses = [m1 * h for h in sides]
        self.Me = functools.reduce(np.kron, masses)
        self.Ke = sum(
            functools.reduce(np.kron, [*masses[:axis], k1 / h, *masses[axis + 1 :]])
            for axis, h in enumerate(sides)
        )
        corners = list(itertools.product((0, 1), repeat=dimensions))
        at = np.indices((cells,) * dimensions).reshape(dimensions, -1)
        nodes = np.full((cells + 1,) * dimensions, -1)
        nodes[(slice(1, -1),) * dimensions] = np.arange(m**dimensions).reshape((m,) * dimensions)
        cell_nodes = np.stack([nodes[tuple(at + np.c_[list(c)])] for c in corners], axis=1)
        rows = np.repeat(cell_nodes, len(corners), axis=1).ravel()
        cols = np.tile(cell_nodes, (1, len(corners))).ravel()
        keep = np.flatnonzero((rows >= 0) & (cols >= 0))
        self.n, self.k, self.cells = m**dimensions, k, cells**dimensions
        self.rows, self.cols = rows[keep].astype(np.int32), cols[keep].astype(np.int32)
        self.cell = keep // len(corners) ** 2
        self.stiffness = np.tile(self.Ke.ravel(), self.cells)[keep]
        self.mass = np.tile(self.Me.ravel(), self.cells)[keep]
        self.nodes = np.where(cell_nodes < 0, self.n, cell_nodes)
        # for those who assemble by hand: entries of the fixed pattern = gather @ p
        pattern = sp.csr_matrix((np.ones(len(keep)), (self.rows, self.cols)), (self.n, self.n))
        pattern.sum_duplicates()
        self.indices, self.indptr = pattern.indices, pattern.indptr
        keys = np.repeat(np.arange(self.n), np.diff(self.indptr)) * self.n + self.indices
        slot = np.searchsorted(keys, self.rows.astype(np.int64) * self.n + self.cols)
        shape = (len(keys), self.cells)
        self.gather_K = sp.csr_matrix((self.stiffness, (slot, self.cell)), shape)
        self.gather_M = sp.csr_matrix((self.mass, (slot, self.cell)), shape)
        rng = np.random.default_rng(0)
        self.p = 1 + 0.5 * rng.random(self.cells)
        self.w, self.g = rng.standard_normal(k), rng.standard_normal(self.n)

    def assemble(self, p):
        shape = (self.n, self.n)
        K = sp.csr_matrix((self.gather_K @ p, self.indices, self.indptr), shape)
        return K, sp.csr_matrix((self.gather_M @ ((1 + p) / 2), self.indices, self.indptr), shape)

    def loss(self, lam, X):
        return self.w @ lam + (self.g[:, None] * X**2).sum()

    def cotangents(self, lam, X):
        return self.w, 2 * self.g[:, None] * X

    def by_cells(self, X):
        return np.vstack([X, np.zeros((1, X.shape[1]))])[self.nodes]

    def gradient(self, lam, X, Z):
        """From Z with (K − λᵢM) zᵢ = −(I − M xᵢxᵢᵀ) x̄ᵢ, zᵢ ⟂ M xᵢ."""
        lam_bar, X_bar = self.cotangents(lam, X)
        half = np.sum(X * X_bar, axis=0) / 2
        XK, K_bar = self.by_cells(X), self.by_cells(lam_bar * X + Z)
        M_bar = self.by_cells(-((half + lam * lam_bar) * X + lam * Z))
        out = np.einsum("eak,ab,ebk->e", K_bar, self.Ke, XK, optimize=True)
        return out + 0.5 * np.einsum("eak,ab,ebk->e", M_bar, self.Me, XK, optimize=True)


class Schroedinger:
    """W3: H = −Δ_h / 2 + V on m³ points, by products; eigenvalues, or one eigenpair."""

    def __init__(self, m=46, k=6, vector=False):
        rng = np.random.default_rng(0)
        x = np.linspace(-5, 5, m + 2)[1:-1]
        X, Y, Z = np.meshgrid(x, x, x, indexing="ij")
        self.V = 0.5 * (X**2 + (1.15 * Y) ** 2 + (1.33 * Z) ** 2) + 0.05 * rng.random((m,) * 3)
        self.m, self.n, self.k, self.vector = m, m**3, k, vector
        self.c = 0.5 / (x[1] - x[0]) ** 2
        self.w, self.g = rng.standard_normal(k), rng.standard_normal(self.n)

    def product(self, v):
        u = v.reshape(self.V.shape)
        y = (self.V + 6 * self.c) * u
        for axis in range(3):
            first, last = [slice(None)] * 3, [slice(None)] * 3
            first[axis], last[axis] = slice(1, None), slice(None, -1)
            y[tuple(first)] -= self.c * u[tuple(last)]
            y[tuple(last)] -= self.c * u[tuple(first)]
        return y.reshape(v.shape)


class Bands:
    """W4: all or some eigenpairs of many complex Hermitian matrices, as along a band path."""

    def __init__(self, batch=512, n=32, k=6):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((batch, n, n)) + 1j * rng.standard_normal((batch, n, n))
        self.A, self.n, self.k = A + A.conj().transpose(0, 2, 1), n, k
        self.g = rng.standard_normal((n, n))


class ConvectionDiffusion:
    """W5: −∇·(p ∇u) + w·∇u on m×m points held at the edge, p at each point, w a rotation.

    The eigenpairs nearest 0, some of them complex; ‖x‖ = 1.
    """

    def __init__(self, m=200, k=4):
        h = 1 / (m + 1)
        points = np.arange(m * m).reshape(m, m)
        across = [(points[1:], points[:-1]), (points[:, 1:], points[:, :-1])]
        self.one, self.other = (np.concatenate([a[i].ravel() for a in across]) for i in range(2))
        self.edge = np.concatenate([points[0], points[-1], points[:, 0], points[:, -1]])
        x, y = ((g + 1.0) * h - 0.5 for g in np.meshgrid(*2 * [np.arange(m)], indexing="ij"))
        speed = 40 / (2 * h)
        wind = np.concatenate([(-speed * y[1:]).ravel(), (speed * x[:, 1:]).ravel()])
        back = np.concatenate([(-speed * y[:-1]).ravel(), (speed * x[:, :-1]).ravel()])
        # entries: of the diffusion between neighbours, of that to the edge, of the wind
        self.rows = np.concatenate([self.one, self.other] * 2 + [self.edge, self.one, self.other])
        self.cols = np.concatenate(
            [self.other, self.one, self.one, self.other, self.edge, self.other, self.one]
        )
        self.wind = np.concatenate([-wind, back])
        self.n, self.k, self.inverse_square = m * m, k, 1 / h**2
        rng = np.random.default_rng(0)
        self.p = 1 + 0.5 * rng.random(self.n)
        self.w, self.g = rng.standard_normal(k), rng.standard_normal(self.n)

    def entries(self, p, concatenate=np.concatenate):
        """Return the entries at `rows` and `cols`, of NumPy's or of JAX's arrays."""
        between = (p[self.one] + p[self.other]) * (self.inverse_square / 2)
        edge = p[self.edge] * self.inverse_square
        return concatenate([-between, -between, between, between, edge, self.wind])

    def assemble(self, p):
        return sp.csc_matrix((self.entries(p), (self.rows, self.cols)), (self.n, self.n))

    @staticmethod
    def sort(lam):
        """Return the order of eigenpairs: by size, of conjugates the one with Im λ > 0 first."""
        return np.lexsort((-lam.imag, np.round(np.abs(lam), 6)))

    def loss(self, lam, X):
        return self.w @ lam.real + (self.g[:, None] * np.abs(X) ** 2).sum()

    def cotangents(self, lam, X):
        return self.w, 2 * self.g[:, None] * X

    def gradient(self, X, Z):
        """From the adjoint vectors: Re(−zᴴ Ȧ x) is the change of the loss."""
        bar = -np.sum(Z[self.rows].conj() * X[self.cols], axis=1).real
        size = len(self.one)
        a, b, c, d = (bar[i * size : (i + 1) * size] for i in range(4))
        between = (c + d - a - b) * (self.inverse_square / 2)
        edge = bar[4 * size : 4 * size + len(self.edge)] * self.inverse_square
        count = lambda places, values: np.bincount(places, values, self.n)
        return count(self.one, between) + count(self.other, between) + count(self.edge, edge)
