"""Programs in which host code and JAX could wait for each other end; in processes of their own."""

import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ie

pytestmark = pytest.mark.core

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

# far above what they take: a program that hangs never ends
LIMIT = 240

START = """
import functools
import time

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from scipy.sparse.linalg import eigs, eigsh, minres

jax.config.update("jax_enable_x64", True)
import implicit_eig as ie

n = 40
rng = np.random.default_rng(0)


def chain(p):
    product = lambda x: (3 + p) * x - jnp.roll(x, 1) - jnp.roll(x, -1)
    return lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((n,), jnp.float64))


def arpack(A):
    time.sleep(0.2)  # what waits for the answer queues up meanwhile
    return eigsh(A, k=2, which="SA", v0=np.linspace(1, 2, n))


# not ready for a while
W = jnp.asarray(rng.standard_normal((900, 900)) / 30)
slow = functools.partial(jax.jit(lambda W, seed: (W @ (W @ W))[0, :n] + seed), W)
solve = ie.eigensolver(arpack, ie.Hermitian(2))


def loss(p, solve=solve):
    solution = solve(chain(p))
    return jnp.sum(solution.values) + jnp.sum(solution.vectors[:9] ** 4)
"""

PROGRAMS = {
    "a training loop": """
        layers = [jnp.asarray(rng.standard_normal((1500, 1500)) / 40) for _ in range(6)]

        def predicted(layers):
            x = jnp.ones(1500)
            for layer in layers:
                x = jnp.tanh(layer @ x)
            return loss(x[:n])

        step = jax.jit(jax.value_and_grad(predicted))
        momentum = [jnp.zeros_like(layer) for layer in layers]
        for _ in range(4):
            value, gradient = step(layers)
            momentum = [0.9 * m + g for m, g in zip(momentum, gradient)]
            layers = [layer - 1e-3 * m for layer, m in zip(layers, momentum)]
            norms = [jnp.sqrt(jnp.sum(g**2)) for g in gradient]
        assert np.isfinite(float(value)) and all(np.isfinite(float(norm)) for norm in norms)
    """,
    "calls in flight": """
        f = jax.jit(jax.grad(loss))
        arguments = [slow(float(i)) for i in range(48)]
        results = [f(p) for p in arguments]
        assert all(np.isfinite(np.asarray(r)).all() for r in results)
    """,
    "a scan, vmap, and second order": """
        by_minres = ie.host_linear_solver(lambda A, b: minres(A, b, rtol=1e-12), rtol=1e-9)
        other = ie.eigensolver(arpack, ie.Hermitian(2), linear_solver=by_minres)
        gradient = jax.grad(functools.partial(loss, solve=other))

        @jax.jit
        def swept(p):
            step = lambda p, _: (p - 0.01 * gradient(p), None)
            return jax.lax.scan(step, p, length=3)[0]

        @jax.jit
        def batched(P):
            return jax.vmap(lambda p: jax.jvp(gradient, (p,), (jnp.ones(n),))[1])(P)

        arguments = [slow(float(i)) for i in range(8)]
        results = [swept(p) for p in arguments]
        results += [batched(jnp.stack(arguments[:2])) for _ in range(2)]
        more = [jnp.sum(r) for r in results for _ in range(8)]
        assert all(np.isfinite(float(r)) for r in more)
    """,
    "a linear solver of implicit_function": """
        by_minres = ie.host_linear_solver(lambda A, b: minres(A, b, rtol=1e-12), rtol=1e-9)
        root = ie.implicit_function(
            lambda p: np.sqrt(1 + p**2), lambda z, p: z**2 - 1 - p**2, like=lambda p: p,
            linear_solver=by_minres,
        )
        f = jax.jit(jax.grad(lambda p: jnp.sum(root(p)**2)))
        arguments = [jnp.repeat(slow(float(i)), 60) for i in range(40)]
        results = [f(p) for p in arguments]
        for p, r in zip(arguments, results):
            np.testing.assert_allclose(r, 2 * p, rtol=1e-6, atol=1e-9)
    """,
    "pairs that are not Hermitian": """
        def arnoldi(A):
            time.sleep(0.2)
            return eigs(A, k=2, which="LM", v0=np.linspace(1, 2, n))

        general = ie.eigensolver(arnoldi, ie.General(2))
        f = jax.jit(jax.grad(lambda p: jnp.sum(jnp.abs(general(chain(p)).vectors[:9]) ** 4)))
        results = [f(slow(float(i))) for i in range(6)]
        more = [jnp.sum(r) for r in results for _ in range(12)]
        assert all(np.isfinite(float(r)) for r in more)
    """,
}


def run(code, *arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"XLA_FLAGS": ""},
        cwd=cwd,
        timeout=LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_ends(name):
    run(START + textwrap.dedent(PROGRAMS[name]))


ONE_CORE = """
import os, runpy, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen by Linux's means")
@pytest.mark.parametrize(
    "example", ["quickstart.py", "membrane.py --cells 20 --steps 3 --output picture.png"]
)
def test_ends_on_one_core(example, tmp_path):
    name, *options = example.split()
    arguments = [str(EXAMPLES / name), *options]
    run(ONE_CORE, *arguments, cwd=tmp_path)


def refused(code):
    def solver(A):
        return code(A)

    return ie.eigensolver(solver, ie.Hermitian(2))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_host_solver_that_is_jax_code_is_refused(transform):
    A = jnp.diag(jnp.arange(1.0, 5.0))
    for code in (jnp.linalg.eigh, jax.jit(lambda A: A), functools.partial(jnp.linalg.eig)):
        with pytest.raises(ie.InputError, match="marked by `traceable`"):
            ie.eigensolver(code, ie.Hermitian(2))
        with pytest.raises(ie.InputError, match="marked by `traceable`"):
            ie.implicit_function(code, lambda z, a: z - a)
    solve = transform(refused(lambda A: jnp.linalg.eigh(A)))
    with pytest.raises(Exception, match=r"array of JAX|a call of JAX"):
        jax.block_until_ready(solve(A).values)


def test_host_code_that_calls_jax_is_refused_in_a_program():
    by_jax = refused(lambda A: tuple(np.asarray(part) for part in jnp.linalg.eigh(A)))
    with pytest.raises(Exception, match="a call of JAX, which can wait"):
        jax.block_until_ready(jax.jit(by_jax)(jnp.diag(jnp.arange(1.0, 5.0))).values)
