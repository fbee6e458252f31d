"""One-sided derivatives, where values are exactly multiple."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
from problems import EPS, Counting, eigh, random_definite, random_hermitian

import implicit_eig as ie

N = 7
SPECTRUM = np.array([1.0, 1.0, 3.0, 3.0, 3.0, 5.0, 7.0])
K = 5


def pencil(dtype, seed=11):
    """A and B with a doublet and a triplet below, B-orthonormal vectors X of all, and tangents."""
    B = np.asarray(random_definite(N, dtype, seed))
    _, X = sla.eigh(np.asarray(random_hermitian(N, dtype, seed + 1)), B)
    BX = B @ X
    A = (BX * SPECTRUM.astype(B.real.dtype)) @ BX.conj().T
    A1 = random_hermitian(N, dtype, seed + 2)
    B1 = 0.3 * random_hermitian(N, dtype, seed + 3)
    return jnp.asarray((A + A.conj().T) / 2), jnp.asarray(B), X, A1.astype(dtype), B1.astype(dtype)


def unsplit(A, B, X, A1, B1, groups):
    """A tangent A₁ that moves the values of each group alike at first order."""
    BX = np.asarray(B) @ X
    W = X.conj().T @ (np.asarray(A1) @ X - np.asarray(B1) @ X * SPECTRUM.astype(B.real.dtype))
    change = np.zeros_like(W)
    for group in groups:
        inside = np.ix_(group, group)
        mean = np.trace(W[inside]).real / len(group)
        change[inside] = mean * np.eye(len(group)) - W[inside]
        for i in set(range(N)) - set(group):
            if SPECTRUM[i] == SPECTRUM[group[0]]:
                change[group, i] = -W[group, i]
                change[i, group] = -W[i, group]
    return jnp.asarray(np.asarray(A1) + BX @ change @ BX.conj().T)


def turned(A, B=None):
    """LAPACK, in a basis of each cluster that is nobody's choice."""
    values, X = eigh(A, B)
    rng = np.random.default_rng(5)
    for block in (slice(0, 2), slice(2, 5)):
        size = block.stop - block.start
        X[:, block] = X[:, block] @ np.linalg.qr(rng.standard_normal((size, size)))[0]
    return values, X


def branches(A, B, A1, B1, width=0.02):
    """The first two derivatives of the sorted branches at t = 0 from above.

    Branches of a Hermitian pencil are analytic in t: a polynomial on Chebyshev points.
    """
    A, B, A1, B1 = map(np.asarray, (A, B, A1, B1))
    t = width * (1 - np.cos(np.pi * np.arange(9) / 8)) / 2
    values = np.array([sla.eigvalsh(A + s * A1, B + s * B1)[:K] for s in t])
    values[0] = SPECTRUM[:K]
    fits = [np.polynomial.Polynomial.fit(t, column, 8, domain=[0, width]) for column in values.T]
    return np.array([f.deriv(1)(0.0) for f in fits]), np.array([f.deriv(2)(0.0) for f in fits])


DTYPES = [np.float64, np.complex128]
# which values of a cluster stay together at first order
GROUPS = {"split at first order": [], "at second order": [[0, 1], [2, 3, 4]], "partly": [[2, 4]]}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_branches(dtype, groups):
    A, B, X, A1, B1 = pencil(dtype)
    A1 = unsplit(A, B, X, A1, B1, groups)
    first, second = branches(A, B, A1, B1)
    solve = ie.eigensolver(turned, ie.Hermitian(K))
    for order, expected, rtol in ((1, first, 1e-9), (2, second, 1e-6)):
        found = ie.directional_derivatives(solve, (A, B), (A1, B1), order=order)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_under_jit(dtype):
    A, B, _, A1, B1 = pencil(dtype)
    # in double precision, for rounded to single A has no exactly multiple value
    double = pencil(np.result_type(dtype, np.float64))
    first, second = branches(*(double[i] for i in (0, 1, 3, 4)))
    solve = ie.eigensolver(turned, ie.Hermitian(K))
    for order, expected in ((1, first), (2, second)):
        derivatives = jax.jit(
            lambda *tangents, n=order: ie.directional_derivatives(solve, (A, B), tangents, order=n)
        )
        found = derivatives(A1, B1)
        assert found.dtype == np.float32
        bound = 100 * EPS[np.dtype(dtype)] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_simple_values_have_the_derivatives_of_a_jvp():
    A, A1 = random_hermitian(N, seed=3), random_hermitian(N, seed=4)
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    values = lambda t: solve.values(A + t * A1)
    first = lambda t: jax.jvp(values, (t,), (jnp.ones(()),))[1]
    second = jax.jvp(first, (jnp.zeros(()),), (jnp.ones(()),))[1]
    for order, expected in ((1, first(jnp.zeros(()))), (2, second)):
        found = ie.directional_derivatives(solve, (A,), (A1,), order=order)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_from_below_they_are_others():
    A, B, _, A1, B1 = pencil(np.float64)
    solve = ie.eigensolver(turned, ie.Hermitian(K))
    above = ie.directional_derivatives(solve, (A, B), (A1, B1))
    below = ie.directional_derivatives(solve, (A, B), (-A1, -B1))
    for cluster in (slice(0, 2), slice(2, 5)):
        np.testing.assert_allclose(-below[cluster][::-1], above[cluster], atol=1e-13)
    assert abs(above[0] - above[1]) > 0.1


def test_how_many_solves():
    A, B, _, A1, B1 = pencil(np.float64)
    for order, solves in ((1, 0), (2, K)):
        counting = Counting()
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=counting.solver())
        ie.directional_derivatives(solve, (A, B), (A1, B1), order=order)
        assert counting.calls == solves


def test_sparse_operators_of_one_pattern_and_one_that_rests():
    A, B, _, A1, _ = pencil(np.float64)
    rows, cols = (index.ravel() for index in np.indices((N, N)))

    def assemble(t):
        data = (A + t * A1).ravel()
        return ie.SparseOperator(data, rows, cols, (N, N))

    sparse, sparse_dot = jax.jvp(assemble, (jnp.zeros(()),), (jnp.ones(()),))
    solve = ie.eigensolver(eigh, ie.Hermitian(K))
    for order in (1, 2):
        dense = ie.directional_derivatives(solve, (A, B), (A1, jnp.zeros_like(B)), order=order)
        found = ie.directional_derivatives(solve, (sparse, B), (sparse_dot, None), order=order)
        np.testing.assert_allclose(found, dense, rtol=0, atol=1e-12)


def semisimple(dtype=np.complex128, seed=0):
    """A with a double value 1, a tangent, and its first derivatives from the other definition."""
    rng = np.random.default_rng(seed)
    T = rng.standard_normal((5, 5)) + 2 * np.eye(5)
    values = np.array([1.0, 1.0, 3.0, 4.0, -2.0])
    A = (T * values) @ np.linalg.inv(T)
    A1 = rng.standard_normal((5, 5))
    block = (np.linalg.inv(T) @ A1 @ T)[:2, :2]
    return jnp.asarray(A), jnp.asarray(A1), np.sort_complex(np.linalg.eigvals(block)), T


@pytest.mark.parametrize("left", [False, True])
def test_a_semisimple_value_that_is_not_hermitian(left):
    A, A1, expected, T = semisimple()

    def solver(M):
        turn = np.array([[1.0, 2.0], [-1.0, 1.0]])
        X, Y = T[:, :3].copy(), np.linalg.inv(T).T[:, :3].copy()
        X[:, :2], Y[:, :2] = X[:, :2] @ turn, Y[:, :2] @ turn[::-1]
        pairs = np.array([1.0, 1.0, 3.0]), X
        return (*pairs, Y) if left else pairs

    solve = ie.eigensolver(solver, ie.General(3, left=left))
    found = ie.directional_derivatives(solve, (A,), (A1,))
    np.testing.assert_allclose(found[:2], expected, atol=1e-11)
    np.testing.assert_allclose(found[2], (np.linalg.inv(T) @ A1 @ T)[2, 2], atol=1e-11)


def test_singular_values_are_those_of_the_hermitian_matrix_twice_as_large():
    rng = np.random.default_rng(3)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (5, 4))
    A = jnp.asarray((U[:, :4] * np.array([3.0, 3.0, 2.0, 1.0])) @ V.T)
    A1 = jnp.asarray(rng.standard_normal((5, 4)))

    def svd(A):
        left, values, right = np.linalg.svd(A, full_matrices=False)
        return values, right.conj().T, left

    def double(A):
        return jnp.block([[jnp.zeros((5, 5)), A], [A.T, jnp.zeros((4, 4))]])

    largest = lambda H: tuple(part[..., :-4:-1] for part in eigh(H))
    singular = ie.eigensolver(svd, ie.Singular(3))
    hermitian = ie.eigensolver(largest, ie.Hermitian(3))
    for order in (1, 2):
        found = ie.directional_derivatives(singular, (A,), (A1,), order=order)
        expected = ie.directional_derivatives(hermitian, (double(A),), (double(A1),), order=order)
        np.testing.assert_allclose(found, expected, atol=1e-11)


def test_general_simple_values_need_no_left_vectors():
    A, A1 = semisimple()[:2]
    solve = ie.eigensolver(np.linalg.eig, ie.General(5))
    A = A + 0.1 * A1
    found = ie.directional_derivatives(solve, (A,), (A1,))
    _, expected = jax.jvp(solve.values, (A,), (A1,))
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_refusals():
    A, B, _, A1, B1 = pencil(np.float64)
    solve = ie.eigensolver(eigh, ie.Hermitian(K))
    with pytest.raises(ie.InputError, match=r"order=.*1 or 2; got 3"):
        ie.directional_derivatives(solve, (A, B), (A1, B1), order=3)
    with pytest.raises(ie.InputError, match=r"one tangent for each operator.*got 1 for 2"):
        ie.directional_derivatives(solve, (A, B), (A1,))
    with pytest.raises(ie.InputError, match=r"one tangent for each operator.*pattern"):
        ie.directional_derivatives(solve, (A, B), (A1[:3, :3], B1))
    general = ie.eigensolver(np.linalg.eig, ie.General(5))
    A, A1, *_ = semisimple()
    with pytest.raises(ie.InputError, match=r"order=2.*a Hermitian problem; got General"):
        ie.directional_derivatives(general, (A,), (A1,), order=2)
    subspace = ie.eigensolver(eigh, ie.Subspace(2))
    with pytest.raises(ie.InputError, match=r"with single values; got Subspace"):
        ie.directional_derivatives(subspace, (A + A.T,), (A1,))


def test_a_chain_of_values_is_no_cluster():
    A = jnp.diag(jnp.array([1.0, 1.08, 1.16, 3.0]))
    policy = ie.Policy(degeneracy_rtol=0.1)
    solve = ie.eigensolver(eigh, ie.Hermitian(4), policy=policy)
    with pytest.raises(ie.InputError, match=r"equal or apart; got a chain of 3 values"):
        ie.directional_derivatives(solve, (A,), (jnp.eye(4),))
