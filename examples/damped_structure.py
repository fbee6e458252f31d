# %% [markdown]
# # Where to put dashpots along a beam
#
# The free vibration u(t) = x exp(λt) of a damped structure is a quadratic eigenproblem,
#
#     (K + λ C + λ² M) x = 0,    damping ratio ζ = −Re λ / |λ|.
#
# A dashpot acts between each node of a hinged beam and the ground. First we take the gradient of
# the damping ratios of several modes with respect to all dashpots; then a given total of damping is
# distributed so that the geometric mean of the ratios is largest.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy.linalg as sla
from tqdm import trange

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--elements", type=int, default=16, help="finite elements along the beam")
parser.add_argument("--steps", type=int, default=150, help="steps of the optimisation")
parser.add_argument("--output", default="damped_structure.png", help="where the picture goes")
options = parser.parse_args()
MODES = 5
BUDGET = 1.5  # the sum of all dashpots

# %% [markdown]
# ## The beam
#
# The beam consists of Euler–Bernoulli elements with a deflection and a rotation at each node. Its
# length, its stiffness and its mass per length are one, and both ends are hinged.

# %%
E = options.elements
h = 1 / E
stiffness = (
    np.array(
        [
            [12, 6 * h, -12, 6 * h],
            [6 * h, 4 * h**2, -6 * h, 2 * h**2],
            [-12, -6 * h, 12, -6 * h],
            [6 * h, 2 * h**2, -6 * h, 4 * h**2],
        ]
    )
    / h**3
)
mass = np.array(
    [
        [156, 22 * h, 54, -13 * h],
        [22 * h, 4 * h**2, 13 * h, -3 * h**2],
        [54, 13 * h, 156, -22 * h],
        [-13 * h, -3 * h**2, -22 * h, 4 * h**2],
    ]
) * (h / 420)
K, M = np.zeros((2, 2 * E + 2, 2 * E + 2))
for element in range(E):
    places = slice(2 * element, 2 * element + 4)
    K[places, places] += stiffness
    M[places, places] += mass
free = np.delete(np.arange(2 * E + 2), [0, 2 * E])
K, M = jnp.asarray(K[np.ix_(free, free)]), jnp.asarray(M[np.ix_(free, free)])
n = 2 * E
deflections = np.flatnonzero(free % 2 == 0)


def damping(dashpots):
    """Return C; a dashpot acts on the deflection of each node between the ends."""
    return jnp.diag(jnp.zeros(n).at[deflections].set(dashpots))


# %% [markdown]
# ## The black box
#
# NumPy computes the eigenvalues of the companion matrix for 1/λ, the largest of which belong to the
# lowest modes. All matrices are symmetric, so that the conjugates of eigenvectors are left
# eigenvectors. With these, derivatives of the eigenvalues need no linear solve.


# %%
def lowest_modes(K, C, M):
    identity, zero = np.eye(n), np.zeros((n, n))
    inverse = np.linalg.inv(K)
    inverses, vectors = sla.eig(np.block([[-inverse @ C, -inverse @ M], [identity, zero]]))
    order = np.argsort(-np.abs(inverses))
    order = order[inverses[order].imag < 0][:MODES]
    vectors = vectors[n:, order]
    return 1 / inverses[order], vectors, vectors.conj()


solve = ie.eigensolver(lowest_modes, ie.Polynomial(MODES))


def modes(dashpots):
    values = solve(K, damping(dashpots), M).values
    return -values.real / jnp.abs(values), values


ratios_of = lambda dashpots: modes(dashpots)[0]
frequencies = np.asarray(jnp.abs(modes(jnp.full(E - 1, 1e-12))[1]))
print("frequencies without dashpots:", " ".join(f"{number:.3f}" for number in frequencies))
# the beam's frequencies are (mπ)²; the error of the elements grows as the fourth power of m
assert np.all(np.abs(frequencies / (np.pi * np.arange(1, MODES + 1)) ** 2 - 1) < 1e-2)

# %% [markdown]
# ## The gradient of all damping ratios

# %%
uniform = jnp.full(E - 1, BUDGET / (E - 1))
sensitivities = jax.jit(jax.jacrev(ratios_of))(uniform)
rng = np.random.default_rng(0)
direction = jnp.asarray(rng.standard_normal(E - 1))
by_differences = ie.testing.finite_difference(
    jax.jit(ratios_of), (uniform,), (direction,), step=1e-3, order=4
)
error = jnp.max(jnp.abs(sensitivities @ direction - by_differences)) / jnp.max(
    jnp.abs(by_differences)
)
print(f"gradient of {MODES} ratios by {E - 1} dashpots, against differences: {error:.0e}")
assert error < 1e-7

# %% [markdown]
# ## The placement
#
# The dashpots are positive and have a given sum.


# %%
def design(raw):
    return BUDGET * jax.nn.softmax(raw)


def objective(raw):
    ratios = ratios_of(design(raw))
    return -jnp.mean(jnp.log(ratios)), ratios


step = jax.jit(jax.value_and_grad(objective, has_aux=True))
optimiser = optax.adam(0.1)
raw = jnp.zeros(E - 1)
state = optimiser.init(raw)
history = []
mean = lambda ratios: np.exp(np.mean(np.log(ratios)))
progress = trange(options.steps, desc="placing dashpots")
for _ in progress:
    (_, ratios), slope = step(raw)
    history.append(np.asarray(ratios))
    progress.set_postfix(mean=f"{100 * mean(history[-1]):.2f} %")
    updates, state = optimiser.update(slope, state)
    raw = optax.apply_updates(raw, updates)
after, placed = design(raw), np.asarray(step(raw)[0][1])
before = history[0]
history = np.array([*history, placed])
print(
    f"geometric mean of the ratios: {100 * mean(before):.2f} % before, {100 * mean(placed):.2f} % after"
)
assert abs(float(after.sum()) - BUDGET) < 1e-12
assert mean(placed) > 1.05 * mean(before)
# the beam is symmetric
assert jnp.max(jnp.abs(after - after[::-1])) < 1e-6 * BUDGET

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
position = np.arange(1, E) * h
axes[0].bar(position, uniform, 0.8 * h, color="0.75", label="before")
axes[0].bar(position, after, 0.4 * h, color="C1", label="after")
axes[0].set(xlabel="place along the beam", ylabel="dashpot", title=f"dashpots, their sum {BUDGET}")
axes[0].legend()
relative = sensitivities / jnp.max(sensitivities, axis=1, keepdims=True)
image = axes[1].imshow(np.asarray(relative), aspect="auto", cmap="viridis")
axes[1].set(xlabel="dashpot", ylabel="mode", title="relative ∂ζ/∂c, before")
axes[1].set_yticks(range(MODES), range(1, MODES + 1))
figure.colorbar(image, ax=axes[1])
for mode in range(MODES):
    axes[2].plot(100 * history[:, mode], label=f"mode {mode + 1}")
axes[2].set(xlabel="step", ylabel="damping ratio in %", title="damping ratios", yscale="log")
axes[2].set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"], minor=False)
axes[2].set_yticks([], minor=True)
axes[2].legend(loc="center right", bbox_to_anchor=(1, 0.62))
figure.suptitle(
    f"mean damping ratio of a hinged beam: {100 * mean(before):.2f} % before, "
    f"{100 * mean(placed):.2f} % after"
)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
