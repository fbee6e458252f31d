# %% [markdown]
# # A quantum dot on many devices
#
# An electron in a potential V(x), H = −Δ/2 + V, known by its products on m³ points. The parameters
# are the values of V at all points. V is a sharded array: each device holds a slab of it, and with
# it a slab of every vector. Eigensolver and adjoint are JAX code whose vectors stay where they are,
# so that XLA divides the work; devices exchange the faces of their slabs and sums, and nothing of
# the size of a vector. The same script runs
#
#     python examples/sharded_schroedinger.py                 # on one device, a GPU if there is one
#     python examples/sharded_schroedinger.py --devices 8     # on eight that JAX makes of this CPU
#
# and in several processes, on one machine or many, one command for each:
#
#     python examples/sharded_schroedinger.py --processes 2 --process 0 --coordinator host:1234
#     python examples/sharded_schroedinger.py --processes 2 --process 1 --coordinator host:1234

# %%
import argparse
import time

import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--points", type=int, default=32, help="m: points each way")
parser.add_argument("--invert", action="store_true", help="Lanczos' method for the inverse")
parser.add_argument("--devices", type=int, help="devices that JAX makes of the CPU, per process")
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--process", type=int, default=0, help="which of them this is")
parser.add_argument("--coordinator", default="localhost:1234", help="address of process 0")
parser.add_argument("--output", default="sharded_schroedinger.png", help="where the picture goes")
options = parser.parse_args()

jax.config.update("jax_enable_x64", True)
if options.devices:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
if options.processes > 1:
    jax.distributed.initialize(options.coordinator, options.processes, options.process)
PAIRS, SIDE = 3, 10.0

# %% [markdown]
# ## The operator
#
# Products alone. The neighbours along the first axis of the points at the face of a slab lie on the
# next device; `jnp.roll` becomes an exchange of faces.


# %%
def hamiltonian(V, spacing):
    places = [jax.lax.broadcasted_iota(jnp.int32, V.shape, axis) for axis in range(3)]

    def product(v):
        u = v.reshape(V.shape)
        y = (V + 3 / spacing**2) * u
        for axis, (place, m) in enumerate(zip(places, V.shape, strict=True)):
            for step, edge in ((1, 0), (-1, m - 1)):
                y -= jnp.where(place == edge, 0, jnp.roll(u, step, axis)) / (2 * spacing**2)
        return y.reshape(-1)

    return lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((V.size,), V.dtype))


# %% [markdown]
# ## A function of eigenvalues and eigenvectors
#
# The gap between the two lowest energies, and the probability that the electron of lowest energy is
# in the half x > 0. The solver is Lanczos' method, which keeps all its vectors, more on finer
# grids; or, with `--invert`, that for H⁻¹, which keeps 50, with MINRES inside. The adjoint is
# solved by MINRES.


# %%
def eigensolver(m):
    if options.invert:
        forward = ie.solvers.lanczos(PAIRS, inverse=ie.MINRES(), steps=50, sigma=0.0)
    else:
        forward = ie.solvers.lanczos(PAIRS, steps=100 + 4 * m)
    return ie.eigensolver(forward, ie.Hermitian(PAIRS), linear_solver=ie.MINRES())


def loss(V):
    solve = eigensolver(V.shape[0])
    energies, states = solve(hamiltonian(V, SIDE / (V.shape[0] - 1)))
    m = V.shape[0]
    right = jax.lax.broadcasted_iota(jnp.int32, V.shape, 0) >= m // 2
    density = states[:, 0].reshape(V.shape) ** 2
    return energies[1] - energies[0] + jnp.sum(jnp.where(right, density, 0)), (energies, density)


value_and_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

# %% [markdown]
# ## The potential, slab by slab
#
# Two wells of unequal depth. Each device makes its own part.


# %%
def potential(m, devices):
    """Return V on m³ points, in slabs on the devices; V as a function of slices, on the host."""
    x = np.linspace(-SIDE / 2, SIDE / 2, m)

    def part(where):
        X, Y, Z = np.meshgrid(*(x[each] for each in where), indexing="ij")
        wells = [(1.4, 2.0, 0.9), (-1.4, 1.7, 1.1)]
        dip = [a * np.exp(-((X - c) ** 2 + Y**2 + Z**2) / w) for c, a, w in wells]
        return 2.5 + 0.5 * (0.3 * X**2 + (1.15 * Y) ** 2 + (1.33 * Z) ** 2) - sum(dip)

    mesh = Mesh(np.array(devices), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    return jax.make_array_from_callback((m,) * 3, sharding, part), part


def norm(array):
    return float(jax.jit(lambda a: jnp.sqrt(jnp.sum(a**2)))(array))


# %% [markdown]
# ## The same gradient as on one device
#
# On a small grid, compared slab by slab.

# %%
small = len(jax.devices()) * max(1, 16 // len(jax.devices()))
V, part = potential(small, jax.devices())
_, gradient = value_and_gradient(V)
alone, _ = potential(small, jax.local_devices()[:1])
_, expected = value_and_gradient(alone)
expected = np.asarray(expected)
difference = max(
    np.max(np.abs(np.asarray(shard.data) - expected[shard.index]))
    for shard in gradient.addressable_shards
)
difference /= np.max(np.abs(expected))
assert difference < 1e-10, difference
assert gradient.sharding.is_equivalent_to(V.sharding, 3)

# %% [markdown]
# ## The large one

# %%
V, part = potential(options.points, jax.devices())
start = time.perf_counter()
(value, (energies, density)), gradient = jax.block_until_ready(value_and_gradient(V))
first = time.perf_counter() - start
start = time.perf_counter()
jax.block_until_ready(value_and_gradient(V))
again = time.perf_counter() - start
size = norm(gradient)
# adding a constant to V changes no gap and no state
total = float(jax.jit(jnp.sum)(gradient))
assert abs(total) < 1e-6 * size * options.points**1.5, total
if options.process == 0:
    slab = gradient.addressable_shards[0].data.nbytes / 2**20
    print(
        f"{len(jax.devices())} devices in {options.processes} processes, {V.size} unknowns, of a "
        f"vector {slab:.2f} MB on each: first {first:.1f} s, again {again:.1f} s\n"
        f"energies {np.array2string(np.asarray(energies), precision=8)}, "
        f"{difference:.0e} from one device on {small}³ points\n"
        f"gradient norm {size:.12f}"
    )

# %% [markdown]
# ## The picture
#
# Through the middle of the dot: where the electron is, and where a change of the potential widens
# the gap or moves the electron to the right. Drawn by a single process, which has all slabs.

# %%
if options.processes == 1:
    middle = options.points // 2
    fields = {
        "potential V (hartree)": part((slice(None), slice(None), slice(middle, middle + 1)))[
            :, :, 0
        ],
        "density of the lowest state": np.asarray(density)[:, :, middle],
        "gradient with respect to V": np.asarray(gradient)[:, :, middle],
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        signed = name.startswith("gradient")
        limit = np.max(np.abs(field))
        image = axis.imshow(
            field.T,
            origin="lower",
            extent=[-SIDE / 2, SIDE / 2] * 2,
            cmap="RdBu_r" if signed else "cividis",
            vmin=-limit if signed else None,
            vmax=limit if signed else None,
        )
        figure.colorbar(image, ax=axis, shrink=0.85)
        axis.set(title=name, xlabel="x (bohr)", ylabel="y (bohr)")
        edges = np.linspace(-SIDE / 2, SIDE / 2, len(jax.devices()) + 1)[1:-1]
        for edge in edges:
            axis.axvline(edge, color="white" if not signed else "0.7", lw=0.5, ls=":")
    figure.savefig(options.output, dpi=150)
