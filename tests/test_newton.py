"""Newton's method from a start: what it finds, and what it says where it finds nothing."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from test_nonlinear import FORMS, N, by_products, delay, delay_data, delay_eig, promoting

import implicit_eig as ie

VALUE, VECTOR = (part[..., 0] for part in delay_eig(*map(np.asarray, delay_data())))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_near_machine_precision(dtype):
    args = delay_data(dtype)
    solve = ie.eigensolver(
        ie.solvers.newton(delay, (VALUE + 0.1, VECTOR + 0.02)), ie.Nonlinear(delay)
    )
    solution = solve(*args)
    eps = float(np.finfo(dtype).eps)
    assert solution.values.dtype == np.result_type(dtype, np.complex64)
    assert abs(complex(solution.values[0]) - VALUE) < 50 * eps
    assert solution.stats["residuals"][0] < 10 * eps


def test_units_do_not_matter():
    """T times 1e9, λ in units of 1e-6: the same pair in as many steps."""
    A, B, tau = delay_data()
    scaled = lambda lam, x, *P: 1e9 * delay(1e6 * lam, x, *P)
    start = ((VALUE + 0.1) / 1e6, 1e5 * VECTOR)
    solution = ie.eigensolver(ie.solvers.newton(scaled, start), ie.Nonlinear(scaled))(A, B, tau)
    assert abs(1e6 * solution.values[0] - VALUE) < 1e-13


def test_several_starts():
    A = jnp.asarray([[2.0, 1.0, 0.0], [0.0, -1.0, 0.3], [0.2, 0.0, 4.0]])
    T = promoting(lambda lam, x, A: A @ x - lam**2 * x)
    values, vectors = np.linalg.eig(np.asarray(A))
    roots = np.sqrt(values + 0j)
    start = (jnp.asarray(roots + 0.02), jnp.asarray(vectors + 0.01))
    solve = ie.eigensolver(ie.solvers.newton(T, start), ie.Nonlinear(T, 3))
    assert jnp.max(jnp.abs(solve(A).values - roots)) < 1e-14
    same = (start[0][jnp.asarray([0, 0])], start[1][:, jnp.asarray([0, 0])])
    twice = ie.eigensolver(ie.solvers.newton(T, same), ie.Nonlinear(T, 2))
    with pytest.raises(ie.EigensolverError, match="pairs 0 and 1 with one value and one vector"):
        twice(A)


def test_a_start_that_follows_the_arguments():
    """A continuation in the delay, inside `jit`: the start is the pair before."""
    A, B, _ = delay_data()
    T = lambda lam, x, A, B, tau, lam0, x0: delay(lam, x, A, B, tau)
    guess = ie.solvers.newton(T, lambda *args: args[-2:])
    solve = ie.eigensolver(guess, ie.Nonlinear(T))

    @jax.jit
    def last(A):
        def step(pair, tau):
            solution = solve(A, B, tau, *pair)
            return (solution.values[0], solution.vectors[:, 0]), None

        first = (jnp.asarray(VALUE), jnp.asarray(VECTOR))
        return jax.lax.scan(step, first, jnp.linspace(0.4, 1.0, 4))[0][0].real

    direct = ie.eigensolver(
        lambda A: delay_eig(A, np.asarray(B), 1.0),
        ie.Nonlinear(lambda lam, x, A: delay(lam, x, A, B, 1.0)),
    )
    assert abs(last(A) - direct(A).values[0].real) < 1e-13
    expected = jax.grad(lambda A: direct(A).values[0].real)(A)
    assert jnp.max(jnp.abs(jax.grad(last)(A) - expected)) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_operators_are_not_made_dense(form):
    A, B, tau = delay_data()
    M = {"A": FORMS[form](A), "B": FORMS[form](B)}
    solver = ie.solvers.newton(by_products, (VALUE + 0.1, VECTOR))
    solution = ie.eigensolver(solver, ie.Nonlinear(by_products))(M, tau)
    assert abs(solution.values[0] - VALUE) < 1e-12


def test_options():
    """A loose tolerance stops early; a linear solver of one's own is used."""
    args = delay_data()
    policy = ie.Policy(residual_rtol=1e-1)
    start = (VALUE + 0.1, VECTOR + 0.02)
    errors = []
    for options in (
        {"rtol": 1e-1, "atol": 1e-1},
        {"linear_solver": lx.QR()},
    ):
        solver = ie.solvers.newton(delay, start, **options)
        solve = ie.eigensolver(solver, ie.Nonlinear(delay), policy=policy)
        errors.append(float(abs(solve(*args).values[0] - VALUE)))
    assert 1e-13 < errors[0] < 1e-2
    assert errors[1] < 1e-13


def test_not_converged_is_said_or_nan():
    solver = ie.solvers.newton(delay, (VALUE + 0.1, VECTOR), max_steps=2)
    args = delay_data()
    with pytest.raises(
        ie.EigensolverError, match=r"`solvers.newton` returns NaN where it does not"
    ):
        ie.eigensolver(solver, ie.Nonlinear(delay))(*args)
    policy = ie.Policy(forward=ie.Action.NAN)
    solution = ie.eigensolver(solver, ie.Nonlinear(delay), policy=policy)(*args)
    assert jnp.all(jnp.isnan(solution.values))


STARTS = {
    "scalar vector": (VALUE, 1.0),
    "two values, one vector": (np.ones(2), np.ones(N)),
    "rows": (np.ones(2), np.ones((2, N))),
    "three parts": (VALUE, VECTOR, VECTOR),
    "a number": 1.0,
}


@pytest.mark.parametrize("name", STARTS)
def test_starts_of_wrong_shape(name):
    with pytest.raises(ie.InputError, match=r"newton\(start=...\)`: \(λ, x\) of shapes \(\) and"):
        ie.solvers.newton(delay, STARTS[name])


def test_a_start_of_another_length():
    solver = ie.solvers.newton(delay, (VALUE, np.ones(N - 1)))
    with pytest.raises(TypeError) as error:
        ie.eigensolver(solver, ie.Nonlinear(delay))(*delay_data())
    assert "x of shape (3,)" in "".join(error.value.__notes__)


def test_fewer_starts_than_pairs():
    solve = ie.eigensolver(ie.solvers.newton(delay, (VALUE, VECTOR)), ie.Nonlinear(delay, 2))
    with pytest.raises(ie.EigensolverError, match="at least k = 2 pairs; got 1"):
        solve(*delay_data())
