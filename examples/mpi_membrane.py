# %% [markdown]
# # A membrane on many processes
#
# K(p) u = λ M(p) u on bilinear elements, with a stiffness and a mass for each of m² cells. Each rank
# of MPI assembles a band of cells and has their parameters; PETSc distributes the matrices, SLEPc
# finds the eigenpairs, and the adjoint systems are solved with its factors. Gradients do not depend
# on the number of ranks:
#
#     mpiexec -n 1 python examples/mpi_membrane.py
#     mpiexec -n 4 python examples/mpi_membrane.py

# %%
import argparse
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from mpi4py import MPI

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cells", type=int, default=450, help="m: cells each way")
parser.add_argument("--adjoint", default="", help="a preconditioner of PETSc for the adjoint")
parser.add_argument("--output", default="mpi_membrane.png", help="where the picture goes")
options = parser.parse_args()
m, PAIRS = options.cells, 4
comm = MPI.COMM_WORLD

# %% [markdown]
# ## One element, and this rank's band of cells
#
# The membrane is 1 by 1.2 and held at its edge: the nodes there are no unknowns.

# %%
sides = 1 / m, 1.2 / m
stretch, lump = np.array([[1, -1], [-1, 1.0]]), np.array([[2, 1], [1, 2.0]]) / 6
Ke = np.kron(stretch / sides[0], lump * sides[1]) + np.kron(lump * sides[0], stretch / sides[1])
Me = np.kron(lump * sides[0], lump * sides[1])

bands = np.linspace(0, m, comm.size + 1).astype(int)
band = np.arange(bands[comm.rank], bands[comm.rank + 1])
x, y = (part.ravel() for part in np.meshgrid(band, np.arange(m), indexing="ij"))
corners = [(x + a, y + b) for a in (0, 1) for b in (0, 1)]
inside = [(a >= 1) & (a < m) & (b >= 1) & (b < m) for a, b in corners]
nodes = [(a - 1) * (m - 1) + (b - 1) for a, b in corners]
n = (m - 1) ** 2

places = [(i, j, np.flatnonzero(inside[i] & inside[j])) for i in range(4) for j in range(4)]
rows = np.concatenate([nodes[i][cell] for i, j, cell in places])
cols = np.concatenate([nodes[j][cell] for i, j, cell in places])


def entries(p):
    """Return this rank's entries of K and M, of its cells' parameters."""
    K = [Ke[i, j] * p[cell] for i, j, cell in places]
    M = [Me[i, j] * (0.5 + 0.5 * p[cell]) for i, j, cell in places]
    return jnp.concatenate(K), jnp.concatenate(M)


# %% [markdown]
# ## The loss, and its gradient
#
# The lowest frequency, and how much of the second mode is in the corner of the first 40 % each way.
# It is a sum over the nodes, of which each rank has some.

# %%
solve = ie.petsc.eigensolver(
    ie.petsc.Entries(entries, rows, cols, n),
    ie.Hermitian(PAIRS),
    sigma=0.0,
    replicated=False,
    adjoint={"pc_type": options.adjoint} if options.adjoint else None,
)


def gradient(p):
    begun = time.perf_counter()
    pairs, pullback = solve(p)
    found = time.perf_counter()
    node = np.arange(*pairs.rows)
    corner = (node // (m - 1) < 0.4 * m) & (node % (m - 1) < 0.4 * m)
    mode = pairs.vectors[:, 1]
    weight = 1e3 / n
    loss = pairs.values[0] + comm.allreduce(weight * np.sum(np.abs(mode[corner]) ** 2))
    vectors_bar = np.zeros_like(pairs.vectors)
    vectors_bar[corner, 1] = 2 * weight * mode[corner]
    values_bar = np.eye(PAIRS)[0]
    p_bar = pullback(values_bar, vectors_bar)
    return loss, p_bar, pairs, (found - begun, time.perf_counter() - found)


# a material that varies with the place, the same for every number of ranks
p = 1 + 0.4 * np.sin(7.0 * x / m) * np.cos(5.0 * y / m)
loss, p_bar, pairs, times = gradient(p)

# %% [markdown]
# ## Against a difference

# %%
direction = np.cos(3.0 * x / m + 2.0 * y / m)
step = 1e-4
ahead, behind = (gradient(p + sign * step * direction)[0] for sign in (1, -1))
difference = (ahead - behind) / (2 * step)
derivative = comm.allreduce(float(p_bar @ direction))
assert abs(derivative - difference) < 1e-5 * abs(difference), (derivative, difference)
norm = np.sqrt(comm.allreduce(float(p_bar @ p_bar)))
if comm.rank == 0:
    forward, adjoint = (f"{seconds:.1f} s" for seconds in times)
    print(
        f"{comm.size} ranks, {n} unknowns, {m * m} parameters: forward {forward}, gradient "
        f"{adjoint}\nvalues {np.array2string(pairs.values, precision=10)}, derivative "
        f"{derivative:.12f}, by a difference {difference:.8f}\ngradient norm {norm:.13f}"
    )

# %% [markdown]
# ## The picture

# %%
bands = comm.gather(p_bar)
if comm.rank == 0:
    field = np.concatenate(bands).reshape(m, m) * m * m / 1.2
    limit = np.quantile(np.abs(field), 0.995)
    figure, axis = plt.subplots(figsize=(5, 4.6), layout="constrained")
    image = axis.imshow(
        field.T, origin="lower", extent=[0, 1, 0, 1.2], cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    figure.colorbar(image, ax=axis, label="gradient per unit of area")
    axis.set(title="where more material raises the loss", xlabel="x", ylabel="y")
    figure.savefig(options.output, dpi=150)
