"""Eigenpairs that T'(λ) does not determine, because T(λ) x = 0 for every λ, are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ie

N = 5
rng = np.random.default_rng(0)
NULL = rng.standard_normal((N, 1))
NULL /= np.linalg.norm(NULL)
# with one null vector in common, up to rounding, as those of NLEVP's qep5
COMMON = [rng.standard_normal((N, N)) @ (np.eye(N) - NULL @ NULL.T) for _ in range(3)]


def quadratic(lam, x, *operators):
    return sum(lam**j * (A.astype(x.dtype) @ x) for j, A in enumerate(operators))


PROBLEMS = {
    "polynomial": (ie.Polynomial(1), 3),
    "polynomial, left": (ie.Polynomial(1, left=True), 3),
    "pencil": (ie.General(1), 2),
    "function": (ie.Nonlinear(quadratic), 3),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_null_vector_of_all_operators_is_no_eigenvector(kind, dtype):
    problem, count = PROBLEMS[kind]
    operators = [jnp.asarray(A, dtype) for A in COMMON[:count]]
    # whatever the units of x and λ, and whether the solver is exact
    for unit, lam, error in ((1, 1.7, 0.0), (1e-6, 0.0, 0.0), (1e6, 1.7e-3, 3e-14)):
        vector = NULL + error * np.eye(N)[:, :1]
        solve = ie.eigensolver(lambda *_, v=vector, lam=lam: (np.array([lam]), v), problem)
        scaled = [jnp.asarray(unit, dtype) ** j * A for j, A in enumerate(operators)]
        with pytest.raises(ie.EigensolverError, match=r"T'\(λ\) x = 0 to rounding for pair 0, λ ="):
            solve(*scaled)


def test_pairs_of_small_but_regular_slope_are_accepted():
    """T'(λ) x is small in one row, or T(λ) vanishes as a whole: λ is determined all the same."""
    for A, B in (((1.0, 1.0), (1.0, 1e-14)), ((0.0, 1.0), (1.0, 1.0))):
        i = int(B[1] < 1)
        answer = np.array([A[i] / B[i]]), np.eye(2)[:, [i]]
        solve = ie.eigensolver(lambda *_, answer=answer: answer, ie.General(1))
        assert complex(solve(*(jnp.diag(jnp.array(d)) for d in (A, B))).values[0]) == answer[0][0]
    scalar = ie.Nonlinear(lambda lam, x, a: (a.astype(x.dtype) - lam) * x, n=1)
    for a in (0.0, 0.3, 1e-9):
        solve = ie.eigensolver(lambda a: (np.array([a]), np.ones((1, 1))), scalar)
        assert complex(solve(jnp.asarray(a)).values[0]) == a
