# %% [markdown]
# # A square sheet of the highest lowest tone, which is double: three kinds of ascent side by side
#
# A sheet of plane stress is held in its four corners and carries a mass in its middle. Each cell has
# a density ρ, from nearly 0 to 1, whose mean is given. Which ρ has the highest lowest eigenvalue of
# K(ρ) x = λ M(ρ) x? Intermediate densities are made uneconomical (SIMP): stiffness goes with ρ³, mass
# with ρ, and below 0.1 with a higher power, because otherwise empty regions would have the lowest
# modes (Du & Olhoff, 2007). ρ is filtered, and has the given mean for every q, the parameters.
#
# In the lowest mode the mass swings one way, in the next the other: in a symmetric sheet they have
# one eigenvalue. Ascent leads there, because what raises the lower one soon makes it the upper one.
# There the smaller of the two has a kink and no gradient, and three answers compete:
#
# - the gradient of a soft minimum, −log Σ exp(−β log λᵢ) / β, which is smooth where eigenvalues meet;
# - the gradient of λ₁ alone, xᵀ(∂K − λ₁∂M)x for the x that the solver happens to return. The package
#   computes it, and warns that the function has none;
# - the least-norm element of the generalised gradient { Σ Vⱼₗ xⱼᵀ(∂K − λ₁∂M)xₗ : V ⪰ 0, tr V = 1 },
#   which raises both (`minimum_norm_subgradient`).


# %%
import argparse
import warnings

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.scipy.signal import convolve
from jax.scipy.special import logsumexp

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description="The highest lowest tone of a sheet, three ways.")
parser.add_argument("--cells", type=int, default=12, help="cells along a side, an even number")
parser.add_argument("--steps", type=int, default=100, help="steps of each method")
parser.add_argument("--output", default="topology.png", help="where the picture goes")
options = parser.parse_args()
C, PAIRS, POISSON, MEAN, SMALLEST, BETA = options.cells, 4, 0.3, 0.4, 0.02, 20.0

# %% [markdown]
# ## The sheet, in bilinear squares

# %%
ends = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
elasticity = np.array([[1, POISSON, 0], [POISSON, 1, 0], [0, 0, (1 - POISSON) / 2]])
K_E, M_E = np.zeros((2, 8, 8))
for s, t in ends / np.sqrt(3):
    shape = (1 + s * ends[:, 0]) * (1 + t * ends[:, 1]) / 4
    dx, dy = ends[:, 0] * (1 + t * ends[:, 1]) / 2, ends[:, 1] * (1 + s * ends[:, 0]) / 2
    strain = np.zeros((3, 8))
    strain[0, ::2], strain[1, 1::2] = dx, dy
    strain[2, ::2], strain[2, 1::2] = dy, dx
    K_E += strain.T @ (elasticity / (1 - POISSON**2)) @ strain / 4
    M_E += np.kron(np.outer(shape, shape), np.eye(2)) / (4 * C**2)

node = np.arange((C + 1) ** 2).reshape(C + 1, C + 1)
corners = np.stack([node[:-1, :-1], node[:-1, 1:], node[1:, 1:], node[1:, :-1]], axis=-1)
away = np.abs(np.arange(C + 1) / C - 0.5)  # from the middle
moving = np.minimum.outer(away, away).ravel() < 0.42
place = np.where(moving, np.cumsum(moving) - 1, -1)
cells = (2 * place[corners][..., None] + np.arange(2)).reshape(C * C, 8)
rows, cols = np.repeat(cells, 8, axis=1).ravel(), np.tile(cells, (1, 8)).ravel()
kept = np.flatnonzero((rows >= 0) & (cols >= 0))
at, n = (rows[kept], cols[kept]), 2 * moving.sum()
middle = np.maximum.outer(away, away).ravel()[moving] < 0.07
load = np.repeat(0.2 * middle / middle.sum(), 2)  # half the mass of the sheet
cone = np.maximum(0, 1 - np.hypot(*np.ogrid[-2:3, -2:3]) / 2.2)
share = 1 / convolve(jnp.ones((C, C)), cone, "same")


def filtered(q):
    return share * convolve(SMALLEST + (1 - SMALLEST) * jax.nn.sigmoid(q), cone, "same")


def density(q):
    """Return the densities of q + c, where c gives the volume."""

    def halve(_, ends):
        c = jnp.mean(ends)
        return jnp.where(jnp.mean(filtered(q + c)) < MEAN, ends.at[0].set(c), ends.at[1].set(c))

    excess = lambda c: jnp.mean(filtered(q + c)) - MEAN
    c = jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, halve, jnp.array([-20.0, 20.0])))[0]
    # c is exact already; this Newton step gives it its derivative
    return filtered(q + c - excess(c) / jax.lax.stop_gradient(jax.grad(excess)(c)))


def operators(q):
    rho = density(q).ravel()
    inertia = jnp.where(rho > 0.1, rho, 6e5 * rho**6 - 5e6 * rho**7)
    K = ie.SparseOperator(jnp.outer(rho**3, K_E).ravel()[kept], *at, (n, n))
    M = ie.SparseOperator(jnp.outer(inertia, M_E).ravel()[kept], *at, (n, n))
    return K, M + ie.SparseOperator(load, np.arange(n), np.arange(n), (n, n))


# %% [markdown]
# ## Three ascents from a design without symmetry
#
# `degeneracy_rtol` says which eigenvalues count as one, here those within 2 %. By default they must
# agree to rounding, which a line search never meets; that is right for the soft minimum.


# %%
def solver(policy):
    solve = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(PAIRS), policy=policy)
    return jax.jit(lambda q: solve(*operators(q)))


def soft_minimum(values):
    return -logsumexp(-BETA * jnp.log(values)) / BETA


exact, bundled = solver(ie.Policy()), solver(ie.Policy(degeneracy_rtol=0.02))
methods = {
    "soft minimum": jax.grad(lambda q: soft_minimum(exact(q).values)),
    "single gradient": jax.grad(lambda q: bundled(q).values[0]),
    "least norm": lambda q: ie.minimum_norm_subgradient(bundled, q, index=0),
}


def ascend(gradient, objective, q):
    """Return the last design and the eigenvalues of all steps; a failed one halves the length."""
    t, trial, best, history = 1.0, q, -np.inf, []
    for _ in range(options.steps):
        values = bundled(trial).values
        if objective(values) > best:
            q, best, g, t = trial, objective(values), gradient(trial), min(1.5 * t, 2.0)
            kept_values = np.asarray(values)
        else:
            t /= 2
        history.append(kept_values)
        trial = q + t * g / jnp.abs(g).max()
    return np.asarray(density(q)), np.array(history)


start = 0.5 * jnp.asarray(np.random.default_rng(0).standard_normal((C, C)))
figure, axes = plt.subplots(2, 2, figsize=(9, 7.4), layout="constrained")
axes = axes.ravel()
lowest, warned = {}, {}
for colour, (name, gradient), axis in zip(
    ("C0", "C3", "C2"), methods.items(), axes[1:], strict=True
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        objective = soft_minimum if name == "soft minimum" else lambda values: values[0]
        rho, history = ascend(gradient, objective, start)
    assert abs(rho.mean() - MEAN) < 1e-9
    assert all(issubclass(warning.category, ie.GaugeWarning) for warning in caught)
    lowest[name], warned[name] = history[:, 0], len(caught)
    (before, *_), (first, second, *_) = history[[0, -1]]
    print(f"{name:>15}: λ₁ {before:.4f} → {first:.4f}, λ₂ → {second:.4f}, {len(caught)} warnings")
    if caught:
        print(f"{'':>15}  {str(caught[0].message).split(';')[0]}")
    axes[0].plot(history[:, 0], colour, label=f"λ₁, {name}")
    axes[0].plot(history[:, 1], colour, ls=":", label="λ₂")
    image = axis.imshow(rho, "gray_r", origin="lower", vmin=0, vmax=1)
    axis.set(title=f"{name}: λ₁ = {first:.3f}", xticks=[], yticks=[])
axes[0].set(xlabel="step", ylabel="eigenvalue", title=f"mean density {MEAN}, {C} × {C} cells")
axes[0].legend()
figure.colorbar(image, ax=axes[[1, 3]], label="density of each cell", shrink=0.9)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")

single = lowest.pop("single gradient")
assert min(history[-1] for history in lowest.values()) > 1.1 * single[-1]  # both go on,
assert single[-1] < 1.01 * single[-options.steps // 4]  # where the single gradient stalls
assert [name for name in warned if warned[name]] == ["single gradient"]
