"""`jax.checkpoint` around a solver: the derivative is that of the vectors that the value used."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_hermitian

import implicit_eig as ie

N, K = 8, 2
A = random_hermitian(N)
W = jnp.asarray(np.random.default_rng(1).standard_normal((N, K)))
KEEP = jax.checkpoint_policies.save_only_these_names("implicit_eig")


class Signs:
    """A host solver whose vectors have the next signs of a list at every call."""

    def __init__(self, *signs):
        self.signs, self.calls = signs, 0

    def __call__(self, A):
        values, X = np.linalg.eigh(A)
        sign = self.signs[self.calls % len(self.signs)]
        self.calls += 1
        return values[:K], X[:, :K] * np.array([1.0, sign], X.real.dtype)


def gradient(solver, keep=None, wrap=jax.jit, **policy):
    """The gradient of a function of squares outside what is computed twice."""
    solve = ie.eigensolver(solver, ie.Hermitian(K), policy=ie.Policy(**policy))
    vectors = jax.checkpoint(lambda A: solve(A).vectors, policy=keep)
    return wrap(jax.grad(lambda A: jnp.sum(W * jnp.abs(vectors(A)) ** 2)))


def exact():
    solve = ie.eigensolver(Signs(1.0), ie.Hermitian(K))
    return jax.grad(lambda A: jnp.sum(W * solve(A).vectors ** 2))(A)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_another_sign_in_the_second_run_is_warned_about(wrap):
    solver = Signs(1.0, -1.0)
    with pytest.warns(ie.GaugeWarning, match="vector of pair 1 with the other sign"):
        found = jax.block_until_ready(gradient(solver, wrap=wrap)(A))
    assert solver.calls == 2
    assert jnp.max(jnp.abs(found - exact())) > 0.1


def test_what_the_policy_says():
    assert jnp.all(jnp.isnan(gradient(Signs(1.0, -1.0), **vars(ie.Policy.nan()))(A)))
    with pytest.raises(Exception, match=r"GaugeError: .*a deterministic solver"):
        jax.block_until_ready(gradient(Signs(1.0, -1.0), gauge=ie.Action.RAISE)(A))
    assert jnp.all(jnp.isfinite(gradient(Signs(1.0, -1.0), gauge=ie.Action.IGNORE)(A)))


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_the_first_answer_can_be_kept(wrap):
    """By the name that it has; then the solver runs once, and its signs do not matter."""
    solver = Signs(1.0, -1.0)
    found = gradient(solver, KEEP, wrap)(A)
    assert solver.calls == 1
    assert jnp.max(jnp.abs(found - exact())) < 1e-12


def test_the_same_vectors_twice_are_right():
    """In complex arithmetic too, and of a batch, whose members are told apart."""
    solver = Signs(1.0)
    assert jnp.max(jnp.abs(gradient(solver)(A) - exact())) < 1e-12
    assert solver.calls == 2
    stack = jnp.stack([A, -A, 2 * A]).astype(jnp.complex128)
    found = jax.jit(jax.vmap(gradient(Signs(1.0), wrap=lambda f: f)))(stack)
    assert jnp.max(jnp.abs(found[0].real - exact())) < 1e-12


def test_one_call_after_another_is_quiet_outside_of_programs():
    """A solver that starts at random serves everything but programs that call it twice."""
    solve = ie.eigensolver(Signs(1.0, -1.0), ie.Hermitian(K))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            jax.grad(lambda A: jnp.sum(W * solve(A).vectors ** 2))(A)


def test_an_implicit_function_is_kept_by_the_same_name():
    calls = []

    def solver(a):
        calls.append(0)
        return np.sqrt(a)

    root = ie.implicit_function(solver, lambda x, a: x**2 - a, like=lambda a: a)
    f = jax.checkpoint(lambda a: jnp.sum(root(a)), policy=KEEP)
    a = jnp.asarray([1.0, 4.0])
    assert jnp.max(jnp.abs(jax.jit(jax.grad(f))(a) - 0.5 / jnp.sqrt(a))) < 1e-12
    assert len(calls) == 1
