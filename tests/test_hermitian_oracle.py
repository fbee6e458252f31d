"""The rule against autodiff through `jnp.linalg.eigh`: values, both modes, second order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
from problems import (
    EPS,
    Exchanged,
    eigh,
    invariant_loss,
    jax_eigh,
    jitted,
    random_definite,
    random_hermitian,
)

import implicit_eig as ie

DTYPES = [np.float64, np.complex128]


def losses(n, k, B=None):
    """Our loss of A, and the oracle's; with the smallest gap of the wanted pairs."""
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    operators = (lambda A: (A,)) if B is None else (lambda A: (A, B))
    return (
        lambda A: loss(*solve(*operators(A))),
        lambda A: loss(*jax_eigh(*operators(A))),
    )


def gap_of(A, k, B=None):
    values = np.asarray(jax_eigh(A, B)[0])
    return float(np.min(np.diff(values[: k + 1])))


def close(found, expected, tol):
    size = max(float(jnp.max(jnp.abs(expected))), 1.0)
    assert found.dtype == expected.dtype
    assert float(jnp.max(jnp.abs(found - expected))) <= tol * size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "dtype", "generalised"),
    [(12, DTYPES[0], False), (60, DTYPES[1], True)],
)
def test_first_and_second_order(n, dtype, generalised):
    k = 3
    A, D = random_hermitian(n, dtype, 0), random_hermitian(n, dtype, 7)
    B = random_definite(n, dtype, 3) if generalised else None
    ours, oracle = losses(n, k, B)
    gap = gap_of(A, k, B)
    eps = EPS[np.dtype(dtype)]
    first, second = 500 * n * eps / gap, 500 * n * eps / gap**2

    def derivatives(f):
        return jitted(
            f,
            jax.grad(f),
            lambda A: jax.jvp(f, (A,), (D,))[1],
            # forward over reverse, reverse over reverse
            lambda A: jax.jvp(jax.grad(f), (A,), (D,))[1],
            jax.grad(lambda A: jnp.sum(jax.grad(f)(A) * D).real),
        )(A)

    tolerances = [first] * 3 + [second] * 2
    for found, expected, tol in zip(
        derivatives(ours), derivatives(oracle), tolerances, strict=True
    ):
        close(found, expected, tol)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_with_respect_to_both_operators(dtype):
    n, k = 14, 3
    A, B = random_hermitian(n, dtype, 0), random_definite(n, dtype, 3)
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    # the oracle's Cholesky reads one triangle: compare along Hermitian directions
    ours, oracle = (lambda A, B, s=s: loss(*s(A, B)) for s in (solve, jax_eigh))
    directions = (random_hermitian(n, dtype, 5), random_hermitian(n, dtype, 6))
    tol = 500 * n * EPS[np.dtype(dtype)] / gap_of(A, k, B)
    pushed, gradients, expected = jitted(
        lambda A, B: jax.jvp(ours, (A, B), directions)[1],
        jax.grad(ours, argnums=(0, 1)),
        lambda A, B: jax.jvp(oracle, (A, B), directions)[1],
    )(A, B)
    close(pushed, expected, tol)
    paired = sum(jnp.sum(g * d).real for g, d in zip(gradients, directions, strict=True))
    close(paired, expected, tol)
    ie.testing.assert_adjoint(ours, A, B, rtol=tol * 10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_finite_differences(dtype):
    n, k = 10, 2
    A, B = random_hermitian(n, dtype, 0), random_definite(n, dtype, 3)
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    f = lambda A, B: loss(*solve(A, B))
    direction = (random_hermitian(n, dtype, 5), random_hermitian(n, dtype, 6))
    push = jax.jit(lambda A, B: jax.jvp(f, (A, B), direction))
    _, exact = push(A, B)
    step = 1e-3
    found = ie.testing.finite_difference(
        lambda A, B: push(A, B)[0], (A, B), direction, step=step, order=4
    )
    gap = gap_of(A, k, B)
    assert abs(found - exact) <= 100 * (step / gap) ** 4 * gap + 100 * EPS[np.dtype(dtype)] / step


def test_complex_tangents_satisfy_cauchy_riemann():
    """λ̇ and Ẋ are real-linear in a Hermitian tangent; its parts S + iT add up as they must."""
    n, k = 9, 2
    A = random_hermitian(n, np.complex128, 0)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    S, T = random_hermitian(n, np.complex128, 1), random_hermitian(n, np.complex128, 2)
    push = jax.jit(lambda D: jax.jvp(lambda A: tuple(solve(A)), (A,), (D,))[1])
    together, apart = push(S + T), [a + b for a, b in zip(push(S), push(T), strict=True)]
    for found, expected in zip(together, apart, strict=True):
        assert jnp.max(jnp.abs(found - expected)) < 1e4 * n * EPS[np.dtype(np.float64)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tangent_keeps_the_gauge(dtype):
    """xᴴB ẋ has no imaginary part, and its real part keeps the norm."""
    n, k = 12, 3
    A, B = random_hermitian(n, dtype, 0), random_definite(n, dtype, 3)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    A_dot, B_dot = random_hermitian(n, dtype, 1), random_hermitian(n, dtype, 2)
    vectors = lambda A, B: solve(A, B).vectors
    X, X_dot = jax.jit(lambda *P: jax.jvp(vectors, P, (A_dot, B_dot)))(A, B)
    inner = jnp.sum(X.conj() * (B @ X_dot), axis=0)
    expected = -0.5 * jnp.sum(X.conj() * (B_dot @ X), axis=0)
    assert jnp.max(jnp.abs(inner - expected)) < 1e4 * n * EPS[np.dtype(dtype)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_is_hermitian_and_blind_to_phase(dtype):
    n, k = 12, 3
    A = random_hermitian(n, dtype, 0)
    loss = invariant_loss(k, n)
    turns = np.exp(2j * np.arange(1, n + 1)) if np.iscomplexobj(A) else -np.ones(n)

    def turned(A):
        values, vectors = eigh(A)
        return values, 3 * vectors * turns

    solver = Exchanged()
    gradient = jax.jit(jax.grad(lambda A: loss(*ie.eigensolver(solver, ie.Hermitian(k))(A))))
    plain, other = (np.asarray(gradient(A)) for solver.now in (eigh, turned))
    tol = 1e4 * n * EPS[np.dtype(dtype)] / gap_of(A, k)
    assert jnp.max(jnp.abs(plain - plain.conj().T)) == 0
    assert jnp.max(jnp.abs(plain - other)) < tol


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_stays_single(dtype):
    n, k = 12, 2
    A = random_hermitian(n, dtype, 0)
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    f = lambda A: loss(*solve(A))
    double = np.float64 if dtype == np.float32 else np.complex128
    solution, gradient, product, expected = jitted(
        solve,
        jax.grad(f),
        lambda A: jax.jvp(jax.grad(f), (A,), (A,))[1],
        lambda A: jax.grad(lambda A: loss(*jax_eigh(A)))(A.astype(double)),
    )(A)
    assert solution.values.dtype == jnp.float32
    assert solution.vectors.dtype == dtype
    assert gradient.dtype == dtype
    tol = 500 * n * EPS[np.dtype(dtype)] / gap_of(A, k)
    assert jnp.max(jnp.abs(gradient.astype(double) - expected)) < tol
    assert product.dtype == dtype
    assert bool(jnp.all(jnp.isfinite(product)))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "traceable"), [(DTYPES[0], True), (DTYPES[1], False)])
def test_vmap_equals_a_loop_and_jit_equals_eager(dtype, traceable):
    n, k = 12, 3
    stack = jnp.stack([random_hermitian(n, dtype, seed) for seed in range(4)])
    B = random_definite(n, dtype, 9)
    solver = ie.traceable(jax_eigh) if traceable else eigh
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(solver, ie.Hermitian(k))
    f = jax.value_and_grad(lambda A: loss(*solve(A, B)))
    # in both orders, mapped and not
    both = lambda A: (f(A), jax.jvp(jax.grad(lambda A: loss(*solve(A, B))), (A,), (A,))[1])
    jitted_alone, tol = jax.jit(both), 1e3 * n * EPS[np.dtype(dtype)]
    loop = [jitted_alone(A) for A in stack]
    eager = f(stack[0])
    assert jnp.max(jnp.abs(eager[1] - loop[0][0][1])) <= tol
    for mapped in (
        jax.vmap(f)(stack),
        *jitted(jax.vmap(f), lambda stack: jax.lax.map(f, stack))(stack),
    ):
        for i, ((value, gradient), _) in enumerate(loop):
            assert jnp.abs(mapped[0][i] - value) <= tol
            assert jnp.max(jnp.abs(mapped[1][i] - gradient)) <= tol
    second = jax.jit(jax.vmap(lambda A: both(A)[1]))(stack)
    assert jnp.max(jnp.abs(second[1] - loop[1][1])) <= 10 * tol


@pytest.mark.slow
def test_jacobians_of_both_modes_and_the_hessian_agree():
    n, k = 6, 2
    A, D = random_hermitian(n, seed=0), random_hermitian(n, seed=4)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    f = lambda t: jnp.abs(solve(A + t[0] * D + t[1] * D @ D).vectors) ** 2
    t = jnp.zeros(2)
    tol = 1e4 * EPS[np.dtype(np.float64)]
    forward, reverse = jitted(jax.jacfwd(f), jax.jacrev(f))(t)
    assert jnp.max(jnp.abs(forward - reverse)) < tol
    g = lambda t: invariant_loss(k, n)(*solve(A + t[0] * D + t[1] * D @ D))
    o = lambda t: invariant_loss(k, n)(*jax_eigh(A + t[0] * D + t[1] * D @ D))
    found, expected = jitted(jax.hessian(g), jax.hessian(o))(t)
    assert jnp.max(jnp.abs(found - expected)) < tol / gap_of(A, k) ** 2


@pytest.mark.slow
def test_third_order():
    n, k = 6, 2
    A, D = random_hermitian(n, seed=0), random_hermitian(n, seed=4)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    loss = invariant_loss(k, n)
    third = lambda s: jax.grad(jax.grad(jax.grad(lambda t: loss(*s(A + t * D)))))
    found, expected = jitted(third(solve), third(jax_eigh))(0.1)
    assert abs(found - expected) <= 1e5 * EPS[np.dtype(np.float64)] * abs(expected)


def test_interior_pairs_in_the_solvers_own_order():
    n = 12
    A = random_hermitian(n, seed=0)
    pick = [7, 2, 9]

    def solver(A):
        values, vectors = np.linalg.eigh(A)
        return values[pick], vectors[:, pick]

    solve = ie.eigensolver(solver, ie.Hermitian(3))
    loss = invariant_loss(3, n)
    oracle = lambda A: loss(jnp.linalg.eigh(A)[0][jnp.array(pick)], jnp.linalg.eigh(A)[1][:, pick])
    assert np.array_equal(np.asarray(solve(A).values), np.linalg.eigvalsh(A)[pick].round(15)) or (
        np.allclose(solve(A).values, np.linalg.eigvalsh(A)[pick], rtol=0, atol=1e-14)
    )
    gradient, expected = jitted(jax.grad(lambda A: loss(*solve(A))), jax.grad(oracle))(A)
    gap = np.min(np.diff(np.linalg.eigvalsh(A)))
    assert jnp.max(jnp.abs(gradient - expected)) < 500 * n * 2.3e-16 / gap


def test_units_do_not_matter():
    n, k = 12, 3
    A = random_hermitian(n, seed=0)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    gradient = jax.jit(jax.grad(lambda A: jnp.sum(jnp.abs(solve(A).vectors[:3]) ** 2)))
    plain = gradient(A)
    for scale in (1e-19, 1e-10, 1e14):
        scaled = gradient(A * scale) * scale
        assert jnp.max(jnp.abs(plain - scaled)) < 1e4 * n * EPS[np.dtype(np.float64)] / gap_of(A, k)


@pytest.mark.slow
@pytest.mark.parametrize("system", [ie.Deflated(), ie.Bordered()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_invariant_loss_of_a_near_doublet(system, dtype):
    """tr(S P₂) + 0.7 (λ₀ + λ₁) is smooth at every gap; its derivative is known in closed form."""
    n = 40
    S, D = random_hermitian(n, dtype, 1), random_hermitian(n, dtype, 2)
    solve = ie.eigensolver(eigh, ie.Hermitian(2), system=system)
    # forward mode does not see that the loss is smooth, and says so
    quiet = dataclasses.replace(solve, policy=ie.Policy(gauge=ie.Action.IGNORE))

    def loss(A, solve=solve):
        values, X = solve(A)
        return jnp.sum(X.conj() * (S @ X)).real + 0.7 * jnp.sum(values)

    derivatives = jitted(
        lambda A: jax.jvp(lambda A: loss(A, quiet), (A,), (D,))[1],
        lambda A: jnp.sum(jax.grad(loss)(A) * D).real,
    )
    for gap in (1e-3, 1e-6, 1e-9, 1e-12, 0.0):
        derivatives_are_exact(derivatives, gap, n, dtype, S, D)


def derivatives_are_exact(derivatives, gap, n, dtype, S, D):
    spectrum = np.concatenate([[1.0, 1.0 + gap], np.linspace(2, 4, n - 2)])
    rng = np.random.default_rng(0)
    G = rng.standard_normal((n, n)) + (
        1j * rng.standard_normal((n, n)) if np.issubdtype(dtype, np.complexfloating) else 0
    )
    Q, _ = np.linalg.qr(G)
    A = jnp.asarray((Q * spectrum) @ Q.conj().T)
    A = (A + A.conj().T) / 2
    # d tr(S P) = 2 Re Σ_{j outside, i inside} (S)_{ij} D_{ji} / (λᵢ − λⱼ)
    S_, D_ = (Q.conj().T @ np.asarray(M) @ Q for M in (S, D))
    F = 1 / (spectrum[None, :2] - spectrum[2:, None])
    exact = 2 * np.sum(S_[:2, 2:].T * D_[2:, :2] * F).real + 0.7 * np.trace(D_[:2, :2]).real
    forward, reverse = map(float, derivatives(A))
    # what is near turns, by eps/gap too much in forward mode; in reverse mode that is dropped
    tol = 1e3 * n * EPS[np.dtype(dtype)]
    assert abs(forward - exact) <= tol * (1 + (1e-3 / gap if gap else 0)) * abs(exact)
    assert abs(reverse - exact) <= tol * abs(exact)


def test_a_cluster_is_one_wherever_it_lies():
    """A double value 0 has no size of its own; only rounding tells that it is double."""
    neumann = lambda m: np.diag([1.0] + [2.0] * (m - 2) + [1.0]) - np.eye(m, k=1) - np.eye(m, k=-1)
    S, D = random_hermitian(11, seed=1), random_hermitian(11, seed=2)

    def gradient(system):
        solve = ie.eigensolver(eigh, ie.Hermitian(2), system=system)

        def loss(A):
            X = solve(A).vectors
            return jnp.sum(X * (S @ X))

        return jax.grad(loss)

    gradients = jitted(*map(gradient, (ie.Deflated(), ie.Bordered())))
    for shift in (0.0, 1.0):
        A = sla.block_diag(neumann(5), neumann(6)) + shift * np.eye(11)
        spectrum, Q = np.linalg.eigh(A)
        S_, D_ = (Q.T @ np.asarray(M) @ Q for M in (S, D))
        exact = 2 * np.sum(S_[:2, 2:].T * D_[2:, :2] / (spectrum[None, :2] - spectrum[2:, None]))
        for found in gradients(jnp.asarray(A)):
            assert abs(jnp.sum(found * D) - exact) < 1e-11 * abs(exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_value_far_away_merges_nothing(dtype):
    far = 10.0 if dtype == np.float32 else 1e6
    A = jnp.diag(jnp.array([1e-3, 2e-3, far], dtype))
    D = jnp.zeros((3, 3), dtype).at[0, 1].set(5e-4).at[1, 0].set(5e-4)
    solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3))
    gradient = jax.jit(jax.grad(lambda t: solve(A + t * D).vectors[0, 0] ** 2))
    found = gradient(jnp.ones((), dtype))
    # x₀² = (1 + 1/√(1 + t²))/2 for the 2×2 block
    assert abs(found + 0.5 / 2**1.5) < 1e4 * EPS[np.dtype(dtype)] * far / 1e-3


def test_single_precision_in_any_unit():
    """Squares of such numbers leave float32; nothing here squares them unscaled."""
    n = 6
    A, D = random_hermitian(n, np.float32, 0), random_hermitian(n, np.float32, 4)
    solve = ie.eigensolver(lambda A: np.linalg.eigh(A.astype(float)), ie.Hermitian(2))
    push = jax.jit(lambda A, D: jax.jvp(lambda A: solve(A).vectors, (A,), (D,))[1])
    lie = ie.eigensolver(
        lambda A: (np.linalg.eigvalsh(A), np.linalg.qr(np.vander(np.arange(n) + 1.0))[0]),
        ie.Hermitian(2),
    )
    plain, tol = push(A, D), 1e3 * n * EPS[np.dtype(np.float32)] / gap_of(A, 2)
    for scale in map(np.float32, (1e-20, 1e-12, 1e12, 1e20)):
        tiny = push(A, D * scale) / scale
        assert jnp.max(jnp.abs(plain - tiny)) < tol
        scaled = push(A * scale, D * scale)
        assert jnp.max(jnp.abs(plain - scaled)) < tol
        with pytest.raises(ie.EigensolverError, match="A x = λ B x"):
            lie(A * scale)
