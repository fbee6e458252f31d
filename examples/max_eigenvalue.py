# %% [markdown]
# # Minimise the largest eigenvalue, down to where it is double
#
# A(p) = A₀ + Σ pᵢ Aᵢ is symmetric, and its largest eigenvalue is a convex function of p. At the
# minimum two eigenvalues meet, as they do at most optima of this kind. The largest has a kink
# there, and the gradient of one eigenvalue carries no information about the other. Steepest descent
# along gradients of a single eigenvalue stalls at the kink; descent along the least-norm element of
# the generalised gradient reaches the minimum.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from tqdm import trange

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=60, help="steps of either method")
parser.add_argument("--output", default="max_eigenvalue.png", help="where the picture goes")
options = parser.parse_args()
N, PARAMETERS, PAIRS = 40, 6, 5

# %% [markdown]
# ## A family whose minimum is known
#
# At `best` the eigenvalue 1 is double, with eigenvectors X, and tr(V XᵀAᵢX) = 0 for one V ⪰ 0 with
# tr V = 1. Hence zero lies in the generalised gradient, and 1 is the minimum of the convex
# function.

# %%
rng = np.random.default_rng(1)
Q, _ = np.linalg.qr(rng.standard_normal((N, N)))
spectrum = np.concatenate([np.linspace(-1, 0.7, N - 2), [1.0, 1.0]])
X, V = Q[:, -2:], np.diag([0.7, 0.3])
A0 = jnp.asarray((Q * spectrum) @ Q.T)
best = jnp.asarray(rng.standard_normal(PARAMETERS))


def direction():
    G = rng.standard_normal((N, N)) / np.sqrt(8 * N)
    G = G + G.T
    return G - np.sum(V * (X.T @ G @ X)) * np.eye(N)


directions = jnp.asarray([direction() for _ in range(PARAMETERS)])


def assemble(p):
    return A0 + jnp.tensordot(p - best, directions, 1)


# %% [markdown]
# ## The black box, and two directions of descent
#
# `degeneracy_rtol` bundles eigenvalues that are nearly equal. With the default a line search would
# have to hit the crossing to within rounding before the second eigenvalue counts. The negative of
# the least-norm element of a bundle lowers all of its eigenvalues at once. After a step that gains
# less than a hundredth of the bundle's width, a narrower one is used.


# %%
def largest(A):
    """Return the largest pairs, by LAPACK."""
    values, vectors = np.linalg.eigh(A)
    return values[-PAIRS:], vectors[:, -PAIRS:]


# the gradient of a single eigenvalue near the kink is taken on purpose
careless = ie.Policy(gauge=ie.Action.IGNORE)
exact = ie.eigensolver(largest, ie.Hermitian(PAIRS), policy=careless)
single = jax.jit(jax.grad(lambda p: exact(assemble(p)).values[-1]))
value = jax.jit(lambda p: jnp.linalg.eigvalsh(assemble(p))[-PAIRS:])


def make(width):
    policy = ie.Policy(degeneracy_rtol=width)
    solve = ie.eigensolver(largest, ie.Hermitian(PAIRS), policy=policy)
    f = jax.jit(lambda p: solve(assemble(p)))
    return width, lambda p: ie.minimum_norm_subgradient(f, p)


def line_search(p, g):
    """Return a step along −g, halved until the largest value falls by a tenth of the slope."""
    for t in 2.0 ** np.arange(4, -30, -1):
        if value(p - t * g)[-1] < value(p)[-1] - 0.1 * t * jnp.vdot(g, g):
            return p - t * g
    return None


# %% [markdown]
# ## Descent

# %%
start = best + jnp.asarray(rng.standard_normal(PARAMETERS))
methods = {
    "single gradient": [(0.0, single)],
    "least norm": [make(width) for width in (3e-2, 1e-3, 1e-6)],
}
histories, slopes = {}, {}
for name, choices in methods.items():
    p, history, choices = start, [np.asarray(value(start))], list(choices)
    for _ in trange(options.steps, desc=name):
        width, subgradient = choices[0]
        g = subgradient(p)
        step = line_search(p, g)
        if step is not None:
            p = step
            history.append(np.asarray(value(p)))
        if step is None or history[-2][-1] - history[-1][-1] < 0.01 * width:
            if len(choices) == 1 and step is None:
                break
            choices = choices[1:] or choices
    histories[name], slopes[name] = np.array(history), float(jnp.linalg.norm(g))
    second, top = history[-1][-2:]
    print(
        f"{name:>15}: {len(history) - 1} steps, largest value {top - 1:.1e} above the minimum and "
        f"{top - second:.1e} above the next"
    )
print(
    f"norm of the last subgradient: {slopes['single gradient']:.2f} and {slopes['least norm']:.1e}"
)
excess = {name: history[:, -1] - 1 for name, history in histories.items()}
assert excess["least norm"][-1] < 1e-5
assert excess["single gradient"][-1] > 50 * excess["least norm"][-1]
assert slopes["single gradient"] > 0.05

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
for name, curve in excess.items():
    axes[0].semilogy(curve, marker=".", label=name)
axes[0].set(xlabel="step", ylabel="largest eigenvalue above the minimum", title="descent")
axes[0].legend()
for axis, (name, history) in zip(axes[1:], histories.items(), strict=True):
    axis.plot(history[:, -1], "C1.-", label="largest")
    axis.plot(history[:, -2], "C0.-", label="second")
    axis.plot(history[:, :-2], color="0.7", label=["others", *["_"] * (history.shape[1] - 3)])
    axis.legend()
    axis.set(xlabel="step", ylabel="eigenvalue", title=f"the largest eigenvalues, {name}")
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
