"""Invariant subspaces: functions of the space against finite differences and other problems."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
from problems import (
    Exchanged,
    by_both_modes,
    dense,
    eigh,
    jitted,
    random_definite,
    random_hermitian,
    with_spectrum,
)
from test_pairs import eig, paired, random

import implicit_eig as ie

N, K = 6, 3


def schur(A, B=None):
    """A Schur basis of the values of largest real part, from B⁻¹A."""
    M = dense(A) if B is None else np.linalg.solve(dense(B), dense(A))
    k = K
    order = np.sort(np.linalg.eigvals(M).real)[::-1]
    cut = (order[k - 1] + order[k]) / 2
    T, Z, _ = sla.schur(M, output="complex", sort=lambda x: x.real > cut)
    return np.diag(T)[:k], Z[:, :k]


def with_values(values, seed=0):
    """A non-normal matrix of these values, or with this leading block."""
    block = np.diag(values) if np.ndim(values) == 1 else values
    V = np.eye(N) + 0.3 * np.random.default_rng(seed).standard_normal((N, N))
    return jnp.asarray(V @ block @ np.linalg.inv(V))


# simple values; a pair that crosses; a Jordan block of three
CASES = {
    "simple": np.array([5.0, 4.0, 3.0, 0.5, -1.0, -2.0]),
    "double": np.array([5.0, 5.0, 3.0, 0.5, -1.0, -1.0]),
    "defective": sla.block_diag(4 * np.eye(3) + np.diag([1.0, 1.0], 1), np.diag([0.5, 0, -1])),
}
M = random_hermitian(N, seed=7)


def trace(S, X):
    return jnp.trace(S @ S).real + jnp.log(jnp.linalg.det(S)).real


def projector(S, X):
    return jnp.sum(X.conj() * (M.astype(X.dtype) @ X)).real


def both(S, X):
    return jnp.sum(X.conj() * (M.astype(X.dtype) @ X @ S)).real


def check_both_orders(loss, operators, directions, pushed=None):
    (first, second), (gradients, product), (difference, difference_of_first) = by_both_modes(
        loss, operators, directions, step=3e-4, pushed=pushed
    )
    assert abs(first - difference) < 1e-7 * (1 + abs(float(difference)))
    assert abs(paired(gradients, directions) - first) < 1e-10 * (1 + abs(float(first)))
    assert abs(second - difference_of_first) < 1e-6 * (1 + abs(float(difference_of_first)))
    assert abs(paired(product, directions) - second) < 1e-9 * (1 + abs(float(second)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "f"),
    [(case, both) for case in CASES] + [("double", projector), ("defective", trace)],
)
def test_functions_of_the_space(case, f):
    solve = ie.eigensolver(schur, ie.Subspace(K))
    loss = lambda A: f(*solve(A))
    check_both_orders(loss, (with_values(CASES[case]),), (random(5, N),))


@pytest.mark.slow
def test_of_a_complex_pencil():
    solve = ie.eigensolver(schur, ie.Subspace(K))
    A, B = random(0, N, np.complex128), random_definite(N, np.complex128, seed=3)
    directions = random(5, N, np.complex128), random_hermitian(N, np.complex128, seed=6)
    check_both_orders(lambda *P: both(*solve(*P)), (A, B), directions)


def test_the_basis_of_the_solver_does_not_matter():
    A = with_values(CASES["simple"])
    largest = lambda A: tuple(part[..., :K] for part in eig(A))
    rng = np.random.default_rng(0)

    def mixed(A):
        values, Z = schur(A)
        return values, Z @ (rng.standard_normal((K, K)) + 2 * np.eye(K))

    solver = Exchanged()
    gradient = jax.jit(jax.grad(lambda A: both(*ie.eigensolver(solver, ie.Subspace(K))(A))))
    gradients = [np.asarray(gradient(A)) for solver.now in (schur, mixed, mixed, largest)]
    for other in gradients[1:]:
        assert jnp.max(jnp.abs(other - gradients[0])) < 1e-12


def test_hermitian_is_a_subspace():
    A, B = random_hermitian(N), random_definite(N, seed=3)
    lowest = lambda A, B: tuple(part[..., :K] for part in eigh(A, B))
    D = jnp.asarray(np.random.default_rng(2).standard_normal((N, N)))
    D = D + D.T

    def both_orders(problem):
        solve = ie.eigensolver(lowest, problem)
        loss = lambda A: projector(None, solve(A, B).vectors)
        return lambda A: jax.jvp(jax.grad(loss), (A,), (D,))

    hessians = jitted(*map(both_orders, (ie.Hermitian(K), ie.Subspace(K))))(A)
    for one, other in zip(*hessians, strict=True):
        assert jnp.max(jnp.abs(one - (other + other.T) / 2)) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sparse", "matrix-free"])
def test_forms_of_operators(form):
    A = with_values(CASES["double"])
    rows, cols = (np.repeat(np.arange(N), N), np.tile(np.arange(N), N))

    def operator(A):
        if form == "sparse":
            return ie.SparseOperator(A.reshape(-1), rows, cols, (N, N))
        like = jax.ShapeDtypeStruct((N,), A.dtype)
        return lx.FunctionLinearOperator(lambda x: A @ x, like)

    def solver(A):
        return schur(dense(A))

    solve = ie.eigensolver(solver, ie.Subspace(K))
    gradients = jitted(
        *(jax.grad(lambda A, g=g: both(*solve(g(A)))) for g in (operator, jnp.asarray))
    )(A)
    assert jnp.max(jnp.abs(gradients[0] - gradients[1])) < 1e-8


def test_vmap_and_single_precision():
    solve = ie.eigensolver(schur, ie.Subspace(K))
    gradient = jax.grad(lambda A: both(*solve(A)))
    A = with_values(CASES["double"])
    stack = jnp.stack([A, A.T])
    batched, alone = jitted(jax.vmap(gradient), lambda stack: gradient(stack[1]))(stack)
    assert jnp.max(jnp.abs(batched[1] - alone)) < 1e-12
    of_trace = jax.jit(jax.grad(lambda A: trace(*solve(A))))
    single, double = of_trace(A.astype(np.float32)), of_trace(A)
    assert single.dtype == np.float32
    assert jnp.max(jnp.abs(single - double.astype(np.float32))) < 1e-3


def test_projector_of_vectors():
    A, B = random_hermitian(N), random_definite(N, seed=3)
    solution = ie.eigensolver(eigh, ie.Hermitian(N))(A, B)
    v = jnp.arange(1.0, N + 1)
    assert jnp.max(jnp.abs(ie.apply_projector(solution, v, B) - v)) < 1e-12
    some = ie.eigensolver(eigh, ie.Hermitian(2))(A)
    once = ie.apply_projector(some, jnp.stack([v, v**2], axis=1))
    assert jnp.max(jnp.abs(ie.apply_projector(some, once) - once)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32, np.complex64])
@pytest.mark.parametrize("generalised", [False, True])
def test_a_value_near_zero_is_judged_by_the_size_of_the_operators(dtype, generalised):
    """Its own terms are rounding."""
    A = with_spectrum([0.0, 1.0, 2.0, 3.0, 5.0, 7.0], dtype)
    operators = (A, random_definite(N, dtype, seed=3)) if generalised else (A,)
    solve = ie.eigensolver(eigh, ie.Subspace(1))
    batched = jax.jit(lambda *P: jax.vmap(solve)(*(M[None] for M in P)))
    for call in (solve, jax.jit(solve), batched):
        solution = call(*operators)
        assert jnp.all(jnp.isfinite(solution.vectors))
        assert jnp.max(jnp.abs(solution.values)) < 100 * np.finfo(dtype).eps * 7
        assert jnp.max(solution.stats["residuals"]) < np.finfo(dtype).eps ** 0.5
    # what is no rounding is refused still
    off = lambda *P: (np.zeros(1), eigh(*P)[1][:, :1] + 1e-2 * eigh(*P)[1][:, 1:2])
    with pytest.raises(ie.EigensolverError, match="whose span is invariant"):
        ie.eigensolver(off, ie.Subspace(1))(*operators)


def test_a_basis_dependent_function_is_called_out():
    solve = ie.eigensolver(schur, ie.Subspace(K))
    A = with_values(CASES["simple"])
    with pytest.warns(ie.GaugeWarning, match="depends on the basis in the cluster of pairs"):
        jax.block_until_ready(jax.grad(lambda A: solve(A).vectors[0, 0].real)(A))
    with pytest.warns(ie.GaugeWarning, match="depends on the basis"):
        jax.block_until_ready(jax.grad(lambda A: solve(A).values[0, 0].real)(A))


def test_a_value_shared_with_the_rest_fails_aloud():
    A = with_values(np.array([5.0, 4.0, 3.0, 3.0, 1.0, 0.0]))
    first = lambda A: tuple(part[..., :K] for part in eig(A))
    solve = ie.eigensolver(first, ie.Subspace(K))
    with pytest.raises(Exception, match="bordered system"):
        jax.block_until_ready(jax.jit(jax.grad(lambda A: projector(*solve(A))))(A))


def test_refusals():
    A = with_values(CASES["simple"])
    solve = lambda solver, **options: ie.eigensolver(solver, ie.Subspace(K), **options)
    with pytest.raises(ie.InputError, match=r"`Subspace\(k=...\)`: a positive number"):
        ie.Subspace(0)
    with pytest.raises(ie.InputError, match="one operator A, or two"):
        solve(schur)(A, A, A)
    with pytest.raises(ie.InputError, match="whose vectors mean something one by one"):
        solve(schur, normalization=ie.TwoNorm())(A)
    with pytest.raises(ie.InputError, match="the block needs its border"):
        jax.grad(lambda A: trace(*solve(schur, system=ie.Deflated())(A)))(A)
    twice = lambda A: (np.ones(K), schur(A)[1][:, [0, 0, 1]])
    with pytest.raises(ie.EigensolverError, match="independent vectors"):
        solve(twice)(A)
    with pytest.raises(ie.EigensolverError, match="whose span is invariant"):
        solve(lambda A: (np.ones(K), np.eye(N)[:, :K]))(A)
    with pytest.raises(ie.EigensolverError, match="finite vectors"):
        solve(lambda A: (np.ones(K), np.full((N, K), np.nan)))(A)
    with pytest.raises(ie.EigensolverError, match="B Hermitian positive definite on the space"):
        solve(schur)(A, -jnp.eye(N))


@pytest.mark.parametrize("seed", range(3))
def test_a_function_of_block_and_basis_raises_no_alarm_of_an_exceptional_point(seed):
    """‖XSXᴴ‖²: its cotangent is S̄ but for rounding, and no column shows a value's condition."""

    def solver(A):
        values, X = np.linalg.eig(A)
        largest = np.argsort(-np.abs(values))[:K]
        return values[largest], X[:, largest]

    solve = ie.eigensolver(solver, ie.Subspace(K))
    A, direction = random(seed, N), random(9, N)

    def loss(A):
        S, X = solve(A)
        return jnp.sum(jnp.abs(X @ S @ X.conj().T) ** 2)

    both_orders = jax.jit(jax.value_and_grad(loss))
    found = jnp.vdot(both_orders(A)[1], direction)
    expected, _ = ie.testing.finite_difference(both_orders, (A,), (direction,), step=3e-4, order=4)
    assert abs(found - expected) < 1e-6 * abs(expected)
