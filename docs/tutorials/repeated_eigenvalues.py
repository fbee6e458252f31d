# %% [markdown]
# # Repeated eigenvalues and crossings
#
# After this tutorial you know, for a problem whose eigenvalues meet, which functions of them have a
# derivative, how the package tells you that one has none, and what to use then: one-sided
# derivatives, a subgradient, or branches that are followed through the crossing. Bring a problem
# with a symmetry, or an optimisation that ran into two equal eigenvalues. The example is a square
# membrane, of which much is known in closed form.

# %%
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)
warnings.simplefilter("always")  # Python shows the same text only once otherwise

# %% [markdown]
# ## A square that becomes a rectangle
#
# A membrane with the sides $e^t$ and $e^{-t}$ has the eigenvalues $m^2 e^{-2t} + n^2 e^{2t}$, $m, n
# = 1, 2, \dots$, in units of $\pi^2$. At $t = 0$ it is square, and $5 = 1 + 4 = 4 + 1$ is double.
# Two more parameters scale elastic foundations: $s$ one of stiffness $\cos \pi x \cos \pi y$, which
# couples the two modes of that eigenvalue, and $r$ one of $-\cos 2\pi x - \cos 2\pi y$, stiff in
# the middle, which raises both. (Coordinates run from 0 to 1 along each side.) We take the first
# six sines in each direction as trial functions, and a rotation, so that nothing is diagonal.
#
# Replace `assemble` by your own matrix as a function of your parameters.

# %%
SINES = 6
m, n = (part.ravel() for part in np.meshgrid(*[np.arange(1, SINES + 1)] * 2, indexing="ij"))
cos1 = (np.eye(SINES, k=1) + np.eye(SINES, k=-1)) / 2  # ∫ 2 sin(mπx) cos(πx) sin(m′πx) dx
cos2 = (np.eye(SINES, k=2) + np.eye(SINES, k=-2)) / 2  # with cos(2πx)
cos2[0, 0] = -0.5
coupling = jnp.asarray(np.kron(cos1, cos1))
middle = -jnp.asarray(np.kron(cos2, np.eye(SINES)) + np.kron(np.eye(SINES), cos2))
rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((36, 36)))[0])


def assemble(p):
    """Return the matrix of the membrane at p = (t, s, r)."""
    t, s, r = p
    square = jnp.diag(m**2 * jnp.exp(-2 * t) + n**2 * jnp.exp(2 * t))
    return rotation.T @ (square + s * coupling + r * middle) @ rotation


solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(k=3))
p0, v = jnp.zeros(3), jnp.array([0.3, 0.7, -0.2])
print("lowest eigenvalues of the square:", solve(assemble(p0)).values.round(9))

# %% [markdown]
# ## What has a derivative where two eigenvalues are equal
#
# | function | there |
# |---|---|
# | a single one of the equal eigenvalues | a kink: one-sided derivatives, no gradient |
# | a single eigenvector, or the square of an entry of it | jumps |
# | the sum of the equal eigenvalues | smooth |
# | the projector $XX^\top$ on their space | smooth |
# | $X f(\Lambda) X^\top$, a matrix function | smooth, by `ie.matrix_function` |
#
# What is smooth needs no special care. Compare with differences, as you would with your own
# function.


# %%
def check(name, f):
    """Compare a directional derivative at the square with differences."""
    exact = jax.grad(f)(p0) @ v
    difference = ie.testing.finite_difference(f, (p0,), (v,), step=1e-3, order=4)
    print(f"{name}: gradient {exact:+.9f}, differences {difference:+.9f}")
    return abs(exact - difference)


def projector_entry(p):
    """Return an entry of the projector on the space of the second and third eigenvalues."""
    X = solve(assemble(p)).vectors[:, 1:]
    return X[0] @ X[1]


assert check("sum of both", lambda p: jnp.sum(solve(assemble(p)).values[1:])) < 1e-8
assert check("projector", projector_entry) < 1e-8

# %% [markdown]
# A function that mixes eigenvalues and eigenvectors is smooth too if it is a function of the
# matrix, such as a density matrix or an exponential, but eigenvalues and vectors alone do not carry
# its derivative: the first version below is wrong, and warned about. `ie.matrix_function` is right.

# %%
occupation = lambda value: 1 / (1 + jnp.exp(value - 4))


def naive(p):
    """Return an entry of X f(Λ) Xᵀ from the eigenvalues and vectors."""
    values, X = solve(assemble(p))
    return (X[0] * occupation(values)) @ X[1]


right = lambda p: ie.matrix_function(solve(assemble(p)), occupation).as_matrix()[0, 1]
assert check("matrix function, naive", naive) > 1e-4
assert check("matrix function", right) < 1e-8

# %% [markdown]
# ## A single eigenvalue: the warning, and what to use
#
# The gradient of one of two equal eigenvalues depends on the basis that the solver happened to
# return. The package computes it, as one element of the generalised gradient, and warns.
# `ie.directional_derivatives` gives what does exist: the slopes of the two branches along a line.
# Here they are known, $\tfrac{\dot r}{2} \pm \sqrt{36\,\dot t^2 + \dot s^2/16}$.

# %%
arbitrary = jax.grad(lambda p: solve(assemble(p)).values[1])(p0) @ v
matrix, tangent = jax.jvp(assemble, (p0,), (v,))
slopes = ie.directional_derivatives(solve, (matrix,), (tangent,))[1:]
closed = v[2] / 2 + jnp.array([-1, 1]) * jnp.sqrt(36 * v[0] ** 2 + v[1] ** 2 / 16)
print(
    f"gradient of the second times v: {arbitrary:+.4f}; slopes of the branches: {slopes.round(4)}"
)
assert jnp.abs(slopes - closed).max() < 1e-9

# %% [markdown]
# ## Raise the second eigenvalue
#
# Ascent of $\lambda_2$ leads to the crossing, and there the gradient of $\lambda_2$ alone leads no
# further: each step that raises it makes the other one the lower of the two.
# `ie.minimum_norm_subgradient` finds the direction that raises both. It wants an extreme eigenvalue
# of those that the solver returns, so that the lowest is left out here. Two numbers are yours:
#
# - `degeneracy_rtol` states when two eigenvalues count as one. By default they must agree to
#   rounding, as befits exact symmetry; an iteration that approaches a crossing never meets that,
#   and 5 % serves. The same option is for eigenvalues that are equal by a symmetry which your mesh
#   breaks.
# - The step is halved whenever it does not raise $\lambda_2$.
#
# The warnings about the single gradient are switched off, because it is taken on purpose here.


# %%
def without_lowest(A):
    """Return all pairs but the first."""
    values, vectors = np.linalg.eigh(A)
    return values[1:], vectors[:, 1:]


bundle = ie.Policy(degeneracy_rtol=0.05, gauge=ie.Action.IGNORE)
upper = ie.eigensolver(without_lowest, ie.Hermitian(k=3), policy=bundle)
solution = jax.jit(lambda p: upper(assemble(p)))
directions = {
    "gradient of one": jax.jit(jax.grad(lambda p: upper(assemble(p)).values[0])),
    "least norm": lambda p: ie.minimum_norm_subgradient(solution, p, index=0),
}
reached = {}
for name, direction in directions.items():
    p, step = jnp.array([0.1, 0.5, 0.0]), 0.3
    g, value = direction(p), solution(p).values[0]
    for _ in range(40):
        trial = p + step * g / jnp.abs(g).max()
        if solution(trial).values[0] > value:
            p, value, g = trial, solution(trial).values[0], direction(trial)
            step = min(1.5 * step, 0.3)
        else:
            step /= 2
    reached[name] = value
    print(f"{name}: λ₂ = {value:.4f} at t = {p[0]:.3f}, s = {p[1]:.3f}, r = {p[2]:.3f}")
assert reached["least norm"] > reached["gradient of one"] + 0.1

# %% [markdown]
# The single gradient stays beside the crossing, which it cannot leave, whereas the least norm goes
# on along it. To come closer to the optimum, narrow the bundle in steps, as the example [Minimise
# the largest eigenvalue](../gallery/max_eigenvalue.md) does.

# %% [markdown]
# ## A k that cuts a cluster
#
# Ask for two eigenpairs of the square, and k separates the double eigenvalue. No derivative exists
# then, neither of the second eigenvalue nor of its vector, and nothing inside the two pairs shows
# it. `np.linalg.eigh` returns all pairs, so that the package sees the cut and refuses. A solver
# that returns exactly k cannot show it: set `guard=1`, for which it has to return one pair more.
# Use a guard wherever symmetry can make eigenvalues equal, and then another k.


# %%
def three(A):
    """Return three pairs, one more than k."""
    return scipy.linalg.eigh(A, subset_by_index=(0, 2))


for name, cut in {
    "all pairs returned": ie.eigensolver(np.linalg.eigh, ie.Hermitian(k=2)),
    "guard": ie.eigensolver(three, ie.Hermitian(k=2, guard=1)),
}.items():
    try:
        cut(assemble(p0))
        raise AssertionError("the cut was not seen")
    except ie.EigensolverError as error:
        print(f"{name}: {error}")

# %% [markdown]
# ## Branches through a crossing
#
# In a sweep the solver orders eigenvalues by size, so that "the second mode" changes its shape
# where two cross. `ie.follow` matches each solution to the one before by the overlap of the vectors
# and keeps each branch on its shape; `ie.track` does the same for two solutions. Ask the solver for
# more pairs than you follow, because a branch may leave the lowest ones. With $s = 0$ the branches
# cross at $t = 0$; with $s = 2$ they avoid each other, and the shapes turn into each other on the
# way.

# %%
five = ie.eigensolver(np.linalg.eigh, ie.Hermitian(k=5))
solve_at = jax.jit(lambda t, s: five(assemble(jnp.array([t, s, 0.0]))))
sides = jnp.linspace(-0.13, 0.13, 14)
crossing = ie.follow(lambda t: solve_at(t, 0.0), sides, count=3)
avoided = ie.follow(lambda t: solve_at(t, 2.0), sides, count=3)
shape = jnp.exp(2 * sides[:, None] * jnp.array([-1, 1]))  # of one mode (1, 2), of the other (2, 1)
exact = jnp.stack([1 * shape[:, 0] + 4 * shape[:, 1], 4 * shape[:, 0] + 1 * shape[:, 1]], axis=1)
print("order at both ends:", crossing.order[0], crossing.order[-1])
assert jnp.abs(crossing.values[:, 1:] - exact).max() < 1e-9
gap = jnp.abs(avoided.values[:, 1] - avoided.values[:, 2]).min()
print(f"with s = 2 the branches come within {gap:.2f}")

# %% [markdown]
# ## The picture
#
# The dashed lines are drawn from the one-sided derivatives at the crossing, $\pm 6$ along $t$.

# %%
matrix, tangent = jax.jvp(assemble, (p0,), (jnp.array([1.0, 0.0, 0.0]),))
slopes = ie.directional_derivatives(solve, (matrix,), (tangent,))[1:]
assert jnp.abs(slopes - jnp.array([-6, 6])).max() < 1e-9
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
titles = ("s = 0: the branches cross", "s = 2: they avoid each other")
for axis, followed, title in zip(axes, (crossing, avoided), titles, strict=True):
    ie.plot.branches(followed, axis)
    axis.set(xlabel="t, logarithm of a side", ylabel="λ / π²", title=title)
for slope, label in zip(slopes, ("one-sided derivatives", None), strict=True):
    axes[0].plot(sides, 5 + slope * sides, "k--", lw=1, label=label)
axes[0].set_ylabel("eigenvalue, in units of π²")
axes[1].set_ylabel("")
axes[1].legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc=(0.3, 0.13))

# %% [markdown]
# ## Where to go next
#
# - [Theory of clusters](../theory/clusters.md) derives what exists at a repeated eigenvalue, and
#   what near eigenvalues cost in accuracy.
# - [When a gradient looks wrong](../when-a-gradient-looks-wrong.md) lists the warnings with their
#   remedies.
# - [Minimise the largest eigenvalue](../gallery/max_eigenvalue.md) descends to a known minimum by
#   the least-norm subgradient.
# - [From finite elements to an optimised design](design.md) avoids the kink by a soft minimum.
