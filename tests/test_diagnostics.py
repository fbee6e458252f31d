"""The figures of `diagnose`, and Newton's polish."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import Exchanged, eigh, jitted, random_definite, random_hermitian, with_spectrum
from test_guard import svd
from test_pairs import eig, polyeig, random

import implicit_eig as ie

N, K = 6, 3
A = with_spectrum([1.0, 1.0, 2.0, 2.0, 5.0, 7.0])


def test_of_a_hermitian_problem():
    found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(2, guard=1)), A)
    assert [c.tolist() for c in found.clusters] == [[0, 1]]
    assert found.complete == [True]
    assert np.allclose(found.gaps, 0.5)
    assert np.all(found.condition_numbers == 1)
    assert np.all(found.residuals < 1e-14)
    assert np.all(found.solve_residuals < 1e-12)
    assert np.all((found.solve_growth > 0.1) & (found.solve_growth < 100))
    assert np.all((found.gradient_errors > 0) & (found.gradient_errors < 1e-11))
    text = repr(found)
    assert "Hermitian, k = 2, derivatives by LU" in text
    assert "clusters: 0, 1" in text


@pytest.mark.slow
def test_the_linear_solver_and_its_steps():
    products = lx.FunctionLinearOperator(lambda v: A @ v, jax.ShapeDtypeStruct((N,), A.dtype))
    sparse = ie.SparseOperator.from_scipy(sp.csr_matrix(np.asarray(A)))
    for operator, problem, name, least in (
        (A, ie.Hermitian(2), "LU", 0),
        (products, ie.Hermitian(2), "MINRES", 1),
        (sparse, ie.General(2), "ShiftInvert", 1),
        (sparse, ie.Subspace(2), "ShiftInvert", 1),
        (A, ie.Hermitian(N), "no linear solver", 0),
    ):
        found = ie.diagnose(ie.eigensolver(eigh, problem), operator)
        assert found.linear_solver == name
        assert found.solve_steps.shape == (problem.k,)
        assert np.all(found.solve_steps >= least)
        assert least > 0 or not found.solve_steps.any()


def test_a_cut_cluster_is_said():
    found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3, guard=1)), A)
    assert found.complete == [True, False]
    assert "k cuts a cluster" in repr(found)
    assert "not known" in repr(ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3)), A))


def test_condition_numbers_of_general_pairs():
    M = random(0, N)
    values, Y, X = sla.eig(np.asarray(M), left=True)
    expected = 1 / np.abs(np.sum(Y.conj() * X, axis=0))
    order = np.argsort(-np.abs(values) - 1e-6 * values.imag)[:K]
    found = ie.diagnose(ie.eigensolver(eig, ie.General(K)), M)
    assert np.allclose(found.condition_numbers, expected[order], rtol=1e-10)


def test_a_rough_solver_is_seen():
    def rough(A):
        values, X = eigh(A)
        return values, X + 1e-5 * np.random.default_rng(0).standard_normal(X.shape)

    policy = ie.Policy(residual_rtol=1e-3)
    M = random_hermitian(N)
    good, bad = (
        ie.diagnose(ie.eigensolver(s, ie.Hermitian(K), policy=policy), M) for s in (eigh, rough)
    )
    assert np.all(bad.gradient_errors > 1e3 * good.gradient_errors)
    assert np.all((bad.gradient_errors > 1e-6) & (bad.gradient_errors < 1e-2))


@pytest.mark.parametrize("kind", [ie.Singular, ie.Subspace])
def test_every_kind_has_figures(kind):
    solver = svd if kind is ie.Singular else eig
    found = ie.diagnose(ie.eigensolver(solver, kind(K)), random(0, N))
    assert np.all(found.residuals < 1e-13)
    assert np.all(found.solve_residuals < 1e-10)


def quadratic():
    return random(1, N), random(2, N), jnp.eye(N) + 0.2 * random(3, N)


CASES = {
    "Hermitian": (eigh, ie.Hermitian(K), (random_hermitian(N), random_definite(N, seed=3))),
    "a cluster": (eigh, ie.Hermitian(4), (A.astype(np.complex128),)),
    "Singular": (svd, ie.Singular(K), (random(0, N)[:, :5],)),
    "General": (eig, ie.General(K), (random(0, N),)),
    "Polynomial": (polyeig, ie.Polynomial(K), quadratic()),
}


@pytest.mark.parametrize("name", CASES)
def test_single_precision_is_polished(name):
    solver, problem, operators = CASES[name]
    k = problem.k
    parts = solver(*map(np.asarray, operators))
    exact = np.asarray(parts[0][:k])
    rng = np.random.default_rng(0)
    noisy = [part + 1e-4 * np.abs(part).max() * rng.standard_normal(part.shape) for part in parts]
    rough = (noisy[0][:k], noisy[1][:, :k])
    once = ie.refine(rough, *operators, problem=problem, steps=4)
    assert np.max(once.stats["residuals"]) < 1e-13
    assert np.max(np.abs(once.values - exact)) < 1e-12 * np.abs(exact).max()


def rough_solver(solver, k):
    def rough(*operators):
        parts = solver(*operators)[:2]
        rng = np.random.default_rng(0)
        noisy = [
            part + 1e-4 * np.abs(part).max() * rng.standard_normal(part.shape) for part in parts
        ]
        return noisy[0][:k], noisy[1][:, :k]

    return rough


REFINED = {**CASES, "Subspace": (eig, ie.Subspace(K), (random(0, N),))}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFINED)
def test_a_loose_solver_is_polished_under_jit_and_vmap(name):
    """To the pairs and the derivatives of an exact one."""
    solver, problem, operators = REFINED[name]
    rough = rough_solver(solver, problem.k)
    with pytest.raises(ie.EigensolverError, match="above the"):
        ie.eigensolver(rough, problem)(*operators)
    polished = ie.eigensolver(rough, problem, refine=4)
    exact = ie.eigensolver(lambda *P: tuple(p[..., : problem.k] for p in solver(*P)), problem)

    def loss(solve):
        def f(*operators):
            S, X = solve(*operators)
            S = jnp.diag(S) if S.ndim == 1 else S
            if name in ("Polynomial", "Subspace"):
                return jnp.abs(jnp.trace(S)) ** 2
            return jnp.sum(jnp.abs(X @ S.astype(X.dtype) @ X.conj().T) ** 2)

        return f

    every = tuple(range(len(operators)))
    batch = tuple(jnp.stack([M, M]) for M in operators)
    gradients = (jax.vmap(jax.grad(loss(solve), every)) for solve in (polished, exact))
    found, expected = jax.device_get(jitted(*gradients)(*batch))
    scale = max(np.max(np.abs(e)) for e in expected)
    for f, e in zip(found, expected, strict=True):
        assert np.max(np.abs(f - e)) < 1e-10 * scale


def test_polish_in_single_precision_and_with_a_guard():
    A = with_spectrum([1.0, 1.0, 2.0, 3.0, 5.0, 7.0], np.complex64)
    solve = ie.eigensolver(rough_solver(eigh, 3), ie.Hermitian(2, guard=1), refine=2)
    solution = jax.jit(solve)(A)
    assert solution.values.dtype == np.float32
    assert jnp.max(jnp.abs(solution.values - 1)) < 1e3 * np.finfo(np.float32).eps
    cut = ie.eigensolver(rough_solver(eigh, 2), ie.Hermitian(1, guard=1), refine=2)
    with pytest.raises(ie.EigensolverError, match="a k between clusters"):
        cut(A)


def test_refusals():
    for steps in (-1, True):
        with pytest.raises(ie.InputError, match=r"refine=...\)`: a number of Newton steps, 0 or m"):
            ie.eigensolver(eigh, ie.Hermitian(1), refine=steps)
    values, X = np.ones(2), np.eye(N)[:, :2]
    with pytest.raises(ie.EigensolverError, match="pairs with A x = λ B x"):
        ie.refine((values, X), random_hermitian(N), problem=ie.Hermitian(2), steps=0)


def near_exceptional_point(distance):
    """A matrix with a pair (1 + d, x) of condition about 1/d, with a solver that knows it."""
    n = 6
    Q = np.eye(n) + np.asarray(random_hermitian(n)) / 3
    J = np.diag([1.0, 1.0, 3.0, 4.0, 5.0, 6.0])
    J[0, 1], J[1, 0] = 1.0, distance**2
    x, y = np.eye(n)[:, [0]], np.eye(n)[:, [1]]
    x, y = Q @ (x + distance * y), np.linalg.inv(Q).T @ (distance * x + y)
    solver = lambda A: (np.array([1 + distance]), x, y)
    return jnp.asarray(Q @ J @ np.linalg.inv(Q)), solver


LOSSES = {
    "value": lambda s: s.values[0].real,
    "vector": lambda s: jnp.abs(s.vectors[0, 0]) ** 2,
}
SEEN = [("value", "grad"), ("value", "jvp"), ("vector", "jvp")]


@pytest.mark.slow
def test_ill_conditioned_values_are_warned_about_where_left_vectors_are_not_known():
    D = random_hermitian(6, seed=2)
    solver = Exchanged()

    def derivative_by(loss, mode, **options):
        solve = ie.eigensolver(solver, ie.General(1), policy=ie.Policy(**options))
        f = lambda A: LOSSES[loss](solve(A))
        return jax.grad(f) if mode == "grad" else lambda A: jax.jvp(f, (A,), (D,))[1]

    def run(distance, derivatives):
        A, both = near_exceptional_point(distance)
        solver.now = lambda A: both(A)[:2]
        return jax.block_until_ready(derivatives(A))

    for loss, mode in SEEN:
        with pytest.warns(
            ie.ExceptionalPointWarning, match="or more from the bordered system of pair 0"
        ) as caught:
            run(1e-9, jax.jit(derivative_by(loss, mode)))
        assert len(caught) == 1

    def every(action):
        return jitted(*(derivative_by(*seen, exceptional=action) for seen in SEEN))

    assert all(jnp.all(jnp.isnan(part)) for part in run(1e-9, every(ie.Action.NAN)))
    run(1e-10, every(ie.Action.IGNORE))
    run(1e-6, every(ie.Action.RAISE))


def test_a_cotangent_of_nearly_no_size_shows_no_condition():
    policy = ie.Policy(exceptional=ie.Action.RAISE)
    solve = ie.eigensolver(eig, ie.General(2), policy=policy)

    def f(A, factor):
        values, X = solve(A)
        return jnp.sum(values.real) + factor * jnp.sum(jnp.abs(X[0]) ** 2)

    gradient = jax.jit(jax.grad(f))
    for factor in (1e-8, 1e-16, 1e-25, 1e-100):
        assert jnp.all(jnp.isfinite(gradient(random(0, N), factor)))


def test_a_wide_spectrum_is_not_ill_conditioned():
    """Nor is a small difference of values of orthogonal vectors."""
    A = with_spectrum([1.0, 1.0 + 1e-2, 2.0, 1e7, 2e7, 3e7])
    policy = ie.Policy(exceptional=ie.Action.RAISE, residual_rtol=1e-3, linear_solve_rtol=1e-3)
    for problem in (ie.General(1), ie.Subspace(1)):
        solve = ie.eigensolver(lambda A: [p[..., :1] for p in eigh(A)], problem, policy=policy)
        f = lambda A, solve=solve: jnp.sum(jnp.abs(solve(A).vectors[0]) ** 2)
        for gradient in jitted(jax.grad(f), lambda A, f=f: jax.jvp(f, (A,), (A,))[1])(A):
            assert jnp.all(jnp.isfinite(gradient))


def test_ill_conditioned_values_are_called_out_where_left_vectors_are_known():
    A, solver = near_exceptional_point(1e-9)
    right = lambda A: solver(A)[:2]
    for given, left in ((solver, False), (solver, True), (right, True)):
        with pytest.warns(ie.ExceptionalPointWarning, match="a condition number") as caught:
            ie.eigensolver(given, ie.General(1, left=left))(A)
        assert len(caught) == 1
    A, solver = near_exceptional_point(1e-6)
    ie.eigensolver(solver, ie.General(1))(A)


def test_a_function_in_place_of_a_solve_is_refused():
    """In a process without type checks at run time, which would find it first."""
    code = """
    import jax.numpy as jnp, implicit_eig as ie
    calls = (
        lambda f: ie.diagnose(f, jnp.eye(2)),
        lambda f: ie.directional_derivatives(f, (jnp.eye(2),), (jnp.eye(2),)),
    )
    for call in calls:
        try:
            call(lambda p: p)
        except ie.InputError as error:
            assert "that `eigensolver` has made; got function" in str(error)
        else:
            raise SystemExit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
