# %% [markdown]
# # Modes through a crossing, and past one that is avoided
#
# The eigenvalues of a rectangular membrane, (m/a)² + n² in units of π², cross as its width a grows.
# Sorted by size, "the second mode" therefore changes its shape from time to time; `ie.follow` keeps
# each branch on its shape. A stiff patch off the centre couples the shapes, and the crossing
# becomes an avoided one: the branches bend away from each other.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.sparse as sp

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cells", type=int, default=16, help="grid cells along each side")
parser.add_argument("--steps", type=int, default=41, help="widths in the sweep")
parser.add_argument("--output", default="crossing.png", help="where the picture goes")
options = parser.parse_args()
BRANCHES, PAIRS = 5, 12

# %% [markdown]
# ## The membrane
#
# We take five-point differences on the unit square, with the x-direction scaled by the width. The
# patch adds a foundation of the given stiffness under a small rectangle.

# %%
m = options.cells - 1
second = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
second = (second * (options.cells / np.pi) ** 2).tocoo()
identity = sp.identity(m)
x, y = np.meshgrid(*[np.arange(1, m + 1) / options.cells] * 2, indexing="ij")
patch = ((abs(x - 0.3) < 0.15) & (abs(y - 0.35) < 0.15)).ravel().astype(float)
# the parts share one pattern: entries at the same place are added
parts = [
    sp.kron(second, identity).tocoo(),
    sp.kron(identity, second).tocoo(),
    sp.diags(patch).tocoo(),
]
rows = np.concatenate([part.row for part in parts]).astype(np.int32)
cols = np.concatenate([part.col for part in parts]).astype(np.int32)


def assemble(width, stiffness):
    factors = [1 / width**2, 1.0, stiffness]
    data = [f * jnp.asarray(part.data) for f, part in zip(factors, parts, strict=True)]
    return ie.SparseOperator(jnp.concatenate(data), rows, cols, (m * m, m * m))


# more eigenpairs than branches: a branch stays among them when others cross it from above
arpack = ie.solvers.arpack(PAIRS, sigma=0.0, v0=np.random.default_rng(0).random(m * m))
solve = ie.eigensolver(arpack, ie.Hermitian(PAIRS))
sweep = jax.jit(lambda width, stiffness: solve(assemble(width, stiffness)))

# %% [markdown]
# ## Two sweeps

# %%
widths = jnp.linspace(0.8, 1.7, options.steps)
crossing = ie.follow(lambda width: sweep(width, 0.0), widths, count=BRANCHES)
avoided = ie.follow(lambda width: sweep(width, 6.0), widths, count=BRANCHES)

# The separable problem has its eigenvalues in closed form.
one_d = (2 * options.cells / np.pi * np.sin(np.pi * np.arange(1, m + 1) / 2 / options.cells)) ** 2
exact = one_d[None, :, None] / np.asarray(widths)[:, None, None] ** 2 + one_d[None, None, :]
exact = exact.reshape(len(widths), -1)
shapes = np.argsort(exact[0])[:BRANCHES]
error = np.abs(crossing.values - exact[:, shapes]).max()
swaps = int(np.sum(np.any(np.diff(crossing.order, axis=0), axis=1)))
print(
    f"no patch: branches against the closed form {error:.1e}, the solver's order changes {swaps} times"
)
assert error < 1e-8
assert swaps > 0
assert np.min(crossing.overlap) > 0.99

gaps = {}
for name, followed in {"no patch": crossing, "patch": avoided}.items():
    gaps[name] = float(np.min(np.abs(followed.values[:, 1] - followed.values[:, 2])))
    jumps = np.abs(np.diff(followed.values, axis=0)).max()
    print(f"{name}: second and third branch come within {gaps[name]:.1e}; largest step {jumps:.2f}")
    # the steepest shape followed here, m = 3, moves by 2 m²/a³ per width
    assert jumps < 40 * float(widths[1] - widths[0])
assert gaps["patch"] > 0.1 > gaps["no patch"]

# %% [markdown]
# ## The gradient along a branch
#
# The order carries no derivative but the eigenvalues do, so that the slope of a branch is that of
# its own shape.

# %%
reference = sweep(widths[0], 0.0)


def branch(width):
    solution = sweep(width, 0.0)
    return solution.values[ie.track(reference, solution).order]


slopes = jax.jacrev(branch)(jnp.asarray(0.9))[:BRANCHES]
numbers = shapes // m
expected = -2 * one_d[numbers] / 0.9**3
print(f"slopes of the branches against the closed form: {np.abs(slopes - expected).max():.1e}")
assert np.abs(slopes - expected).max() < 1e-7

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for axis, (name, followed) in zip(
    axes, {"no patch": crossing, "patch": avoided}.items(), strict=True
):
    ie.plot.branches(followed, axis)
    axis.set(xlabel="width", ylabel="λ / π²", title=f"branches of a membrane, {name}")
    axis.set_ylim(0, 16)
axes[1].legend(loc="upper right", ncols=2)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
