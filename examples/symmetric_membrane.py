# %% [markdown]
# # Widen the gap of a square membrane, whose second frequency is double
#
# We solve −Δu = λ ρ u on the unit square, with u = 0 on the boundary. The gap above the lowest
# frequency is widest where the second one is double, as it is for every density with the symmetry
# of the square. The smaller of λ₂ and λ₃ has a kink there, and the gradient of one of them carries
# no information about the other. Steepest ascent of λ₂/λ₁ along gradients of a single eigenvalue
# meets the kink and stalls; ascent along the least-norm element of the generalised gradient, which
# raises both, continues.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh
from tqdm import trange

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--points", type=int, default=28, help="grid points along an edge")
parser.add_argument("--steps", type=int, default=40, help="steps of either method")
parser.add_argument("--output", default="symmetric_membrane.png", help="where the picture goes")
options = parser.parse_args()
M, PAIRS = options.points, 5

# %% [markdown]
# ## The membrane
#
# We take five-point differences. The density has mean 1, and its largest value is at most four
# times its smallest.

# %%
second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(M, M)) * (M + 1) ** 2
laplacian = ie.SparseOperator.from_scipy(sp.kronsum(second, second).tocsr())
place = np.arange(M * M)


def density(q):
    rho = 2.0 ** jnp.tanh(q)
    return rho / jnp.mean(rho)


def mass(q):
    return ie.SparseOperator(density(q), place, place, (M * M, M * M))


def lowest(A, B):
    """Return the lowest pairs, by ARPACK."""
    values, vectors = eigsh(A, k=PAIRS + 1, M=B, sigma=0, v0=np.sqrt(1 + np.arange(A.shape[0])))
    order = np.argsort(values)
    return values[order], vectors[:, order]


def upper(A, B):
    """Return the pairs above the lowest."""
    values, vectors = lowest(A, B)
    return values[1:], vectors[:, 1:]


# %% [markdown]
# ## The ratio λ₂/λ₁ as an extreme eigenvalue
#
# It is the smallest eigenvalue of (A/λ₁) x = μ B x once the first eigenpair is left out, and λ₁ is
# a differentiable function of the density like any other.

# %%
first = ie.eigensolver(lowest, ie.Hermitian(1))


def ratios(q, policy):
    B = mass(q)
    scale = first(laplacian, B).values[0]
    scaled = ie.SparseOperator(laplacian.data / scale, laplacian.rows, laplacian.cols, B.shape)
    return ie.eigensolver(upper, ie.Hermitian(PAIRS), policy=policy)(scaled, B)


# the derivative of a single one of two equal eigenvalues is taken on purpose
careless = ie.Policy(gauge=ie.Action.IGNORE)
value = jax.jit(lambda q: ratios(q, careless).values)
single = jax.jit(jax.grad(lambda q: ratios(q, careless).values[0]))


def least_norm(width):
    """Treat values that agree to `width` as one, which a line search needs near a kink."""
    f = jax.jit(lambda q: ratios(q, ie.Policy(degeneracy_rtol=width)))
    return lambda q: ie.minimum_norm_subgradient(f, q, index=0)


def line_search(q, g, longest):
    """Return a step along g, halved until the ratio rises by a tenth of the slope, and its length."""
    slope, start = jnp.vdot(g, g), value(q)[0]
    for t in longest * 0.5 ** np.arange(30):
        if value(q + t * g)[0] > start + 0.1 * t * slope:
            return q + t * g, t
    return None, longest


# %% [markdown]
# ## Ascent from a random density

# %%
methods = {
    "single gradient": [single],
    "least norm": [least_norm(width) for width in (3e-2, 1e-3, 1e-6)],
}
start = 0.5 * jnp.asarray(np.random.default_rng(0).standard_normal(M * M))
histories, designs = {}, {}
for name, directions in methods.items():
    q, t, history, left = start, 2.0**10, [np.asarray(value(start))], list(directions)
    for _ in trange(options.steps, desc=name):
        moved, t = line_search(q, left[0](q), 4 * t)
        while moved is None and len(left) > 1:
            left.pop(0)
            moved, t = line_search(q, left[0](q), 4 * t)
        if moved is None:
            break
        q = moved
        history.append(np.asarray(value(q)))
    histories[name] = np.array(history)
    designs[name] = np.asarray(density(q)).reshape(M, M)
    second, third = history[-1][:2]
    print(
        f"{name:>15}: λ₂/λ₁ = {second:.4f}, λ₃/λ₂ − 1 = {third / second - 1:.0e} after "
        f"{len(history) - 1} steps"
    )
found = {name: history[-1, 0] for name, history in histories.items()}
last = histories["single gradient"]
assert last[-1, 0] - last[-6, 0] < 1e-4
assert last[-1, 1] / last[-1, 0] - 1 < 1e-4
assert found["least norm"] > found["single gradient"] + 0.05

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
for (name, history), colour in zip(histories.items(), ("C0", "C1"), strict=True):
    axes[0].plot(history[:, 0], f"{colour}.-", label=f"λ₂ / λ₁, {name}")
    axes[0].plot(history[:, 1], f"{colour}:", label=f"λ₃ / λ₁, {name}")
axes[0].set(xlabel="step", ylabel="ratio to the lowest", title="ascent")
axes[0].legend(loc="lower right")
top = max(rho.max() for rho in designs.values())
for axis, (name, rho) in zip(axes[1:], designs.items(), strict=True):
    image = axis.imshow(rho, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=top)
    axis.set(xlabel="x", ylabel="y", title=f"density, {name}")
figure.colorbar(image, ax=axes[1:])
figure.suptitle(
    f"square membrane: λ₂/λ₁ from {histories['least norm'][0, 0]:.2f} to "
    f"{found['single gradient']:.2f} by single gradients, to {found['least norm']:.2f} by the "
    "least-norm subgradient"
)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
