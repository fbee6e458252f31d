"""Factorisations by rslab: all kinds of matrices, one analysis for each pattern, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from problems import EPS, grid_pencil

import implicit_eig as ie
from implicit_eig.linear_solvers import ldlt
from implicit_eig.linear_solvers._analyses import KEPT

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
N = 400


def grid(dtype, shift=0.37):
    """An indefinite matrix of a grid of 20 × 20 points."""
    one = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(20, 20))
    return (sp.kronsum(one, 1.3 * one) - shift * sp.eye_array(N)).astype(dtype).tocsr()


def upper(dtype):
    rng = np.random.default_rng(0)
    G = sp.triu(abs(grid(np.float64)), 1).tocsr()
    G.data[:] = rng.standard_normal(G.nnz)
    return G.astype(dtype)


def symmetric(dtype):
    part = upper(dtype)
    return grid(dtype) + (1j * (part + part.T) if np.issubdtype(dtype, np.complexfloating) else 0)


def hermitian(dtype):
    part = upper(dtype) * (0.3j if np.issubdtype(dtype, np.complexfloating) else 0.3)
    return (grid(dtype) + part + part.conj().T).astype(dtype)


def general(dtype):
    return symmetric(dtype) + upper(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [symmetric, hermitian, general], ids=lambda f: f.__name__)
def test_both_sides(make, dtype):
    M = make(dtype).tocsr().astype(dtype)
    factors = ie.factorize(M, method=ie.Ldlt())
    condition = np.linalg.cond(M.toarray())
    rng = np.random.default_rng(1)
    for shape in ((N,), (N, 1), (N, 7)):
        b = rng.standard_normal(shape).astype(dtype)
        for x, A in ((factors(b), M), (factors.solve_adjoint(b), M.conj().T)):
            assert (x.dtype, x.shape) == (dtype, shape)
            exact = np.linalg.solve(A.toarray().astype(np.complex128), b)
            error = np.linalg.norm(x - exact) / np.linalg.norm(exact)
            assert error < 30 * condition * EPS[np.dtype(dtype)]


def test_complex_right_sides_of_a_real_matrix():
    M, b = grid(np.float64), np.arange(N) + 1j
    assert np.max(np.abs(M @ ie.factorize(M, method=ie.Ldlt())(b) - b)) < 1e-10


def test_one_analysis_for_each_pattern(monkeypatch):
    library, made = ldlt.library(), []

    class Counting:
        def analyze(self, matrix, **options):
            made.append(options["path"])
            return library.analyze(matrix, **options)

    monkeypatch.setattr(ldlt, "library", Counting)
    ldlt.analyses.clear()
    M = symmetric(np.float64)
    for factor in (1.0, 2.0, 3.0):
        x = ie.factorize(factor * M, method=ie.Ldlt())(np.ones(N))
        assert np.max(np.abs(factor * (M @ x) - 1)) < 1e-10
    assert made == ["ldlt"]
    ie.factorize(M, method=ie.Ldlt(ordering="amd"))
    ie.factorize(M + sp.eye_array(N, k=3) + sp.eye_array(N, k=-3), method=ie.Ldlt())
    assert len(made) == 3
    for size in range(1, 2 * KEPT):
        ie.factorize(sp.eye_array(size).tocsr(), method=ie.Ldlt())
    assert len(ldlt.analyses) == KEPT


@pytest.mark.parametrize("make", [symmetric, general], ids=lambda f: f.__name__)
def test_earlier_matrices_of_the_pattern_change_nothing(make):
    M, b = make(np.float64).tocsr(), np.ones(N)
    other = M.copy()
    other.data = other.data * np.random.default_rng(2).random(M.nnz)
    found = []
    for before in ([], [other if make is general else other + other.T]):
        ldlt.analyses.clear()
        ie.factorization_cache.clear()
        for matrix in before:
            ie.factorize(matrix, method=ie.Ldlt())
        found.append(ie.factorize(M, method=ie.Ldlt())(b))
    assert np.array_equal(*found)


def test_threads_do_not_matter():
    ie.factorization_cache.clear()
    M, b = grid(np.float64), np.ones((N, 3))
    first, *others = (ie.factorize(M, method=ie.Ldlt(threads=t))(b) for t in (1, 2, 4))
    assert all(np.array_equal(first, other) for other in others)


def test_a_matrix_without_pivots_on_its_diagonal():
    """Of a dense saddle point rslab finds no factors; SuperLU does."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((200, 200))
    M = M + M.T
    M[-50:, -50:] = 0
    with pytest.raises(RuntimeError):
        ldlt.library().ldlt(sp.csc_matrix(M))
    b = rng.standard_normal(200)
    assert np.max(np.abs(M @ ie.factorize(sp.csr_array(M), method=ie.Ldlt())(b) - b)) < 1e-10


@pytest.mark.parametrize("make", [symmetric, general], ids=lambda f: f.__name__)
def test_a_singular_matrix(make):
    M = make(np.float64).tolil()
    M[3] = 0
    M[:, 3] = 0
    with pytest.raises(ie.LinearSolveError, match="a nonsingular matrix; got one that is not"):
        ie.factorize(M.tocsr(), method=ie.Ldlt())


def test_gradients():
    (pencil, p), sigma = grid_pencil(5), 0.1

    def gradient(method):
        solver = ie.solvers.arpack(3, sigma, factorize=method)
        solve = ie.eigensolver(solver, ie.Hermitian(3))
        return jax.grad(lambda p: jnp.sum(jnp.sum(solve(*pencil(p)).vectors[:9], axis=0) ** 2))(p)

    found, expected = gradient(ie.Ldlt()), gradient(ie.SuperLU())
    assert jnp.max(jnp.abs(found - expected)) < 1e-9 * jnp.max(jnp.abs(expected))


def test_bad_input():
    M = sp.eye_array(5).tocsr()
    with pytest.raises(ie.InputError, match=r"`Ldlt\(...\)`: options of `rslab.ldlt`; got .*speed"):
        ie.factorize(M, method=ie.Ldlt(speed=1))
    with pytest.raises(ie.InputError, match=r"options of `rslab.ldlt`; got .*ordering"):
        ie.factorize(M, method=ie.Ldlt(ordering="none"))


@pytest.mark.parametrize("method", [ie.Ldlt(), ie.SuperLU()])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite(method, number):
    with pytest.raises(ie.LinearSolveError, match="finite entries of A − σB; got NaN or inf"):
        ie.factorize(sp.csr_array(np.diag([1.0, number, 2.0])), method=method)


@pytest.mark.parametrize("make", [symmetric, general], ids=lambda f: f.__name__)
def test_inexact_factors_are_not_used(make, monkeypatch):
    """Factors by pivots that are too small are found by the residual of one solve."""
    monkeypatch.setattr(ldlt, "INEXACT", 0.0)
    made, by_superlu = [], ie.SuperLU.__call__
    monkeypatch.setattr(ie.SuperLU, "__call__", lambda *a: made.append(1) or by_superlu(*a))
    M, b = make(np.float64), np.ones(N)
    assert np.max(np.abs(M @ ie.factorize(M, method=ie.Ldlt())(b) - b)) < 1e-10
    assert len(made) == 1
