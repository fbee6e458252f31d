"""The second linear solver takes over where the first has not solved, whatever that reports."""

import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ie
from implicit_eig.linear_solvers.auto import _WithSecond


@pytest.mark.parametrize("wrong", [np.nan, 0.3])
def test_a_success_that_is_none_is_solved_again(wrong):
    """An iteration that divides 0 by 0 at the exact solution gives NaN, and says success."""
    M, b = jnp.array([[2.0, 1.0], [0.0, 4.0]]), jnp.array([0.6, 0.8])
    first = ie.host_linear_solver(lambda A, b: np.full_like(b, wrong))
    answer = lx.linear_solve(lx.MatrixLinearOperator(M), b, _WithSecond(first, lx.LU()))
    assert jnp.max(jnp.abs(M @ answer.value - b)) < 1e-15
