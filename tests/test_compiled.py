"""What is compiled for an accelerator, as far as a machine without one can tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh

import implicit_eig as ie

pytestmark = pytest.mark.core

SOLVES = {
    "deflated": ie.eigensolver(eigh, ie.Hermitian(2)),
    "bordered": ie.eigensolver(eigh, ie.Hermitian(2), system=ie.Bordered()),
    "MINRES": ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=ie.MINRES()),
    "shift and invert": ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=ie.ShiftInvert()),
    "full spectrum": ie.eigensolver(eigh, ie.Hermitian(6)),
    "general": ie.eigensolver(np.linalg.eig, ie.General(2, left=True)),
    "general, all": ie.eigensolver(np.linalg.eig, ie.General(6)),
    "subspace": ie.eigensolver(np.linalg.eig, ie.Subspace(2)),
    "singular": ie.eigensolver(np.linalg.svd, ie.Singular(2)),
    "normalised": ie.eigensolver(np.linalg.eig, ie.General(2), normalization=ie.TwoNorm()),
}


@pytest.mark.parametrize("name", SOLVES)
def test_float32_matrices_are_multiplied_in_full_precision(name):
    """On a GPU the default is TF32."""
    solve = SOLVES[name]

    def gradient(A):
        def f(A):
            solution = solve(A)
            return jnp.sum(solution.values.real) + jnp.sum(jnp.abs(solution.vectors) ** 4)

        return jax.grad(f)(A)

    A = jnp.asarray(np.random.default_rng(0).standard_normal((6, 6)), jnp.float32)
    A = A + A.T
    program = jax.jit(lambda A: jax.jvp(gradient, (A,), (A,))).lower(A).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in program
    assert "precision = [DEFAULT" not in program
