"""Eigenpairs and singular triplets by PRIMME: values, starts, preconditioners, refusals."""

import os
import sys

# PRIMME's BLAS waits in a loop for its threads, which on a busy machine takes seconds; this is read
# when it is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from problems import EPS, CountingLU, grid_pencil, random_definite, random_hermitian, with_spectrum

import implicit_eig as ie
from implicit_eig.solvers.primme import LEAST_TOLERANCE, primme
from implicit_eig.solvers.primme_svd import primme_svd

library = pytest.importorskip("primme", reason="needs primme, which needs OpenBLAS and LAPACK")

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
# as a solver on the host receives operators
FORMS = {"dense": np.asarray, "sparse": sp.csr_matrix, "products": spla.aslinearoperator}


class Products(spla.LinearOperator):
    """An operator that counts its products."""

    def __init__(self, A):
        super().__init__(A.dtype, A.shape)
        self.A, self.count = A, 0

    def _matmat(self, X):
        self.count += X.shape[1]
        return self.A @ X

    def _rmatmat(self, X):
        self.count += X.shape[1]
        return self.A.conj().T @ X


def wanted(values, which, sigma):
    """The eigenvalues in the order of `which`."""
    order = {
        "SA": values,
        "LA": -values,
        "LM": -np.abs(values),
        "SM": np.abs(values),
    }[which]
    if sigma is not None:
        below = np.where(values < sigma, sigma - values, np.inf)
        above = np.where(values > sigma, values - sigma, np.inf)
        order = {"SA": below, "LA": above, "LM": np.minimum(below, above)}[which]
    return values[np.argsort(order)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_pairs(dtype, generalised, form):
    n, k = 20, 3
    A = np.asarray(random_hermitian(n, dtype))
    B = np.asarray(random_definite(n, dtype)) if generalised else None
    values, vectors = primme(k)(*(FORMS[form](M) for M in (A, B) if M is not None))
    exact = sla.eigh(A, B)[0]
    # the error is at most the residual, tol max|λ|, times the condition of B, 10
    atol = 10 * LEAST_TOLERANCE * EPS[np.dtype(dtype)] * np.max(np.abs(exact))
    assert vectors.dtype == dtype
    assert np.max(np.abs(values - exact[:k])) < atol
    BX = vectors if B is None else B @ vectors
    assert np.max(np.abs(vectors.conj().T @ BX - np.eye(k))) < atol


def test_products_in_a_program():
    A = random_hermitian(20, np.float32)
    like = jax.ShapeDtypeStruct((20,), A.dtype)
    operator = lx.FunctionLinearOperator(lambda x: A @ x, like, lx.symmetric_tag)
    solve = ie.eigensolver(primme(), ie.Hermitian(3))
    values = jax.jit(lambda: solve(operator).values)()
    assert np.max(np.abs(values - np.linalg.eigvalsh(A)[:3])) < LEAST_TOLERANCE * EPS[A.dtype]


@pytest.mark.parametrize(
    ("which", "sigma"),
    [("LA", None), ("SM", None), ("LM", None), ("LM", 0.21), ("SA", 0.21), ("LA", 0.21)],
)
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_which_pairs(form, generalised, which, sigma):
    n, k = 20, 3
    A = np.asarray(random_hermitian(n))
    B = np.asarray(random_definite(n)) if generalised else None
    operators = (FORMS[form](M) for M in (A, B) if M is not None)
    values, _ = primme(k, sigma, which=which)(*operators)
    exact = wanted(sla.eigh(A, B)[0], which, sigma)[:k]
    assert np.max(np.abs(values - exact)) < 10 * LEAST_TOLERANCE * EPS[np.dtype(float)]


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_the_unit_of_the_metric_does_not_matter(unit):
    n = 20
    A, B = np.asarray(random_hermitian(n)), unit * np.asarray(random_definite(n))
    counted = Products(A)
    values, vectors = primme(2)(counted, B)
    assert np.max(np.abs(values / sla.eigh(A, B)[0][:2] - 1)) < 1e-12
    assert np.max(np.abs(vectors.T @ B @ vectors - np.eye(2))) < 1e-12
    assert counted.count < 400


def test_as_many_pairs_as_rows():
    A = np.asarray(random_hermitian(4))
    values, vectors = primme(4)(A)
    assert np.max(np.abs(values - np.linalg.eigvalsh(A))) < 1e-13
    assert np.max(np.abs(A @ vectors - vectors * values)) < 1e-13


def test_the_problem_gives_k_and_its_guard():
    A = with_spectrum(np.arange(1.0, 13.0))
    solution = ie.eigensolver(primme(sigma=6.4), ie.Hermitian(2, guard=2))(A)
    assert np.max(np.abs(solution.values - np.asarray([6.0, 7.0]))) < 1e-11


def test_the_same_twice():
    A = np.asarray(random_hermitian(30, np.complex128))
    first, second = (primme(3)(A) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert primme(3) == primme(3)


def test_a_start_saves_products():
    A = with_spectrum(np.arange(1.0, 61.0))
    counted = Products(np.asarray(A))
    solution = ie.Solution(*primme(3)(counted))
    cold, counted.count = counted.count, 0
    again, _ = primme(3)(counted, start=solution)
    warm, counted.count = counted.count, 0
    _ = primme(3)(counted, start=np.asarray(solution.vectors))
    assert np.max(np.abs(again - [1, 2, 3])) < 1e-10
    assert counted.count == warm < cold / 4


def test_a_start_and_a_shift_in_a_program():
    A = with_spectrum(np.arange(1.0, 21.0), np.float32)
    solve = ie.eigensolver(primme(), ie.Hermitian(2))
    first = solve(A)
    moved = jax.jit(lambda A, sigma: solve(A, start=first, sigma=sigma).values)
    assert np.max(np.abs(moved(A, jnp.float32(7.2)) - np.asarray([7, 8], np.float32))) < 1e-3


def test_a_preconditioner_saves_products():
    pencil, p = grid_pencil(12)
    A = pencil(p)[0]
    matrix = A.as_matrix()
    factors = sla.lu_factor(matrix)
    inverse = spla.LinearOperator(matrix.shape, lambda b: sla.lu_solve(factors, b), dtype=float)
    counts = {}
    exact = np.linalg.eigvalsh(matrix)[:3]
    for name, given in {
        "none": None,
        "operator": inverse,
        "matrix": np.linalg.inv(matrix),
        "function": lambda A, B: inverse,
    }.items():
        counted = Products(np.asarray(matrix))
        values, _ = primme(3, preconditioner=given)(counted)
        assert np.max(np.abs(values / exact - 1)) < 1e-11
        counts[name] = counted.count
    assert counts["operator"] == counts["function"] < counts["none"] / 3
    assert counts["matrix"] < counts["none"] / 3


def test_a_preconditioner_of_another_dtype():
    A = np.diag(np.arange(1.0, 21.0)).astype(np.float32)
    values, _ = primme(2, preconditioner=np.diag(1 / np.arange(1.0, 21.0)))(A)
    assert np.max(np.abs(values - [1, 2])) < 20 * LEAST_TOLERANCE * EPS[A.dtype]


def test_the_derivative_shares_the_factorisation():
    pencil, p = grid_pencil(8)
    lu = CountingLU()
    ie.factorization_cache.clear()
    solve = ie.eigensolver(primme(sigma=3.0, factorize=lu), ie.Hermitian(2))
    gradient = jax.grad(lambda p: solve(*pencil(p)).vectors[3, 0] ** 2)(p)
    assert lu.factorisations == 1
    assert np.all(np.isfinite(gradient))


def test_a_gradient_against_dense_autodiff():
    n, k = 12, 2
    A = random_hermitian(n)

    def loss(values, vectors):
        return jnp.sum(jnp.sin(values[:k])) + jnp.sum(vectors[:, :k] ** 4)

    solve = ie.eigensolver(primme(), ie.Hermitian(k))
    found = jax.grad(lambda A: loss(*solve(A)))(A)
    exact = jax.grad(lambda A: loss(*jnp.linalg.eigh((A + A.T) / 2)))(A)
    gap = np.min(np.diff(np.linalg.eigvalsh(A)[: k + 1]))
    # an eigenvector has the error of the residual by the gap, and its derivative by the gap again
    assert np.max(np.abs(found - exact)) < 10 * LEAST_TOLERANCE * EPS[A.dtype] / gap**2


# ------------------------------------------------------------------------------ singular triplets


@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_triplets(dtype, shape, which):
    rng = np.random.default_rng(0)
    A = rng.standard_normal(shape)
    A = (A + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else A).astype(dtype)
    values, V, U = primme_svd(3, which=which)(sp.csr_matrix(A))
    exact = np.linalg.svd(A)[1]
    exact = exact if which == "LM" else exact[::-1]
    atol = LEAST_TOLERANCE * EPS[np.dtype(dtype)] * np.max(np.abs(exact))
    assert np.max(np.abs(values - exact[:3])) < atol
    assert np.max(np.abs(A @ V - U * values)) < atol
    assert np.max(np.abs(A.conj().T @ U - V * values)) < atol


def test_singular_triplets_by_products_again_and_from_a_start():
    A = Products(np.random.default_rng(0).standard_normal((60, 40)))
    first = primme_svd(3)(A)
    cold, A.count = A.count, 0
    second = primme_svd(3)(A)
    assert all(map(np.array_equal, first, second))
    A.count = 0
    values, _, _ = primme_svd(3)(A, start=first[1])
    assert A.count < cold / 4
    assert np.max(np.abs(values - first[0])) < 1e-11


def test_a_gradient_of_singular_vectors_against_dense_autodiff():
    A = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)))
    loss = lambda values, V: jnp.sum(jnp.sin(values[:2])) + jnp.sum(V[:, :2] ** 4)
    solve = ie.eigensolver(primme_svd(), ie.Singular(2))
    found = jax.grad(lambda A: loss(*solve(A)))(A)

    def dense(A):
        _, values, Vh = jnp.linalg.svd(A, full_matrices=False)
        return values, Vh.T

    exact = jax.grad(lambda A: loss(*dense(A)))(A)
    assert np.max(np.abs(found - exact)) < 1e-11


# --------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused():
    A = np.asarray(random_hermitian(6))
    with pytest.raises(ie.InputError, match=r"options of `primme\.eigsh`; got whcih\. Use"):
        primme(2, whcih="LA")
    with pytest.raises(ie.InputError, match=r"options of `primme\.svds`; got sigma\. Use"):
        primme_svd(2, sigma=1.0)
    with pytest.raises(
        ie.InputError, match=r"primme\(which=...\)`: one of LM, SM, LA, SA; got 'XX'"
    ):
        primme(2, which="XX")
    with pytest.raises(ie.InputError, match=r"primme\(which=...\)`: one of LM, SA, LA; got 'SM'"):
        primme(2, 1.0, which="SM")
    with pytest.raises(ie.InputError, match=r"primme\(which=...\)`: one of LM, SA, LA; got 'SM'"):
        primme(2, which="SM")(A, sigma=1.0)
    with pytest.raises(ie.InputError, match="one of LM, SM; got 'LA'"):
        primme_svd(2, which="LA")
    with pytest.raises(ie.InputError, match="a real shift, because eigenvalues are real; got 1j"):
        primme(2, 1j)
    with pytest.raises(ie.InputError, match="one of the two; got both"):
        primme(2, 1.0, preconditioner=A, factorize=ie.SuperLU())
    with pytest.raises(ie.InputError, match=r"primme\(k=7\)`: at most 6 pairs; got n = 6"):
        primme(7)(A)
    with pytest.raises(ie.InputError, match=r"at most 4 pairs; got A of shape \(4, 6\)"):
        primme_svd(5)(A[:4])
    with pytest.raises(ie.InputError, match=r"vectors of shape \(6,\) or \(6, m\); got float64"):
        primme(2)(A, start=np.ones((5, 2)))
    with pytest.raises(
        ie.InputError, match=r"matrix of shape \(6, 6\), or a function of A and B .* got int"
    ):
        primme(2, preconditioner=lambda A, B: 1)(A)
    with pytest.raises(ie.InputError, match=r"that returns one; got \(5, 5\)"):
        primme(2, preconditioner=np.eye(5))(A)
    with pytest.raises(ie.InputError, match="options of a kind that PRIMME takes; got Not valid"):
        primme(2, method="nonsense")(A)
    for form in (np.asarray, sp.csr_matrix):
        with pytest.raises(ie.LinearSolveError, match=r"[Cc]hoose .*another|not an eigenvalue"):
            primme(2, 1.0)(form(np.diag(np.arange(1.0, 7.0))))
    with pytest.raises(ie.InputError, match="Hermitian or Subspace; got `General`"):
        ie.eigensolver(primme(), ie.General(2))
    with pytest.raises(ie.InputError, match="that the solver solves, Singular; got `Hermitian`"):
        ie.eigensolver(primme_svd(), ie.Hermitian(2))


def test_no_convergence():
    A = np.asarray(with_spectrum(np.arange(1.0, 41.0)))
    for solver in (primme(3, maxiter=5), primme_svd(3, maxiter=5)):
        with pytest.raises(ie.EigensolverError, match=r"convergence; got .* a larger `maxiter`"):
            solver(A)
    # one eigenvalue lies above the shift, and two are asked for
    with pytest.raises(ie.EigensolverError, match=r"convergence; got the eigenvalues \[8"):
        primme(2, 7.5, which="LA")(np.diag(np.arange(1.0, 9.0)))


def test_exceptions_of_products_arrive():
    def product(x):
        raise ZeroDivisionError("in a product")

    A = spla.LinearOperator((9, 9), product, rmatvec=product, dtype=float)
    for solver in (primme(2), primme_svd(2)):
        with pytest.raises(ZeroDivisionError, match="in a product"):
            solver(A)


@pytest.mark.parametrize("make", [primme, primme_svd])
def test_without_the_package(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "primme", None)
    with pytest.raises(ie.InputError, match=r'Run `pip install "implicit_eig\[primme\]"`'):
        make(2)
