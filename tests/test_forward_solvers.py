"""The ready-made forward solvers do what they say, and share what they have made."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import Counting, grid_pencil, random_definite, random_hermitian, with_spectrum

import implicit_eig as ie
from implicit_eig import solvers
from implicit_eig.solvers import arpack, arpack_general


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


def test_nearly_all_pairs_are_found_by_a_dense_solver():
    A = random_hermitian(5, np.complex128, seed=0)
    with pytest.warns(RuntimeWarning, match="scipy.linalg.eig"):
        found = ie.eigensolver(arpack(4), ie.Hermitian(4))(A).values
    assert np.max(np.abs(found - np.linalg.eigvalsh(A)[:4])) < 1e-12


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


# ---------------------------------------------------------------- problems that are not Hermitian


def forms(form, *matrices):
    make = (lambda M: M) if form == "dense" else lambda M: sp.csr_matrix(np.asarray(M))
    return [None if M is None else make(M) for M in matrices]


def skewed(n, dtype, seed=0):
    """A non-normal matrix of known, well separated values; of real dtype in conjugate pairs."""
    rng = np.random.default_rng(seed)
    values = np.arange(1.0, n + 1)
    V = np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)
    if np.issubdtype(dtype, np.complexfloating):
        return (V @ np.diag(values + 0.5j * values[::-1]) @ np.linalg.inv(V)).astype(dtype)
    D = np.diag(values)
    for i in range(0, n - 1, 3):  # every third value and the next are a pair
        D[i : i + 2, i : i + 2] = [[values[i], 0.7], [-0.7, values[i]]]
    return (V @ D @ np.linalg.inv(V)).astype(dtype)


def nearest(A, B, sigma, k):
    values = sla.eigvals(A, B)
    values = values[np.isfinite(values)]
    values = values[np.argsort(np.abs(values - sigma) - 1e-6 * values.imag)]
    return values[:k]


@pytest.mark.parametrize("sigma", [3.2, 4.1 + 1.3j])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_arpack_general_finds_pairs_and_left_vectors(sigma, dtype, generalised, form):
    n, k = 24, 5
    A = skewed(n, dtype)
    B = None
    if generalised:  # any matrix: neither Hermitian nor definite
        B = (np.eye(n) + 0.1 * skewed(n, dtype, 1) / n).astype(dtype)
        B[:, 0] *= -1
    operators = [M for M in forms(form, A, B) if M is not None]
    values, X, Y = arpack_general(k, sigma, left=True)(*operators)
    eps = np.finfo(dtype).eps
    assert values.dtype == np.result_type(dtype, np.complex64)
    assert np.max(np.abs(values - nearest(A, B, sigma, k))) < 1e3 * n * eps
    B_ = np.eye(n) if B is None else B
    overlaps = Y.conj().T @ B_ @ X
    assert np.all(np.abs(np.diagonal(overlaps)) > 0.1 * np.linalg.norm(Y, axis=0))
    assert np.max(np.abs(A @ X - B_ @ X * values)) < 1e3 * n * eps
    defect = np.abs(Y.conj().T @ A - values[:, None] * (Y.conj().T @ B_)).max(axis=1)
    assert np.all(defect < 1e3 * n * eps * np.linalg.norm(Y, axis=0))


def test_arpack_general_keeps_the_upper_of_a_pair_that_k_cuts():
    A = skewed(12, np.float64)
    for k in (1, 2, 3):
        values, X, Y = arpack_general(k, 0.9, left=True)(sp.csr_matrix(A))
        assert values[0].imag > 0
        assert np.allclose(A @ X, X * values)
        assert np.allclose(A.T @ Y, Y * values.conj())
    assert values[1] == values[0].conj()


@pytest.mark.parametrize("generalised", [False, True])
def test_arpack_general_without_a_shift(generalised):
    n = 20
    A = skewed(n, np.float64)
    B = np.eye(n) + 0.1 * skewed(n, np.float64, 1) / n if generalised else None
    for form in ("dense", "sparse"):
        operators = [M for M in forms(form, A, B) if M is not None]
        values, _, Y = arpack_general(3, left=True)(*operators)
        every = sla.eigvals(A, B)
        every = every[np.argsort(-np.abs(every) - 1e-6 * every.imag)]
        assert np.max(np.abs(values - every[:3])) < 1e-9
        B_ = np.eye(n) if B is None else B
        assert np.allclose(Y.conj().T @ A, values[:, None] * (Y.conj().T @ B_))
        lowest = arpack_general(2, which="SR")(*operators)[0]
        assert np.allclose(np.sort(lowest.real), np.sort(every.real)[:2])


def test_arpack_general_leaves_infinite_values_out():
    A, B = skewed(16, np.float64), np.diag(np.r_[np.ones(9), np.zeros(7)])
    values = arpack_general(4, 0.3, left=True)(sp.csr_matrix(A), sp.csr_matrix(B))[0]
    assert np.allclose(values, nearest(A, B, 0.3, 4))
    # of twelve, nine are finite; the problem refuses the others
    values = arpack_general(12, 0.3)(sp.csr_matrix(A), sp.csr_matrix(B))[0]
    assert np.isfinite(values).tolist() == [True] * 9 + [False] * 3


def test_left_vectors_spare_every_solve_and_factorisation():
    A = sp.csr_matrix(skewed(20, np.float64)).tocoo()
    rows, cols = A.row.astype(np.int32), A.col.astype(np.int32)
    count = Counting()

    def gradient_of(solver):
        solve = ie.eigensolver(solver, ie.General(3), linear_solver=count.solver())
        loss = lambda data: jnp.sum(
            solve(ie.SparseOperator(data, rows, cols, A.shape)).values.imag ** 2
        )
        return jax.grad(loss)(jnp.asarray(A.data))

    ie.factorization_cache.clear()
    found = gradient_of(arpack_general(3, 4.1 + 1.3j, left=True))
    assert (count.calls, ie.factorization_cache.misses) == (0, 1)
    expected = gradient_of(arpack_general(3, 4.1 + 1.3j))
    assert count.calls == 6  # three of them to show that the systems are nonsingular
    assert jnp.max(jnp.abs(found - expected)) < 1e-10 * jnp.max(jnp.abs(expected))


def test_arpack_general_on_products():
    A = skewed(20, np.float64)
    operator = sp.linalg.aslinearoperator(A)
    values, _, Y = arpack_general(2, left=True)(operator)
    assert np.allclose(Y.conj().T @ A, values[:, None] * Y.conj().T)
    with pytest.raises(ie.InputError, match="operators of known entries, to factorise A − σB"):
        arpack_general(2, 0.0)(operator)
    with pytest.raises(ie.InputError, match="got MatrixLinearOperator"):
        arpack_general(2)(A, operator)


def test_arpack_general_refuses():
    A = skewed(12, np.float64)
    with pytest.raises(ie.InputError, match="eigs`; got mode"):
        arpack_general(2, mode="normal")
    with pytest.raises(ie.InputError, match="LM, SM, LR, SR, LI, SI; got 'LA'"):
        arpack_general(2, which="LA")
    with pytest.raises(ie.InputError, match="at most n − 2 pairs; got n = 12"):
        arpack_general(11)(A)
    with pytest.raises(ie.LinearSolveError, match="a nonsingular matrix A − σB, or B"):
        arpack_general(2, 2.0)(np.diag(np.arange(1.0, 9.0)))
    with pytest.raises(ie.EigensolverError, match=r"arpack_general\(k=3\)`: convergence; got"):
        arpack_general(3, maxiter=1, ncv=5)(
            np.asarray(grid_pencil(10)[0](jnp.ones((2, 100)))[0].as_matrix())
        )
    # all values at one distance: each run takes others
    with pytest.raises(ie.EigensolverError, match="a left vector for each value; got none near"):
        arpack_general(4, 0.0, left=True)(np.roll(np.eye(12), 1, axis=0))


SPECTRUM = np.array([-5.0, -1.0, 0.5, 2.0, 3.0, 7.0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [-5.0, -1.0]),
        ({"which": "LA"}, [3.0, 7.0]),
        ({"which": "LM"}, [-5.0, 7.0]),
        ({"which": "SM"}, [-1.0, 0.5]),
        ({"sigma": 1.8}, [2.0, 3.0]),
        ({"sigma": 0.9, "which": "LA"}, [2.0, 3.0]),
        ({"subset_by_value": (1.0, 4.0)}, [2.0, 3.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [solvers.lapack, solvers.jax_eigh])
def test_which_pairs_of_a_dense_hermitian_problem(make, options, expected):
    if make is solvers.jax_eigh and "subset_by_value" in options:
        pytest.skip("an option of LAPACK alone")
    A = with_spectrum(SPECTRUM, np.complex128)
    solve = ie.eigensolver(make(**options), ie.Hermitian(2))
    assert np.max(np.abs(solve(A).values - np.array(expected))) < 1e-13
    assert np.max(np.abs(jax.jit(solve)(A).values - np.array(expected))) < 1e-13


def test_dense_solvers_see_a_cluster_that_k_cuts():
    A = with_spectrum([1.0, 2.0, 2.0, 4.0])
    for solver in (solvers.lapack(), solvers.jax_eigh()):
        solve = ie.eigensolver(solver, ie.Hermitian(2))
        with pytest.raises(ie.EigensolverError, match="a k between clusters; got the value 2"):
            solve(A)


def test_a_schur_basis_of_a_defective_eigenvalue():
    A = np.diag([1.0, 1.0, 3.0, 4.0]) + np.diag([1.0, 0.3, 0.2], 1)
    P = np.random.default_rng(2).standard_normal((4, 4))
    A = jnp.asarray(P @ A @ np.linalg.inv(P))
    B = random_definite(4)
    for operators in ((A,), (B @ A, B)):
        solve = ie.eigensolver(solvers.lapack(which="SR"), ie.Subspace(2))
        assert abs(jnp.trace(solve(*operators).values) - 2) < 1e-7


def test_infinite_eigenvalues_come_last():
    A, B = jnp.diag(jnp.array([1.0, 2.0, 3.0])), jnp.diag(jnp.array([1.0, 1.0, 0.0]))
    values = ie.eigensolver(solvers.lapack(), ie.General(2))(A, B).values
    assert np.max(np.abs(np.asarray(values) - np.array([2.0, 1.0]))) < 1e-14


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: solvers.lapack(which="XX"), "one of SA, LM, SM, LA, LR, SR, LI, SI; got 'XX'"),
        (lambda: ie.eigensolver(solvers.lapack(which="LI"), ie.Hermitian(1)), "got 'LI'"),
        (lambda: solvers.lapack(sigma=0.0, subset_by_value=(0, 1)), "an interval alone; got"),
        (
            lambda: ie.eigensolver(solvers.lapack(subset_by_value=(0, 1)), ie.General(1)),
            "a `Hermitian` problem; got `General`",
        ),
        (lambda: ie.eigensolver(solvers.arpack(), ie.Singular(1)), "Hermitian or Subspace; got"),
        (lambda: ie.eigensolver(solvers.jax_svd(), ie.Hermitian(1)), "Singular; got `Hermitian`"),
        (lambda: solvers.jax_eig(which="SA"), "one of LM, SM, LR, SR, LI, SI; got 'SA'"),
        (lambda: solvers.lobpcg(which="LM"), "one of SA, LA; got 'LM'"),
        (lambda: solvers.lobpcg(steps=3), "lobpcg`; got steps"),
        (lambda: solvers.arpack_svd(which="LA"), "one of LM, SM; got 'LA'"),
    ],
)
def test_what_ready_made_solvers_refuse(call, words):
    with pytest.raises(ie.InputError, match=words):
        call()


def test_what_they_refuse_when_run():
    A = random_hermitian(20, seed=0)
    operator = lx.FunctionLinearOperator(lambda x: A @ x, jax.ShapeDtypeStruct((20,), A.dtype))
    grid = grid_pencil(10)[0](grid_pencil(10)[1])[0]
    for solver, problem, matrix, words in [
        (solvers.lapack(), ie.Hermitian(1), operator, "operators of known entries; got"),
        (solvers.jax_eigh(), ie.Hermitian(1), grid, "an A that is an array; got"),
        (solvers.arpack_svd(), ie.Singular(20), A, "fewer triplets than rows and columns; got"),
        (solvers.lobpcg(maxiter=2), ie.Hermitian(2), grid, "convergence in 2 steps; got residuals"),
        (solvers.lapack(subset_by_value=(0, 1e9)), ie.Hermitian(2), A, "k = 2 eigenvalues in the"),
    ]:
        with pytest.raises(ie.ImplicitEigError, match=words):
            ie.eigensolver(solver, problem)(matrix)
