"""What is compiled for an accelerator, as far as a machine without one can tell."""

import subprocess
import sys

import jax
import jax.export
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


def two_of(decompose):
    def solver(A):
        values, X = decompose(A)
        return values[..., :2], X[..., :2]

    return solver


numpy_eigh, numpy_eig, jax_eigh = map(two_of, (np.linalg.eigh, np.linalg.eig, jnp.linalg.eigh))
START = np.ones(30)
AGAIN = {
    "host": lambda: ie.eigensolver(numpy_eigh, ie.Hermitian(2)),
    "traceable": lambda: ie.eigensolver(ie.traceable(jax_eigh), ie.Hermitian(2)),
    "options": lambda: ie.eigensolver(
        numpy_eigh,
        ie.Hermitian(2),
        linear_solver=ie.MINRES(),
        policy=ie.Policy(forward=ie.Action.NAN),
        normalization=ie.TwoNorm(),
    ),
    "general": lambda: ie.eigensolver(numpy_eig, ie.General(2)),
    "ready-made": lambda: ie.eigensolver(
        ie.solvers.arpack(2, sigma=-1.0, v0=START.copy()), ie.Hermitian(2)
    ),
}
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: COMPILED.append(name))


@pytest.mark.parametrize("name", AGAIN)
def test_an_eigensolver_of_equal_parts_compiles_nothing_anew(name):
    """Made anew at each call, as users do."""
    A = jnp.asarray(np.diag(np.arange(30.0)) + np.eye(30, k=1) + np.eye(30, k=-1))

    def loss(A):
        return jnp.sum(jnp.abs(AGAIN[name]()(A).vectors) ** 4)

    first = jax.grad(loss)(A)
    jax.block_until_ready(first)
    assert any("backend_compile" in event for event in COMPILED)
    COMPILED.clear()
    second = jax.grad(loss)(A)
    assert not [event for event in COMPILED if "compile" in event]
    assert jnp.all(first == second)


@pytest.mark.parametrize(
    "linear_solver", [None, ie.MINRES(), ie.ShiftInvert()], ids=["default", "MINRES", "ShiftInvert"]
)
def test_an_eigensolver_is_an_argument_of_jit(linear_solver):
    A = jnp.asarray(np.diag(np.arange(6.0)) + np.eye(6, k=1) + np.eye(6, k=-1))
    policy = ie.Policy(gauge=ie.Action.NAN, residual_rtol=1e-9, linear_solve_rtol=np.float32(1e-6))
    solve = ie.eigensolver(
        ie.traceable(jax_eigh), ie.Hermitian(2), linear_solver=linear_solver, policy=policy
    )
    of = lambda solve, A: jax.grad(lambda A: jnp.sum(solve(A).vectors ** 4))(A)
    np.testing.assert_allclose(jax.jit(of)(solve, A), of(solve, A), atol=1e-9)


def test_solvers_of_other_parts_are_others():
    arpack = ie.solvers.arpack
    assert arpack(2, sigma=0.0) == arpack(2, sigma=0.0)
    assert hash(arpack(2, v0=START)) == hash(arpack(2, v0=START.copy()))
    for one, other in (
        (arpack(2, sigma=0.0), arpack(3, sigma=0.0)),
        (arpack(2, v0=START), arpack(2, v0=2 * START)),
        (arpack(2), ie.solvers.arpack_general(2)),
        (arpack(2, tol=1), arpack(2, tol=1.0)),
        (ie.traceable(jax_eigh), ie.traceable(jnp.linalg.eigh)),
    ):
        assert one != other


CACHED = """
import sys, jax, jax.numpy as jnp
import implicit_eig as ie
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
missed = []
jax.monitoring.register_event_listener(lambda name, **_: missed.append("cache_misses" in name))
for policy in (ie.Policy.nan(), ie.Policy()):
    solve = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(2), policy=policy)
    loss = lambda A: jnp.sum(solve(A).vectors ** 4)
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(loss))(jnp.diag(jnp.arange(4.0)))))
print(sum(missed))
"""


def test_the_persistent_cache_takes_the_programs(tmp_path):
    """With callbacks too, which are those of the process that runs."""
    command = [sys.executable, "-c", CACHED, str(tmp_path)]
    first, second = (
        int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    assert first > 0
    assert second == 0


def test_a_program_is_exported():
    solve = ie.eigensolver(ie.traceable(jax_eigh), ie.Hermitian(2), policy=ie.Policy.nan())
    gradient = jax.jit(jax.grad(lambda A: jnp.sum(solve(A).vectors ** 4)))
    A = jnp.asarray(np.diag(np.arange(6.0)) + np.eye(6, k=1) + np.eye(6, k=-1))
    exported = jax.export.export(gradient)(A)
    np.testing.assert_allclose(exported.call(A), gradient(A), rtol=1e-12)
