# %% [markdown]
# # A finite-element code of NumPy and SciPy: how 5,000 thicknesses move the tones of a plate
#
# The lowest tones of a thin plate solve K(t) x = λ M(t) x with λ = ω². In cell e the bending
# stiffness grows with the cube of the thickness t_e and the mass in proportion to it,
#
#     K = Σ t_e³ K_e,    M = Σ t_e M_e.
#
# The code that assembles them knows nothing of JAX: it takes a NumPy array and returns SciPy's sparse
# matrices. Differentiating K x = λ M x, and multiplying by xᵀ from the left with xᵀMx = 1, gives
#
#     ∂λ/∂t_e = xᵀ(∂K/∂t_e)x − λ xᵀ(∂M/∂t_e)x = 3t_e² x_eᵀK_e x_e − λ x_eᵀM_e x_e,
#
# where x_e are the unknowns of cell e. So beside the eigenpairs a gradient needs yᵀ(∂K/∂t)x for two
# vectors y and x: one number for each cell, from one loop over the cells, as the assembly is. From
# these two functions `host_operator` makes an operator. `jax.grad` of any function of the eigenvalues
# then takes one contraction of K and one of M for each eigenpair that the function uses, whether
# there are 5 parameters or 5,000. Differences would take a solve for each parameter.


# %%
import argparse
import time

import jax
import matplotlib
import numpy as np
import scipy.sparse as sp
from scipy.special import perm

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description="The gradient of a plate's tones by its thicknesses.")
parser.add_argument("--cells", type=int, default=50, help="cells along the shorter side")
parser.add_argument("--output", default="host_assembly.png", help="where the picture goes")
options = parser.parse_args()
NY, NX, PAIRS, POISSON = options.cells, 2 * options.cells, 4, 0.3
h = 1 / NY  # the plate is 2 long and 1 wide

# %% [markdown]
# ## The user's code: an element
#
# The element of Adini, Clough and Melosh has w, ∂w/∂x and ∂w/∂y in each corner. They determine the
# twelve coefficients of the deflection w = Σ cⱼ x^aⱼ y^bⱼ.

# %%
a, b = np.array([(a, b) for a in range(4) for b in range(4 - a)] + [(3, 1), (1, 3)]).T


def monomials(x, y, dx=0, dy=0):
    """Return the derivatives of all monomials at all points, shape (points, 12)."""
    along_x = perm(a, dx) * x[:, None] ** np.maximum(a - dx, 0)
    return along_x * perm(b, dy) * y[:, None] ** np.maximum(b - dy, 0)


x, y = np.array([(0, 0), (h, 0), (h, h), (0, h)]).T
unknowns = np.stack([monomials(x, y), monomials(x, y, 1, 0), monomials(x, y, 0, 1)], axis=1)
points, weights = np.polynomial.legendre.leggauss(4)
x, y = (z.ravel() for z in np.meshgrid(*2 * [h * (1 + points) / 2]))
weights = np.outer(weights, weights).ravel() * h**2 / 4
derivatives = np.stack([monomials(x, y, *d) for d in ((0, 0), (2, 0), (0, 2), (1, 1))])
w, xx, yy, xy = derivatives @ np.linalg.inv(unknowns.reshape(12, 12))
moments = (xx + POISSON * yy, yy + POISSON * xx, 2 * (1 - POISSON) * xy)
K_E = sum(m.T * weights @ c for m, c in zip(moments, (xx, yy, xy), strict=True))
M_E = w.T * weights @ w

# %% [markdown]
# ## The user's code: assembly and contraction
#
# The edges are hinged: the deflection and the slope along the edge are zero.

# %%
node = np.arange((NY + 1) * (NX + 1)).reshape(NY + 1, NX + 1)
corners = np.stack([node[:-1, :-1], node[:-1, 1:], node[1:, 1:], node[1:, :-1]], axis=-1)
fixed = np.zeros((NY + 1, NX + 1, 3), bool)
fixed[[0, -1], :, :2] = True
fixed[:, [0, -1], ::2] = True
n = int(np.sum(~fixed))
place = np.where(fixed.ravel(), -1, np.cumsum(~fixed) - 1)
cells = place[(3 * corners[..., None] + np.arange(3)).reshape(NY * NX, 12)]
rows, cols = np.repeat(cells, 12, axis=1).ravel(), np.tile(cells, (1, 12)).ravel()
free = (rows >= 0) & (cols >= 0)
contractions = []


def weighted(power, matrix):
    """Return t -> Σ t_e^power matrix_e, and its contraction."""

    def assemble(t):
        data = np.outer(t**power, matrix).ravel()
        return sp.coo_matrix((data[free], (rows[free], cols[free])), (n, n)).tocsr()

    def contract(t, y, x):
        contractions.append(power)
        y, x = np.append(y, 0)[cells], np.append(x, 0)[cells]
        return power * t ** (power - 1) * np.sum(y @ matrix * x, axis=1)

    return assemble, contract


(stiffness, stiffness_contract), (mass, mass_contract) = weighted(3, K_E), weighted(1, M_E)

# %% [markdown]
# ## The package: two operators, SciPy's ARPACK, and a function of the lowest eigenvalues
#
# The function is the interval between the first two tones, ω₂/ω₁ = √(λ₂/λ₁). In theory the uniform
# plate has λ = π⁴ (i²/4 + j²)², i, j = 1, 2, …

# %%
solve = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(PAIRS))


def interval(t):
    K = ie.host_operator(stiffness, t, contract=stiffness_contract, shape=(n, n), dtype=float)
    M = ie.host_operator(mass, t, contract=mass_contract, shape=(n, n), dtype=float)
    values = solve(K, M).values
    return (values[1] / values[0]) ** 0.5, values


def timed(f, t):
    """Return f(t) and its time, without that of compiling."""
    jax.block_until_ready(f(0.99 * t))
    start = time.perf_counter()
    return jax.block_until_ready(f(t)), time.perf_counter() - start


n_t = NY * NX
thickness = np.ones(n_t)
evaluate = jax.jit(interval)
(start, values), solving = timed(evaluate, thickness)
i, j = np.arange(1, 9)[:, None], np.arange(1, 9)
exact = np.sort(np.pi**4 * (i**2 / 4 + j**2) ** 2, axis=None)[:PAIRS]
print(f"{n} unknowns, {n_t} parameters, {PAIRS} eigenpairs: solved in {solving:.2f} s")
print("eigenvalues", *(f"{value:.2f}" for value in values))
print("in theory  ", *(f"{value:.2f}" for value in exact))
assert np.all(np.abs(values / exact - 1) < 10 * h**2)

# %% [markdown]
# ## All derivatives at once, against central differences
#
# Scaling all thicknesses scales all tones alike, so that the interval is of degree 0 in t, and the
# derivatives at the uniform plate sum to zero.

# %%
(gradient, _), taken = timed(jax.jit(jax.grad(interval, has_aux=True)), thickness)
gradient, used = np.asarray(gradient), len(contractions) // 2  # of two calls
print(f"ω₂/ω₁ = {start:.4f} and {n_t} derivatives: {taken:.2f} s, {used} contractions")
print(f"by one-sided differences: {n_t + 1} solves, about {(n_t + 1) * solving / 60:.0f} min")
assert used == 4  # of K and of M for two eigenpairs
assert abs(gradient.sum()) < 1e-8 * np.abs(gradient).sum()
step = 3e-4
for trial, direction in enumerate(np.random.default_rng(0).standard_normal((3, n_t))):
    slope = gradient @ direction
    ends = [evaluate(thickness + s * direction)[0] for s in (step, -step)]
    difference = (ends[0] - ends[1]) / (2 * step)
    error = abs(slope - difference) / np.linalg.norm(gradient)
    print(f"direction {trial}: {slope:+.6e}, differences {difference:+.6e}, error {error:.0e}")
    assert error < 1e-5

figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
image = axis.imshow(gradient.reshape(NY, NX) / h**2, "RdBu_r", origin="lower", extent=(0, 2, 0, 1))
image.set_clim(-np.abs(gradient).max() / h**2, np.abs(gradient).max() / h**2)
figure.colorbar(image, label="∂(ω₂/ω₁)/∂t, for unit area")
axis.set(xlabel="x", ylabel="y", title=f"where thickness widens the interval, {NX} × {NY} cells")
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
