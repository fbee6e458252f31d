"""Eigenpairs by Lanczos' method on the device: values, multiplicities, starts, refusals."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
from problems import (
    EPS,
    invariant_loss,
    jax_eigh,
    jitted,
    random_definite,
    random_hermitian,
    sparse,
    with_spectrum,
)
from test_no_callback import callbacks

import implicit_eig as ie
from implicit_eig.solvers.lanczos import _ritz, lanczos

pytest.importorskip("matfree", reason="needs matfree")

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
# a run of 26 steps, the default with an inverse, does not exhaust the space
N, K = 40, 3


def products(A):
    """A matrix as an operator of which the products alone are known."""
    tags = () if jnp.iscomplexobj(A) else lx.symmetric_tag
    return lx.FunctionLinearOperator(
        lambda x: A @ x, jax.ShapeDtypeStruct((len(A),), A.dtype), tags
    )


FORMS = {"dense": jnp.asarray, "sparse": sparse, "products": products}


def outliers(dtype=np.float64, lowest=(-3.0, -2.0, -1.0)):
    """A matrix with some eigenvalues far below the others, for which few steps suffice."""
    return with_spectrum(np.concatenate([lowest, np.linspace(0, 1, N - len(lowest))]), dtype)


def errors(pairs, A, B, exact):
    """The largest errors of eigenvalues, of their equation and of orthonormality, in NumPy."""
    values, X = map(np.asarray, pairs)
    A = np.asarray(A)
    B = np.eye(len(A)) if B is None else np.asarray(B)
    defects = values - exact, A @ X - B @ X * values, X.conj().T @ B @ X - np.eye(len(values))
    return [np.max(np.abs(defect)) for defect in defects]


def nearest(A, B, sigma, k=K):
    """The eigenvalues nearest to a shift, in the order of their distance."""
    exact = sla.eigh(np.asarray(A), None if B is None else np.asarray(B))[0]
    return exact[np.argsort(np.abs(exact - sigma))[:k]]


def conjugate_gradients(matvec, b):
    return jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-11)


# ------------------------------------------------------------------------------------ eigenpairs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_pairs(dtype, form):
    A = outliers(dtype)
    pairs = lanczos(K, steps=30)(FORMS[form](A))
    assert pairs[0].dtype == np.finfo(dtype).dtype
    assert pairs[1].dtype == dtype
    assert max(errors(pairs, A, None, sla.eigh(A)[0][:K])) < 100 * EPS[np.dtype(dtype)]


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize(
    ("form", "inverse"), [("dense", lx.LU()), ("sparse", ie.MINRES()), ("products", ie.MINRES())]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pairs_nearest_to_a_shift(dtype, form, inverse, generalised):
    A, B = random_hermitian(N, dtype), random_definite(N, dtype, 1) if generalised else None
    operators = [FORMS[form](M) for M in (A, B) if M is not None]
    pairs = lanczos(K, inverse=inverse, sigma=0.13)(*operators)
    value, residual, gram = errors(pairs, A, B, nearest(A, B, 0.13))
    eps = EPS[np.dtype(dtype)]
    # the error of a vector is that of the linear solves, and the one of a value is its square
    solved = 1e-10 if isinstance(inverse, ie.MINRES) else 0.0
    assert pairs[1].dtype == dtype
    assert max(value, gram) < 100 * eps
    assert residual < 100 * eps + solved


@pytest.mark.parametrize(
    "inverse", [lx.CG(rtol=1e-10, atol=0.0), lx.Cholesky(), conjugate_gradients]
)
def test_below_the_spectrum_a_definite_solver_suffices(inverse):
    A, B = random_hermitian(N), random_definite(N, seed=1)
    solve = ie.eigensolver(lanczos(inverse=inverse, sigma=-2.0, steps=N), ie.Hermitian(K))
    assert np.max(np.abs(solve(A, B).values - sla.eigh(A, B)[0][:K])) < 1e-9


def test_the_highest_pairs_are_the_lowest_of_the_negative():
    A = -outliers()
    highest = -lanczos(K, steps=30)(products(-A))[0]
    assert np.max(np.abs(highest - np.linalg.eigvalsh(A)[::-1][:K])) < 1e-13


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_condition_of_ritz_in_a_short_run(dtype):
    """On the space of a run M is diagonal in the inner product of B, converged or not."""
    A, B, steps = random_hermitian(N, dtype), random_definite(N, dtype, 1), 6
    times = lambda v: jnp.linalg.solve(A - 0.13 * B, B @ v)
    X = _ritz(times, lambda v: B @ v, jnp.ones(N, dtype), steps).X.T
    M = X.conj().T @ B @ times(X)
    assert np.max(np.abs(M - np.diag(np.diagonal(M)))) < 1e-11 * np.max(np.abs(M))


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_do_not_matter(unit):
    A, B = outliers(), random_definite(N, seed=1)
    values = lanczos(K, steps=30)(unit * A)[0] / unit
    assert np.max(np.abs(values - sla.eigh(A)[0][:K])) < 1e-13
    solver = lanczos(K, inverse=lx.LU(), sigma=0.13 * unit)
    for a, b in ((unit, 1.0), (unit**2, unit)):
        values = solver(a * A, b * B)[0] / unit
        assert np.max(np.abs(values - nearest(A, B, 0.13))) < 1e-12


def test_a_few_rows():
    for n in (1, 2):
        A = random_hermitian(n)
        assert np.max(np.abs(lanczos(n)(A)[0] - np.linalg.eigvalsh(A))) < 1e-15


def test_the_problem_gives_k_and_its_guard():
    solver = lanczos(inverse=lx.LU(), sigma=6.4)
    solution = ie.eigensolver(solver, ie.Hermitian(2, guard=2))(with_spectrum(np.arange(1.0, 13.0)))
    assert np.max(np.abs(solution.values - np.asarray([6.0, 7.0]))) < 1e-11


def test_the_same_twice():
    A = outliers(np.complex128)
    first, second = (lanczos(K, steps=30)(A) for _ in range(2))
    assert all(map(np.array_equal, first, second))
    assert lanczos(K) == lanczos(K) != lanczos(K, steps=3)


# ---------------------------------------------------------------------------------- multiplicity


@pytest.mark.parametrize("inverse", [None, lx.LU()])
@pytest.mark.parametrize(
    ("spectrum", "found"),
    [
        ([1, 1, 2, 2], [1]),
        ([1, 1, 2, 2], [1, 1]),
        ([1, 1, 2, 2], [1, 1, 2]),
        ([1, 1, 2, 2], [1, 1, 2, 2]),
        ([1, 1, 1, 2, 3], [1, 1, 1]),  # a Krylov space has one vector of each eigenspace
        ([1, 1, 1, 1, 3], [1, 1, 1, 1, 3]),
        ([1, 1, 1, 1], [1, 1, 1]),
        ([5, 5, 5, 9, 9], [5, 5, 5, 9]),
    ],
)
def test_all_eigenvectors_of_repeated_eigenvalues(spectrum, found, inverse):
    pairs = lanczos(len(found), inverse=inverse)(with_spectrum(spectrum))
    assert max(errors(pairs, with_spectrum(spectrum), None, np.asarray(found))) < 1e-13


def test_a_triple_eigenvalue_in_a_larger_space():
    """Two runs may do, because rounding brings a second copy into a long one."""
    A = outliers(lowest=(-3.0, -3.0, -3.0, -1.0)) + 10 * jnp.eye(N)
    # those that were found are not found again as the zero eigenvalue of P A P
    pairs = lanczos(3, steps=30)(A)
    assert max(errors(pairs, A, None, np.full(3, 7.0))) < 1e-11


@pytest.mark.parametrize(("k", "runs"), [(1, 1), (2, 2), (5, 4)])
def test_runs_end_when_one_adds_nothing(k, runs, monkeypatch):
    """Another copy of 2 is found by each run, and the last shows that none is missing."""
    counted = []

    def counting(operator, metric, v, steps):
        jax.debug.callback(lambda _: counted.append(steps), v[0])
        return _ritz(operator, metric, v, steps)

    monkeypatch.setattr(sys.modules[lanczos.__module__], "_ritz", counting)
    jax.clear_caches()
    jax.block_until_ready(lanczos(k)(with_spectrum([1, 2, 2, 2, 3, 4, 5, 6])))
    jax.effects_barrier()
    jax.clear_caches()
    assert len(counted) == runs


def test_a_guard_shows_a_cluster_that_is_cut():
    A = outliers(lowest=(-3.0, -3.0, -1.0))
    with pytest.raises(ie.EigensolverError, match=r"takes 1 of at least 2 pairs .* value -3"):
        ie.eigensolver(lanczos(steps=30), ie.Hermitian(1, guard=1))(A)


def test_a_gradient_at_a_double_eigenvalue():
    A = outliers(lowest=(-3.0, -3.0, -1.0))
    solve = ie.eigensolver(lanczos(steps=30), ie.Hermitian(2))
    found = jax.jit(jax.grad(lambda A: jnp.sum(solve(A).values)))(A)
    X = np.linalg.eigh(A)[1][:, :2]
    assert np.max(np.abs(found - X @ X.T)) < 1e-11


# ----------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("generalised", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_derivatives_against_dense_autodiff(dtype, generalised):
    """Value, gradient, tangent and the product with a Hessian."""
    n = 12
    operators = [random_hermitian(n, dtype), random_definite(n, dtype, 1)][: 1 + generalised]
    directions = [random_hermitian(n, dtype, seed) for seed in (7, 8)][: 1 + generalised]
    inverse = {"inverse": lx.LU(), "sigma": -2.0} if generalised else {}
    solve = ie.eigensolver(lanczos(**inverse), ie.Hermitian(K))
    quiet = dataclasses.replace(solve, policy=ie.Policy(gauge=ie.Action.IGNORE))
    loss = invariant_loss(K, n)

    def derivatives(solve, quiet):
        f = lambda *P: loss(*solve(*P))
        argnums = tuple(range(len(operators)))
        push = lambda *P: jax.jvp(lambda *P: loss(*quiet(*P)), P, tuple(directions))[1]
        gradient = jax.grad(f, argnums)
        return jitted(f, gradient, push, lambda *P: jax.jvp(gradient, P, tuple(directions))[1])

    def dense(*P):
        P = [(M + M.conj().T) / 2 for M in P]
        return jax_eigh(*P)

    found = derivatives(lambda *P: tuple(solve(*P))[:2], lambda *P: tuple(quiet(*P))[:2])
    exact = derivatives(dense, dense)
    pairs = zip(*(jax.tree.leaves(f(*operators)) for f in (found, exact)), strict=True)
    for a, b in pairs:
        assert np.max(np.abs(a - b)) < 1e-10 * (1 + np.max(np.abs(b)))


def test_a_gradient_by_products():
    """Eigenvalues of p A have the derivative λ/p, and its eigenvectors do not move."""
    A = outliers()

    def f(p):
        solution = ie.eigensolver(lanczos(steps=30), ie.Hermitian(K))(products(p * A))
        return solution.values, jnp.sum(solution.vectors**4)

    values, fourth = jax.jit(jax.jacrev(f))(jnp.asarray(2.0))
    assert np.max(np.abs(values - np.asarray([-3.0, -2.0, -1.0]))) < 1e-12
    assert np.abs(fourth) < 1e-8


def test_batches():
    A = jnp.stack([random_hermitian(12, seed=seed) for seed in range(3)])
    B = random_definite(12, seed=1)
    solve = ie.eigensolver(lanczos(inverse=lx.LU()), ie.Hermitian(2))
    gradient = jax.grad(lambda A: jnp.sum(solve(A, B).vectors ** 4))
    together = jax.jit(jax.vmap(lambda A: (solve(A, B).values, gradient(A))))(A)
    for i in range(3):
        exact = nearest(A[i], B, 0.0, 2)
        assert np.max(np.abs(together[0][i] - exact)) < 1e-12
        one = gradient(A[i])
        assert np.max(np.abs(together[1][i] - one)) < 1e-8 * np.max(np.abs(one))


# --------------------------------------------------------------------------- programs and starts


@pytest.mark.parametrize("generalised", [False, True])
def test_no_callback_in_the_program(generalised):
    operators = [random_hermitian(12), random_definite(12, seed=1)][: 1 + generalised]
    solver = lanczos(2, inverse=ie.MINRES() if generalised else None)
    assert callbacks(jax.make_jaxpr(solver.fn)(*operators).jaxpr) == []
    solve = ie.eigensolver(solver, ie.Hermitian(2), policy=ie.Policy.nan())
    gradient = jax.grad(lambda *P: jnp.sum(solve(*P).vectors ** 4))
    assert callbacks(jax.make_jaxpr(gradient)(*operators).jaxpr) == []


def test_a_start_is_used():
    A = outliers()
    exact = np.linalg.eigh(A)[1][:, :K]
    cold = errors(lanczos(K, steps=8)(A), A, None, np.asarray([-3, -2, -1]))[1]
    for start in (exact, ie.Solution(jnp.zeros(K), jnp.asarray(exact)), exact.astype(np.float32)):
        pairs = lanczos(K, steps=8)(A, start=start)
        assert errors(pairs, A, None, np.asarray([-3, -2, -1]))[1] < 0.05 * cold
    solve = ie.eigensolver(lanczos(steps=30), ie.Hermitian(K))
    once = solve(A)
    again = jax.jit(lambda A: solve(A, start=once).values)(A + 0.01 * random_hermitian(N))
    exact = np.linalg.eigvalsh(A + 0.01 * random_hermitian(N))[:K]
    assert np.max(np.abs(again - exact)) < 1e-12


@pytest.mark.parametrize(
    "start", [np.ones(N, int), np.ones(N, bool), 1j * np.ones(N), np.zeros(N), np.eye(N)[:, :5]]
)
def test_any_numbers_are_a_start(start):
    A = outliers()
    pairs = lanczos(K, steps=30)(A, start=start)
    assert max(errors(pairs, A, None, np.asarray([-3, -2, -1]))) < 1e-12


def test_a_start_of_an_imaginary_vector_is_its_space():
    A = outliers()
    x = np.linalg.eigh(A)[1][:, 0]
    for start in (x, 1j * x):
        values, _ = lanczos(1, steps=4)(A, start=start)
        assert np.abs(values[0] + 3) < 1e-5


def test_a_shift_of_the_call_is_traced():
    A = with_spectrum(np.arange(1.0, 21.0), np.float32)
    solve = ie.eigensolver(lanczos(inverse=lx.LU(), sigma=1.0), ie.Hermitian(2))
    moved = jax.jit(lambda A, sigma: solve(A, sigma=sigma).values)
    assert np.max(np.abs(moved(A, jnp.float32(7.2)) - np.asarray([7, 8], np.float32))) < 1e-3


# -------------------------------------------------------------------------------------- refusals


def test_no_convergence():
    A = with_spectrum(np.arange(1.0, 41.0))
    actions = {ie.Action.RAISE, ie.Action.WARN, ie.Action.NAN}
    solve = {
        action: ie.eigensolver(lanczos(steps=5), ie.Hermitian(2), policy=ie.Policy(forward=action))
        for action in actions
    }
    with pytest.raises(ie.EigensolverError, match=r"A x = λ B x; got a residual .* of 2 pairs"):
        solve[ie.Action.RAISE](A)
    with pytest.warns(ie.ForwardWarning, match=r"A x = λ B x; got a residual"):
        assert np.all(np.isfinite(solve[ie.Action.WARN](A).values))
    assert np.all(np.isnan(solve[ie.Action.NAN](A).values))


def test_linear_solves_that_do_not_converge():
    solver = lanczos(inverse=ie.MINRES(max_steps=2), sigma=0.1)
    with pytest.raises(ie.EigensolverError, match=r"A x = λ B x; got a residual"):
        ie.eigensolver(solver, ie.Hermitian(2))(random_hermitian(N))


def test_a_shift_that_is_an_eigenvalue():
    A = jnp.diag(jnp.arange(1.0, 9.0))
    with pytest.raises(ie.EigensolverError, match="finite pairs; got NaN or inf in pair 0"):
        ie.eigensolver(lanczos(inverse=lx.LU(), sigma=3.0), ie.Hermitian(2))(A)


def test_a_metric_that_is_not_definite():
    A = random_hermitian(8)
    solve = ie.eigensolver(lanczos(inverse=lx.LU(), sigma=0.1), ie.Hermitian(2))
    with pytest.raises(ie.EigensolverError, match=r"B positive definite; got vᴴBv = -"):
        solve(A, -random_definite(8, seed=1))
    # this one is found by the factorisation alone
    with pytest.raises(ie.EigensolverError, match="finite pairs; got NaN or inf in pair 0"):
        solve(A, with_spectrum([-1.0] + [1.0] * 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"lanczos\(k=...\)`: a positive integer; got 0"),
        ({"k": -1}, r"lanczos\(k=...\)`: a positive integer; got -1"),
        ({"steps": 0}, r"lanczos\(steps=...\)`: a positive integer; got 0"),
        ({"sigma": 1.0}, r"a linear solver `inverse=...` for A − σB; got none"),
        ({"sigma": 1j, "inverse": lx.LU()}, "a real shift, because .*; got 1j"),
        ({"inverse": lambda b: b}, "a call that does not bind: too many positional arguments"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ie.InputError, match=message):
        lanczos(**options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'which'"):
        lanczos(2, which="LA")


def test_what_does_not_fit_the_problem():
    A = random_hermitian(6)
    solve = ie.eigensolver(lanczos(), ie.Hermitian(2))
    with pytest.raises(ie.InputError, match="that the solver solves, Hermitian; got `General`"):
        ie.eigensolver(lanczos(), ie.General(2))
    with pytest.raises(ie.InputError, match=r"k=7, steps=6\)`: .* at most n = 6; got 6"):
        lanczos(7)(A)
    with pytest.raises(ie.InputError, match=r"at least k steps, and at most n = 6; got 2"):
        lanczos(3, steps=2)(A)
    with pytest.raises(ie.InputError, match=r"at least k steps, and at most n = 6; got 9"):
        lanczos(3, steps=9)(A)
    with pytest.raises(ie.InputError, match=r"where there is a B; got none. .* `solvers.lobpcg`"):
        solve(A, random_definite(6, seed=1))
    with pytest.raises(ie.InputError, match="where there is a shift; got none"):
        solve(A, sigma=1.0)
    with pytest.raises(ie.InputError, match="takes `budget`; got one that takes A, B, start"):
        solve(A, budget=3)
    for start in (np.ones((5, 2)), np.ones((6, 2, 2))):
        with pytest.raises(ie.InputError, match=r"shape \(6,\) or \(6, m\); got an array of shape"):
            solve(A, start=start)
    with pytest.raises(TypeError, match="JAX value"):
        solve(A, start=np.asarray(["a"] * 6))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "matfree.decomp", None)
    with pytest.raises(ie.InputError, match=r'Run `pip install "implicit_eig\[matfree\]"`'):
        lanczos(2)
