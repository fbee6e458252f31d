"""Who depends on a phase or on a basis is called out, and nobody else."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Counting, eigh, jitted, random_hermitian, with_spectrum
from test_pairs import eig

import implicit_eig as ie

N, K = 7, 4
SPECTRUM = [1.0, 1.0, 1.0, 3.0, 5.0, 5.0, 8.0]
M = random_hermitian(N, np.complex128, seed=5)


def turning(seed=0):
    """A solver with another basis in each cluster, and another phase, at every call."""
    rng = np.random.default_rng(seed)

    def solver(A):
        values, X = eigh(A)
        turn = rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3))
        X = X.astype(A.dtype)
        X[:, :3] = X[:, :3] @ np.linalg.qr(turn if np.iscomplexobj(A) else turn.real)[0]
        if np.iscomplexobj(A):
            X = X * np.exp(1j * rng.uniform(0.5, 1.0, len(values)))
        return values, X

    return solver


RAISE = ie.Policy(gauge=ie.Action.RAISE)


def gradients(losses, dtype=np.complex128):
    """The gradient of Σ weights · losses, compiled once for all weights."""
    solve = ie.eigensolver(turning(), ie.Hermitian(K), policy=RAISE)
    loss = lambda A, weights: losses(solve(A), weights)
    return jax.jit(jax.grad(loss)), with_spectrum(SPECTRUM, dtype)


def invariant(solution, weights):
    lam, X = solution
    P = X[:, :3] @ X[:, :3].conj().T
    parts = [
        jnp.sum(lam[:3]),
        lam[3] ** 2,
        jnp.sum(M * P).real,
        jnp.sum(jnp.abs(P) ** 4),
        jnp.sum(jnp.abs(X[:, 3]) ** 4),
        jnp.abs(X[:, 3].conj() @ M @ P @ X[:, 3]) ** 2,
    ]
    return jnp.sum(weights * jnp.stack(parts))


def dependent(solution, weights):
    lam, X = solution
    parts = [
        lam[1],
        X[0, 3].real,
        jnp.sum(jnp.abs(X[:, 1]) ** 4),
        jnp.sum(jnp.abs(X[0, :2]) ** 2),
        (X[:, 0].conj() @ M @ X[:, 1]).real,
    ]
    return invariant(solution, jnp.ones(6)) + jnp.sum(weights * jnp.stack(parts))


def test_a_hundred_invariant_functions_raise_no_alarm():
    gradient, A = gradients(invariant)
    for weights in np.random.default_rng(0).standard_normal((100, 6)):
        assert jnp.all(jnp.isfinite(gradient(A, jnp.asarray(weights))))


def test_a_hundred_dependent_functions_are_not_missed():
    gradient, A = gradients(dependent)
    for i, weights in enumerate(np.random.default_rng(1).standard_normal((100, 5))):
        # one part at a time, and all at once
        weights = weights * (np.arange(5) == i % 5) if i < 50 else weights
        with pytest.raises(Exception, match="got one"):
            jax.block_until_ready(gradient(A, jnp.asarray(weights)))


def test_smooth_functions_of_values_that_nearly_agree_raise_no_alarm():
    """They tell such values apart by their curvature times the distance, and no more."""
    S = with_spectrum(np.arange(5.0), seed=4)
    solve = ie.eigensolver(eigh, ie.Hermitian(2), policy=RAISE)

    def invariant(A):
        values, X = solve(A)
        soft = jax.scipy.special.logsumexp(20 * values)
        return soft + jnp.sum(X * (S @ X))

    gradient = jax.jit(jax.grad(invariant))
    for gap in (1e-5, 4e-6, 1e-6, 1e-8, 1e-14):
        A = with_spectrum([1.0, 1 + gap, 3.0, 5.0, 7.0])
        assert jnp.all(jnp.isfinite(gradient(A)))
    for f in (lambda s: s.values[0], lambda s: s.vectors[0, 0] ** 2):
        with pytest.raises(Exception, match="got one"):
            jax.block_until_ready(jax.jit(jax.grad(lambda A, f=f: f(solve(A))))(A))


def test_a_function_of_the_matrix_is_differentiated_through_near_pairs():
    """Σ λᵢ³ xᵢᵀMxᵢ moves with the turn of two near pairs, since their weights differ."""
    X, _ = np.linalg.qr(np.asarray(random_hermitian(N)))
    values = np.array([1.0, 1 + 1e-6, *np.arange(3.0, 8.0)])
    both = X[:, 0] + X[:, 1]
    A, M = jnp.asarray((X * values) @ X.T), jnp.asarray(np.outer(both, both))
    solve = ie.eigensolver(lambda A: (values, X), ie.Hermitian(N), policy=RAISE)

    def f(A):
        values, X = solve(A)
        return jnp.sum(X * (M @ X) * values[None, :] ** 3)

    found, expected = jitted(jax.grad(f), jax.grad(lambda A: jnp.sum(M * (A @ A @ A))))(A)
    assert jnp.max(jnp.abs(found - (expected + expected.T) / 2)) < 1e-8 * jnp.max(expected)


def test_a_double_zero_is_double():
    A = with_spectrum([0.0, 0.0, 3.0, 5.0, 7.0])

    def solver(A):
        values, X = eigh(A)
        return np.concatenate([[-1e-16, 2e-16], values[2:]]), X

    def opposite(A):
        values, X = eigh(A)
        return np.concatenate([[-1e-16, 1e-16], values[2:]]), X

    solve = ie.eigensolver(opposite, ie.Hermitian(2), policy=RAISE)
    with pytest.raises(Exception, match="treats the values of a cluster alike"):
        jax.block_until_ready(jax.grad(lambda A: jnp.diff(solve(A).values)[0])(A))
    solve = ie.eigensolver(solver, ie.Hermitian(2), policy=RAISE)
    for loss in (lambda s: s[0], lambda s: s[0] ** 2, lambda s: s[0] ** 2 + 2 * s[1] ** 2):
        with pytest.raises(Exception, match="treats the values of a cluster alike"):
            jax.block_until_ready(jax.grad(lambda A, loss=loss: loss(solve(A).values))(A))
    # stationary at 0: its derivatives, rounding, are in proportion to the values
    gradient = jax.grad(lambda A: jnp.sum(solve(A).values ** 2))(A)
    assert jnp.max(jnp.abs(gradient)) < 1e-15


MESSAGES = {
    "phase": (lambda s: s.vectors[0, 3].real, "depends on the phase of pair 3"),
    "basis": (lambda s: jnp.abs(s.vectors[0, 1]) ** 2, "depends on the basis in the cluster of"),
    "value": (lambda s: s.values[2], "treats the values of a cluster alike"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_one_warning_for_one_call(name):
    f, message = MESSAGES[name]
    A = with_spectrum(SPECTRUM, np.complex128)
    solve = ie.eigensolver(turning(), ie.Hermitian(K))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.grad(lambda A: f(solve(A)))(A)
    assert [w.category for w in caught] == [ie.GaugeWarning]
    assert message in str(caught[0].message)


@pytest.mark.slow
def test_what_the_policy_says():
    exact, near = map(with_spectrum, (SPECTRUM, [0.0, 1.0 + 1e-4, 1.0, *SPECTRUM[3:]]))

    def gradient(A=exact, **options):
        solve = ie.eigensolver(eigh, ie.Hermitian(K), policy=ie.Policy(**options))
        return jax.block_until_ready(jax.jit(jax.grad(lambda A: solve(A).values[1]))(A))

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"GaugeError: .* of a cluster alike"):
        gradient(gauge=ie.Action.RAISE)
    assert jnp.all(jnp.isnan(gradient(gauge=ie.Action.NAN)))
    assert jnp.all(jnp.isfinite(gradient(gauge=ie.Action.IGNORE)))
    # the tolerance of the gauge is apart from the one for clusters
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"GaugeError: .* of a cluster alike"):
        gradient(near, gauge=ie.Action.RAISE, degeneracy_rtol=1e-2)
    assert jnp.all(jnp.isfinite(gradient(gauge=ie.Action.RAISE, gauge_rtol=2.0)))
    assert jnp.all(jnp.isfinite(gradient(near, gauge=ie.Action.RAISE)))


def test_forward_mode_sees_a_direction_that_separates_a_cluster():
    """It cannot see the function; a direction that keeps the cluster together is fine for all."""
    A, D = with_spectrum(SPECTRUM), random_hermitian(N)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), policy=RAISE)
    for values in (lambda A: solve(A).values, solve.values):
        with pytest.raises(Exception, match="separates pairs 0 and 1"):
            jax.block_until_ready(jax.jvp(values, (A,), (D,)))
        _, along = jax.jvp(values, (A,), (A @ A,))
        np.testing.assert_allclose(along, np.square(SPECTRUM[:K]), rtol=1e-12)


NONLINEAR = {
    "forward over reverse": lambda f, A, D: jax.jvp(jax.grad(f), (A,), (D,))[1],
    "reverse over reverse": lambda f, A, D: jax.grad(lambda A: jnp.sum(D * jax.grad(f)(A)))(A),
    "reverse over forward": lambda f, A, D: jax.grad(lambda A: jax.jvp(f, (A,), (D,))[1])(A),
}


@pytest.mark.parametrize("mode", NONLINEAR)
def test_second_derivatives_of_nonlinear_functions_of_values(mode):
    """They would lack a part: said aloud at a cluster, exact elsewhere."""
    D = random_hermitian(N)
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    f = lambda A: jnp.sum(solve(A).values ** 2)
    derivative = jax.jit(lambda A: NONLINEAR[mode](f, A, D))
    with pytest.warns(ie.GaugeWarning) as told:
        jax.block_until_ready(derivative(with_spectrum(SPECTRUM)))
    assert any("any nonlinear one, has one that needs more" in str(w.message) for w in told)
    A = with_spectrum([1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0])
    oracle = lambda A: jnp.sum(jnp.linalg.eigvalsh(A)[:3] ** 2)
    expected = jax.jit(lambda A: jax.jvp(jax.grad(oracle), (A,), (D,))[1])(A)
    assert jnp.max(jnp.abs(derivative(A) - expected)) < 1e-11


def test_values_alone_still_need_no_solve():
    counting = Counting()
    solver = ie.host_linear_solver(counting, rtol=1e-12)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver)
    A = with_spectrum(SPECTRUM)
    jax.grad(lambda A: jnp.sum(solve(A).values[:3]))(A)
    jax.jit(jax.grad(lambda A: jnp.sum(solve(A).values[:3])))(A)
    assert counting.calls == 0


@pytest.mark.parametrize("problem", [ie.Hermitian(K), ie.General(K)])
def test_the_number(problem):
    phased = lambda A: (eigh(A)[0], eigh(A)[1] * np.exp(0.7j))
    solver = phased if isinstance(problem, ie.Hermitian) else eig
    A = random_hermitian(N, np.complex128)
    solve = ie.eigensolver(solver, problem)
    assert jnp.max(ie.gauge_defect(lambda s: jnp.sum(jnp.abs(s.vectors) ** 4), solve, A)) < 1e-14
    found = ie.gauge_defect(lambda s: s.vectors[0, 2].real, solve, A)
    assert found[2] > 1e-3
    assert jnp.max(found[jnp.array([0, 1, 3])]) < 1e-14
    fixed = ie.eigensolver(solver, problem, normalization=ie.LargestComponent())
    assert jnp.max(ie.gauge_defect(lambda s: s.vectors[0, 2].real, fixed, A)) < 1e-14


def test_the_number_of_a_subspace():
    solve = ie.eigensolver(eigh, ie.Subspace(2))
    A = random_hermitian(N, np.complex128)
    for f in (lambda s: jnp.trace(s.values).real, lambda s: jnp.sum(jnp.abs(s.values) ** 2)):
        found = ie.gauge_defect(f, solve, A)
        assert found.shape == (2,)
        assert jnp.max(found) < 1e-14
    found = ie.gauge_defect(lambda s: jnp.abs(s.vectors[0, 0]) ** 2, solve, A)
    assert jnp.all(found > 1e-3)


def test_batches_are_judged_one_by_one():
    solve = ie.eigensolver(eigh, ie.Hermitian(K))
    stack = jnp.stack([with_spectrum(SPECTRUM), with_spectrum(np.arange(1.0, 8.0))])
    loss = lambda A: solve(A).values[1]
    for gradient in (
        lambda: jax.vmap(jax.grad(loss))(stack),
        lambda: jax.grad(lambda stack: jnp.sum(jax.vmap(loss)(stack)))(stack),
    ):
        with pytest.warns(ie.GaugeWarning) as caught:
            jax.block_until_ready(gradient())
        assert len(caught) == 1
        assert "This is member 0 of the batch." in str(caught[0].message)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "coupling"), [(np.float32, 1e-3), (np.float64, 1e-7)])
def test_a_cotangent_along_the_vector_is_no_dependence_on_its_phase(dtype, coupling):
    # all of it but `coupling`² is taken away by the norm, which is fixed
    solve = ie.eigensolver(eig, ie.General(1), policy=RAISE)
    A = jnp.array([[1, coupling], [coupling, 2]], dtype)
    # the value 2 comes first:  |x₁|² = 1 − (a₀₁ / (λ − a₀₀))² + …
    gradient = jax.jit(jax.grad(lambda A: jnp.abs(solve(A).vectors[1, 0]) ** 2))(A)
    expected = coupling * np.array([[-2 * coupling, -2], [0, 2 * coupling]])
    assert np.max(np.abs(np.asarray(gradient) - expected)) < 10 * coupling**3 + 1e-6 * coupling
    with pytest.raises(jax.errors.JaxRuntimeError, match="on the phase of pair 0"):
        jax.jit(jax.grad(lambda A: solve(A).vectors[1, 0].imag))(A)
