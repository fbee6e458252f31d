# %% [markdown]
# # From SciPy matrices to gradients
#
# You have a code that assembles a stiffness matrix K and a mass matrix M as `scipy.sparse`
# matrices, and you call `eigsh(K, k, M, sigma=0)`. After this tutorial you can differentiate any
# function of the eigenvalues and eigenvectors with respect to every parameter of your elements,
# check the result, and know how far to trust it. Bring the two matrices and, from the third section
# on, the place in your code where element matrices are added up.

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The matrices
#
# The two files come from a code like yours: a membrane, 1.6 m long and 1 m wide, fixed at its edge,
# with a tension of 1 N/m and a mass of 1 kg/m² in each of its 1,440 square cells. Every cell adds a
# 4×4 element matrix to K and another to M. **Replace this cell by your own code**, or leave it out
# if you have files.

# %%
NX, NY = 48, 30
h = 1 / NY  # the side of a cell, in m
K_E = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6
M_E = np.array([[4, 2, 1, 2], [2, 4, 2, 1], [1, 2, 4, 2], [2, 1, 2, 4]]) * h**2 / 36

number = -np.ones((NY + 1, NX + 1), int)  # −1 marks a fixed node, others are counted
number[1:-1, 1:-1] = np.arange((NY - 1) * (NX - 1)).reshape(NY - 1, NX - 1)
n, cells = (NY - 1) * (NX - 1), NY * NX
corners = [number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]]
nodes = np.stack(corners, axis=-1).reshape(cells, 4)
rows, cols = np.repeat(nodes, 4, axis=1).ravel(), np.tile(nodes, 4).ravel()
free = (rows >= 0) & (cols >= 0)


def assemble(element, weights):
    """Return Σ weights[e] · element as a sparse matrix, duplicates being added."""
    data = np.outer(weights, element).ravel()
    return sp.coo_array((data[free], (rows[free], cols[free])), (n, n)).tocsr()


folder = pathlib.Path(tempfile.mkdtemp())
sp.save_npz(folder / "K.npz", assemble(K_E, np.ones(cells)))
sp.save_npz(folder / "M.npz", assemble(M_E, np.ones(cells)))

# %%
K, M = sp.load_npz(folder / "K.npz"), sp.load_npz(folder / "M.npz")
print(f"n = {K.shape[0]}, {K.nnz} entries; symmetric to {abs(K - K.T).max():.0e}")

# %% [markdown]
# ## The same call, differentiable
#
# Put the call that you make today into a function. It remains SciPy's `eigsh` and receives SciPy's
# matrices; automatic differentiation never looks inside. `Hermitian(k=4)` declares what its answer
# fulfils: $K X = M X \Lambda$ and $X^\mathsf{T} M X = I$. The one addition is the start `v0`,
# because a differentiated function must give the same answer each time, and ARPACK otherwise starts
# at random.


# %%
def arpack(K, M):
    return eigsh(K, 4, M, sigma=0, v0=np.ones(K.shape[0]))


solve = ie.eigensolver(arpack, ie.Hermitian(k=4))
values, vectors = solve(K, M)
i, j = np.arange(1, 5)[:, None], np.arange(1, 5)
exact = np.sort(np.pi**2 * (i**2 / 1.6**2 + j**2), axis=None)[:4]
print("λ, 1/s²  ", *(f"{value:7.3f}" for value in values))
print("in theory", *(f"{value:7.3f}" for value in exact))
assert np.allclose(values, eigsh(K, 4, M, sigma=0)[0])
assert np.allclose(values, exact, rtol=0.01)

# %% [markdown]
# With the files alone there is a first derivative already. A `SparseOperator` holds the stored
# entries in an array of JAX's, and the gradient with respect to it lives on the same pattern; no
# full matrix is made. The theory says $\partial\lambda_1/\partial K_{ij} = x_i x_j$.

# %%
K_operator = ie.SparseOperator.from_scipy(K)
by_entry = jax.jit(jax.grad(lambda K: solve(K, M).values[0]))(K_operator)
x = vectors[:, 0]
print(f"{by_entry.data.size} derivatives, one for each stored entry of K")
assert np.allclose(by_entry.data, x[by_entry.rows] * x[by_entry.cols])

# %% [markdown]
# ## From parameters to matrices
#
# What you want are derivatives with respect to your parameters. Here they are the tensions
# $p_e$ of the cells,
#
# $$K(p) = \sum_e p_e K_e.$$
#
# An assembly loop produces triplets (row, column, entry), and entries at the same place are added.
# `SparseOperator` takes the same triplets and adds in the same way, so that only the entries have
# to be computed by JAX: `np.outer` becomes `jnp.outer`. **Replace by yours** the rows and columns,
# which stay NumPy arrays, and the line that computes `data`; any JAX code may stand there.


# %%
def stiffness(p):
    data = jnp.outer(p, K_E.ravel()).ravel()
    return ie.SparseOperator(data[free], rows[free], cols[free], (n, n))


p = jnp.ones(cells)
difference = stiffness(p).as_matrix() - K.toarray()  # at this size a dense comparison is cheap
print(f"K(p) differs from the file by {abs(difference).max():.0e}")
assert abs(difference).max() < 1e-14

# %% [markdown]
# ## One frequency, every element
#
# The first frequency is $f_1 = \sqrt{\lambda_1}/2\pi$. One call of `jax.grad` gives its derivative
# with respect to all 1,440 tensions. A gradient of eigenvalues takes no linear solve, only one
# product with each eigenvector that it uses.


# %%
def frequency(p):
    return jnp.sqrt(solve(stiffness(p), M).values[0]) / (2 * jnp.pi)


value_and_gradient = jax.jit(jax.value_and_grad(frequency))
f1, gradient = value_and_gradient(p)
print(f"f₁ = {f1:.4f} Hz, {gradient.size} derivatives")
print(f"Σ pₑ ∂f₁/∂pₑ = {p @ gradient:.6f} Hz, in theory f₁/2 = {f1 / 2:.6f} Hz")
assert np.isclose(p @ gradient, f1 / 2)  # f₁ grows as the square root of all tensions

# %% [markdown]
# Compare your own gradient with a difference in a random direction. It takes two more calls of
# `eigsh`, and shows whether the matrices depend on the parameters as you think they do.

# %%
direction = jnp.asarray(np.random.default_rng(0).standard_normal(cells))


def compare(value_and_gradient, name, step=1e-4):
    slope = value_and_gradient(p)[1] @ direction
    after, before = (value_and_gradient(p + s * direction)[0] for s in (step, -step))
    central = (after - before) / (2 * step)
    print(f"{name}: {slope:+.8f}, by differences {central:+.8f}")
    assert abs(slope - central) < 1e-6 * abs(slope)


compare(value_and_gradient, "slope of f₁, Hz")

# %% [markdown]
# ## A function of an eigenvector
#
# How much of the first mode is in the left half of the membrane? The squares matter: the sign of an
# eigenvector is arbitrary, and the loss should not depend on it. It may mix eigenvalues and
# eigenvectors as you like; each eigenvector that it uses takes one linear solve with
# $K - \lambda_i M$. **Replace** the function by your objective.

# %%
left = number[1:-1, 1 : NX // 2].ravel()


def share(vectors):
    x = vectors[:, 0]
    return jnp.sum(x[left] ** 2) / jnp.sum(x**2)


of_share = jax.jit(jax.value_and_grad(lambda p: share(solve(stiffness(p), M).vectors)))
compare(of_share, "slope of the share")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
share_gradient = of_share(p)[1]
pictures = {"∂f₁/∂p in Hz per N/m": gradient, "∂share/∂p in 1 per N/m": share_gradient}
for axis, (label, of_cells) in zip(axes, pictures.items(), strict=True):
    image = axis.imshow(of_cells.reshape(NY, NX), origin="lower", extent=(0, 1.6, 0, 1))
    figure.colorbar(image, label=label, shrink=0.8)
    axis.set(xlabel="x in m", ylabel="y in m")
    axis.grid(False)
axes[0].set_title("first frequency")
axes[1].set_title("first mode, share on the left")

# %% [markdown]
# ## Share the factorisation
#
# SciPy's `eigsh` factorises K − σM and keeps the factors to itself, so that the derivative of an
# eigenvector has to factorise once more. `ie.linalg.eigsh` is the same ARPACK with the same
# arguments and return values, but takes its factors from a cache from which derivatives take
# theirs. If you would rather change one import than wrap a function, it is all that you need.


# %%
def share_by_import(p):
    _, vectors = ie.linalg.eigsh(stiffness(p), 4, M, sigma=0)
    return share(vectors)


ie.factorization_cache.clear()
found = jax.jit(jax.grad(share_by_import))(p)
print(f"{ie.factorization_cache.misses} factorisation for eigenvectors and gradient")
assert ie.factorization_cache.misses == 1
assert np.allclose(found, share_gradient, rtol=1e-6, atol=1e-12)

# %% [markdown]
# ## How far to trust it
#
# As a solver for `ie.eigensolver`, the ARPACK that shares its factors is `ie.solvers.arpack`. With
# `guard=1` it is asked for one eigenpair more than you want, which shows whether k = 4 separates
# two equal eigenvalues. `ie.diagnose` prints, for each eigenpair, its residual, the relative
# distance to the next eigenvalue, how well its linear system is solved, and an estimate of the
# error of a gradient in the worst case. With `of=f` it estimates that of one function f.

# %%
shared = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(k=4, guard=1))
diagnosis = ie.diagnose(shared, stiffness(p), M)
print(diagnosis)
assert diagnosis.gradient_errors.max() < 1e-6
assert all(diagnosis.complete)

# %% [markdown]
# ## When the assembly cannot move to JAX
#
# If your assembly is a large code, leave it where it is. `ie.host_operator` needs two functions of
# NumPy: one that assembles, and one that contracts the derivatives of the matrix with two vectors,
# $y^\mathsf{T} (\partial K/\partial p_e)\, x$ for every element, which is a loop over the elements
# like the assembly itself.


# %%
def assemble_stiffness(p):
    return assemble(K_E, p)


def contract(p, y, x):
    y, x = np.append(y, 0)[nodes], np.append(x, 0)[nodes]  # number −1, a fixed node, takes the 0
    return np.sum(y @ K_E * x, axis=1)


def share_by_host_code(p):
    K = ie.host_operator(assemble_stiffness, p, contract=contract, shape=(n, n), dtype=float)
    return share(shared(K, M).vectors)


by_host_code = jax.jit(jax.grad(share_by_host_code))(p)
error = jnp.linalg.norm(by_host_code - share_gradient) / jnp.linalg.norm(share_gradient)
print(f"the two gradients differ by {error:.0e}")
assert error < 1e-6

# %% [markdown]
# ## Where to go next
#
# - [A plate whose assembly stays host code](../gallery/host_assembly.md), with 5,000 thicknesses.
# - [From finite elements to an optimised design](design.md), if your elements come from a library.
# - [How to choose a linear solver](../how-to-choose.md), and
#   [what to do when a gradient looks wrong](../when-a-gradient-looks-wrong.md).
