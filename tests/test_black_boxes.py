"""One sparse generalised problem, many solvers, one gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pyamg
import pytest
import scipy.linalg as sla
import scipy.sparse.linalg as spla
from jax.experimental.sparse.linalg import lobpcg_standard
from problems import grid_pencil, invariant_loss, jax_eigh

import implicit_eig as ie

pytestmark = pytest.mark.core

M_GRID, K = 14, 3
N = M_GRID**2


def arpack_shift_invert(A, B):
    return spla.eigsh(A, K, M=B, sigma=0, v0=np.ones(N))


def arpack_plain(A, B):
    return spla.eigsh(A, K, M=B, which="SA", v0=np.ones(N), tol=1e-12, maxiter=10000)


def lobpcg_with_pyamg(A, B):
    multigrid = pyamg.smoothed_aggregation_solver(A).aspreconditioner()
    start = np.random.default_rng(0).standard_normal((N, K + 3))
    values, vectors = spla.lobpcg(A, start, B, multigrid, tol=1e-9, maxiter=200, largest=False)
    return values[:K], vectors[:, :K]


def lapack_subset(A, B):
    return sla.eigh(A.toarray(), B.toarray(), subset_by_index=[0, K - 1])


def subspace_iteration(A, B):
    X = np.random.default_rng(0).standard_normal((N, 2 * K))
    solve = spla.factorized(A.tocsc())
    for _ in range(80):
        X = np.stack([solve(b) for b in (B @ X).T], axis=1)
        values, C = sla.eigh(X.T @ (A @ X), X.T @ (B @ X))
        X = X @ C
    return values, X


BLACK_BOXES = [
    arpack_shift_invert,
    arpack_plain,
    lobpcg_with_pyamg,
    lapack_subset,
    subspace_iteration,
]


@pytest.fixture(scope="module")
def expected():
    """Dense autodiff through `jnp.linalg.eigh`."""
    pencil, p = grid_pencil(M_GRID)
    loss = invariant_loss(K, N)
    dense = lambda p: [operator.as_matrix() for operator in pencil(p)]
    return jax.grad(lambda p: loss(*jax_eigh(*dense(p))))(p)


def agree(solver, make, expected, jit):
    pencil, p = grid_pencil(M_GRID)
    loss = invariant_loss(K, N)
    solve = ie.eigensolver(solver, ie.Hermitian(K))
    gradient = jax.grad(lambda p: loss(*solve(*make(pencil(p)))))
    found = (jax.jit(gradient) if jit else gradient)(p)
    # the least accurate of them, LOBPCG, stops at a relative residual of about 1e-10
    assert jnp.max(jnp.abs(found - expected)) < 1e-6 * jnp.max(jnp.abs(expected))


@pytest.mark.slow
@pytest.mark.parametrize("solver", BLACK_BOXES)
@pytest.mark.parametrize("jit", [False, True])
def test_host(solver, jit, expected):
    agree(solver, lambda pencil: pencil, expected, jit)


@pytest.mark.parametrize("jit", [False, True])
def test_traced_eigh(jit, expected):
    dense = lambda pencil: [operator.as_matrix() for operator in pencil]
    agree(ie.traceable(jax_eigh), dense, expected, jit)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_traced_lobpcg(jit, expected):
    """JAX's LOBPCG finds the largest values of a standard problem: those of a shifted one.

    M is diagonal here, so the standard form is M^(-1/2) K M^(-1/2).
    """
    pencil, p = grid_pencil(M_GRID)
    loss = invariant_loss(K, N)
    start = jnp.asarray(np.random.default_rng(0).standard_normal((N, K)))

    def lobpcg(A):
        bound = 2.0 * jnp.max(jnp.sum(jnp.abs(A), axis=1))
        inverse = jnp.linalg.inv(A / bound)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            theta, U, _ = lobpcg_standard(inverse, start, m=300, tol=1e-13)
        return bound / theta, U

    solve = ie.eigensolver(ie.traceable(lobpcg), ie.Hermitian(K))

    def f(p):
        stiffness, mass = pencil(p)
        root = 1 / jnp.sqrt(mass.data)
        values, Y = solve(root[:, None] * stiffness.as_matrix() * root[None, :])
        return loss(values, root[:, None] * Y)

    gradient = jax.jit(jax.grad(f)) if jit else jax.grad(f)
    assert jnp.max(jnp.abs(gradient(p) - expected)) < 1e-6 * jnp.max(jnp.abs(expected))


def test_the_forward_solver_runs_once():
    calls = []

    def counted(A, B):
        calls.append(1)
        return lapack_subset(A, B)

    pencil, p = grid_pencil(M_GRID)
    solve = ie.eigensolver(counted, ie.Hermitian(K))
    loss = invariant_loss(K, N)
    jax.block_until_ready(jax.value_and_grad(lambda p: loss(*solve(*pencil(p))))(p))
    assert len(calls) == 1
    f = jax.jit(jax.value_and_grad(lambda p: loss(*solve(*pencil(p)))))
    jax.block_until_ready(f(p))
    jax.block_until_ready(f(1.1 * p))
    assert len(calls) == 3
