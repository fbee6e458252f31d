# %% [markdown]
# # Reformulate instead
#
# Often the quantity of interest is not a single eigenpair, and a formulation without single
# eigenpairs is smoother, cheaper or both. This tutorial shows five of them: the resolvent, a
# contour integral, a matrix function, a semidefinite programme and conditions of your own. Each is
# compared with the derivative of eigenpairs, and each section ends with when it is the better way
# and when it is not. Bring the function that you want to differentiate; the matrices can be
# anything.
#
# The example is a net of $m \times m$ unit masses, held at its edge, with springs of stiffness 1
# along $x$, of stiffness $t$ along $y$, and a spring of stiffness $p_j$ that ties mass $j$ to the
# ground. At $t = 1$ and $p = 0$ it has the symmetry of the square, and most eigenvalues are double.

# %%
import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)


def net(t, p):
    """Return the stiffness matrix, sparse; p has shape (m²,)."""
    m = round(p.size**0.5)
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    along_x, along_y = sp.kron(line, sp.eye_array(m)), sp.kron(sp.eye_array(m), line)
    along_x, along_y = (ie.SparseOperator.from_scipy(K.tocsr()) for K in (along_x, along_y))
    place = np.arange(p.size)
    return along_x + t * along_y + ie.SparseOperator(p, place, place, (p.size, p.size))


# %% [markdown]
# ## The resolvent: the response at a given frequency
#
# The response to a force $b\,e^{i\omega t}$ at the place where $c$ measures it is
#
# $$
# r(z) = c^{\mathsf T} (A - zI)^{-1} b
#      = \sum_i \frac{(c^{\mathsf T} x_i)(x_i^{\mathsf T} b)}{\lambda_i - z},
# $$
#
# with $z = \omega^2$ and a small imaginary part for the damping. The sum needs eigenpairs, and all
# of them if it is to be exact. The left side is one linear solve, and its derivative one more. With
# `ie.SparseDirect` the solve is a sparse factorisation on the host, and JAX differentiates
# `lineax.linear_solve` by itself. Replace `net` by your operator and $b$, $c$ by your load and
# sensor.

# %%
m = 10
p = jnp.asarray(0.2 * np.random.default_rng(0).random(m**2))
b = jnp.zeros(m**2).at[m**2 // 3].set(1.0)
c = jnp.zeros(m**2).at[m**2 // 2].set(1.0)
place = np.arange(m**2)
identity = ie.SparseOperator(jnp.ones(m**2), place, place, (m**2, m**2))
z = 0.5 + 0.05j


def size(response):
    """Return the squared modulus."""
    return (response * response.conj()).real


def by_resolvent(p):
    """Return |r(z)|² by one solve."""
    x = lx.linear_solve(net(1.0, p) - z * identity, b.astype(complex), ie.SparseDirect()).value
    return size(jnp.vdot(c, x))


def by_modes(p, k):
    """Return |r(z)|² by the k lowest of all eigenpairs."""
    values, X = every(net(1.0, p).as_matrix())
    terms = (c @ X) * (b @ X) / (values - z)
    return size(jnp.sum(jnp.where(jnp.arange(m**2) < k, terms, 0.0)))


every = ie.eigensolver(ie.solvers.lapack(), ie.Hermitian(m**2))
exact, gradient = jax.jit(jax.value_and_grad(by_resolvent))(p)
modal = jax.jit(jax.value_and_grad(by_modes))
for k in (10, 30, m**2):
    value, by_sum = modal(p, k)
    error = jnp.linalg.norm(by_sum - gradient) / jnp.linalg.norm(gradient)
    print(f"{k} modes: response wrong by {abs(value / exact - 1):.0e}, gradient by {error:.0e}")
assert error < 1e-8

# %% [markdown]
# **Better** for a response at a few given $z$, near which many modes lie: nothing is truncated, and
# crossings do not matter, because the resolvent does not know single modes. **Not better** for many
# frequencies in a range with few modes: each $z$ needs a factorisation of its own, where a handful
# of eigenpairs serves them all. Nor where the frequency itself is wanted.
#
# ## The spectral projector as a contour integral
#
# The projector on the eigenvectors whose eigenvalues lie inside a circle $z = \mu + r e^{i\theta}$
# is an integral of the resolvent, and the trapezoidal rule with $N$ points converges geometrically:
#
# $$
# P = \frac{1}{2\pi i} \oint (zI - A)^{-1}\,dz
#   \approx \frac{1}{N} \sum_{j=1}^{N} r e^{i\theta_j} (z_j I - A)^{-1}.
# $$
#
# It is smooth as long as no eigenvalue meets the circle, whatever crosses inside. For a real
# symmetric $A$ the points of the upper half suffice. The second and the third mode of the square
# net are the example: their eigenvalues cross at $t = 1$.

# %%
m = 6
p = jnp.zeros(m**2)
b = jnp.asarray(np.random.default_rng(1).standard_normal(m**2))
identity = ie.SparseOperator(jnp.ones(m**2), place[: m**2], place[: m**2], (m**2, m**2))
middle, radius = 0.95, 0.25


def by_contour(t, p, N):
    """Return bᵀPb by N/2 solves, one after the other."""

    def term(turn):
        shifted = (middle + turn) * identity - net(t, p)
        x = lx.linear_solve(shifted, b.astype(complex), ie.SparseDirect()).value
        return jnp.vdot(b, turn * x).real

    angles = np.pi * (2 * np.arange(N // 2) + 1) / N
    return 2 / N * jnp.sum(jax.lax.map(term, radius * np.exp(1j * angles)))


def by_vectors(t, p, weights):
    """Return Σ wᵢ (b·xᵢ)² over the six lowest modes."""
    return jnp.sum(weights * (b @ six(net(t, p).as_matrix()).vectors) ** 2)


six = ie.eigensolver(ie.solvers.lapack(), ie.Hermitian(6))
contour = jax.jit(jax.value_and_grad(by_contour, argnums=(0, 1)), static_argnums=2)
vectors = jax.jit(jax.value_and_grad(by_vectors, argnums=(0, 1)))
both, second = np.array([0, 1.0, 1, 0, 0, 0]), np.array([0, 1.0, 0, 0, 0, 0])
square = np.float64(1.0)  # of NumPy's type like the t below, so that nothing is compiled twice
expected = vectors(square, p, both)[1][1]
for N in (16, 32):
    error = jnp.linalg.norm(contour(square, p, N)[1][1] - expected) / jnp.linalg.norm(expected)
    print(f"{N} points: the gradients with respect to p differ by {error:.0e}")
assert error < 1e-8

# %% [markdown]
# The two gradients agree, at the crossing too, because `both` gives the two members of the cluster
# the same weight. A single member has no derivative there. Nor is its derivative of use where the
# symmetry is not quite perfect: with uneven springs to the ground the two eigenvalues avoid each
# other, and the modes exchange while $t$ passes the place where they are nearest.

# %%
uneven = jnp.asarray(0.05 * np.random.default_rng(2).random(m**2))
t = np.linspace(0.9, 1.1, 41)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
drawn = {}
for name, places, curve, style in (
    ("second mode alone", t, lambda t: vectors(t, uneven, second), "-"),
    ("both modes, by eigenvectors", t, lambda t: vectors(t, uneven, both), "-"),
    ("both modes, by contour", t[::8], lambda t: contour(t, uneven, 32), "k."),
):
    value, slope = drawn[name] = np.transpose([(f, df[0]) for f, df in map(curve, places)])
    axes[0].plot(places, value, style, label=name)
    axes[1].semilogy(places, abs(slope), style)
label = "stiffness t along y (stiffness along x)"
axes[0].set(title="part of b in the modes", xlabel=label, ylabel="bᵀPb (1)")
axes[1].set(title="size of its derivative", xlabel=label, ylabel="|d(bᵀPb)/dt| (1)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
by_both, by_circle = drawn["both modes, by eigenvectors"][1], drawn["both modes, by contour"][1]
assert np.max(abs(by_both[::8] - by_circle)) < 1e-3 * np.max(abs(by_both))
assert np.max(abs(drawn["second mode alone"][1])) > 100 * np.max(abs(by_both))

# %% [markdown]
# **Better** where the set of modes is defined by an interval and their number changes from design
# to design, where modes inside cross or nearly cross, and for matrices that are not Hermitian with
# defective eigenvalues inside. The solves are independent of each other, so that they can be
# divided over processors. **Not better** where the modes are isolated: a few eigenpairs with one
# real factorisation cost less than $N/2$ complex ones; and where an eigenvalue comes near the
# circle the number of points grows. `ie.Hermitian` with projectors, or `ie.Subspace`, is then the
# better choice.
#
# ## A matrix function: all eigenvalues, softly weighted
#
# The free energy at the inverse temperature $\beta$, and the soft minimum of the eigenvalues, are
#
# $$
# F = -\frac1\beta \log \operatorname{tr} e^{-\beta A},
# \qquad
# \frac{\partial F}{\partial A} = \frac{e^{-\beta A}}{\operatorname{tr} e^{-\beta A}},
# $$
#
# smooth functions of $A$ whatever its eigenvalues do. `ie.matrix_function` is exact at repeated
# eigenvalues, also for entries of $e^{-\beta A}$, which $X f(\Lambda) X^{\mathsf T}$ from
# eigenvalues and eigenvectors is not. Automatic differentiation of `jax.scipy.linalg.expm` is the
# check.

# %%
every = ie.eigensolver(ie.solvers.lapack(), ie.Hermitian(m**2))
beta = 2.0


def exponential(p):
    """Return exp(−βA) on the space of all eigenvectors."""
    F = ie.matrix_function(every(net(1.0, p).as_matrix()), lambda x: jnp.exp(-beta * x))
    return F.as_matrix()


def dense(p):
    """Return the same, by JAX."""
    return jax.scipy.linalg.expm(-beta * net(1.0, p).as_matrix())


def free_energy_and_entry(E):
    """Return two functions of the exponential: the free energy, and one of its entries."""
    return jnp.stack([-jnp.log(jnp.trace(E)) / beta, E[7, 8]])


found, expected = (
    jax.jit(jax.jacrev(lambda p, of=of: free_energy_and_entry(of(p))))(p)
    for of in (exponential, dense)
)
errors = jnp.linalg.norm(found - expected, axis=1) / jnp.linalg.norm(expected, axis=1)
print(f"gradients differ from those of expm by {errors[0]:.0e} and {errors[1]:.0e}")
assert jnp.all(errors < 1e-10)

# %% [markdown]
# **Better** where all eigenvalues count by a weight (densities of states, partition functions,
# kernels, soft minima in an optimisation), and $f$ is negligible on those that are not computed.
# **Not better** where one isolated eigenvalue is wanted: the soft minimum differs from it by up to
# $\log(n)/\beta$, and a large $\beta$ has a large second derivative.
#
# ## The gap as a semidefinite programme
#
# If $A(w)$ is linear in $w$, its smallest eigenvalue is concave, and to maximise it is a
# semidefinite programme with a dual:
#
# $$
# \max_{w,\, \theta} \{\, \theta : A(w) - \theta I \succeq 0 \,\}
# \;\le\;
# \max_{w} \langle V, A(w) \rangle
# \quad\text{for every } V \succeq 0,\ \operatorname{tr} V = 1.
# $$
#
# A matrix $V$ for which the two sides agree certifies the optimum. The example is the gap of the
# Laplacian of a graph, $A(w) = \sum_e w_e\, b_e b_e^{\mathsf T}$ on the complement of the constant
# vector, whose eigenvalue 0 is lifted away, with weights $w_e \ge 0$ of sum 1. The right side is
# then $\max_e b_e^{\mathsf T} V b_e$.

# %%
vertices = np.arange(12).reshape(3, 4)
edges = np.concatenate(
    [
        np.stack([a.ravel(), z.ravel()], 1)
        for a, z in ((vertices[:, :-1], vertices[:, 1:]), (vertices[:-1], vertices[1:]))
    ]
)
difference = jnp.asarray(np.eye(12)[edges[:, 0]] - np.eye(12)[edges[:, 1]])  # rows are b_e
lifted = 10 * jnp.ones((12, 12)) / 12


def graph(w):
    """Return the Laplacian of the weighted graph, without the eigenvalue 0."""
    return difference.T @ (w[:, None] * difference) + lifted


# %% [markdown]
# We maximise the soft minimum of the section before by L-BFGS, with growing $\beta$. Its derivative
# with respect to $A$, $V = e^{-\beta A} / \operatorname{tr} e^{-\beta A}$, is positive with trace
# 1: a candidate for the dual that costs nothing.

# %%
lapack = ie.eigensolver(ie.solvers.lapack(), ie.Hermitian(12))


@jax.jit
def softly(q, beta):
    """Return minus the soft minimum, with w = softmax(q), and its gradient."""

    def function(q):
        solution = lapack(graph(jax.nn.softmax(q)))
        low = jax.lax.stop_gradient(solution.values[0])
        F = ie.matrix_function(solution, lambda x: jnp.exp(-beta * (x - low)))
        return jnp.log(jnp.trace(F.block)) / beta - low

    return jax.value_and_grad(function)(q)


tight = {"ftol": 1e-15, "gtol": 1e-12}
q = np.zeros(len(edges))
for beta in (1e2, 1e3, 1e4):
    function = lambda q, beta=beta: [np.asarray(part) for part in softly(q, beta)]
    q = minimize(function, q, jac=True, method="L-BFGS-B", options=tight).x
    values, X = np.linalg.eigh(graph(jax.nn.softmax(q)))
    weight = np.exp(-beta * (values - values[0]))
    V = (X * (weight / weight.sum())) @ X.T
    bound = np.max(np.einsum("ei,ij,ej->e", difference, V, difference))
    print(f"β = {beta:.0e}: gap {values[0]:.6f} ≤ optimum ≤ {bound:.6f}, next {values[1]:.6f}")
assert 0 < bound - values[0] < 1e-3 * bound

# %% [markdown]
# The smallest eigenvalue is double at the optimum, as it is at most optima of this kind, so that
# the gradient of a single one says nothing. The package's derivative for this case is
# `ie.minimum_norm_subgradient`: it finds the $V$ on the eigenspace for which the derivative is
# smallest, and zero proves the optimum. It wants parameters without constraint, hence $w$ less its
# mean; `degeneracy_rtol` says which eigenvalues count as one.

# %%
start = jax.nn.softmax(q)
bundled = ie.eigensolver(
    ie.solvers.lapack(), ie.Hermitian(12), policy=ie.Policy(degeneracy_rtol=1e-2)
)
moved = jax.jit(lambda w: bundled(graph(start + w - jnp.mean(w))))
zero = jnp.zeros(len(edges))
subgradient = ie.minimum_norm_subgradient(moved, zero, index=0)
plain = jax.jit(jax.grad(lambda w: lapack(graph(start + w - jnp.mean(w))).values[0]))(zero)
print(f"norm of the subgradient {jnp.linalg.norm(subgradient):.1e}", end=", ")
print(f"of the gradient of one eigenvalue {jnp.linalg.norm(plain):.1e}")
assert jnp.linalg.norm(subgradient) < 1e-2 * jnp.linalg.norm(plain)

# %% [markdown]
# **Better** where $A$ is linear in the parameters (weights, stiffnesses, controls) and the matrix
# has at most some hundred rows: a solver for semidefinite programmes, or the soft minimum above,
# finds the global optimum with a proof of it. **Not better** for large sparse matrices, where the
# dual $V$ is dense, and for parameters that enter nonlinearly, where only a stationary point is
# certified.
#
# ## Conditions of your own
#
# Where the matrix depends on the eigenvector, the answer of the last eigensolve does not carry the
# derivative. The lowest state of interacting bosons fulfils
#
# $$
# \bigl(A + g \operatorname{diag}(x^2)\bigr)\,x = \lambda x, \qquad x^{\mathsf T} x = 1,
# $$
#
# and a code finds it by iterating to self-consistency. `ie.implicit_function` takes the code as it
# is, and these two conditions.

# %%
interaction = 5.0


def self_consistent(A):
    """Return x and λ by fixed-point iteration, in NumPy."""
    x = np.linalg.eigh(A)[1][:, 0]
    for _ in range(200):
        values, X = np.linalg.eigh(A + interaction * np.diag(x**2))
        x = np.sqrt(0.5 * x**2 + 0.5 * X[:, 0] ** 2)
    return x, values[0]


def conditions(z, A):
    """Return what vanishes at the solution."""
    x, lam = z
    return A @ x + interaction * x**3 - lam * x, jnp.vdot(x, x) - 1


state = ie.implicit_function(
    self_consistent, conditions, like=lambda A: (jnp.zeros(len(A)), jnp.zeros(()))
)
energy = jax.jit(jax.value_and_grad(lambda t: state(net(t, p).as_matrix())[1]))
derivative = energy(1.3)[1]
expected = ie.testing.finite_difference(lambda t: energy(t)[0], (1.3,), (1.0,), step=1e-3, order=4)
print(f"dλ/dt {derivative:.8f}, by differences {expected:.8f}")

x, _ = self_consistent(np.asarray(net(1.3, p).as_matrix()))
frozen = lambda t: six(net(t, p).as_matrix() + interaction * np.diag(x**2)).values[0]
print(f"with the field held fixed {jax.jit(jax.grad(frozen))(1.3):.8f}")
assert abs(derivative - expected) < 1e-8

# %% [markdown]
# The last number lacks the response of the field. **Better** wherever the answer fulfils equations
# that no kind of eigenproblem covers: eigenvector nonlinearities, eigenpairs coupled to an
# equilibrium, optimality conditions. The default solves with the dense Jacobian up to 2,000
# unknowns. **Not better** where a declared kind fits, since that brings the checks of clusters and
# of gauges, the structured linear systems and the warnings. For a kind that you use often, see
# [Extending](../extending.md).
#
# ## Which one
#
# | you want | take | smooth through crossings |
# |---|---|---|
# | a response at given frequencies | the resolvent | yes |
# | the space of all modes in an interval | a contour integral, or projectors | inside it |
# | a weighted sum over all eigenvalues | `ie.matrix_function` | yes |
# | the best smallest eigenvalue of a linear family | soft minimum and certificate | yes |
# | a self-consistent state | `ie.implicit_function` | no |
# | one isolated eigenpair | `ie.Hermitian`, `ie.General`, … | no |
#
# ## Where to go next
#
# - [Repeated eigenvalues](repeated_eigenvalues.md) is for those who stay with eigenpairs.
# - [Minimise the largest eigenvalue](../gallery/max_eigenvalue.md) descends along subgradients.
# - [When a gradient looks wrong](../when-a-gradient-looks-wrong.md) lists symptoms and remedies.
