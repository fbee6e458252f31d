"""Clusters of two to four values, exact or nearly so, against an oracle that no gap can disturb."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh, jitted, random_hermitian, with_spectrum
from test_pair_clusters import cast, residue

import implicit_eig as ie

pytestmark = pytest.mark.slow

N = 7
M = random_hermitian(N, seed=3)
D = random_hermitian(N, seed=4)
EPS = float(np.finfo(np.float64).eps)
RAISE = ie.Policy(gauge=ie.Action.RAISE)


def turning(size, seed=0):
    """A solver with another basis of values that are equal to rounding at every call."""
    rng = np.random.default_rng(seed)

    def solver(A):
        values, X = eigh(A)
        if np.ptp(values[:size]) < 1e-13:
            X[:, :size] = X[:, :size] @ np.linalg.qr(rng.standard_normal((size, size)))[0]
        return values, X

    return solver


def projector(solution, size):
    """tr(M P)² + tr(M P M P), P the projector on the cluster: of the vectors, in no simple way."""
    P = solution.vectors[:, :size] @ solution.vectors[:, :size].T
    return jnp.trace(M @ P) ** 2 + jnp.trace(M @ P @ M @ P)


def oracle(A, size):
    P = residue(lambda z: z * cast(jnp.eye(N)) - cast(A), 0.0).real
    return jnp.trace(M @ P) ** 2 + jnp.trace(M @ P @ M @ P)


@functools.cache
def reference(size):
    """The gradient of the oracle, and its derivative along D."""
    gradient = jax.grad(lambda A: oracle(A, size))
    return jax.jit(lambda A: jax.jvp(gradient, (A,), (D,)))


def triplets(size):
    """The same by singular vectors of the same matrix, which is positive definite here."""

    def solver(A):
        values, X = turning(size)(A)
        return values, X, X

    return solver


PROBLEMS = {"hermitian": (turning, ie.Hermitian(5)), "singular": (triplets, ie.Singular(5))}


@pytest.mark.parametrize(
    ("problem", "size", "rtol"),
    [("hermitian", size, rtol) for size, rtol in [(2, None), (3, None), (4, None), (4, 1e-3)]]
    + [("singular", 3, None)],
)
def test_the_error_does_not_grow_as_the_gap_closes(problem, size, rtol):
    """That of gradients; of tangents and second derivatives by eps/g, until values count as one."""
    # the others lie at distance 2, outside the circle of radius 1
    spectrum = np.array([0.0] * size + [2.0, 2.5, 3.0, 3.5, 4.0][: N - size])
    solver, problem = PROBLEMS[problem]
    solve = ie.eigensolver(solver(size), problem, policy=ie.Policy(degeneracy_rtol=rtol))
    f = lambda A: projector(solve(A), size)
    gradient = jax.jit(jax.grad(f))
    # of the others the policy says how large their errors are
    ignoring = ie.Policy(degeneracy_rtol=rtol, gauge=ie.Action.IGNORE)
    quiet = ie.eigensolver(solver(size), problem, policy=ignoring)
    of_quiet = lambda A: projector(quiet(A), size)
    tangent = jax.jit(lambda A: jax.jvp(of_quiet, (A,), (D,))[1])
    second = jax.jit(lambda A: jax.jvp(jax.grad(of_quiet), (A,), (D,))[1])
    twice = jax.jit(jax.grad(lambda A: jnp.vdot(jax.grad(of_quiet)(A), D)))
    for gap in (0.0, 1e-15, 1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-2):
        near = spectrum + gap * np.arange(N) * (spectrum == 0)
        A = with_spectrum(near + 0.5)
        first, expected_second = jax.device_get(reference(size)(A - 0.5 * jnp.eye(N)))
        # what is treated as one cluster has no gap to divide by
        alone = 2 * gap > (1e-13 if rtol is None else rtol)
        # of a far pair the block ends, and the couplings of pairs far apart keep their rounding
        for found, expected, bound in (
            (gradient(A), first, EPS if gap < 1e-2 else EPS / gap),
            (tangent(A), np.vdot(first, D), EPS / gap if alone else EPS),
            (second(A), expected_second, EPS / gap if alone else EPS),
            (twice(A), expected_second, EPS / gap if alone else EPS),
        ):
            found, expected = (np.asarray(part + part.T) / 2 for part in (found, expected))
            scale = np.max(np.abs(expected))
            assert np.max(np.abs(found - expected)) < 1e3 * bound * scale, gap


def separate(X):
    """Σ W |x|⁴ of all vectors: of each of them, in no simple way."""
    W = jnp.asarray(np.random.default_rng(7).standard_normal(X.shape), jnp.abs(X).dtype)
    return jnp.sum(W * jnp.abs(X) ** 4)


SEPARATE = {
    "vectors": lambda values, X: separate(X),
    "a value": lambda values, X: values[0],
    "both": lambda values, X: jnp.sum(values**3) + jnp.sum(values[0] * X[:, 0] ** 2 * M[0]),
}


@pytest.mark.parametrize("name", SEPARATE)
@pytest.mark.parametrize("k", [3, N])
def test_near_values_keep_the_derivatives_of_their_vectors(k, name):
    """To eps/g, as those of `eigh`, whose derivatives divide by each gap; also of values alone."""
    policy = ie.Policy(gauge=ie.Action.IGNORE)  # which says how large the errors are
    solve = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(k), policy=policy)
    first = lambda A: tuple(part[..., :k] for part in jnp.linalg.eigh(A))

    def derivatives(pairs):
        f = lambda A: SEPARATE[name](*pairs(A))
        gradient = jax.grad(f)
        return jax.jit(
            lambda A: (
                jax.jvp(f, (A,), (D,))[1],
                *jax.jvp(gradient, (A,), (D,)),
                jax.grad(lambda A: jnp.vdot(gradient(A), D))(A),
            )
        )

    ours, theirs = derivatives(lambda A: tuple(solve(A))), derivatives(first)
    for gap in (1e-2, 1e-4, 8.6e-6, 1e-8, 1e-10, 1e-12):
        A = with_spectrum([1.0, 1 + gap, 2.0, 3.0, 4.0, 5.0, 6.0])
        for found, expected in zip(*jax.device_get((ours(A), theirs(A))), strict=True):
            found, expected = (np.asarray(part + part.T) / 2 for part in (found, expected))
            scale = np.max(np.abs(expected))
            assert np.max(np.abs(found - expected)) < 1e3 * EPS / gap * scale, gap


def covariance(n, seed):
    Y = np.random.default_rng(seed).standard_normal((n, 3 * n))
    return (Y @ Y.T / (3 * n)).astype(np.float32)


def symmetric(n, seed):
    G = np.random.default_rng(seed).standard_normal((n, n))
    return (G + G.T).astype(np.float32)


@pytest.mark.parametrize(
    ("matrix", "n", "k"), [(covariance, 64, 64), (covariance, 64, 8), (symmetric, 100, 100)]
)
def test_gradients_in_single_precision_are_those_of_eigh(matrix, n, k):
    """Of matrices as they come, with some near values; all against double precision."""
    direction = symmetric(n, 1)
    W = np.random.default_rng(2).standard_normal((n, k))
    solve = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(k), policy=RAISE)

    def derivative(vectors):
        f = lambda A: jnp.sum(jnp.asarray(W, A.dtype) * vectors(A) ** 2)
        gradient = jax.jit(jax.grad(f))
        return lambda A: np.vdot(np.asarray(gradient(A), np.float64), direction)

    ours = derivative(lambda A: solve(A).vectors)
    eigh = derivative(lambda A: jnp.linalg.eigh(A)[1][:, :k])
    for seed in range(3):
        A = jnp.asarray(matrix(n, seed))
        exact = eigh(A.astype(np.float64))
        error, theirs = (abs(f(A) - exact) for f in (ours, eigh))
        assert error < 3 * theirs + 1e-5 * abs(exact)


@pytest.mark.parametrize(("k", "left"), [(4, True), (6, False)])
def test_near_values_that_are_not_hermitian(k, left):
    """Functions of the space of two near pairs at any gap, of one vector at each, both orders."""
    n, size = 6, 2
    rng = np.random.default_rng(0)
    basis, direction = rng.standard_normal((2, n, n))
    weight = random_hermitian(n, seed=5)

    def eig(A):
        values, X = np.linalg.eig(A)
        order = np.argsort(values.real)
        return values[order], X[:, order]

    def of_projector(P):
        return jnp.trace(weight @ P) ** 2 + jnp.trace(weight @ P @ weight @ P)

    def space(A):
        solution = solve(A)
        X = solution.vectors[:, :size]
        if left:
            return of_projector((X @ solution.left_vectors[:, :size].conj().T).real)
        return of_projector((X @ jnp.linalg.solve(X.conj().T @ X, X.conj().T)).real)

    def exact_space(A):
        P = residue(lambda z: z * cast(jnp.eye(n)) - cast(A), 0.0).real
        if left:
            return of_projector(P)
        X = P @ basis[:, :size]
        return of_projector(X @ jnp.linalg.solve(X.T @ X, X.T))

    def single(A):
        return jnp.sum(jnp.abs(solve(A).vectors[:, 0]) ** 2 * jnp.arange(1.0 * n))

    def exact_single(A):
        """The derivative along `direction`, by all pairs."""
        values, X = eig(np.asarray(A))
        turns = np.linalg.solve(X, direction @ X[:, 0])[1:] / (values[0] - values[1:])
        x, x_dot = X[:, 0], X[:, 1:] @ turns
        x_dot = x_dot - x * np.vdot(x, x_dot)
        return 2 * np.sum((x.conj() * x_dot).real * np.arange(n))

    solve = ie.eigensolver(eig, ie.General(k, left=left))
    derivatives = jitted(
        lambda A: jax.jvp(jax.grad(space), (A,), (direction,)),
        jax.grad(lambda A: jnp.vdot(jax.grad(space)(A), direction)),
        lambda A: jax.jvp(jax.grad(exact_space), (A,), (direction,)),
    )
    alone = jax.jit(jax.grad(single))
    for gap in (0.0, 1e-10, 1e-9, 1e-7, 1e-5, 1e-3):
        near = np.array([0.0, gap, 2.0, 2.5, 3.0, 4.0])
        A = jnp.asarray(basis @ np.diag(near) @ np.linalg.inv(basis))
        (gradient, second), twice, (first, expected_second) = jax.device_get(derivatives(A))
        for found, expected, bound in (
            (gradient, first, EPS),
            (second, expected_second, EPS / gap if gap else EPS),
            (twice, expected_second, EPS / gap if gap else EPS),
        ):
            scale = np.max(np.abs(expected))
            assert np.max(np.abs(found - expected)) < 1e3 * bound * scale, gap
        if gap and k == n:
            found, expected = jnp.vdot(alone(A), direction), exact_single(A)
            assert jnp.abs(found - expected) < 1e4 * EPS / gap * abs(expected)


def test_what_depends_on_single_vectors_keeps_its_derivatives():
    """Also where its cotangent's part along their turn happens to vanish: the tangent has one."""
    A = jnp.diag(jnp.asarray([1.0, 1.001, 2.0, 3.0, 4.0, 5.0, 6.0]))
    solve = ie.eigensolver(eigh, ie.Hermitian(5))
    a = jnp.zeros(N).at[0].set(1.0)
    f = lambda A: (a @ solve(A).vectors[:, 0]) ** 2
    exact = lambda A: (a @ jnp.linalg.eigh(A)[1][:, 0]) ** 2
    second = lambda f: lambda A: jax.jvp(jax.grad(f), (A,), (D,))[1]
    found, expected = jitted(second(f), second(exact))(A)
    expected = (expected + expected.T) / 2
    assert jnp.max(jnp.abs(expected)) > 1e3
    assert jnp.max(jnp.abs(found - expected)) < 1e-9 * jnp.max(jnp.abs(expected))


def test_small_couplings_of_values_apart_are_no_rounding():
    """In single precision, where rounding is large."""
    X = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0]
    values = np.concatenate([[1.0, 1.3], np.linspace(3, 5, 58)])
    A = jnp.asarray(X * values @ X.T, jnp.float32)
    c = jnp.asarray(X[:, 0] + 2e-6 * X[:, 1], jnp.float32)
    solve = ie.eigensolver(
        lambda A: (values[:2].astype(np.float32), X[:, :2].astype(np.float32)), ie.Hermitian(2)
    )
    gradient = jax.jit(jax.grad(lambda A: (c @ solve(A).vectors[:, 0]) ** 2))(A)
    found = X[:, 0] @ np.asarray(gradient, np.float64) @ X[:, 1] * 2
    assert abs(found - 2 * 2e-6 / (1.0 - 1.3)) < 0.2 * abs(found)


@pytest.mark.parametrize("problem", [ie.Hermitian(3), ie.Singular(3), ie.General(3, left=True)])
def test_a_chain_of_near_values(problem):
    """0.9 % apart: the first and the last are no neighbours by 1 %, and need their turn."""
    A = with_spectrum([1.0, 1.009, 1.018, 2.0, 3.0, 4.0, 5.0])
    first = lambda A: tuple(part[..., :3] for part in eigh(A))
    triple = lambda A: (*first(A), first(A)[1])
    solver = triple if isinstance(problem, ie.Singular) else first
    solve = ie.eigensolver(solver, problem)
    w = jnp.asarray([1.0, 1.1, 1.9])
    f = lambda X: jnp.sum(w * jnp.sum((X.conj() * (M.astype(X.dtype) @ X)).real, axis=0))
    found, expected = jitted(
        lambda A: jax.jvp(jax.grad(lambda A: f(solve(A).vectors)), (A,), (D,))[1],
        lambda A: jax.jvp(jax.grad(lambda A: f(jnp.linalg.eigh(A)[1][:, :3])), (A,), (D,))[1],
    )(A)
    found, expected = ((part + part.T) / 2 for part in (found, expected))
    assert jnp.max(jnp.abs(found - expected)) < 1e-9 * jnp.max(jnp.abs(expected))


def test_single_precision_is_a_chain_of_none():
    """Rounding of values far apart joins no blocks."""
    A = np.diag([0.58, 1.35, 0.09, 0.81, 0.0, 1.0, 1.7])
    w = np.array([1.0, 1.1, 1.9])

    def curvature(dtype):
        solve = ie.eigensolver(lambda A: tuple(p[..., :3] for p in eigh(A)), ie.Hermitian(3))
        m, d = jnp.asarray(M, dtype), jnp.asarray(D, dtype)
        f = lambda A: jnp.sum(jnp.asarray(w, dtype) * jnp.sum(X(A) * (m @ X(A)), axis=0))
        X = lambda A: solve(A).vectors
        return jnp.vdot(jax.jit(lambda A: jax.jvp(jax.grad(f), (A,), (d,))[1])(A.astype(dtype)), d)

    exact = float(curvature(np.float64))
    assert abs(float(curvature(np.float32)) - exact) < 1e-4 * abs(exact)
