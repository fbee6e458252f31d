# %% [markdown]
# # A finite-element code that is not JAX: 5,000 parameters, one contraction for each mode
#
# Your assembly is host code, here NumPy and SciPy. It provides two things: the matrices K(p) and
# M(p), and, for two vectors y and x, the numbers yᴴ (∂K/∂p) x, one for each parameter. The latter
# are computed by a loop over elements, as the assembly is, and are all that a gradient needs:
#
#     ∂λ/∂p = xᴴ (∂K/∂p) x − λ xᴴ (∂M/∂p) x,    xᴴMx = 1.
#
# ∂K/∂p is never formed.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cells", type=int, default=50, help="cells along a side, of two triangles")
parser.add_argument("--output", default="finite_elements.png", help="where the picture goes")
options = parser.parse_args()

# %% [markdown]
# ## The finite-element code
#
# Linear triangles cover the unit square, with a fixed boundary. The parameters are the thicknesses
# of the elements: stiffness grows with the cube of the thickness, mass in proportion to it.

# %%
m = options.cells
number = np.arange((m + 1) ** 2).reshape(m + 1, m + 1)
corners = [number[:-1, :-1], number[1:, :-1], number[:-1, 1:], number[1:, 1:]]
a, b, c, d = (corner.ravel() for corner in corners)
elements = np.concatenate([np.stack([a, b, c], axis=1), np.stack([d, c, b], axis=1)])
# the two triangles of a cell differ by half a turn, so that they have the same matrices
k_e = 0.5 * np.array([[2.0, -1.0, -1.0], [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
m_e = (np.ones((3, 3)) + np.eye(3)) / (24 * m**2)
inner = np.full((m + 1) ** 2, -1)
inner[number[1:-1, 1:-1].ravel()] = np.arange((m - 1) ** 2)
places = inner[elements]  # −1 at the edge
n, shape = (m - 1) ** 2, ((m - 1) ** 2, (m - 1) ** 2)
calls = {"assemble": 0, "contract": 0}


def assemble(weights, element):
    calls["assemble"] += 1
    rows, cols = np.repeat(places, 3, axis=1).ravel(), np.tile(places, (1, 3)).ravel()
    data, free = np.outer(weights, element).ravel(), (rows >= 0) & (cols >= 0)
    return sp.coo_matrix((data[free], (rows[free], cols[free])), shape).tocsc()


def contract(slopes, element, y, x):
    """Return slopes_e · y_eᴴ element x_e for each element e."""
    calls["contract"] += 1
    y, x = np.append(y, 0)[places], np.append(x, 0)[places]
    return slopes * np.einsum("ei,ij,ej->e", y.conj(), element, x)


def stiffness(p):
    return assemble(p**3, k_e)


def stiffness_contract(p, y, x):
    return contract(3 * p**2, k_e, y, x)


def mass(p):
    return assemble(p, m_e)


def mass_contract(p, y, x):
    return contract(np.ones_like(p), m_e, y, x)


# %% [markdown]
# ## The operators, and a black-box solver
#
# SciPy's ARPACK receives the matrices exactly as they were assembled.


# %%
def pencil(p):
    K = ie.host_operator(stiffness, p, contract=stiffness_contract, shape=shape, dtype=float)
    M = ie.host_operator(mass, p, contract=mass_contract, shape=shape, dtype=float)
    return K, M


def arpack(K, M):
    return eigsh(K, k=3, M=M, sigma=0.0, v0=np.ones(n))


solve = ie.eigensolver(arpack, ie.Hermitian(k=2))


def ratio(p):
    """Return λ₂/λ₁."""
    values, _ = solve(*pencil(p))
    return values[1] / values[0]


def spread(p):
    """Return Σ x⁴ of the first mode, which is large where the mode is local."""
    _, vectors = solve(*pencil(p))
    return jnp.sum(vectors[:, 0] ** 4) / n


# %% [markdown]
# ## Gradients, and how often the code was called
#
# A gradient takes one assembly of K and one of M, and for each mode that the function uses one
# contraction of each, however many parameters there are. The gradients agree with finite
# differences along a random direction.

# %%
rng = np.random.default_rng(0)
p = jnp.asarray(1 + 0.2 * rng.random(len(elements)))
direction = jnp.asarray(rng.standard_normal(len(p)))
gradients = {}
for f, modes in ((ratio, 2), (spread, 1)):
    calls.update(assemble=0, contract=0)
    gradient = gradients[f] = jax.block_until_ready(jax.jit(jax.grad(f))(p))
    counted = dict(calls)
    h = 1e-5
    differences = (f(p + h * direction) - f(p - h * direction)) / (2 * h)
    error = abs(gradient @ direction - differences) / abs(differences)
    print(
        f"{f.__name__:6} {len(p)} parameters, {n} unknowns: {counted['contract']} contractions, "
        f"error {error:.0e}"
    )
    assert counted["contract"] == 2 * modes
    assert counted["assemble"] <= 2  # none where p is the same as in the previous call
    assert error < 1e-5

# %% [markdown]
# ## The picture
#
# Where to make the sheet thicker in order to raise the ratio of the two frequencies, or to make the
# first mode more local.

# %%
x, y = np.divmod(np.arange((m + 1) ** 2), m + 1) / np.array(m)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for axis, (f, title) in zip(
    axes, {ratio: "of λ₂/λ₁", spread: "of Σ x⁴ of the first mode"}.items(), strict=True
):
    mesh = np.stack([x, y]), elements.T
    ie.plot.sensitivity(gradients[f] * m**2, mesh, axis, label="derivative per unit area")
    axis.set(title=f"gradient {title} by thickness", xlabel="x", ylabel="y")
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
