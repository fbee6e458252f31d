"""Each normalisation, as a function of the operators, against finite differences of the vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh, jitted, random_definite, random_hermitian
from test_pairs import eig_left, polyeig, random

import implicit_eig as ie

N, K = 6, 2


def turned(solver):
    """A solver whose vectors come back with arbitrary factors, other ones at each call."""
    rng = np.random.default_rng(0)

    def solve(*operators):
        values, vectors, *left = solver(*operators)
        factors = rng.standard_normal(len(values))
        if np.iscomplexobj(vectors):
            factors = factors * np.exp(1j * rng.standard_normal(len(values)))
        return (values, vectors * factors, *left)

    return solve


def by_weights(x):
    """Σ wᵢ xᵢ = 1 for fixed weights."""
    w = jnp.asarray(np.random.default_rng(1).standard_normal(x.size)).astype(x.dtype)
    return x / jnp.sum(w * x)


NORMALIZATIONS = {
    "BNorm": ie.BNorm(),
    "TwoNorm": ie.TwoNorm(),
    "LargestComponent": ie.LargestComponent(),
    "UnitComponent": ie.UnitComponent(-2),
    "function": by_weights,
}
# of these the phase is the solver's: only moduli are functions of the operators
PHASE_KEPT = ("BNorm", "TwoNorm")

PROBLEMS = {
    "real Hermitian": (
        eigh,
        ie.Hermitian(K),
        lambda: (random_hermitian(N), random_definite(N, seed=3)),
        lambda: (random_hermitian(N, seed=5), random_hermitian(N, seed=6)),
    ),
    "complex Hermitian": (
        eigh,
        ie.Hermitian(K),
        lambda: tuple(
            f(N, np.complex128, s) for f, s in ((random_hermitian, 0), (random_definite, 3))
        ),
        lambda: tuple(random_hermitian(N, np.complex128, s) for s in (5, 6)),
    ),
    "general": (
        eig_left,
        ie.General(K, left=True),
        # B is definite, for its norm
        lambda: (random(0, N), random_definite(N, seed=3)),
        lambda: (random(5, N), random_hermitian(N, seed=6)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "name"),
    [(p, name) for p in ("complex Hermitian", "general") for name in NORMALIZATIONS]
    + [("real Hermitian", "LargestComponent")],
)
def test_derivatives_of_both_orders(problem, name):
    solver, kind, operators, directions = PROBLEMS[problem]
    operators, directions = operators(), directions()
    solve = ie.eigensolver(turned(solver), kind, normalization=NORMALIZATIONS[name])
    S = jnp.asarray(np.random.default_rng(2).standard_normal((2, N, K)))

    def loss(*operators):
        solution = solve(*operators)
        X = solution.vectors
        X = jnp.abs(X) ** 2 if name in PHASE_KEPT else X
        out = jnp.sum(S[0] * X.real) + jnp.sum(S[1] * X.imag)
        if solution.left_vectors is not None:
            out = out + jnp.sum(S[0] * jnp.abs(solution.left_vectors) ** 2)
        return out

    push = lambda *P: jax.jvp(loss, P, directions)[1]
    derivatives = jitted(loss, lambda *P: jax.jvp(push, P, directions), jax.grad(loss, (0, 1)))
    _, (first, second), gradients = derivatives(*operators)
    differences = ie.testing.finite_difference(
        derivatives, operators, directions, step=1e-4, order=4
    )
    for found, derivative, tol in (
        (differences[0], first, 1e-6),
        (differences[1][0], second, 1e-5),
    ):
        assert abs(found - derivative) < tol * (1 + abs(float(found)))
    paired = sum(jnp.sum(g * d).real for g, d in zip(gradients, directions, strict=True))
    assert abs(paired - first) < 1e-9 * (1 + abs(float(paired)))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_each_says(problem):
    solver, kind, operators, _ = PROBLEMS[problem]
    A, B = operators()
    vectors = lambda n: ie.eigensolver(solver, kind, normalization=n)(A, B).vectors
    X = vectors(ie.BNorm())
    assert jnp.max(jnp.abs(jnp.sum(X.conj() * (B.astype(X.dtype) @ X), axis=0) - 1)) < 1e-13
    X = vectors(ie.TwoNorm())
    assert jnp.max(jnp.abs(jnp.linalg.norm(X, axis=0) - 1)) < 1e-13
    X = vectors(ie.LargestComponent())
    largest = jnp.take_along_axis(X, jnp.argmax(jnp.abs(X), axis=0)[None], axis=0)
    assert jnp.all(largest.real > 0)
    assert jnp.max(jnp.abs(largest.imag)) < 1e-13
    assert jnp.max(jnp.abs(vectors(ie.UnitComponent(1))[1] - 1)) < 1e-13


def test_left_vectors_keep_their_product():
    solver, kind, operators, _ = PROBLEMS["general"]
    A, B = operators()
    solution = ie.eigensolver(solver, kind, normalization=ie.UnitComponent(0))(A, B)
    Y, X = solution.left_vectors, solution.vectors
    assert jnp.max(jnp.abs(jnp.sum(Y.conj() * (B.astype(X.dtype) @ X), axis=0) - 1)) < 1e-12


def test_refusals():
    A = random(0, N)
    with pytest.raises(ie.InputError, match=r"normalization=BNorm\(\)\)`: a problem with an op"):
        ie.eigensolver(polyeig, ie.Polynomial(1), normalization=ie.BNorm())(A, A, jnp.eye(N))
    outside = ie.eigensolver(eigh, ie.Hermitian(1), normalization=ie.UnitComponent(N))
    with pytest.raises(ie.InputError, match=r"UnitComponent\(index=6\)`: a component"):
        outside(random_hermitian(N))
    vanishing = ie.eigensolver(eigh, ie.Hermitian(1), normalization=ie.UnitComponent(1))
    with pytest.raises(ie.EigensolverError, match=r"not 0; got 0 for pair 0. Choose a component"):
        vanishing(jnp.diag(jnp.arange(4.0)))
    with pytest.raises(ie.InputError, match=r"eigensolver\(normalization=...\)`: an instance of"):
        ie.eigensolver(eigh, ie.Hermitian(1), normalization=ie.TwoNorm)
    with pytest.raises(ie.InputError, match=r"normalization=...\)`: a function of a vector"):
        ie.eigensolver(eigh, ie.Hermitian(1), normalization=jnp.sum)(random_hermitian(N))
