"""Second derivatives at an exact cluster, where single vectors have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Exchanged, eigh, jitted, random_hermitian, with_spectrum
from test_guard import svd
from test_pairs import eig

import implicit_eig as ie

pytestmark = pytest.mark.slow

N = 7
SPECTRUM = np.array([1.0, 1.0, 3.0, 3.0, 3.0, 5.0, 7.0])


def case(dtype):
    """A pencil with a doublet and a triplet at t = 0, from a solver of random bases."""
    Q, _ = np.linalg.qr(np.asarray(random_hermitian(N, dtype, 11)))
    A = jnp.asarray((Q * SPECTRUM) @ Q.conj().T)
    A1, M = random_hermitian(N, dtype, 1), random_hermitian(N, dtype, 2)
    B1 = random_hermitian(N, dtype, 3)
    one = jnp.eye(N, dtype=dtype)

    def pencil(t):
        t = t.astype(dtype)
        return (A + A.conj().T) / 2 + t * A1, one + 0.2 * t * B1

    return pencil, M


def projector(M, values, X):
    return jnp.sum(X.conj() * (M @ X)).real


def spectral(M, values, X):
    """tr(M f(S)) for a cluster-blind weight: the doublet and the triplet weighted apart."""
    weights = jnp.asarray([2.0, 2.0, -1.0, -1.0, -1.0], X.dtype)
    return jnp.sum(X.conj() * (M @ (X * weights[None, :]))).real


def trace(M, values, X):
    return jnp.sum(values[:2]) - 3 * jnp.sum(values[2:5])


@pytest.mark.parametrize("system", [ie.Deflated(), ie.Bordered()])
def test_hessian_of_invariant_functions(system):
    pencil, M = case(np.complex128)
    policy = ie.Policy(gauge=ie.Action.IGNORE)  # forward mode does not see that g is invariant
    solve = ie.eigensolver(eigh, ie.Hermitian(5), system=system, policy=policy)

    def g(t):
        solution = solve(*pencil(t))
        return jnp.stack([f(M, *solution) for f in (projector, spectral, trace)])

    zero = jnp.zeros(())
    # the gradient is exact on both sides of the crossing: differences of it are the reference
    gradient = jax.jacrev(g)
    derivatives = jitted(
        gradient, jax.jacfwd(gradient), jax.jacrev(jax.jacfwd(g)), jax.jacrev(gradient)
    )
    expected = ie.testing.finite_difference(
        lambda t: derivatives(t)[0], (zero,), (1.0,), step=2e-3, order=4
    )
    for hessian in derivatives(zero)[1:]:
        assert jnp.all(jnp.abs(hessian - expected) < 1e-7 * jnp.abs(expected))


def test_the_basis_of_the_solver_does_not_matter():
    pencil, M = case(np.float64)

    def turned(seed):
        def solver(A, B):
            values, X = eigh(A, B)
            for block in (slice(0, 2), slice(2, 5)):
                size = block.stop - block.start
                turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
                X[:, block] = X[:, block] @ turn
            return values, X

        return solver

    solver = Exchanged()
    solve = ie.eigensolver(solver, ie.Hermitian(5))
    hessian = jax.jit(jax.hessian(lambda t: projector(M, *solve(*pencil(t)))))
    one, other = (float(hessian(jnp.zeros(()))) for solver.now in map(turned, (1, 2)))
    assert abs(one - other) < 1e-11 * abs(one)


def test_every_kind_agrees_at_a_double_value_under_all_transforms():
    """The pairs of a positive definite matrix are triplets, and pairs of a general matrix, too."""
    A, M = with_spectrum([1.0, 2.0, 3.0, 5.0, 5.0]), random_hermitian(5, seed=2)
    directions = jnp.stack([random_hermitian(5, seed=seed) for seed in (3, 4)])
    highest = lambda A: tuple(part[..., ::-1] for part in eigh(A))
    found, zero = [], jnp.zeros(())
    for solver, problem in (
        (highest, ie.Hermitian(3)),
        (eig, ie.General(3)),
        (svd, ie.Singular(3)),
    ):
        policy = ie.Policy(gauge=ie.Action.IGNORE)  # forward mode does not see that f is invariant
        solve = ie.eigensolver(solver, problem, policy=policy)

        def f(t, D, solve=solve):
            X = solve(A + t * D).vectors[:, :2]
            # the orthogonal projector, also where the vectors are not orthonormal
            return jnp.sum(M * (X @ jnp.linalg.solve(X.conj().T @ X, X.conj().T)).real) ** 2

        derivatives = lambda D, f=f: (
            jax.grad(f)(zero, D),
            jax.jvp(lambda t: f(t, D), (zero,), (1.0,))[1],
            jax.hessian(f)(zero, D),
        )
        found.append(jnp.stack(jax.jit(jax.vmap(derivatives))(directions)))
    assert jnp.all(jnp.isfinite(found[0]))
    assert jnp.max(jnp.abs(found[0][0] - found[0][1])) < 1e-12
    for other in found[1:]:
        assert jnp.max(jnp.abs(other - found[0])) < 1e-10 * jnp.max(jnp.abs(found[0]))
