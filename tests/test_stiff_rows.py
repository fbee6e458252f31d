"""Stiff rows do not excuse errors in the others: what is accepted of a solver, and what is not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg as spla
from problems import Exchanged, sparse

import implicit_eig as ie

N = 24


def chain(asymmetry=0.0):
    """The Laplacian of a chain, with eigenvalues from 0.02 to 4."""
    below, above = -1 - asymmetry, -1 + asymmetry
    ones = np.ones(N - 1)
    return 2 * np.eye(N) + below * np.diag(ones, -1) + above * np.diag(ones, 1)


def penalised(A, size, where):
    """A with one or two unknowns held by a penalty, or two tied to each other."""
    A = A.copy()
    if where == "tie":
        A[8:10, 8:10] += size * np.array([[1.0, -1.0], [-1.0, 1.0]])
    else:
        A[where, where] += size
    return A


def smallest(A):
    """The smallest singular triplet (σ, v, u), or eigenvalue, by inverse iteration."""
    x = y = np.ones(N)
    for _ in range(400):
        x = np.linalg.solve(A, x / np.linalg.norm(x))
        y = np.linalg.solve(A, np.linalg.solve(A.T, y / np.linalg.norm(y)))
    x, v = x / np.linalg.norm(x), y / np.linalg.norm(y)
    soft = np.abs(A).sum(axis=1) < 10
    lam = np.vdot(x[soft], (A @ x)[soft]) / np.vdot(x[soft], x[soft])
    sigma = 1 / np.linalg.norm(np.linalg.solve(A.T, v))
    return (lam, x), (sigma, v, np.linalg.solve(A.T, v) * sigma)


def rough(A, *vectors):
    """The vectors with an error of 1e-3 in unknowns that no penalty holds."""
    soft = np.abs(A).sum(axis=1) < 10
    return [x + 1e-3 * soft * np.cos(np.arange(N)) for x in vectors]


PROBLEMS = {
    "Hermitian": (ie.Hermitian(1), 0.0, None),
    "Hermitian, sparse": (ie.Hermitian(1), 0.0, sparse),
    "General": (ie.General(1), 0.02, None),
    "Polynomial": (ie.Polynomial(1), 0.02, None),
    "Subspace": (ie.Subspace(1), 0.02, None),
    "Singular": (ie.Singular(1), 0.02, None),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_an_error_next_to_penalties_is_seen_and_an_honest_answer_accepted(kind):
    problem, asymmetry, form = PROBLEMS[kind]
    solver = Exchanged()
    policy = ie.Policy(forward=ie.Action.NAN, exceptional=ie.Action.IGNORE)
    solve = ie.eigensolver(solver, problem, policy=policy)

    def values(A):
        A = A if form is None else form(A)
        operators = (A, -jnp.eye(N, dtype=A.dtype)) if kind == "Polynomial" else (A,)
        return solve(*operators).values

    values = jax.jit(values)
    dtypes = (np.float64, np.float32) if kind == "Hermitian" else (np.float64,)
    for dtype in dtypes:
        # a singular value below 10 eps ‖A‖ is taken for zero, and refused
        most = 1e12 if kind == "Singular" else 1e13
        cases = [(most, [0]), (most, [0, N - 1]), (1e11, [9, 12])]
        # with the quotient of a tie, which `Subspace` takes, the value itself is lost to rounding
        cases += [(1e13, "tie")] if kind not in ("Subspace", "Singular") else []
        for size, where in cases:
            A = penalised(chain(asymmetry), size, where).astype(dtype)
            (lam, x), (sigma, v, u) = smallest(A.astype(np.float64))
            value, parts = (sigma, (v, u)) if kind == "Singular" else (lam, (x,))
            good, bad = (
                (np.array([value]), *(part[:, None] for part in given))
                for given in (parts, rough(A, *parts))
            )
            solver.now = lambda *_, good=good: good
            assert bool(jnp.all(jnp.isfinite(values(jnp.asarray(A))))), (size, where, dtype)
            solver.now = lambda *_, bad=bad: bad
            assert bool(jnp.all(jnp.isnan(values(jnp.asarray(A))))), (size, where, dtype)


def test_a_solver_that_was_stopped_early_is_refused_whatever_the_penalty():
    start = np.random.default_rng(0).standard_normal((N, 3))

    def lobpcg(A):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SciPy, that it has not converged
            values, X = spla.lobpcg(A, start.astype(A.dtype), largest=False, maxiter=5)
        order = np.argsort(values)
        return values[order], X[:, order]

    for dtype, size in ((np.float64, 1e13), (np.float32, 1e6), (np.float32, 1e9)):
        A = jnp.asarray(penalised(chain(), size, [0, N - 1]).astype(dtype))
        with pytest.raises(ie.EigensolverError, match="got a residual"):
            ie.eigensolver(lobpcg, ie.Hermitian(1))(A)


def test_the_message_names_the_cause():
    """LAPACK is backward stable in norm: next to 1e13 it loses the second digit, or the first."""
    A = jnp.asarray(penalised(chain(), 1e13, [0, N - 1]))
    with pytest.raises(
        ie.EigensolverError, match=r"every row; got .* lost the others to stiff ones"
    ):
        ie.eigensolver(np.linalg.eigh, ie.Hermitian(1))(A)


def test_values_that_are_zero_next_to_stiff_parts_are_accepted():
    """Rigid motions of a soft part beside a stiff one, and an unknown without a row of its own."""
    free = chain()
    free[0, 0] = free[-1, -1] = 1
    A = np.zeros((2 * N + 1, 2 * N + 1))
    A[:N, :N], A[N : 2 * N, N : 2 * N] = free, 1e6 * free
    for k, matrix in ((3, A), (1, np.diag(np.r_[0.0, 1.0, np.full(N, 7.0)]))):
        values = ie.eigensolver(np.linalg.eigh, ie.Hermitian(k))(jnp.asarray(matrix)).values
        assert jnp.max(jnp.abs(values)) < 1e-8
