"""Several devices: `jax.shard_map`, with its check of what varies over the mesh, and `jax.pmap`."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

SETUP = """
    import jax, jax.numpy as jnp, numpy as np
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", 2)
    from jax.sharding import AxisType, PartitionSpec
    import implicit_eig as ie

    n = 6
    M = np.random.default_rng(0).standard_normal((4, n, n))
    A = jnp.asarray(M + M.transpose(0, 2, 1) + np.diag(4.0 * np.arange(n)))

    def first(k, decompose):
        return ie.traceable(lambda A: tuple(part[..., :k] for part in decompose(A)))

    def svd(A):
        U, sigma, Vh = jnp.linalg.svd(A)
        return sigma, Vh.T, U

    def loss(solver, problem, **options):
        solve = ie.eigensolver(solver, problem, **options)

        def f(A):
            values, X = solve(A)
            weights = jnp.arange(1.0, n + 1)[:, None]
            return jnp.sum(weights * jnp.abs(X) ** 4) + jnp.sum(values.real**2)

        return f

    def of_function():
        solver = ie.traceable(lambda A: jnp.linalg.solve(A, jnp.ones(n)))
        root = ie.implicit_function(solver, lambda x, A: A @ x - jnp.ones(n))
        return lambda A: jnp.sum(root(A) ** 2)

    eigh, eig = jnp.linalg.eigh, jnp.linalg.eig
"""
CHECK = """
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    over = PartitionSpec("batch")
    gradient = jax.grad(f)
    second = lambda A: jax.jvp(gradient, (A,), (A,))[1]
    total = lambda A: jax.lax.psum(jnp.sum(jax.vmap(f)(A)), "batch")
    total = jax.shard_map(total, mesh=mesh, in_specs=over, out_specs=PartitionSpec())

    def sharded(g):
        return jax.jit(jax.shard_map(jax.vmap(g), mesh=mesh, in_specs=over, out_specs=over))(A)

    @jax.jit
    def batch(A):
        return jax.vmap(lambda A: jax.jvp(gradient, (A,), (A,)))(A)

    expected, expected_second = batch(A)
    pairs = [
        (sharded(second), expected_second),
        (jax.jit(jax.grad(total))(A), expected),
    ]
    if name == "some pairs":
        halves = jax.pmap(jax.vmap(gradient))(A.reshape(2, 2, n, n))
        pairs += [(halves.reshape(A.shape), expected), (sharded(gradient), expected)]
    for found, wanted in pairs:
        assert jnp.max(jnp.abs(found - wanted)) < 1e-12 * jnp.max(jnp.abs(wanted)), name
"""
LOSSES = {
    "all pairs": "loss(first(n, eigh), ie.Hermitian(n))",
    "some pairs": "loss(first(2, eigh), ie.Hermitian(2))",
    "nan": "loss(first(2, eigh), ie.Hermitian(2), policy=ie.Policy.nan())",
    "bordered": "loss(first(2, eigh), ie.Hermitian(2), system=ie.Bordered())",
    "iterative": "loss(first(2, eigh), ie.Hermitian(2), linear_solver=ie.MINRES())",
    "singular": "loss(first(2, svd), ie.Singular(2))",
    "general": "loss(first(2, eig), ie.General(2))",
    "implicit function": "of_function()",
}


PLACED = """
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(A, jax.NamedSharding(mesh, PartitionSpec("batch")))
    gradients = jax.vmap(jax.grad(f))
    found = jax.jit(gradients)(placed)
    assert len(found.sharding.device_set) == 2
    assert jnp.max(jnp.abs(found - gradients(A))) < 1e-10
"""


def run(names, code, **environment):
    """Run code for each of the losses, in one process with two devices; return what it prints."""
    of = lambda name: f"name, f = {name!r}, {LOSSES[name]}\n" + textwrap.dedent(code)
    code = textwrap.dedent(SETUP) + "\n".join(map(of, names))
    done = subprocess.run(
        [sys.executable, "-c", code],
        timeout=600,
        env=os.environ | {"XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_sharded_derivatives_are_those_of_a_batch():
    run(LOSSES, CHECK)


def test_sharded_arrays_under_jit_are_not_gathered():
    """XLA warns, as it compiles, where it must copy an array to every device to go on."""
    found = run(["some pairs"], PLACED, JAX_ENABLE_COMPILATION_CACHE="false")
    assert "rematerialization" not in found
