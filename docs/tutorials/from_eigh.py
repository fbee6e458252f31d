# %% [markdown]
# # From jnp.linalg.eigh to k eigenpairs
#
# You have JAX code around `jnp.linalg.eigh`. Its gradients are NaN where eigenvalues repeat, and it
# computes all n eigenpairs although you use a few. After this tutorial you can replace it by one
# import, recognise a loss that has no gradient, compute only the eigenpairs that you need, by a
# solver of your choice, and differentiate matrix functions, batches and gradients themselves. Bring
# your function that makes a dense symmetric matrix, and your loss.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The NaN
#
# **Replace `hamiltonian` by your own function** of parameters that returns a symmetric matrix. Here
# it describes an electron on a ring of n atoms: p are the energies of the atoms, and 1 is the
# amplitude with which the electron moves to either neighbour. Where all atoms are alike, waves run
# around the ring in both directions, and all eigenvalues but the lowest and the highest are double:
# $-2\cos(2\pi m/n)$ for $m = 0, \pm 1, \pm 2, \dots$
#
# The loss is a weighted sum of the density $\rho_i = \sum_{j \le 3} x_{ij}^2$ of electrons in the
# three lowest states. It treats both states of the pair $m = \pm 1$ alike, so that it does not
# depend on the basis that a solver happens to choose for them, and it is a smooth function of p.
# Perturbation theory gives its gradient, with a sum over occupied states i and empty states j:
#
# $$
# \frac{\partial}{\partial p_m} \sum_l w_l \rho_l
# = 2 \sum_{i \le 3} \sum_{j > 3} \frac{x_i^\mathsf{T} W x_j}{\lambda_i - \lambda_j} x_{im} x_{jm}.
# $$

# %%
n, filled = 24, 3
weights = jnp.cos(jnp.arange(n))
ring = -sum(jnp.eye(n, k=k) for k in (1, -1, n - 1, 1 - n))


def hamiltonian(p):
    return ring + jnp.diag(p)


def loss(p, eigh):
    return weights @ jnp.sum(eigh(hamiltonian(p))[1][:, :filled] ** 2, axis=1)


def in_theory(p):
    values, X = jnp.linalg.eigh(hamiltonian(p))
    inside, outside = X[:, :filled], X[:, filled:]
    coupling = (inside.T * weights) @ outside / (values[:filled, None] - values[filled:])
    return 2 * jnp.sum((inside @ coupling) * outside, axis=1)


p = jnp.zeros(n)
print("eigenvalues    ", np.round(jnp.linalg.eigvalsh(hamiltonian(p))[:5], 4))
print("jnp.linalg.eigh", np.round(jax.grad(loss)(p, jnp.linalg.eigh)[:5], 4))
print("in theory      ", np.round(in_theory(p)[:5], 4))

# %% [markdown]
# `jnp.linalg.eigh` differentiates each eigenvector by itself, and divides by
# $\lambda_2 - \lambda_3$, of which only rounding is left, or nothing.
#
# ## One import
#
# `ie.linalg.eigh` has the arguments and return values of `jnp.linalg.eigh` and finds the same
# eigenpairs; only the derivative is another. Eigenvalues that are equal to rounding count as one,
# and nothing is divided by their difference.

# %%
by_package = jax.grad(loss)(p, ie.linalg.eigh)
print("ie.linalg.eigh ", np.round(by_package[:5], 4))
assert jnp.allclose(by_package, in_theory(p), atol=1e-13)
assert not jnp.allclose(jax.grad(loss)(p, jnp.linalg.eigh), in_theory(p), atol=1e-3)

# %% [markdown]
# Near a repeated eigenvalue there is no NaN that would tell you: the error of `jnp.linalg.eigh`
# grows as rounding divided by the gap. Changing the energy of one atom opens the gap. Both
# derivatives work under `jax.vmap`, here for 57 rings at once.

# %%
atom = jnp.zeros(n).at[0].set(1.0)
energies = jnp.logspace(-14, 0, 57)
rings = energies[:, None] * atom
exact = jax.vmap(in_theory)(rings)
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
for name, eigh in {"jnp.linalg.eigh": jnp.linalg.eigh, "ie.linalg.eigh": ie.linalg.eigh}.items():
    found = jax.jit(jax.vmap(jax.grad(lambda p, e=eigh: loss(p, e))))(rings)
    error = jnp.max(abs(found - exact), axis=1) / jnp.max(abs(exact), axis=1)
    axis.loglog(energies, error, label=name)
axis.set(xlabel="energy of the first atom, which opens a gap", ylabel="relative error")
axis.set_title("gradient of the density near a repeated eigenvalue")
axis.legend()
assert error.max() < 1e-12  # of the package, at every gap

# %% [markdown]
# ## A loss that has no gradient
#
# No rule can differentiate a function that depends on what is arbitrary: on one of several equal
# eigenvalues, on one of their eigenvectors, or on the phase of a complex eigenvector. A
# `GaugeWarning` names the eigenpairs and the remedy; the numbers that come with it are not a
# derivative. Below, the loss uses one state of a pair. Use both alike, as the density does.


# %%
def one_of_two(p, **options):
    return ie.linalg.eigh(hamiltonian(p), **options)[1][3, 1] ** 2


print("no derivative:", np.round(jax.grad(one_of_two)(p)[:5], 4))

# %% [markdown]
# To have an error instead, in a test for example, pass a policy. One thing no check can see: the
# *sign* of a real eigenvector. It does not turn, it jumps, and between jumps every loss has a
# derivative. So use x² rather than x, or a product in which the sign cancels.

# %%
strict = ie.Policy(gauge=ie.Action.RAISE)
try:
    print(jax.grad(one_of_two)(p, policy=strict))
except jax.errors.JaxRuntimeError as error:  # JAX's runtime delivers it, with our text
    told = str(error)
    print(told[told.index("got one that") :].split(". ", maxsplit=1)[0])
assert "the basis in the cluster of pairs 1 and 2" in told

# %% [markdown]
# ## Only k eigenpairs
#
# `ie.eigensolver` takes any solver, and a declaration of what its answer fulfils. With
# `ie.Hermitian(k=3)` a derivative takes one linear solve for each eigenvector that the loss uses,
# instead of a sum over all n. Plain functions run on the host and receive NumPy arrays, such as
# LAPACK here, which computes only the eigenpairs that it is asked for. `ie.traceable` marks JAX
# code, which stays inside the compiled program. **Replace** the solver by yours.


# %%
def lapack(A):  # one eigenpair more shows that k = 3 does not separate equal eigenvalues
    return scipy.linalg.eigh(A, subset_by_index=[0, filled])


on_host = ie.eigensolver(lapack, ie.Hermitian(filled))
in_jax = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(filled))


def energy(p, solve):  # of the electrons, and a part of their density
    values, vectors = solve(hamiltonian(p))
    return jnp.sum(values) + 0.5 * jnp.sum(jnp.sum(vectors**2, axis=1) ** 2)


gradient = jax.jit(jax.grad(energy), static_argnums=1)
difference = abs(gradient(p, on_host) - gradient(p, in_jax)).max()
print(f"two solvers, one gradient: they differ by {difference:.0e}")
assert difference < 1e-12

# %% [markdown]
# ## Products with the Hessian
#
# Derivatives can be nested. Forward over reverse mode gives the product of the Hessian with a
# vector at the price of a few gradients, and the repeated eigenvalue does no harm. Compare it with
# a difference of gradients.

# %%
v = jnp.asarray(np.random.default_rng(0).standard_normal(n))
product = jax.jit(lambda p: jax.jvp(lambda p: gradient(p, in_jax), (p,), (v,))[1])(p)
step = 1e-4
by_difference = (gradient(p + step * v, in_jax) - gradient(p - step * v, in_jax)) / (2 * step)
error = abs(product - by_difference).max() / abs(product).max()
print(f"Hessian times v: relative difference {error:.0e}")
assert error < 1e-6

# %% [markdown]
# ## Matrix functions
#
# A function that mixes eigenvalues with eigenvectors, such as the density at a finite temperature,
# $\rho = \operatorname{diag}\, X f(\Lambda) X^\mathsf{T}$, needs more than the two carry where
# eigenvalues repeat. Write it by `ie.matrix_function`, which is exact there too, also for the
# parameters of f. With all n eigenpairs and $f(\lambda) = e^{-\lambda/T}$ it is a matrix
# exponential, so that `jax.scipy.linalg.expm` can check it.

# %%
solve_all = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(n))


def thermal(p, T):
    F = ie.matrix_function(solve_all(hamiltonian(p)), lambda energy: jnp.exp(-energy / T))
    return weights @ F.diagonal()


def by_expm(p, T):
    return weights @ jnp.diag(jax.scipy.linalg.expm(-hamiltonian(p) / T))


ours, theirs = (jax.jit(jax.grad(f, (0, 1)))(p, 0.5) for f in (thermal, by_expm))
errors = [jnp.max(abs(a - b) / jnp.max(abs(b))) for a, b in zip(ours, theirs, strict=True)]
print(f"relative difference {errors[0]:.0e} for p, {errors[1]:.0e} for the temperature")
assert max(errors) < 1e-11

# %% [markdown]
# ## Where to go next
#
# - [Repeated eigenvalues](repeated_eigenvalues.md), for losses and optimisers that meet them.
# - [When a gradient looks wrong](../when-a-gradient-looks-wrong.md) lists every warning.
# - [Bring your own eigensolver](bring_your_solver.md), and [how to choose](../how-to-choose.md) the
#   linear solver behind it.
