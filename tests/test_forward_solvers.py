"""The ready-made forward solvers do what they say, and share what they have made."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from problems import grid_pencil, random_definite, random_hermitian, with_spectrum

import implicit_eig as ie
from implicit_eig.solvers import arpack


@pytest.mark.parametrize("sigma", [None, 0.0, 3.3])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_arpack_finds_the_pairs(sigma, dtype, generalised, form):
    n, k = 30, 4
    A = with_spectrum(np.arange(1.0, n + 1), dtype)
    B = random_definite(n, dtype) if generalised else None
    make = (lambda M: M) if form == "dense" else lambda M: sp.csr_matrix(np.asarray(M))
    operators = [make(M) for M in (A, B) if M is not None]
    solution = ie.eigensolver(arpack(k, sigma), ie.Hermitian(k))(*operators)
    L = np.linalg.cholesky(np.asarray(B)) if generalised else np.eye(n)
    values = np.linalg.eigvalsh(np.linalg.solve(L, np.linalg.solve(L, A).conj().T))
    order = np.argsort(np.abs(values - sigma)) if sigma is not None else np.argsort(values)
    assert np.max(np.abs(solution.values - np.sort(values[order[:k]]))) < 1e-9
    again = ie.eigensolver(arpack(k, sigma), ie.Hermitian(k))(*operators)
    assert bool(jnp.all(again.vectors == solution.vectors))


def test_arpack_on_products():
    A = random_hermitian(20, seed=0)
    operator = lx.FunctionLinearOperator(lambda x: A @ x, jax.ShapeDtypeStruct((20,), A.dtype))
    found = ie.eigensolver(arpack(2), ie.Hermitian(2))(operator).values
    assert np.max(np.abs(found - np.linalg.eigvalsh(A)[:2])) < 1e-10
    with pytest.raises(Exception, match="operators of known entries, to factorise"):
        ie.eigensolver(arpack(2, 0.0), ie.Hermitian(2))(operator)


def test_arpack_options():
    A = random_hermitian(20, seed=0)
    solve = ie.eigensolver(arpack(2, which="LA", v0=np.ones(20), ncv=15), ie.Hermitian(2))
    found = jax.jit(lambda A: solve(A).values)(A)
    assert np.max(np.abs(found - np.linalg.eigvalsh(A)[-2:])) < 1e-10
    with pytest.raises(ie.InputError, match="eigsh`; got whcih"):
        arpack(2, whcih="LA")


def test_arpack_that_does_not_converge():
    pencil, p = grid_pencil(10)
    solve = ie.eigensolver(arpack(3, maxiter=1, ncv=5), ie.Hermitian(3))
    with pytest.raises(ie.EigensolverError, match="convergence; got"):
        solve(pencil(p)[0])


def test_user_code_shares_its_factorisation():
    """`ie.factorize` in a solver of one's own, `ShiftInvert` of the same shift."""
    pencil, p = grid_pencil(8)

    def subspace_iteration(A, B):
        inverse = ie.factorize(A, B, 0.5)
        X = np.random.default_rng(0).standard_normal((A.shape[0], 8))
        for _ in range(60):
            X = inverse(B @ X)
            a, b = X.T @ (A @ X), X.T @ (B @ X)
            L = np.linalg.cholesky((b + b.T) / 2)
            C = np.linalg.solve(L, np.linalg.solve(L, (a + a.T) / 2).T)
            values, Y = np.linalg.eigh((C + C.T) / 2)
            X = X @ np.linalg.solve(L.T, Y)
        return values[:2], X[:, :2]

    ie.factorization_cache.clear()
    solve = ie.eigensolver(subspace_iteration, ie.Hermitian(2), linear_solver=ie.ShiftInvert(0.5))
    gradient = jax.grad(lambda p: solve(*pencil(p)).vectors[3, 0] ** 2)(p)
    assert ie.factorization_cache.misses == 1
    direct = ie.eigensolver(arpack(2, 0.0), ie.Hermitian(2), linear_solver=ie.SparseDirect())
    exact = jax.grad(lambda p: direct(*pencil(p)).vectors[3, 0] ** 2)(p)
    assert jnp.max(jnp.abs(gradient - exact)) < 1e-8 * jnp.max(jnp.abs(exact))
