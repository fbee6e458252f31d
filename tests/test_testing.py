"""The checks that users get catch what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_definite, random_hermitian

from implicit_eig import testing


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_vectors_up_to_phase(dtype):
    X = np.linalg.qr(np.asarray(random_hermitian(6, dtype)))[0][:, :3]
    turns = np.exp(1j * np.arange(3)) if dtype == np.complex128 else np.array([1, -1, -1])
    B = random_definite(6, dtype)
    assert jnp.max(jnp.abs(testing.align_vectors(X * turns, X) - X)) < 1e-14
    testing.assert_vectors_close(X * turns, X, atol=1e-14)
    testing.assert_vectors_close(X * turns, X, atol=1e-13, B=B)
    wrong = X.copy()
    wrong[:, 1] += 1e-6 * X[:, 0]
    with pytest.raises(testing.DerivativeError, match=r"a distance of 1\.0e-06 for pair 1"):
        testing.assert_vectors_close(wrong, X, atol=1e-8)
    with pytest.raises(AssertionError, match="for pair 2"):
        testing.assert_vectors_close(np.where(np.arange(3) == 2, np.nan, X), X, atol=1e-8)


def test_zero_overlap_is_left_alone():
    e = jnp.eye(2)
    assert jnp.array_equal(testing.align_vectors(e[:, :1], e[:, 1:]), e[:, :1])


@jax.custom_jvp
def wrong_transpose(x):
    return x


@wrong_transpose.defjvp
def _(primals, tangents):
    (x,), (v,) = primals, tangents
    right, wrong = (lambda _, b: 2 * b), (lambda _, b: 3 * b)
    return x, jax.lax.custom_linear_solve(lambda y: y / 2, v, right, wrong)


def test_adjoint():
    x = jnp.arange(1.0, 4.0)
    testing.assert_adjoint(lambda x, y: jnp.sin(x) * y["a"], x, {"a": x}, rtol=1e-13)
    testing.assert_adjoint(lambda z: z * z, x.astype(complex) * (1 + 2j), rtol=1e-13)
    with pytest.raises(testing.DerivativeError, match="one Jacobian in both modes"):
        testing.assert_adjoint(wrong_transpose, x, rtol=1e-3)


@pytest.mark.parametrize("order", [2, 4])
def test_finite_differences_converge_at_their_order(order):
    f = lambda tree: {"out": np.exp(tree["x"])}
    x, v = {"x": np.array([0.3, -0.2])}, {"x": np.array([1.0, 2.0])}
    exact = np.exp(x["x"]) * v["x"]
    errors = [
        np.max(np.abs(testing.finite_difference(f, (x,), (v,), step=h, order=order)["out"] - exact))
        for h in (0.02, 0.01)
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


def test_finite_differences_refuse_other_orders():
    with pytest.raises(ValueError, match=r"2 or 4; got 3"):
        testing.finite_difference(np.sin, (1.0,), (1.0,), step=0.1, order=3)


def test_random_directions_are_seeded_and_of_the_right_kind():
    tree = {"z": jnp.zeros(3, complex), "n": jnp.arange(3), "x": jnp.zeros(2, np.float32)}
    one, two = testing.random_like(tree, 1), testing.random_like(tree, 1)
    assert jnp.array_equal(one["z"], two["z"])
    assert jnp.all(one["z"].imag != 0)
    assert one["x"].dtype == jnp.float32
    assert one["n"].dtype == jax.dtypes.float0
