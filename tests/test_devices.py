"""Vectors that are spread over devices and processes: nothing is gathered, and nothing changes."""

import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

DEVICES, N = 8, 520

SETUP = f"""
    import jax, jax.numpy as jnp, lineax as lx, numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
    jax.config.update("jax_enable_x64", True)
    import implicit_eig as ie

    n, k = {N}, 2
    rng = np.random.default_rng(0)
    p0, d0, g0 = rng.uniform(1, 5, n), rng.standard_normal(n), rng.standard_normal(n)

    def chain(p, left, right):
        down, up = (lambda v: jnp.pad(v[:-1], (1, 0))), (lambda v: jnp.pad(v[1:], (0, 1)))
        product = lambda v: p * v + left * down(v) + right * up(v)
        return lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((n,), p.dtype))

    def loss(values, vectors, g):
        return jnp.sum(jnp.arange(1.0, 1 + len(values)) * values.real) + jnp.sum(
            g[:, None] * jnp.abs(vectors) ** 2
        )

    def hermitian(solver, **options):
        solve = ie.eigensolver(solver, ie.Hermitian(k), **options)
        return lambda p, g: loss(*solve(chain(p, -0.5, -0.5)), g)

    def preconditioned(p, g):
        inverse = lx.DiagonalLinearOperator(1 / p)
        options = {{"linear_solver": ie.MINRES(preconditioner=inverse)}}
        return hermitian(ie.solvers.lanczos(k, steps=120), **options)(p, g)

    def dominant(product):
        def step(_, v):
            v = product(v)
            return v / jnp.linalg.norm(v)
        return lambda v: jax.lax.fori_loop(0, 400, step, v / jnp.linalg.norm(v))

    # one component stands out, so that power iteration converges
    peak = lambda p: p + 6 * (jnp.arange(n) == n // 3)

    def general(p, g):
        def forward(A):
            v = dominant(A.mv)(jnp.ones(n))
            return (v @ A.mv(v))[None], v[:, None]
        solver = lx.GMRES(rtol=1e-12, atol=1e-12, restart=40, stagnation_iters=60)
        solve = ie.eigensolver(ie.traceable(forward), ie.General(1), linear_solver=solver)
        return loss(*solve(chain(peak(p), -0.5, -0.2)), g)

    def two_rows_each(p):
        square = chain(p, -0.5, -0.2)
        product = lambda v: jnp.stack([square.mv(v), 0.3 * p * v], axis=1).reshape(-1)
        return lx.FunctionLinearOperator(product, square.in_structure())

    def singular(p, g, operator=lambda p: chain(p, -0.5, -0.2)):
        def forward(A):
            v = dominant(lambda v: A.transpose().mv(A.mv(v)))(jnp.ones(n))
            u = A.mv(v)
            sigma = jnp.linalg.norm(u)
            return sigma[None], v[:, None], u[:, None] / sigma
        solve = ie.eigensolver(
            ie.traceable(forward), ie.Singular(1), linear_solver=ie.MINRES()
        )
        solution = solve(operator(peak(p)))
        return loss(solution.values, solution.vectors, g)

    def replicated(p, g):
        A = jnp.diag(p[:24]) + 0.3 * jnp.ones((24, 24))
        values, vectors = ie.eigensolver(ie.solvers.jax_eigh(k), ie.Hermitian(k))(A)
        return loss(values, vectors, g[:24]) + jnp.sum(p)

    losses = {{
        "lanczos": hermitian(
            ie.solvers.lanczos(k, steps=120), linear_solver=ie.MINRES()
        ),
        "default": hermitian(ie.solvers.lanczos(k, steps=120)),
        "inverse": hermitian(
            ie.solvers.lanczos(k, inverse=ie.MINRES(), sigma=0.0, steps=60),
            linear_solver=ie.MINRES(),
        ),
        "preconditioned": preconditioned,
        "general": general,
        "singular": singular,
        "rectangular": lambda p, g: singular(p, g, two_rows_each),
        "replicated": replicated,
    }}

    def derivatives(f):
        gradient = jax.grad(f)
        return jax.jit(lambda p, d, g: (
            gradient(p, g),
            jax.jvp(lambda p: f(p, g), (p,), (d,))[1],
            jax.jvp(lambda p: gradient(p, g), (p,), (d,))[1],
        ))

    def spread(devices):
        sharding = NamedSharding(
            Mesh(np.array(devices), ("x",), axis_types=(AxisType.Auto,)), PartitionSpec("x")
        )
        put = lambda a: jax.make_array_from_callback(a.shape, sharding, lambda where: a[where])
        return sharding, [put(a) for a in (p0, d0, g0)]
"""

ONE_PROCESS = f"""
    f = derivatives(losses[name])
    expected = f(p0, d0, g0)
    sharding, given = spread(jax.devices())
    assert len(jax.devices()) == {DEVICES}
    program = f.lower(*given).compile()
    found = program(*given)
    for a, b in zip(found, expected, strict=True):
        error = jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))
        assert error < 1e-10, (name, error)
    assert found[0].sharding.is_equivalent_to(sharding, 1)
    assert found[2].sharding.is_equivalent_to(sharding, 1)
    print("PROGRAM")
    print(program.as_text())
"""

PROCESSES = """
    import sys
    jax.config.update("jax_num_cpu_devices", 2)
    address, count, index = sys.argv[1:]
    jax.distributed.initialize(address, int(count), int(index))
    assert len(jax.devices()) == 2 * int(count)
    f = derivatives(losses["lanczos"])
    expected = [np.asarray(a) for a in f(p0, d0, g0)]
    _, given = spread(jax.devices())
    for a, b in zip(f(*given), expected, strict=True):
        for shard in a.addressable_shards:
            error = np.max(np.abs(np.asarray(shard.data) - b[shard.index])) / np.max(np.abs(b))
            assert error < 1e-10, error
    print("EQUAL")
"""
# XLA gathers a matrix of which each device holds a copy, and a right side for the host, which the
# default calls where MINRES does not converge.
GATHERED = ("replicated", "default")
NAMES = (
    "lanczos",
    "default",
    "inverse",
    "preconditioned",
    "general",
    "singular",
    "rectangular",
    "replicated",
)


def start(code, *arguments, devices=None):
    """Start a process that runs the code after the common part."""
    flags = f"--xla_force_host_platform_device_count={devices}" if devices else ""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SETUP) + textwrap.dedent(code), *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_sharded_vectors_are_not_gathered(name):
    """Derivatives are those of one device, sharded as the parameters; devices exchange little."""
    pytest.importorskip("matfree", reason="needs matfree")
    process = start(f"name = {name!r}\n" + textwrap.dedent(ONE_PROCESS), devices=DEVICES)
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    _, program = printed.split("PROGRAM\n")
    if name in GATHERED:
        return
    assert re.search(r"collective-permute(-start)?\(", program)
    assert not re.search(r"(all-gather|all-to-all)(-start)?\(", program)
    # of vectors, and of pairs of them
    size = re.compile(rf"\[([\d,]+,)?({N}|{2 * N}|{3 * N})[,\]]")
    whole = [line for line in program.splitlines() if size.search(line)]
    assert not whole, whole[:5]


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_find_what_one_does(count):
    pytest.importorskip("matfree", reason="needs matfree")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = [start(PROCESSES, address, str(count), str(i)) for i in range(count)]
    for process in running:
        printed, _ = process.communicate(timeout=500)
        assert process.returncode == 0, printed
        assert "EQUAL" in printed
