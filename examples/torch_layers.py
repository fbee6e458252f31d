# %% [markdown]
# # A network of PyTorch that tunes bars
#
# The bars of a marimba and a xylophone are beams, free at both ends and hung up where their first
# mode does not move. They are carved out below until the second and third frequencies are wanted
# multiples of the first: 4 and 10 in a marimba, 3 and 6 in a xylophone. A uniform bar has 2.76 and
# 5.40.
#
# Here a network receives the wanted ratios and answers with the shape of the bar. It has no
# examples to learn from: its loss is what a bar of that shape sounds like, which takes eigenvalues
# and an eigenvector of K x = λ M x, next to the repeated eigenvalue 0 of the rigid motions.
# `ie.bridges.torch` makes a layer of the eigensolver.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import torch

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300, help="steps of the training")
parser.add_argument("--output", default="torch_layers.png", help="where the picture goes")
options = parser.parse_args()
E, KNOTS, BATCH = 20, 6, 16
h = 1 / E  # length, density and Young's modulus are 1, and thicknesses multiples of the full one
SUPPORT = 0.224 * E  # where the first mode of a uniform bar does not move, in elements

# %% [markdown]
# ## The bar, in PyTorch
#
# Euler–Bernoulli elements with a deflection and a rotation at each node. The stiffness grows with
# the cube of the thickness, the mass with the thickness.

# %%
bending = np.array(
    [
        [12, 6 * h, -12, 6 * h],
        [6 * h, 4 * h**2, -6 * h, 2 * h**2],
        [-12, -6 * h, 12, -6 * h],
        [6 * h, 2 * h**2, -6 * h, 4 * h**2],
    ]
) / (12 * h**3)
inertia = np.array(
    [
        [156, 22 * h, 54, -13 * h],
        [22 * h, 4 * h**2, 13 * h, -3 * h**2],
        [54, 13 * h, 156, -22 * h],
        [-13 * h, -3 * h**2, -22 * h, 4 * h**2],
    ]
) * (h / 420)
N = 2 * E + 2
rows, cols = np.indices((4, 4)).reshape(2, 16)
places = 2 * np.arange(E)[:, None]
places = torch.as_tensor((places + rows) * N + places + cols).flatten()


def assembled(element, factors):
    """Return the matrices, (batch, N, N), of elements with these factors, (batch, E)."""
    entries = factors[:, :, None] * torch.as_tensor(element).flatten()
    flat = torch.zeros(len(factors), N * N).index_add(1, places, entries.flatten(1))
    return flat.reshape(-1, N, N)


def matrices(thickness):
    return assembled(bending, thickness**3), assembled(inertia, thickness)


# %% [markdown]
# ## The layer
#
# Two functions of JAX: the logarithms of f₂/f₁ and f₃/f₁, and the motion of the first mode at the
# supports, squared and as a part of its mean, which is the same for x and −x. `jax.vmap` takes a
# batch of bars.

# %%
solve = ie.eigensolver(ie.solvers.jax_eigh(), ie.Hermitian(k=5))
i = int(SUPPORT)
s = SUPPORT - i  # cubic interpolation in an element
shape = np.array(
    [1 - 3 * s**2 + 2 * s**3, h * (s - 2 * s**2 + s**3), 3 * s**2 - 2 * s**3, h * (s**3 - s**2)]
)


def sound(K, M):
    values, X = solve(K, M)
    logs = jnp.log(values[3:] / values[2]) / 2
    left = shape @ X[2 * i : 2 * i + 4, 2]  # the mass times the mean of x² is 1
    return logs, left**2 * jnp.trace(M)


listen = ie.bridges.torch(jax.vmap(sound))

# %% [markdown]
# ## The network
#
# Half of the bar is drawn by a few knots; the other half mirrors it. Thicknesses are between 0.15
# and 1.

# %%
network = torch.nn.Sequential(
    torch.nn.Linear(2, 64),
    torch.nn.SiLU(),
    torch.nn.Linear(64, 64),
    torch.nn.SiLU(),
    torch.nn.Linear(64, KNOTS),
)
knots = np.linspace(0, KNOTS - 1, E // 2)
hats = torch.as_tensor(np.maximum(0, 1 - abs(knots[:, None] - np.arange(KNOTS))))
low, high = torch.log(torch.tensor([[2.8, 1.9], [4.1, 2.6]]))  # of f₂/f₁ and f₃/f₂


def bar(wanted):
    half = 0.15 + 0.85 * torch.sigmoid(2 + network((wanted - low) / (high - low) - 0.5)) @ hats.T
    return torch.cat([half, half.flip(1)], 1)


def errors(wanted):
    """Return how far the ratios are off, and the motion at the supports."""
    logs, motion = listen(*matrices(bar(wanted)))
    return logs - torch.cumsum(wanted, 1), motion


# %% [markdown]
# ## The training
#
# Each step draws ratios at random.

# %%
optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
history = []
for _ in range(options.steps):
    wanted = low + (high - low) * torch.rand(BATCH, 2)
    logs, motion = errors(wanted)
    loss = torch.mean(torch.sum(logs**2, 1)) + 0.05 * torch.mean(motion)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    history.append(loss.item())

# %% [markdown]
# ## Beside PyTorch's own eigensolver
#
# `torch.linalg.eigh` takes one matrix, so that M = L Lᵀ has to be reduced by hand, finds all 42
# eigenpairs, and divides by the differences of all eigenvalues: it may do so here, where no part of
# the loss distinguishes the two rigid motions and rounding separates their eigenvalues.


# %%
def errors_by_torch(wanted):
    K, M = matrices(bar(wanted))
    L = torch.linalg.cholesky(M)
    half = torch.linalg.solve_triangular(L, K, upper=False)
    values, Y = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mT, upper=False))
    x = torch.linalg.solve_triangular(L.mT, Y[:, :, 2:3], upper=True)[:, 2 * i : 2 * i + 4, 0]
    logs = torch.log(values[:, 3:5] / values[:, 2:3]) / 2
    motion = (x @ torch.as_tensor(shape)) ** 2 * M.diagonal(dim1=1, dim2=2).sum(1)
    return logs - torch.cumsum(wanted, 1), motion


def gradient(errors):
    logs, motion = errors(low + (high - low) * torch.linspace(0, 1, BATCH)[:, None])
    loss = torch.sum(logs**2) + torch.sum(motion)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*network.parameters()])])


ours, theirs = gradient(errors), gradient(errors_by_torch)
difference = float((ours - theirs).norm() / theirs.norm())
print(f"gradient of {len(ours)} weights, beside `torch.linalg.eigh`: {difference:.0e} apart")
assert difference < 1e-6

# %% [markdown]
# ## Bars that it has not seen

# %%
SIDE = 4  # of a square of ratios, as many as a batch, for which all is compiled
grid = torch.linspace(0.1, 0.9, SIDE)
wanted = low + (high - low) * torch.cartesian_prod(grid, grid)
with torch.no_grad():
    cents = 1200 / np.log(2) * errors(wanted)[0].abs()
    named = {"marimba 1 : 4 : 10": (4.0, 2.5), "xylophone 1 : 3 : 6": (3.0, 2.0)}
    targets = torch.log(torch.tensor([*named.values()])).repeat(BATCH // 2, 1)
    logs, motion = errors(targets)
    profiles = bar(targets)[:2].numpy()
print(f"ratios of {len(wanted)} bars: {float(cents.mean()):.0f} cents off in the mean")
for name, off, moved in zip(named, logs.abs().amax(1), motion, strict=False):
    print(
        f"{name}: {float(off) * 1200 / np.log(2):.0f} cents off, motion {float(moved) ** 0.5:.3f}"
    )

# %% [markdown]
# ## The picture

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogy(history)
left.set(xlabel="step", ylabel="loss", title="Training")
middle = (np.arange(E) + 0.5) / E
for offset, (name, profile) in enumerate(zip(named, profiles, strict=True)):
    top = -1.4 * offset
    right.fill_between(middle, top - profile, top, step="mid")
    right.text(0.5, top + 0.05, name, ha="center", va="bottom")
for support in (0.224, 0.776):
    right.axvline(support, color="k", linestyle=":")
right.set(xlabel="along the bar", yticks=[], title="Bars and their supports", ylim=(-2.5, 0.25))
figure.savefig(options.output, dpi=150)
