"""Eigenproblems with known answers, and solvers that see what they are asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ie

EPS = {
    np.dtype(t): float(np.finfo(t).eps)
    for t in (np.float32, np.float64, np.complex64, np.complex128)
}


def random_hermitian(n, dtype=np.float64, seed=0):
    """A Hermitian matrix of size about 1."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n))
    if np.issubdtype(dtype, np.complexfloating):
        G = G + 1j * rng.standard_normal((n, n))
    return jnp.asarray(((G + G.conj().T) / np.sqrt(8 * n)).astype(dtype))


def random_definite(n, dtype=np.float64, seed=0):
    """A Hermitian positive definite matrix of condition below 10."""
    G = random_hermitian(n, dtype, seed)
    return (0.3 * (G @ G) + jnp.eye(n, dtype=dtype)).astype(dtype)


def with_spectrum(spectrum, dtype=np.float64, seed=0):
    """A Hermitian matrix of the given eigenvalues."""
    spectrum = np.asarray(spectrum, np.finfo(dtype).dtype)
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((len(spectrum),) * 2)
    if np.issubdtype(dtype, np.complexfloating):
        G = G + 1j * rng.standard_normal(G.shape)
    Q, _ = np.linalg.qr(G)
    A = (Q * spectrum) @ Q.conj().T
    return jnp.asarray(((A + A.conj().T) / 2).astype(dtype))


def dense(A):
    """The array of any of our host operators."""
    if isinstance(A, sp.linalg.LinearOperator):
        return A @ np.eye(A.shape[1], dtype=A.dtype)
    return A.toarray() if sp.issparse(A) else A


def sparse(matrix):
    """The operator of a full pattern, differentiable in its entries."""
    rows, cols = np.indices(matrix.shape).reshape(2, -1)
    return ie.SparseOperator(matrix.reshape(-1), rows, cols, matrix.shape)


def eigh(A, B=None):
    """LAPACK on the host, any of our host operators."""
    return sla.eigh(dense(A), None if B is None else dense(B))


def jax_eigh(A, B=None):
    """The oracle: autodiff through `jnp.linalg.eigh`, a pencil reduced by Cholesky."""
    if B is None:
        return jnp.linalg.eigh(A)
    L = jnp.linalg.cholesky(B)
    solve = lambda M: jax.scipy.linalg.solve_triangular(L, M, lower=True)
    C = solve(solve(A).conj().T).conj().T
    values, Y = jnp.linalg.eigh(C)
    return values, jax.scipy.linalg.solve_triangular(L.conj().T, Y, lower=False)


def invariant_loss(k, n, seed=1):
    """A smooth function of values and vectors that depends on no phase."""
    rng = np.random.default_rng(seed)
    c, S = rng.standard_normal(k), rng.standard_normal((n, k))

    def loss(values, vectors):
        real = values.dtype
        squares = jnp.abs(vectors[:, :k]) ** 2
        return jnp.sum(jnp.asarray(c, real) * jnp.sin(values[:k])) + jnp.sum(
            jnp.asarray(S, real) * squares
        )

    return loss


class Exchanged:
    """A host function whose code is exchanged while the compiled program that calls it stays."""

    def __init__(self, now=None):
        self.now = now

    def __call__(self, *args):
        return self.now(*args)


def jitted(*functions):
    """All of them as one compiled function: programs cost more here than what they compute."""
    return jax.jit(lambda *args: tuple(f(*args) for f in functions))


def quietly(solve):
    """The eigensolver without gauge warnings, as forward mode does not see what is invariant."""
    return dataclasses.replace(solve, policy=ie.Policy(gauge=ie.Action.IGNORE))


def by_both_modes(loss, operators, directions, step, pushed=None):
    """First and second derivatives along the directions, by both modes and by differences.

    (first, second) of forward mode, (gradients, their tangents) of reverse mode, and differences
    of the loss and of its first derivative; all from one compiled function. Forward mode takes
    `pushed` for the loss, where that is given.
    """
    push = lambda *P: jax.jvp(pushed or loss, P, directions)[1]
    gradient = jax.grad(loss, tuple(range(len(operators))))
    derivatives = jitted(
        loss,
        lambda *P: jax.jvp(push, P, directions),
        lambda *P: jax.jvp(gradient, P, directions),
    )
    _, forward, reverse = derivatives(*operators)
    of_loss, (of_first, _), _ = ie.testing.finite_difference(
        derivatives, operators, directions, step=step, order=4
    )
    return forward, reverse, (of_loss, of_first)


class Counting:
    """A host linear solver that counts its systems and keeps their sizes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, A, b):
        self.calls += 1
        return np.linalg.solve(dense(A), b)

    def solver(self):
        return ie.host_linear_solver(self)


def grid_pencil(m, seed=0):
    """A sparse pencil of finite-element kind on an m×m grid, with its parameters' maps.

    Returns a function p (2, m²) -> (K, M): stiffness scaled by p[0], lumped mass by p[1].
    """
    one_d = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    stiffness = sp.kronsum(one_d, 1.3 * one_d).tocoo()
    rows, cols = stiffness.row.astype(np.int32), stiffness.col.astype(np.int32)
    data = stiffness.data * m**2
    index = np.arange(m * m, dtype=np.int32)

    def pencil(p):
        weight = jnp.sqrt(p[0][rows] * p[0][cols])
        K = ie.SparseOperator(jnp.asarray(data, p.dtype) * weight, rows, cols, stiffness.shape)
        M = ie.SparseOperator(p[1], index, index, stiffness.shape)
        return K, M

    rng = np.random.default_rng(seed)
    return pencil, jnp.asarray(1 + 0.3 * rng.random((2, m * m)))


class CountingLU:
    """A factorisation that counts itself and the widths of its solves."""

    def __init__(self, permc_spec="COLAMD"):
        self.factorisations, self.widths = 0, []
        self.permc_spec = permc_spec

    def __call__(self, matrix):
        self.factorisations += 1
        solve = spla.splu(matrix, permc_spec=self.permc_spec).solve

        def counted(b):
            self.widths.append(1 if b.ndim == 1 else b.shape[1])
            return solve(b)

        return counted
