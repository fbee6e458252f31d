"""A change of the unknowns' units, x → D x, changes no decision and no derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_hermitian

import implicit_eig as ie

N = 20
HALF = np.arange(N) < N // 2
M = np.where(HALF[:, None] | HALF[None, :], 0, np.asarray(random_hermitian(N, seed=1)))


def pencil(spectrum, unit, dtype):
    """A pencil in which half of the unknowns are measured in `unit`, its exact solver, and D, X."""
    spectrum = np.asarray(spectrum)
    X = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    D = np.where(HALF, unit, 1.0)
    A = ((X * spectrum) @ X.T / np.outer(D, D)).astype(dtype)
    solver = lambda A, B: (spectrum[:2].astype(dtype), (D[:, None] * X[:, :2]).astype(dtype))
    return (jnp.asarray(A), jnp.diag(jnp.asarray(D**-2, dtype))), solver, D, X


def in_the_other_half(X):
    """A function of the first vector where the units are the old ones."""
    x = X[:, 0]
    return x @ jnp.asarray(M, x.dtype) @ x


@pytest.mark.parametrize(("unit", "dtype"), [(1e8, np.float64), (1e4, np.float32)])
@pytest.mark.parametrize("system", [ie.Deflated(), ie.Bordered()])
def test_values_apart_stay_apart(unit, dtype, system):
    spectrum = np.concatenate([[1.0, 1.01], np.linspace(2, 5, N - 2)])
    (A, B), solver, D, X = pencil(spectrum, unit, dtype)
    policy = ie.Policy(gauge=ie.Action.RAISE)
    solve = ie.eigensolver(solver, ie.Hermitian(2), policy=policy, system=system)
    found = jax.grad(lambda A: in_the_other_half(solve(A, B).vectors))(A)
    found = np.asarray(found, np.float64) / np.outer(D, D)
    along = X.T @ (2 * M @ X[:, 0]) / np.where(spectrum == 1, np.inf, 1 - spectrum)
    expected = np.outer(X @ along, X[:, 0])
    expected = (expected + expected.T) / 2
    bound = 1e5 * float(np.finfo(dtype).eps)
    assert np.max(np.abs(found - expected)) < bound * np.max(np.abs(expected))


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_what_depends_on_a_basis_is_called_out(unit):
    """Also where it looks at small numbers only, beside which large ones stand."""
    spectrum = np.concatenate([[1.0, 1.0], np.linspace(2, 5, N - 2)])
    (A, B), solver, _, _ = pencil(spectrum, unit, np.float64)
    solve = ie.eigensolver(solver, ie.Hermitian(2))
    with pytest.warns(ie.GaugeWarning, match="depends on the basis"):
        jax.block_until_ready(jax.grad(lambda A: in_the_other_half(solve(A, B).vectors))(A))
    defect = ie.gauge_defect(lambda s: in_the_other_half(s.vectors), solve, A, B)
    assert jnp.all(defect > 1e-3)


def test_values_that_are_zero_by_rounding_are_one():
    """That of the solver, which is the norm's, though the operator is zero where they live."""
    A = np.zeros((N, N))
    A[2:, 2:] = np.diag(np.linspace(1e8, 2e8, N - 2))
    C = np.asarray(random_hermitian(2, seed=2)) * 1e-8
    values, X = np.linalg.eigh(C)
    X = np.vstack([X, np.zeros((N - 2, 2))])
    solve = ie.eigensolver(lambda A: (values, X), ie.Hermitian(2))
    with pytest.warns(ie.GaugeWarning, match="alike"):
        jax.block_until_ready(jax.grad(lambda A: solve(A).values[0])(jnp.asarray(A)))


SPARSE = {
    "Hermitian": (ie.Hermitian(2), lambda A: np.linalg.eigh(A.toarray())),
    "General": (ie.General(2), lambda A: np.linalg.eig(A.toarray())),
    "Subspace": (ie.Subspace(2), lambda A: np.linalg.eig(A.toarray())),
    "the whole space": (ie.Subspace(8), lambda A: np.linalg.eig(A.toarray())),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_shift_and_invert_squares_no_unit(kind, dtype):
    """From the size where the square root of the least number stands to where eps of one does."""
    n, info = 8, np.finfo(dtype)
    solve = ie.eigensolver(SPARSE[kind][1], SPARSE[kind][0], linear_solver=ie.ShiftInvert())
    matrix = np.asarray(random_hermitian(n, seed=2))
    if kind != "Hermitian":
        matrix = matrix + np.triu(np.ones((n, n)))
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((n, n)), dtype)

    @jax.jit
    def gradient(entries, unit):
        def projected(entries):
            A = ie.SparseOperator(entries, *np.indices((n, n)).reshape(2, -1), (n, n))
            S, X = solve(A)
            trace = jnp.sum(S.real) if kind in ("Hermitian", "General") else jnp.trace(S).real
            return jnp.sum(weights * (X @ X.conj().T).real) + trace / unit

        return jax.grad(projected)(entries) * unit

    found = [
        gradient(jnp.asarray(unit * matrix.reshape(-1), dtype), jnp.asarray(unit, dtype))
        for unit in (
            1.0,
            0.01 * info.eps / info.tiny,
            100 * info.tiny / info.eps,
            1 / info.tiny**0.5,
        )
    ]
    size = jnp.max(jnp.abs(found[0]))
    assert all(jnp.max(jnp.abs(other - found[0])) < 1e5 * info.eps * size for other in found[1:])
