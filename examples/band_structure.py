# %% [markdown]
# # Group velocities of a photonic crystal, and their gradient with respect to every pixel
#
# Light polarised along the rods of a square lattice satisfies, with Bloch's factor exp(i k·x) taken
# out,
#
#     −(∇ + ik)² u = ω² ε(x) u,    u periodic.
#
# A(k) is sparse, complex and Hermitian, B = ε diagonal. The group velocity ∂ω/∂k is a first
# derivative of an eigenvalue. Its gradient with respect to the permittivity of all pixels is a
# second derivative, and takes one linear solve with the factorisation that ARPACK has made.

# %%
import argparse
import itertools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--pixels", type=int, default=32, help="along a side of the cell")
parser.add_argument("--points", type=int, default=8, help="wave vectors on each edge of the path")
parser.add_argument("--output", default="band_structure.png", help="where the picture goes")
options = parser.parse_args()
BANDS = 6

# %% [markdown]
# ## The operators
#
# We take finite differences on m×m pixels of a cell of side 1. An edge from one pixel to the next
# carries the phase exp(i k h), so that the pattern is fixed and the entries are functions of k.

# %%
m = options.pixels
n, h = m * m, 1 / m
pixel = np.arange(n).reshape(m, m)
right, above = np.roll(pixel, -1, axis=0).ravel(), np.roll(pixel, -1, axis=1).ravel()
pixel = pixel.ravel()
rows = np.concatenate([pixel, pixel, right, pixel, above]).astype(np.int32)
cols = np.concatenate([pixel, right, pixel, above, pixel]).astype(np.int32)


def operators(k, permittivity):
    phases = jnp.exp(1j * h * k)
    one = jnp.ones(n, phases.dtype)
    edges = [-phases[0] * one, -phases[0].conj() * one, -phases[1] * one, -phases[1].conj() * one]
    A = ie.SparseOperator(jnp.concatenate([4 * one, *edges]) / h**2, rows, cols, (n, n))
    B = ie.SparseOperator(permittivity.astype(A.data.dtype), pixel, pixel, (n, n))
    return A, B


# A is positive semidefinite, so that with σ < 0 A − σB is definite, also at k = 0
solve = ie.eigensolver(ie.solvers.arpack(BANDS, sigma=-1.0), ie.Hermitian(BANDS))
frequencies = lambda k, permittivity: jnp.sqrt(jnp.abs(solve(*operators(k, permittivity)).values))

side = (np.arange(m) + 0.5) / m - 0.5
radius = np.hypot(*np.meshgrid(side, side, indexing="ij"))
# a rod of radius 0.2, its rim smoothed over a pixel
rod = 1 + 7.9 / (1 + np.exp(np.clip(4 * (radius - 0.2) / h, -30, 30)))
permittivity = jnp.asarray(rod.ravel())
print(f"{n} pixels, {BANDS} bands")

# %% [markdown]
# ## The bands along Γ–X–M–Γ, and their velocities along this path
#
# One forward-mode derivative along the path serves all bands; at the corners some of them touch.

# %%
corners = np.pi * np.array([[0, 0], [1, 0], [1, 1], [0, 0.0]])
pieces = itertools.pairwise(corners)
# from just beside a corner: the velocity of the lowest band jumps at Γ
fractions = np.linspace(0.02, 0.98, options.points)[:, None]
path = np.concatenate([a + fractions * (b - a) for a, b in pieces])
along = np.repeat([[1, 0], [0, 1], [-(0.5**0.5), -(0.5**0.5)]], options.points, axis=0)


@jax.jit
def bands(k, direction):
    values = lambda k: jnp.sqrt(solve.values(*operators(k, permittivity)))
    return jax.jvp(values, (k,), (direction,))


omega, velocity = (
    np.array(part)
    for part in zip(
        *(bands(jnp.asarray(k), jnp.asarray(d)) for k, d in zip(path, along, strict=True)),
        strict=True,
    )
)
# long waves feel the mean permittivity
slow = 1 / np.sqrt(permittivity.mean())
print(f"long waves: group velocity {velocity[0, 0]:.5f}, 1/√mean ε = {slow:.5f}")
assert abs(velocity[0, 0] - slow) < 2e-3 * slow

# %% [markdown]
# ## The gradient of a group velocity with respect to all pixels

# %%
k0 = jnp.array([1.9, 0.7])
BAND = 1


frequency = jax.jit(lambda k, permittivity: frequencies(k, permittivity)[BAND])


def group_velocity(permittivity):
    return jax.grad(lambda k: frequencies(k, permittivity)[BAND])(k0)[0]


with_gradient = jax.jit(jax.value_and_grad(group_velocity))
v, gradient = with_gradient(permittivity)
by_differences = ie.testing.finite_difference(
    lambda k: frequency(k, permittivity), (k0,), (jnp.eye(2)[0],), step=1e-2, order=4
)
print(f"∂ω/∂k_x = {v:+.10f}, by differences {by_differences:+.10f}")
assert abs(v - by_differences) < 1e-7
rng = np.random.default_rng(0)
for trial in range(2):
    direction = jnp.asarray(rng.standard_normal(n))
    exact = jnp.vdot(gradient, direction)
    by_differences = ie.testing.finite_difference(
        lambda eps: with_gradient(eps)[0], (permittivity,), (direction,), step=1e-3, order=4
    )
    error = abs(exact - by_differences) / abs(by_differences)
    print(
        f"direction {trial}: ∂²ω/∂k∂ε {exact:+.10e}, by differences {by_differences:+.10e} ({error:.0e})"
    )
    assert error < 1e-6
# under ε → c ε all frequencies scale as 1/√c, and so do their velocities
assert abs(jnp.vdot(gradient, permittivity) + v / 2) < 1e-8

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(2, 2, figsize=(10, 7.6), layout="constrained")
axes = axes.ravel()
steps = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
corner_at = [steps[0], steps[options.points - 1], steps[2 * options.points - 1], steps[-1]]
for axis, numbers, title in (
    (axes[0], omega, "frequency"),
    (axes[1], velocity, "group velocity along the path"),
):
    axis.plot(steps, numbers, ".-")
    axis.set_xticks(corner_at, ["Γ", "X", "M", "Γ"])
    axis.set(title=title, xlabel="wave vector", ylabel="ωa/c" if axis is axes[0] else "v/c")
    for place in corner_at:
        axis.axvline(place, color="0.8", lw=0.8)
image = axes[2].imshow(rod.T, origin="lower", extent=(-0.5, 0.5, -0.5, 0.5), cmap="Greys")
axes[2].set(title="permittivity ε", xlabel="x/a", ylabel="y/a")
figure.colorbar(image, ax=axes[2], shrink=0.8)
density = np.asarray(gradient).reshape(m, m).T / h**2
limit = np.abs(density).max()
image = axes[3].imshow(
    density, origin="lower", extent=(-0.5, 0.5, -0.5, 0.5), cmap="RdBu", vmin=-limit, vmax=limit
)
axes[3].set(title=f"∂v_x/∂ε of band {BAND + 1}, per unit area", xlabel="x/a", ylabel="y/a")
figure.colorbar(image, ax=axes[3], shrink=0.8)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
