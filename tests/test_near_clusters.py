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


@pytest.mark.parametrize(("size", "rtol"), [(2, None), (3, None), (4, None), (2, 1e-3), (4, 1e-3)])
def test_the_error_is_bounded_as_the_gap_closes(size, rtol):
    """By eps/g, second derivatives by eps/g², until the values count as one: then by rounding."""
    # the others lie at distance 2, outside the circle of radius 1
    spectrum = np.array([0.0] * size + [2.0, 2.5, 3.0, 3.5, 4.0][: N - size])
    policy = ie.Policy(degeneracy_rtol=rtol)
    solve = ie.eigensolver(turning(size), ie.Hermitian(5), policy=policy)
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
            (gradient(A), reference(shifted), EPS / gap if alone else EPS),
            (second(A), reference_second(shifted), EPS / gap**2 if alone else EPS),
        ):
            expected = (expected + expected.T) / 2
            scale = jnp.max(jnp.abs(expected))
            assert jnp.max(jnp.abs(found - expected)) < 1e3 * bound * scale, gap
