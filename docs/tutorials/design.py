# %% [markdown]
# # From finite elements to an optimised design
#
# After this tutorial you can take a mesh and the element matrices of a finite-element code, give
# every element a design variable, and raise the lowest natural frequencies at a fixed mass, with
# gradients that you have checked. Bring a mesh, the forms of your stiffness and mass matrices, and
# what the design variable of an element does to them. The example is a panel in plane stress,
# assembled by scikit-fem, that is clamped along one edge and carries a mass at the other.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import skfem
from jax.scipy.special import logsumexp
from scipy.optimize import brentq
from skfem.helpers import dot
from skfem.models.elasticity import linear_elasticity

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Element matrices from your mesh
#
# scikit-fem computes the element matrices of the solid material once. No design variable is in
# them, so that this part need not be JAX code. `coo_data` returns one long array of entries, first
# one entry of all elements, then the next entry of all elements, and so on; entries in the rows and
# columns of clamped unknowns are dropped. Replace the mesh, the element and the two forms by your
# own, or read element matrices from a file: what counts is, for each entry, its place in the matrix
# and the number of its element.

# %%
LENGTH, HEIGHT, THICKNESS = 0.2, 0.5, 0.005  # m
YOUNG, POISSON, DENSITY, TIP_MASS = 70e9, 0.33, 2700.0, 1.0  # Pa, 1, kg/m³, kg
LAME = YOUNG * POISSON / (1 - POISSON**2), YOUNG / (2 + 2 * POISSON)  # of plane stress


class Panel:
    """The entries of all element matrices, their places in K and M, and those of the tip mass."""

    def __init__(self, columns, rows):
        x, y = np.linspace(0, LENGTH, columns + 1), np.linspace(0, HEIGHT, rows + 1)
        self.mesh = mesh = skfem.MeshQuad.init_tensor(x, y)
        basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementQuad1()))
        forms = linear_elasticity(*LAME), lambda u, v, _: dot(u, v)
        K, M = (skfem.BilinearForm(form).coo_data(basis) for form in forms)
        free = basis.complement_dofs(basis.get_dofs(lambda x: x[0] == 0))
        self.n, number = free.size, np.full(basis.N, -1)
        number[free] = np.arange(free.size)
        kept = np.flatnonzero((number[K.indices] >= 0).all(axis=0))
        self.at = number[K.indices][:, kept]
        self.element = np.tile(np.arange(mesh.nelements), K.data.size // mesh.nelements)[kept]
        self.K, self.M = THICKNESS * K.data[kept], DENSITY * THICKNESS * M.data[kept]
        at_tip = lambda x: (x[0] == LENGTH) & (abs(x[1] - HEIGHT / 2) < 0.03)
        self.tip = number[basis.nodal_dofs[:, mesh.nodes_satisfying(at_tip)].ravel()]
        self.centres = mesh.p[:, mesh.t].mean(axis=1)


# %% [markdown]
# ## A design variable in each element
#
# The variable is the fraction of material in an element, between 0.01 and 1. Three decisions lead
# from there to the matrices.
#
# - **Filter.** The density ρ of an element is a weighted mean over its neighbours within a radius
#   in metres. This removes checkerboards and sets a length that does not depend on the mesh.
# - **Stiffness** goes with ρ³ (SIMP), which makes intermediate densities uneconomical.
# - **Mass** goes with ρ, except below 0.1, where it vanishes like ρ⁶. Otherwise nearly empty
#   elements have little mass but next to no stiffness, and the lowest modes are those of the void.
#
# Replace these by what your design variable does: t³ and t for the thickness of a plate in bending,
# for example, and no filter where every element may stand on its own.

# %%
RADIUS, SMALLEST, FRACTION = 0.03, 0.01, 0.4


def filter_of(panel):
    """Return the matrix that takes design variables to densities."""
    x, y = panel.centres
    weights = np.maximum(0, RADIUS - np.hypot(x[:, None] - x, y[:, None] - y))
    return jnp.asarray(weights / weights.sum(axis=1, keepdims=True))


def mass_law(rho):
    """Return the relative mass, which meets ρ smoothly at 0.1."""
    return jnp.where(rho > 0.1, rho, 6e5 * rho**6 - 5e6 * rho**7)


def assemble(panel, rho, law=mass_law):
    """Return K and M of densities."""
    shape, load = (panel.n, panel.n), jnp.full(panel.tip.size, 2 * TIP_MASS / panel.tip.size)
    K = ie.SparseOperator(panel.K * (rho**3)[panel.element], *panel.at, shape)
    M = ie.SparseOperator(panel.M * law(rho)[panel.element], *panel.at, shape)
    return K, M + ie.SparseOperator(load, panel.tip, panel.tip, shape)


# %% [markdown]
# ## The lowest frequencies and their soft minimum
#
# ARPACK finds the lowest six eigenpairs by shift-and-invert about 0. The lowest frequency alone is
# a poor objective: where two modes meet it has a kink, and ascent leads just there, because what
# raises one mode soon makes the other the lowest. The soft minimum
#
# $$
# -\frac{1}{\beta}\,\log \sum_i e^{-\beta \log \lambda_i}
# $$
#
# treats all eigenvalues alike and is smooth where they meet. It lies below the logarithm of the
# lowest eigenvalue by at most $\log(6)/\beta$; a larger $\beta$ brings it closer and curves it
# more.

# %%
PAIRS, BETA = 6, 40.0
panel = Panel(columns=16, rows=40)
smoothed = filter_of(panel)
solve = ie.eigensolver(ie.solvers.arpack(PAIRS, sigma=0.0), ie.Hermitian(PAIRS))
hertz = lambda values: jnp.sqrt(values) / (2 * np.pi)


@jax.jit
def objective(design):
    """Return the soft minimum, and the frequencies beside it."""
    values = solve(*assemble(panel, smoothed @ design)).values
    return -logsumexp(-BETA * jnp.log(values)) / BETA, hertz(values)


value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
design = jnp.full(panel.centres.shape[1], FRACTION)
before = objective(design)[1]
print(f"{panel.n} unknowns, {design.size} design variables")
print("frequencies of the uniform panel in Hz:", np.round(before, 1))

# %% [markdown]
# ## Check the gradient before you use it
#
# One random direction shows most mistakes and costs four solves. Take a design that is not uniform,
# because symmetry hides errors, and check once more at the end.


# %%
def check_gradient(design, seed):
    """Compare one directional derivative with differences."""
    v = jnp.asarray(np.random.default_rng(seed).standard_normal(design.size))
    exact = jnp.vdot(value_and_grad(design)[1], v)
    value = lambda design: objective(design)[0]
    difference = ie.testing.finite_difference(value, (design,), (v,), step=1e-4, order=4)
    print(f"gradient {exact:+.8f}, differences {difference:+.8f}")
    assert abs(exact - difference) < 1e-6 * abs(difference)


check_gradient(design + 0.2 * np.random.default_rng(0).uniform(-1, 1, design.size), seed=1)

# %% [markdown]
# ## Thirty steps at constant mass
#
# The projection puts a design on the bounds and on the given mass: it adds one number to all
# variables and clips them. The same is done to first order with the gradient before Adam receives
# it, by subtracting its mean. This matters. More material raises the stiffness wherever it is, so
# that nearly all components of the gradient have one sign, and Adam, which scales each component on
# its own, would take the same step in all of them, which the projection then undoes. The elements
# have equal areas here; otherwise weight both means by the areas.


# %%
def project(design):
    """Return the design of the right mass that differs by a number, within the bounds."""
    clipped = lambda shift: np.clip(design + shift, SMALLEST, 1)
    return jnp.asarray(clipped(brentq(lambda shift: clipped(shift).mean() - FRACTION, -2, 2)))


optimiser = optax.adam(0.1)
state, history = optimiser.init(design), []
for _ in range(30):
    (_, f), gradient = value_and_grad(design)
    history.append(np.asarray(f))
    updates, state = optimiser.update(gradient.mean() - gradient, state)  # optax descends
    design = project(np.asarray(design + updates))
found = np.asarray(objective(design)[1])
history = np.array([*history, found])
gaps = history[:, 1] / history[:, 0] - 1
print("frequencies of the design in Hz:", np.round(found, 1))
print(f"the two lowest are {gaps[0]:.0%} apart before, {gaps.min():.1%} at the closest")
assert found[0] > 2.4 * before[0]
assert gaps.min() < 0.01
assert abs(design.mean() - FRACTION) < 1e-9
check_gradient(design, seed=2)

# %% [markdown]
# The second frequency comes close to the first, and then both rise together. There is no warning,
# because the soft minimum does not ask which of the two modes is which.
#
# ## What to watch
#
# **Artificial modes.** Here is the same design with a mass that goes with ρ all the way down. The
# lowest mode moves where there is next to no material, and an optimisation would spend its steps on
# it. If a frequency is low for no visible reason, look where its mode moves most.

# %%
rho = smoothed @ design
for name, law in {"mass as above": mass_law, "mass ∝ ρ": lambda rho: rho}.items():
    values, vectors = solve(*assemble(panel, rho, law))
    moves_most = jnp.argmax(jnp.abs(vectors[:, 0]))
    densest = rho[panel.element[panel.at[0] == moves_most]].max()
    print(f"{name}: {hertz(values[0]):.0f} Hz, and ρ ≤ {densest:.2f} where it moves most")
    assert (densest > 0.1) == (law is mass_law)

# %% [markdown]
# **Mesh size.** Put the design on a mesh twice as fine and see whether the frequencies stay;
# low-order elements are too stiff. Where the change is not small against what the optimisation
# gained, refine before you go on. Keep the radius of the filter, which is a length.

# %%
fine = Panel(columns=32, rows=80)
on_fine = rho[panel.mesh.element_finder()(*fine.centres)]
change = float(hertz(solve(*assemble(fine, on_fine)).values[0]) / found[0] - 1)
print(f"lowest frequency on the finer mesh: {change:+.1%}")
assert abs(change) < 0.03

# %% [markdown]
# **Cost.** A gradient of eigenvalues alone needs no linear solve: the derivative of an eigenvalue
# is $x^\top(\partial K - \lambda\,\partial M)\,x$, and for all design variables together that is a
# sum over the entries. What a step costs is the forward solve, in which the factorisation dominates
# on large meshes. An objective that contains mode shapes needs a linear solve for each of them, by
# the factors that the forward solve has made. A monitor shows what is solved.

# %%
reports = []
policy = ie.Policy(monitor=reports.append)
watched = ie.eigensolver(ie.solvers.arpack(PAIRS, sigma=0.0), ie.Hermitian(PAIRS), policy=policy)
losses = {
    "eigenvalues": lambda solution: jnp.sum(jnp.log(solution.values)),
    "one mode shape": lambda solution: jnp.sum(solution.vectors[:100, 0] ** 2),
}
for name, loss in losses.items():
    reports.clear()
    jax.jit(jax.grad(lambda rho, loss=loss: loss(watched(*assemble(panel, rho)))))(rho)
    steps = sum(report.steps for report in reports)
    print(f"gradient of {name}: the solver makes {steps} steps for the six modes")
    assert steps[1:].sum() == 0
    assert (steps[0] > 0) == (name == "one mode shape")

# %% [markdown]
# ## The picture

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.5), width_ratios=[1, 2.2], layout="constrained"
)
corners = panel.mesh.p.reshape(2, 17, 41)
image = left.pcolormesh(*corners, np.asarray(rho).reshape(16, 40), cmap="gray_r", vmin=0, vmax=1)
figure.colorbar(image, ax=left, label="density ρ")
left.set(aspect="equal", xlabel="x in m", ylabel="y in m", title="the design", xticks=[0, 0.2])
for mode, curve in enumerate(history.T[:4]):
    right.plot(curve, label=f"frequency {mode + 1}")
right.set(xlabel="step", ylabel="frequency in Hz", title="natural frequencies at constant mass")
right.legend(fontsize=9, ncols=2, loc=(0.3, 0.64))

# %% [markdown]
# The third and fourth frequencies dip at step 4. There the elements that are being emptied pass ρ =
# 0.1, where they still have their mass but a hundredth of its stiffness: a glimpse of artificial
# modes, which the soft minimum survives.
#
# ## Where to go next
#
# - [An L-shaped membrane with 43,000 stiffnesses and as many densities](../gallery/membrane.md)
#   widens a gap between two frequencies on a larger mesh.
# - [Repeated eigenvalues and crossings](repeated_eigenvalues.md) explains what has a derivative
#   where modes meet, and the descent that uses the kink instead of smoothing it.
# - [Scale](../scale.md) is about meshes whose factors no longer fit.
