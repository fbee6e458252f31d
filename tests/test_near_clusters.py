"""Clusters of two to four values, exact or nearly so, against an oracle that no gap can disturb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh, random_hermitian, with_spectrum
from test_pair_clusters import cast, residue

import implicit_eig as ie

N = 7
M = random_hermitian(N, seed=3)
D = random_hermitian(N, seed=4)
EPS = float(np.finfo(np.float64).eps)


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
    """That of gradients; of second derivatives at most by eps/g, until the values count as one."""
    # the others lie at distance 2, outside the circle of radius 1
    spectrum = np.array([0.0] * size + [2.0, 2.5, 3.0, 3.5, 4.0][: N - size])
    solver, problem = PROBLEMS[problem]
    solve = ie.eigensolver(solver(size), problem, policy=ie.Policy(degeneracy_rtol=rtol))
    gradient = jax.jit(jax.grad(lambda A: projector(solve(A), size)))
    second = jax.jit(lambda A: jax.jvp(gradient, (A,), (D,))[1])
    reference = jax.jit(jax.grad(lambda A: oracle(A, size)))
    reference_second = jax.jit(lambda A: jax.jvp(reference, (A,), (D,))[1])
    for gap in (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4):
        near = spectrum + gap * np.arange(N) * (spectrum == 0)
        A = with_spectrum(near + 0.5)
        shifted = A - 0.5 * jnp.eye(N)
        # what is treated as one cluster has no gap to divide by
        alone = 2 * gap > (EPS ** (1 / 3) if rtol is None else rtol)
        for found, expected, bound in (
            (gradient(A), reference(shifted), EPS),
            (second(A), reference_second(shifted), EPS / gap if alone else EPS),
        ):
            found, expected = (found + found.T) / 2, (expected + expected.T) / 2
            scale = jnp.max(jnp.abs(expected))
            assert jnp.max(jnp.abs(found - expected)) < 1e3 * bound * scale, gap


def test_what_depends_on_single_vectors_keeps_its_derivatives():
    """Also where its cotangent's part along their turn happens to vanish: the tangent has one."""
    A = jnp.diag(jnp.asarray([1.0, 1.001, 2.0, 3.0, 4.0, 5.0, 6.0]))
    solve = ie.eigensolver(eigh, ie.Hermitian(5))
    a = jnp.zeros(N).at[0].set(1.0)
    f = lambda A: (a @ solve(A).vectors[:, 0]) ** 2
    exact = lambda A: (a @ jnp.linalg.eigh(A)[1][:, 0]) ** 2
    second = lambda f: jax.jvp(jax.grad(f), (A,), (D,))[1]
    found, expected = second(f), second(exact)
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
    gradient = jax.grad(lambda A: (c @ solve(A).vectors[:, 0]) ** 2)(A)
    found = X[:, 0] @ np.asarray(gradient, np.float64) @ X[:, 1] * 2
    assert abs(found - 2 * 2e-6 / (1.0 - 1.3)) < 0.2 * abs(found)
