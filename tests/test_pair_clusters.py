"""Clusters of general pencils and polynomials: exact for what does not depend on their bases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
from problems import dense, jitted, quietly
from test_pairs import paired, polyeig, random
from test_subspace import check_both_orders

import implicit_eig as ie

pytestmark = pytest.mark.slow

N, K = 6, 4
# two double values and two simple ones
SPECTRUM = np.array([5.0, 5.0, 3.0, 3.0, 1.0, -1.0])
FRAME = np.eye(N) + 0.3 * np.random.default_rng(0).standard_normal((N, N))
M = jnp.asarray(np.random.default_rng(1).standard_normal((N, N)))


def mixed(left, seed=0):
    """Of largest real part, with another basis in each cluster at every call."""
    rng = np.random.default_rng(seed)

    def solver(A, B=None):
        parts = sla.eig(dense(A), None if B is None else dense(B), left=True)
        order = np.argsort(-parts[0].real)
        values, Y, X = parts[0][order], parts[1][:, order], parts[2][:, order]
        for block in (slice(0, 2), slice(2, 4)):
            if abs(values[block][1] - values[block][0]) < 1e-6:
                X[:, block] = X[:, block] @ (rng.standard_normal((2, 2)) + np.eye(2))
        return (values, X, Y) if left else (values, X)

    return solver


def matrix():
    return jnp.asarray(FRAME @ np.diag(SPECTRUM) @ np.linalg.inv(FRAME))


def orthogonal(solution, pairs=slice(0, 2)):
    """The orthogonal projector on the vectors of a cluster."""
    X = solution.vectors[:, pairs]
    P = X @ jnp.linalg.solve(X.conj().T @ X, X.conj().T)
    return jnp.sum(M * P.real)


def spectral(solution):
    """The spectral projector of a cluster, of right and left vectors."""
    X, Y = solution.vectors[:, :2], solution.left_vectors[:, :2]
    return jnp.sum(M * (X @ Y.conj().T).real)


def values(solution):
    lam = solution.values
    return (jnp.sum(lam[:2]) * jnp.sum(lam[2:4])).real


@pytest.mark.parametrize("k", [K, N])
@pytest.mark.parametrize("f", [orthogonal, values])
def test_right_vectors(f, k):
    """Also of all pairs, where no system is solved."""
    solve = ie.eigensolver(mixed(left=False), ie.General(k))
    of = lambda solve: lambda A: f(solve(A))
    check_both_orders(of(solve), (matrix(),), (random(5, N),), pushed=of(quietly(solve)))


def cast(A):
    return A.astype(np.complex128)


def residue(T, centre):
    """(1/2πi) ∮ T(z)⁻¹ dz = X Yᴴ over a circle of radius 1, by the trapezoidal rule, to 2⁻⁶⁴."""
    turns = jnp.asarray(np.exp(2j * np.pi * np.arange(64) / 64))
    return jnp.mean(jax.vmap(lambda w: w * jnp.linalg.inv(T(centre + w)))(turns), axis=0)


def compare(of, solve, oracle, operators, directions):
    """Both modes and orders of the loss `of(solve)` against dense autodiff of the oracle."""
    every = tuple(range(len(operators)))

    def derivatives(f, pushed):
        return jitted(
            f,
            lambda *P: jax.jvp(pushed, P, directions)[1],
            lambda *P: jax.jvp(jax.grad(f, every), P, directions),
        )(*operators)

    value, pushed, found = derivatives(of(solve), of(quietly(solve)))
    exact, exact_pushed, expected = derivatives(oracle, oracle)
    assert abs(value - exact) < 1e-12 * (1 + abs(exact))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.max(jnp.abs(one - other)) < 1e-9 * (1 + jnp.max(jnp.abs(other)))
    assert abs(pushed - exact_pushed) < 1e-9 * (1 + abs(exact_pushed))


@pytest.mark.parametrize("k", [K, N])
@pytest.mark.parametrize("given", [False, True])
def test_left_vectors(given, k):
    solve = ie.eigensolver(mixed(left=given), ie.General(k, left=True))
    B = jnp.eye(N) + 0.1 * random(3, N)
    oracle = lambda A, B: jnp.sum(M * residue(lambda z: z * cast(B) - cast(A), 5.0).real)
    directions = (random(5, N), random(6, N))
    of = lambda solve: lambda A, B: spectral(solve(A, B))
    compare(of, solve, oracle, (B @ matrix(), B), directions)


def test_the_two_ways_agree():
    """Of all n pairs: bordered systems and none."""
    A, D = matrix(), random(5, N)

    def both_orders(system):
        solve = ie.eigensolver(mixed(left=True), ie.General(N, left=True), system=system)

        def loss(A):
            solution = solve(A)
            return spectral(solution) + orthogonal(solution, slice(2, 4))

        return lambda A: jax.jvp(jax.grad(loss), (A,), (D,))

    results = jitted(*map(both_orders, (ie.Bordered(), ie.FullSpectrum())))(A)
    for one, other in zip(*results, strict=True):
        assert jnp.max(jnp.abs(one - other)) < 1e-10


def test_all_pairs_call_no_linear_solver():
    def refuse(matvec, b):
        raise AssertionError("called")

    solve = ie.eigensolver(sla.eig, ie.General(N), linear_solver=refuse)
    loss = lambda A: jnp.sum(M * jnp.abs(solve(A).vectors) ** 2)
    A, D = random(0, N), random(5, N)
    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    found, _ = ie.testing.finite_difference(value_and_gradient, (A,), (D,), step=1e-4, order=4)
    assert abs(paired(value_and_gradient(A)[1], D) - found) < 1e-7 * (1 + abs(float(found)))


def test_all_pairs_against_autodiff_of_eig():
    solve = ie.eigensolver(ie.traceable(jnp.linalg.eig), ie.General(N))
    f = lambda lam, X: jnp.sum(jnp.sin(lam).real) + jnp.sum(M * jnp.abs(X) ** 2)
    A = random(0, N)
    oracle = lambda A: jax.lax.linalg.eig(
        A, compute_left_eigenvectors=False, enable_eigvec_derivs=True
    )
    found, expected = jitted(jax.grad(lambda A: f(*solve(A))), jax.grad(lambda A: f(*oracle(A))))(A)
    assert jnp.max(jnp.abs(found - expected)) < 1e-11


def quadratic():
    """V diag(pᵢ(λ)) W, with a root 4 that two of the pᵢ share."""
    roots = np.array([[4.0, 1.0], [4.0, -1.0], [2.0, 0.5], [0.3, -2.0]])
    n = len(roots)
    rng = np.random.default_rng(2)
    V, W = (np.eye(n) + 0.3 * rng.standard_normal((n, n)) for _ in range(2))
    coefficients = [roots.prod(axis=1), -roots.sum(axis=1), np.ones(n)]
    return tuple(jnp.asarray(V @ np.diag(c) @ W) for c in coefficients)


def test_polynomials():
    operators = quadratic()
    n = len(operators[0])
    solve = ie.eigensolver(polyeig, ie.Polynomial(2))

    def loss(*operators, solve=solve):
        lam, X = solve(*operators)
        P = X @ jnp.linalg.solve(X.conj().T @ X, X.conj().T)
        return jnp.sum(M[:n, :n] * P.real) + jnp.sum(lam).real

    pushed = functools.partial(loss, solve=quietly(solve))
    check_both_orders(loss, operators, tuple(random(s, n) for s in (5, 6, 7)), pushed)


def test_left_vectors_of_polynomials():
    operators = quadratic()
    n = len(operators[0])
    solve = ie.eigensolver(polyeig, ie.Polynomial(2, left=True))

    def of(solve):
        product = lambda s: s.vectors @ s.left_vectors.conj().T
        return lambda *operators: jnp.sum(M[:n, :n] * product(solve(*operators)).real)

    def oracle(*operators):
        T = lambda z: sum(z**j * cast(A) for j, A in enumerate(operators))
        return jnp.sum(M[:n, :n] * residue(T, 4.0).real)

    compare(of, solve, oracle, operators, tuple(random(s, n) for s in (5, 6, 7)))


def test_a_basis_dependent_function_is_warned_about():
    solve = ie.eigensolver(mixed(left=False), ie.General(K))

    def gradient(f, A):  # the host warns while the gradient is computed
        jax.block_until_ready(jax.grad(lambda A: f(solve(A)))(A))

    with pytest.warns(ie.GaugeWarning, match="basis in the cluster of pairs 0 and 1"):
        gradient(lambda s: jnp.abs(s.vectors[0, 0]) ** 2, matrix())
    with pytest.warns(ie.GaugeWarning, match="treats the values of a cluster alike"):
        gradient(lambda s: s.values[0].real, matrix())
    with pytest.warns(ie.GaugeWarning, match="depends on the phase of pair 0"):
        gradient(lambda s: s.vectors[0, 0].real, random(0, N))


def test_partial_spectrum_is_no_full_spectrum():
    solve = ie.eigensolver(mixed(left=False), ie.General(K), system=ie.FullSpectrum())
    with pytest.raises(ie.InputError, match="all n pairs of a pencil; got k = 4, n = 6"):
        jax.eval_shape(jax.grad(lambda A: values(solve(A))), matrix())
