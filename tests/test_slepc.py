"""Problems of all kinds by SLEPc: values, left vectors, options, starts, refusals, no leaks."""

import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from problems import EPS, random_definite, random_hermitian, with_spectrum

import implicit_eig as ie
from implicit_eig.solvers import _slepc, _slepc_found
from implicit_eig.solvers.slepc import slepc

pytest.importorskip("slepc4py", reason="needs slepc4py and petsc4py")
PETSC = _slepc.library()
needs_complex = pytest.mark.skipif(not PETSC.is_complex, reason="needs a PETSc of complex numbers")
DTYPES = [np.float32, np.float64, pytest.param(np.complex128, marks=needs_complex)]
SHIFTS = [None, 0.4, pytest.param(0.3 + 0.5j, marks=needs_complex)]
# as a solver on the host receives operators
FORMS = {"dense": np.asarray, "sparse": sp.csr_matrix, "products": spla.aslinearoperator}
TOLERANCE = EPS[np.dtype(float)] ** _slepc.TOLERANCE
N, K = 20, 3


def solver(problem, **arguments):
    """The solver as `eigensolver` makes it for a problem, to be called on host operators."""
    return slepc(**arguments).suited_to(problem)


def matrix(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal(shape)
    return (G + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else G).astype(dtype)


def nearest(values, sigma, k):
    """The k nearest to a shift, or the largest; of two equally distant ones the upper first."""
    values = values[np.isfinite(values)]
    order = -np.abs(values) if sigma is None else np.abs(values - sigma)
    return values[np.lexsort((-values.imag, np.round(order, 8)))][:k]


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


# -------------------------------------------------------------------------------------- Hermitian


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("sigma", [None, 0.21])
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hermitian(dtype, generalised, sigma, form):
    A = np.asarray(random_hermitian(N, dtype))
    B = np.asarray(random_definite(N, dtype)) if generalised else None
    operators = [FORMS[form](M) for M in (A, B) if M is not None]
    values, X = solver(ie.Hermitian(K), sigma=sigma)(*operators)
    exact = sla.eigh(A.astype(np.result_type(dtype, float)), B)[0]
    exact = exact[np.argsort(exact if sigma is None else np.abs(exact - sigma))][:K]
    # SLEPc works in double precision, and stops at the tolerance of the operators' own
    atol = 10 * EPS[np.dtype(dtype)] ** _slepc.TOLERANCE
    assert np.max(np.abs(values[:K] - exact)) < atol
    assert np.iscomplexobj(X) == (np.dtype(dtype).kind == "c")
    BX = X if B is None else B @ X
    assert np.max(np.abs(A @ X - BX * values)) < atol


@pytest.mark.parametrize(("which", "first"), [("LA", -1), ("LM", 0), ("SM", 5)])
def test_which_pairs(which, first):
    A = np.diag([-9.0, -3, -2, -1.5, -1, 0.1, 0.2, 4, 5, 6])
    values, _ = solver(ie.Hermitian(1), which=which)(A)
    assert abs(values[0] - np.diag(A)[first]) < 1e-9


def test_the_problem_gives_k_and_its_guard():
    A = with_spectrum(np.arange(1.0, 21.0))
    solution = ie.eigensolver(slepc(sigma=6.4), ie.Hermitian(2, guard=2))(A)
    assert np.max(np.abs(solution.values - np.asarray([6.0, 7.0]))) < 1e-9


@pytest.mark.parametrize("options", [{}, {"eps_type": "jd"}, {"eps_type": "lobpcg"}])
def test_eigenvectors_of_repeated_eigenvalues_are_real(options):
    one = sp.diags([-np.ones(19), 2 * np.ones(20), -np.ones(19)], [-1, 0, 1])
    A = sp.csr_matrix(sp.kronsum(one, one))
    values, X = solver(ie.Hermitian(3), options=options)(A)
    assert abs(values[2] - values[1]) < 1e-12
    assert X.dtype == np.float64
    assert np.max(np.abs(A @ X - X * values)) < 1e-9


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("sigma", [None, 0.21])
@pytest.mark.parametrize(
    "options", [{"eps_type": "jd"}, {"st_ksp_type": "gmres", "st_pc_type": "none"}]
)
def test_products_alone(options, sigma, generalised):
    A = np.asarray(random_hermitian(N))
    B = np.asarray(random_definite(N)) if generalised else None
    operators = [spla.aslinearoperator(M) for M in (A, B) if M is not None]
    if "st_ksp_type" in options and sigma is None and not generalised:
        options = {}  # nothing is to be solved
    values, _ = solver(ie.Hermitian(2), sigma=sigma, options=options)(*operators)
    exact = sla.eigh(A, B)[0]
    exact = exact[np.argsort(exact if sigma is None else np.abs(exact - sigma))][:2]
    assert np.max(np.abs(values[:2] - exact)) < 100 * TOLERANCE


def test_an_iteration_in_place_of_factors_is_accurate():
    A, B = np.asarray(random_hermitian(60)), np.diag(np.linspace(1.0, 1e4, 60))
    options = {"st_ksp_type": "gmres", "st_pc_type": "none"}
    values, _ = solver(ie.Hermitian(2), options=options)(*map(spla.aslinearoperator, (A, B)))
    assert np.max(np.abs(values[:2] / sla.eigh(A, B)[0][:2] - 1)) < 100 * TOLERANCE


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_as_petsc_requests_them(dtype):
    M, x = matrix((7, 5), dtype), matrix(5, dtype, seed=1)
    run = _slepc.Run(PETSC, [spla.aslinearoperator(M)], "slepc")
    (mat,) = run.matrices()
    for name, times, y in (
        ("mult", M, x),
        ("multTranspose", M.T, M @ x),
        ("multHermitian", M.conj().T, M @ x),
    ):
        given, made = (run.empty(length) for length in times.shape[::-1])
        given.setArray(y)
        vars(type(mat))[name](mat, given, made)
        assert np.max(np.abs(made.getArray() - times @ y)) < 50 * EPS[np.dtype(dtype)]
    run.end()


def test_products_in_a_program():
    A = random_hermitian(N, np.float32)
    like = jax.ShapeDtypeStruct((N,), A.dtype)
    operator = lx.FunctionLinearOperator(lambda x: A @ x, like, lx.symmetric_tag)
    solve = ie.eigensolver(slepc(), ie.Hermitian(2))
    values = jax.jit(lambda: solve(operator).values)()
    assert np.max(np.abs(values - np.linalg.eigvalsh(A)[:2])) < EPS[A.dtype] ** _slepc.TOLERANCE


def test_a_gradient_against_dense_autodiff():
    A = random_hermitian(12)
    loss = lambda values, X: jnp.sum(jnp.sin(values[:2])) + jnp.sum(X[:, :2] ** 4)
    solve = ie.eigensolver(slepc(sigma=-1.0), ie.Hermitian(2))
    found = jax.grad(lambda A: loss(*solve(A)))(A)
    exact = jax.grad(lambda A: loss(*jnp.linalg.eigh((A + A.T) / 2)))(A)
    gap = np.min(np.diff(np.linalg.eigvalsh(A)[:3]))
    assert np.max(np.abs(found - exact)) < 10 * TOLERANCE / gap**2


# ---------------------------------------------------------------------------------------- general


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("sigma", SHIFTS)
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.complex128, marks=needs_complex)])
def test_general(dtype, generalised, sigma, form):
    A = matrix((N, N), dtype)
    B = np.asarray(random_definite(N)) + 0.1 * matrix((N, N)) / N if generalised else None
    operators = [FORMS[form](M) for M in (A, B) if M is not None]
    values, X, *left = solver(ie.General(K, left=True), sigma=sigma)(*operators)
    exact = nearest(sla.eigvals(A, B), sigma, K)
    # those of a real matrix that k cuts off are found as either of two conjugates
    assert np.max(np.abs(values[:K] - exact)) < 1e-9
    BX = X if B is None else B @ X
    assert np.max(np.abs(A @ X - BX * values)) < 1e-8
    for Y in left:
        BY = Y if B is None else B.conj().T @ Y
        assert np.max(np.abs(A.conj().T @ Y - BY * values.conj())) < 1e-7
    assert left or not PETSC.is_complex


@pytest.mark.skipif(
    not PETSC.PETSc.Sys.hasExternalPackage("mumps"), reason="needs a direct solver with pivots"
)
def test_sparse_factors_have_pivots():
    A = sp.csr_matrix(np.roll(np.diag(np.arange(1.0, 9.0)), 1, axis=0))
    values, _ = solver(ie.General(1), sigma=0.0)(A)
    assert abs(abs(values[0]) - np.prod(np.arange(1.0, 9.0)) ** (1 / 8)) < 1e-9


def test_of_a_pair_that_k_cuts_the_upper_is_returned():
    lam, X = np.asarray([2 - 1j, 1 - 1j, 1 + 1j, 3.0]), matrix((2, 4), np.complex128)
    found = _slepc_found.with_upper(_slepc_found.Found(lam, X, X))
    assert np.array_equal(found.lam, [2 + 1j, *lam[1:]])
    for vectors in (found.X, found.Y):
        assert np.array_equal(vectors, np.hstack([X[:, :1].conj(), X[:, 1:]]))


def test_left_vectors_where_they_are_asked_for():
    A = matrix((N, N))
    parts = lambda problem, **arguments: len(solver(problem, **arguments)(A))
    assert parts(ie.General(2)) == 2
    assert parts(ie.General(2), left=True) == parts(ie.General(2, left=True)) == 3


def test_left_vectors_that_are_none_are_left_out(monkeypatch):
    monkeypatch.setattr(_slepc_found, "_adjoint", lambda M, Y: Y[::-1])
    assert len(solver(ie.General(2, left=True))(matrix((N, N)))) == 2


def test_a_gradient_of_left_and_right_vectors():
    A = jnp.asarray(matrix((8, 8)) + np.diag(np.arange(8.0) * 3))
    weights = np.random.default_rng(1).standard_normal((8, 2))

    def loss(solution):
        squares = jnp.abs(solution.vectors) ** 2
        return jnp.sum(jnp.abs(solution.values)) + jnp.sum(weights * squares)

    def gradient(by):
        solve = ie.eigensolver(by, ie.General(2, left=True))
        return jax.grad(lambda A: loss(solve(A)))(A)

    found, exact = gradient(slepc(sigma=0.1)), gradient(ie.solvers.lapack(sigma=0.1))
    assert np.max(np.abs(found - exact)) < 1e-7


# ------------------------------------------------------------------------------ singular triplets


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["LM", "SM"])
@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_triplets(dtype, shape, which, form):
    A = matrix(shape, dtype)
    values, V, U = solver(ie.Singular(K), which=which)(FORMS[form](A))
    exact = np.linalg.svd(A)[1]
    exact = exact if which == "LM" else exact[::-1]
    atol = 100 * EPS[np.dtype(dtype)] ** _slepc.TOLERANCE
    assert np.max(np.abs(values[:K] - exact[:K])) < atol
    assert np.max(np.abs(A @ V - U * values)) < atol
    assert np.max(np.abs(A.conj().T @ U - V * values)) < atol


# ------------------------------------------------------------------------- polynomials, functions


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("sigma", SHIFTS)
def test_polynomials(sigma, form):
    A0, A1, A2 = (matrix((8, 8), seed=i) for i in range(3))
    values, X = solver(ie.Polynomial(K), sigma=sigma)(*map(FORMS[form], (A0, A1, A2)))
    zero, one = np.zeros((8, 8)), np.eye(8)
    pencil = np.block([[zero, one], [-A0, -A1]]), np.block([[one, zero], [zero, A2]])
    assert np.max(np.abs(values[:K] - nearest(sla.eigvals(*pencil), sigma, K))) < 1e-8
    residual = A0 @ X + A1 @ X * values + A2 @ X * values**2
    assert np.max(np.abs(residual) / np.maximum(1, np.abs(values)) ** 2) < 1e-7


def delay(lam, x, A, B, tau):
    return A @ x + jnp.exp(-tau * lam) * (B @ x) - lam * x


def delay_split(A, B, tau):
    return [(A, [1]), (B, (np.exp, -float(tau.real))), (np.eye(len(A)), [-1, 0])]


def delay_data():
    A = np.diag([-1.0, -2.0, 0.5, 1.0]) + 0.1 * matrix((4, 4))
    return A + 0j, 0.3 * matrix((4, 4), seed=1) + 0j, np.asarray(0.7 + 0j)


@needs_complex
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_functions(form):
    A, B, tau = delay_data()
    split = lambda *args: [(FORMS[form](M), f) for M, f in delay_split(*args)]
    find = solver(ie.Nonlinear(delay, k=2), sigma=0.6, split=split, radius=2.0)
    values, X = find(A, B, tau)
    for lam, x in zip(values, X.T, strict=True):
        assert np.linalg.norm(A @ x + np.exp(-tau * lam) * (B @ x) - lam * x) < 1e-8
    assert np.all(np.diff(np.abs(values - 0.6)) > -1e-9)


@needs_complex
def test_a_gradient_of_a_function_against_newton():
    args = tuple(map(jnp.asarray, delay_data()))
    by_slepc = slepc(sigma=0.6, split=delay_split, radius=2.0)
    solve = ie.eigensolver(by_slepc, ie.Nonlinear(delay))
    first = solve(*args)
    newton = ie.solvers.newton(delay, (first.values[0] + 0.01, first.vectors[:, 0]))
    found, exact = (
        jax.grad(lambda A, f=f: f(A, *args[1:]).values[0].real)(args[0])
        for f in (solve, ie.eigensolver(newton, ie.Nonlinear(delay)))
    )
    assert np.max(np.abs(found - exact)) < 1e-8


@needs_complex
def test_quotients_and_functions_of_slepc():
    """λ − d + 1/(λ + 3) + √(0.1 λ) = 0 for ten numbers d."""
    root = PETSC.SLEPc.FN().create(PETSC.PETSc.COMM_SELF)
    root.setType("sqrt")
    root.setScale(0.1, 1.0)
    d, one = np.linspace(2.0, 4.0, 10), np.eye(10)
    T = lambda lam: lam - d + 1 / (lam + 3) + np.sqrt(0.1 * lam)
    exact = np.full(10, 2.0)
    for _ in range(50):  # a contraction
        exact = exact - T(exact) / 1.1
    for f in (root, (np.sqrt, 0.1)):
        split = lambda f=f: [(np.diag(d), -1), (one, [1, 0]), (one, ([1], [1, 3])), (one, f)]
        problem = ie.Nonlinear(lambda lam, x: x, k=3, n=10)
        values, _ = solver(problem, sigma=2.2, split=split, radius=1.5)()
        assert np.max(np.abs(values[:3] - nearest(exact, 2.2, 3))) < 1e-9


def test_polynomials_in_terms_of_functions():
    A0, A1, A2 = (sp.csr_matrix(matrix((8, 8), seed=i)) for i in range(3))
    split = lambda *args: [
        (args[0], 1),
        (args[1], [2.0, 0]),
        (args[2], [1, 0, 0]),
        (args[1], [-1, 0]),
    ]
    problem = ie.Nonlinear(lambda lam, x: x, k=2, n=8)
    values, _ = solver(problem, sigma=0.4, split=split)(A0, A1, A2)
    exact, _ = solver(ie.Polynomial(2), sigma=0.4)(A0, A1, A2)
    assert np.max(np.abs(values[:2] - exact[:2])) < 1e-9


# -------------------------------------------------------------------------------- starts, options


@pytest.mark.parametrize("options", [{}, {"eps_type": "lobpcg"}])
def test_a_start_saves_products(options):
    one = sp.diags([-np.ones(19), 2 * np.ones(20), -np.ones(19)], [-1, 0, 1])
    A = Products(sp.csr_matrix(sp.kronsum(one, 1.3 * one)))
    find = solver(ie.Hermitian(2), options=options)
    solution = ie.Solution(*find(A))
    cold, A.count = A.count, 0
    values, _ = find(A, start=solution)
    assert A.count < 0.8 * cold
    assert np.max(np.abs(values[:2] - solution.values[:2])) < 1e-9


def test_a_start_of_triplets():
    A = Products(matrix((200, 80)))
    find = solver(ie.Singular(1))
    values, V, _ = find(A)
    cold, A.count = A.count, 0
    again, _, _ = find(A, start=V[:, :1])
    assert A.count < cold
    assert abs(again[0] - values[0]) < 1e-9


def test_a_start_and_a_shift_in_a_program():
    A = with_spectrum(np.arange(1.0, 21.0))
    solve = ie.eigensolver(slepc(), ie.Hermitian(2))
    first = solve(A)
    moved = jax.jit(lambda A, sigma: solve(A, start=first, sigma=sigma).values)
    assert np.max(np.abs(moved(A, jnp.asarray(7.2)) - np.asarray([7.0, 8.0]))) < 1e-9


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_the_same_twice(sigma):
    A, H = matrix((N, N)), np.asarray(random_hermitian(N))
    for find, M in (
        (solver(ie.General(K, left=True), sigma=sigma), A),
        (solver(ie.Hermitian(K), sigma=sigma), H),
    ):
        assert all(map(np.array_equal, find(M), find(M)))
    assert slepc(3, sigma=1.0) == slepc(3, sigma=1.0)


def test_options_are_gone_after_a_run():
    before = PETSC.PETSc.Options().getAll()
    A = np.asarray(random_hermitian(N))
    solver(ie.Hermitian(2), options={"-eps_type": "jd", "eps_jd_krylov_start": False})(A)
    assert PETSC.PETSc.Options().getAll() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory that Linux reports")
@pytest.mark.parametrize("kind", ["pencil", "products", "left", "polynomial", "failure"])
def test_runs_leave_no_memory(kind):
    n = 400
    A = sp.csr_matrix(sp.diags([-np.ones(n - 1), 2.0 + np.arange(n), -np.ones(n - 1)], [-1, 0, 1]))
    pages = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1])

    def run():
        if kind == "pencil":
            solver(ie.Hermitian(2), sigma=0.1)(A, sp.csr_matrix(sp.eye(n)))
        elif kind == "products":
            solver(ie.Hermitian(2), which="LA", options={"eps_type": "jd"})(Products(A))
        elif kind == "left":
            solver(ie.General(2, left=True), sigma=0.1)(A)
        elif kind == "polynomial":
            solver(ie.Polynomial(2), sigma=0.1)(
                A, sp.csr_matrix(sp.eye(n)), sp.csr_matrix(sp.eye(n))
            )
        else:
            with pytest.raises(ie.EigensolverError):
                solver(ie.Hermitian(2), options={"eps_max_it": 1})(A)

    for _ in range(10):
        run()
    before = pages()
    for _ in range(40):
        run()
    # one run's basis of 18 vectors alone would leave 40 · 18 · 8 n bytes, 2.3 MB
    assert (pages() - before) * os.sysconf("SC_PAGE_SIZE") < 1e6


# --------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused():
    A = np.asarray(random_hermitian(6))
    products = spla.aslinearoperator(A)
    with pytest.raises(ie.InputError, match=r"slepc\(which=...\)`: one of SA, LA, .*; got 'XX'"):
        slepc(which="XX")
    with pytest.raises(ie.InputError, match="one of LM, SM, LR, SR; got 'SA'"):
        ie.eigensolver(slepc(which="SA"), ie.General(2))
    with pytest.raises(ie.InputError, match="the nearest, 'LM', with a shift; got 'SA'"):
        solver(ie.Hermitian(2), sigma=1.0, which="SA")(A)
    with pytest.raises(ie.InputError, match="because eigenvalues are real; got 1j"):
        solver(ie.Hermitian(2), sigma=1j)(A)
    with pytest.raises(ie.InputError, match=r"no shift for singular values; got 1\.0"):
        solver(ie.Singular(2), sigma=1.0)(A)
    with pytest.raises(ie.InputError, match="a `General` problem; got `Polynomial`"):
        solver(ie.Polynomial(2), left=True)
    with pytest.raises(ie.InputError, match=r"slepc\(k=7\)`: as many pairs as there are; got op"):
        solver(ie.Hermitian(2), k=7)(A)
    with pytest.raises(ie.InputError, match="as many pairs as there are; got operators with 4"):
        solver(ie.Singular(5))(A[:4])
    with pytest.raises(ie.InputError, match="as many pairs as there are; got operators with 12"):
        solver(ie.Polynomial(13))(A, A, A)
    with pytest.raises(ie.InputError, match=r"vectors of shape \(6,\) or \(6, m\); got float64"):
        solver(ie.Hermitian(2))(A, start=np.ones((5, 2)))
    with pytest.raises(ie.InputError, match="to factorise their sum at `sigma`; got Matrix"):
        solver(ie.Hermitian(2), sigma=1.0)(products)
    with pytest.raises(ie.InputError, match="to factorise the last one; got Matrix"):
        solver(ie.Hermitian(2))(A, products)
    for options in ({"eps_typ": "jd"}, {"nep_type": "slp"}):
        with pytest.raises(ie.InputError, match=f"reads in this run; got {next(iter(options))}"):
            solver(ie.Hermitian(2), options=options)(A)


def test_what_does_not_fit_of_functions_is_refused():
    A = np.eye(3)
    problem = ie.Nonlinear(delay, n=3)
    call = lambda terms, **arguments: solver(problem, split=lambda: terms, **arguments)()
    with pytest.raises(
        ie.InputError, match=r"the terms of T\(λ\) of a `Nonlinear` problem, and of no"
    ):
        solver(problem, sigma=1.0)
    with pytest.raises(ie.InputError, match=r"and of no other; got `Hermitian` with split=<fun"):
        solver(ie.Hermitian(2), split=delay_split)
    with pytest.raises(ie.InputError, match=r"a `split`, for a `Nonlinear` problem; got none"):
        slepc(radius=1.0)
    with pytest.raises(ie.InputError, match="a shift, near which the eigenvalues of a `Nonlinear`"):
        call([(A, [1])])
    with pytest.raises(ie.InputError, match=r"a list of pairs .*; got ndarray\. Write"):
        call(A, sigma=1.0)
    with pytest.raises(ie.InputError, match=r"a list of pairs .*; got \(str, list\)\. Write"):
        call([(A, [1]), ("A", [1])], sigma=1.0)
    for f in (np.sin, (np.sin, 1.0), (np.exp, "a"), "exp", ([1], [[1]]), (1, 2, 3), [[1], [1, 2]]):
        with pytest.raises(ie.InputError, match="as a list of coefficients, a tuple of two"):
            call([(A, f)], sigma=1.0)
    with pytest.raises(ie.InputError, match=r"that of the disc around `sigma`|of complex numbers"):
        call([(A, (np.exp, 1.0)), (A, [1, 0])], sigma=1.0)
    with pytest.raises(ie.EigensolverError, match=r"convergence; got 0 pairs|without errors"):
        call(
            [(A, (np.exp, 1.0)), (A, [1, 0])],
            sigma=3.0,
            options={"nep_type": "slp", "nep_max_it": 1},
        )


def test_real_numbers_of_petsc(monkeypatch):
    monkeypatch.setattr(_slepc.Library, "is_complex", False)
    A = np.eye(4)
    with pytest.raises(
        ie.InputError, match=r"operators of real numbers, .*; got complex128\. Inst"
    ):
        solver(ie.Hermitian(2))(A + 0j)
    with pytest.raises(ie.InputError, match="a real shift, because PETSc has real numbers; got 1j"):
        solver(ie.General(2), sigma=1j)(A)
    problem = ie.Nonlinear(delay, n=4)
    split = lambda f: lambda: [(A, (np.exp, 1.0)), (A, f)]
    with pytest.raises(ie.InputError, match="a PETSc of complex numbers, for the interpolation"):
        solver(problem, sigma=1.0, split=split([1, 0]), radius=1.0)()
    with pytest.raises(ie.InputError, match="functions of real numbers, where PETSc is built for"):
        solver(problem, sigma=1.0, split=split([1j, 0]), radius=1.0)()


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_failures_of_slepc(form):
    A = form(np.diag(np.arange(1.0, 9.0)))
    with pytest.raises(
        ie.EigensolverError, match=r"a run without errors; got .*If `sigma` is an e"
    ):
        solver(ie.Hermitian(2), sigma=3.0)(A)
    with pytest.raises(ie.EigensolverError, match="Unknown EPS type given: nonsense"):
        solver(ie.Hermitian(2), options={"eps_type": "nonsense"})(A)
    large = form(np.diag(np.arange(1.0, 301.0)))
    with pytest.raises(
        ie.EigensolverError, match=r"after 2 iterations, DIVERGED_ITS.*`eps_max_it`"
    ):
        solver(ie.Hermitian(2), options={"eps_max_it": 2})(large)
    with pytest.raises(
        ie.EigensolverError, match=r"after 1 iterations, DIVERGED_ITS.*`svd_max_it`"
    ):
        solver(ie.Singular(2), options={"svd_max_it": 1})(large)


def test_exceptions_of_products_arrive():
    class AbandonedError(BaseException):
        pass

    for error in (ZeroDivisionError, AbandonedError):

        def product(x, error=error):
            raise error("in a product")

        A = spla.LinearOperator((9, 9), product, rmatvec=product, dtype=float)
        for find in (
            solver(ie.Hermitian(2)),
            solver(ie.Hermitian(2), options={"eps_type": "jd"}),
            solver(ie.Singular(2)),
        ):
            with pytest.raises(error, match="in a product"):
                find(A)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "slepc4py", None)
    with pytest.raises(ie.InputError, match=r'Run `pip install "implicit_eig\[slepc\]"`'):
        slepc(2)
