"""Functions of equal steps are equal, and a matrix-free operator made anew compiles nothing."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from test_compiled import COMPILED

import implicit_eig as ie
from implicit_eig._alike import Steps

pytestmark = pytest.mark.core

N = 6
TABLE = np.arange(6.0)


def with_rule(factor):
    @jax.custom_jvp
    def square(x):
        return x * x

    @square.defjvp
    def _(primals, tangents):
        (x,), (x_dot,) = primals, tangents
        return square(x), factor * x * x_dot

    return square


def with_second_rule(factor):
    """Equal in value and in the first derivative."""
    inner = with_rule(factor)

    @jax.custom_jvp
    def cube(x):
        return x * x * x

    @cube.defjvp
    def _(primals, tangents):
        (x,), (x_dot,) = primals, tangents
        return cube(x), 3 * inner(x) * x_dot

    return cube


def backwards(factor):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, x_bar: (factor * x_bar,))
    return double


# each made by a call, so that no two are the same object
ALIKE = {
    "lambda": lambda: lambda x: 2 * jnp.sin(x) - x,
    "jit": lambda: jax.jit(lambda x: jax.nn.silu(x) @ x),
    "relu": lambda: lambda x: jax.nn.relu(x),
    "rule": lambda: with_rule(2.0),
    "rule in a rule": lambda: with_second_rule(2.0),
    "scan": lambda: lambda x: jax.lax.scan(lambda c, y: (c + y, c * y), 0.0, x)[1],
    "table": lambda: lambda x: x * np.arange(6, dtype=np.float32),
}
DIFFERENT = {
    "literal": lambda: (lambda x: 2 * x, lambda x: 3 * x),
    "order": lambda: (lambda x: x - jnp.sin(x), lambda x: jnp.sin(x) - x),
    "parameter": lambda: (jnp.cumsum, lambda x: jax.lax.cumsum(x, reverse=True)),
    "rule": lambda: (with_rule(2.0), with_rule(3.0)),
    "rule in a rule": lambda: (with_second_rule(2.0), with_second_rule(3.0)),
    "backwards": lambda: (backwards(2.0), backwards(3.0)),
    "step in a loop": lambda: (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: 2 * x, x),
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: 3 * x, x),
    ),
}


def steps(fn):
    closed = jax.make_jaxpr(fn)(jnp.ones(N, jnp.float32))
    return Steps(closed.jaxpr)


@pytest.mark.parametrize("name", ALIKE)
def test_equal_functions_are_equal(name):
    one, other = (steps(ALIKE[name]()) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize("name", DIFFERENT)
def test_others_are_not(name):
    one, other = map(steps, DIFFERENT[name]())
    assert one != other


def first_two(A):
    values, vectors = np.linalg.eigh(A @ np.eye(N))
    return values[:2], vectors[:, :2]


def network(p, v):
    return jax.nn.relu(p) * v + jnp.outer(jnp.tanh(p), jnp.tanh(p)) @ v + TABLE * v


def test_an_operator_made_anew_compiles_nothing_anew():
    """As in a loop without `jit`: at each step a new function, of other arrays."""
    solve = ie.eigensolver(first_two, ie.Hermitian(2))

    def loss(p, factor):
        fn = lambda v: factor * network(p, v)
        solution = solve(lx.FunctionLinearOperator(fn, jax.eval_shape(lambda: p)))
        return jnp.sum(solution.values) + jnp.sum(solution.vectors**4)

    p, q = jnp.linspace(0.1, 1.0, N), jnp.linspace(0.2, 1.5, N)
    jax.block_until_ready(jax.grad(loss)(p, 1.0))
    COMPILED.clear()
    again = jax.block_until_ready(jax.grad(loss)(q, 1.0))
    assert not [event for event in COMPILED if "backend_compile" in event]

    def dense(p, factor):
        values, X = jnp.linalg.eigh(factor * jax.vmap(lambda v: network(p, v), 1, 1)(jnp.eye(N)))
        return jnp.sum(values[:2]) + jnp.sum(X[:, :2] ** 4)

    np.testing.assert_allclose(again, jax.grad(dense)(q, 1.0), atol=1e-9)
    # another function of the same shapes is another
    found = jax.grad(loss)(p, 2.0)
    assert [event for event in COMPILED if "backend_compile" in event]
    np.testing.assert_allclose(found, jax.grad(dense)(p, 2.0), atol=1e-9)
