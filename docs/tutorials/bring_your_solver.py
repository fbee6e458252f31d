# %% [markdown]
# # Bring your own eigensolver
#
# You have a solver that this package does not know: a Fortran code behind `ctypes`, a service, ten
# lines of NumPy. After this tutorial you can wrap it so that everything that it returns is
# differentiable, know what it receives and must return, and treat one that converges only roughly.
# Bring a function of a matrix, or of two, that returns eigenvalues and eigenvectors.

# %%
import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, splu

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Ten lines of NumPy
#
# This is subspace iteration, $X \leftarrow K^{-1} M X$ with a Rayleigh–Ritz step, for the lowest
# eigenpairs of $K x = \lambda M x$. It stands for your solver: **replace** it, and keep its form,
# matrices in, eigenvalues and eigenvectors out.


# %%
def subspace_iteration(K, M, steps=60):
    inverse = splu(K.tocsc())
    X = np.random.default_rng(0).standard_normal((K.shape[0], 8))
    for _ in range(steps):
        X, _ = np.linalg.qr(inverse.solve(M @ X))
    values, Y = scipy.linalg.eigh(X.T @ K @ X, X.T @ M @ X)
    return values[:3], (X @ Y)[:, :3]


# %% [markdown]
# The problem is a chain of 60 masses between 61 springs, with everything equal to 1 at the start.
# **Replace** it by your own matrices, built in JAX from your parameters. `ie.eigensolver` joins the
# solver to a declaration of what its answer fulfils: `Hermitian(k=3)` says $K X = M X \Lambda$ and
# $X^\mathsf{T} M X = I$. The derivative follows from these equations. The solver is never
# differentiated, so nothing about it has to be known.

# %%
n = 60
i = np.arange(n)
rows, cols = np.concatenate([i, i[1:], i[:-1]]), np.concatenate([i, i[:-1], i[1:]])
M = sp.eye_array(n).tocsr()


def chain(springs):
    data = jnp.concatenate([springs[:-1] + springs[1:], -springs[1:-1], -springs[1:-1]])
    return ie.SparseOperator(data, rows, cols, (n, n))


solve = ie.eigensolver(subspace_iteration, ie.Hermitian(k=3))


def loss(springs, solve=solve, **options):
    values, vectors = solve(chain(springs), M, **options)
    return values[1] / values[0] + jnp.sum(vectors[:10, 0] ** 2)


springs = jnp.ones(n + 1)
value_and_gradient = jax.jit(jax.value_and_grad(loss))
v = jnp.asarray(np.random.default_rng(1).standard_normal(n + 1))
ends = [value_and_gradient(springs + step * v)[0] for step in (1e-5, -1e-5)]
gradient = value_and_gradient(springs)[1]
print(f"slope {gradient @ v:+.7f}, by differences {(ends[0] - ends[1]) / 2e-5:+.7f}")
assert np.isclose(gradient @ v, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)

# %% [markdown]
# ## What it receives
#
# A plain function runs on the host and receives what NumPy and SciPy codes expect, never an array
# of JAX's. What it is depends on the operator that you pass. The last one below is known by its
# products alone; its solver receives a `LinearOperator` and must work with that, as ARPACK and
# LOBPCG do.

# %%
received = []


def curious(A):
    received.append(A)
    return scipy.linalg.eigh(A @ np.eye(n), subset_by_index=[0, 2])


K = chain(springs)
by_product = lx.FunctionLinearOperator(K.mv, K.in_structure(), lx.symmetric_tag)
for operator in (K.as_matrix(), K, by_product):
    ie.eigensolver(curious, ie.Hermitian(k=3))(operator)
    print(f"{type(operator).__name__:22s} -> {type(received[-1]).__name__}")
assert isinstance(received[0], np.ndarray)
assert sp.issparse(received[1])
assert isinstance(received[2], LinearOperator)

# %% [markdown]
# ## What it must return
#
# Values (k,) and vectors (n, k), one column for each value. The order is yours and is kept. The
# scale of the vectors is free; they come back normalised. The answer must be the same each time, so
# give random starts a seed. Values and vectors beyond the k are welcome: they show whether k
# separates two equal eigenvalues.


# %%
def carefree(A):
    values, vectors = scipy.linalg.eigh(A)
    return values[::-1], -7 * vectors[:, ::-1]  # descending, and of any length


values, vectors = ie.eigensolver(carefree, ie.Hermitian(k=2))(K.as_matrix())
print("values", np.round(values, 4), "norms", np.linalg.norm(vectors, axis=0))
assert values[0] > values[1]
assert np.allclose(vectors.T @ vectors, np.eye(2))

# %% [markdown]
# ## A solver that converges roughly
#
# A keyword argument of the call reaches a solver that has an argument of this name. Four steps of
# subspace iteration do not satisfy the equations to the accuracy that derivatives need, and you are
# told so instead of getting a wrong gradient.

# %%
try:
    print(loss(springs, steps=4))
except ie.EigensolverError as error:
    message = str(error)
    print(message)
assert "(3 of 3 pairs fail)" in message

# %% [markdown]
# Three things can be done. Tighten the solver. Or let the package apply Newton's method to its
# answer, `refine=1`: each step takes one linear solve for each eigenpair and about doubles the
# number of correct digits. Or accept larger residuals, of the eigenpairs and of the linear systems
# that are made of them; the error of the gradient is then about that of the eigenvectors, the
# residual divided by the gap. The picture accepts everything, to show what is gained.

# %%
loose = ie.Policy(residual_rtol=1.0, linear_solve_rtol=1.0)
exact = gradient
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
for refine in (0, 1):
    accepting = ie.eigensolver(subspace_iteration, ie.Hermitian(3), policy=loose, refine=refine)
    of_steps = jax.jit(jax.grad(lambda p, s, e=accepting: loss(p, e, steps=s)))
    found = np.stack([of_steps(springs, steps) for steps in range(3, 13)])
    error = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact)
    axis.semilogy(range(3, 13), error, "o-", label=f"refine={refine}")
    print(f"refine={refine}: error of the gradient after 4 steps {error[1]:.0e}")
axis.set(xlabel="steps of subspace iteration", ylabel="relative error of the gradient")
axis.set_title("Newton's method on a rough solver's answer")
axis.legend()
assert error[1] < 1e-5

# %% [markdown]
# ## Code that JAX can trace
#
# If your solver is written in JAX, mark it by `ie.traceable`. It stays in the compiled program
# then, on any device, and `jax.vmap` batches it. Its loop is not differentiated, so that it may be
# a `while_loop`, and the gradient does not remember its steps. Dense operators reach it as arrays,
# others as lineax operators.


# %%
@ie.traceable
def in_jax(A):
    factors = jax.scipy.linalg.lu_factor(A)
    X = jax.random.normal(jax.random.key(0), (n, 8))
    step = lambda _, X: jnp.linalg.qr(jax.scipy.linalg.lu_solve(factors, X))[0]
    X = jax.lax.fori_loop(0, 60, step, X)
    values, Y = jnp.linalg.eigh(X.T @ A @ X)
    return values[:3], (X @ Y)[:, :3]


traced = ie.eigensolver(in_jax, ie.Hermitian(k=3))


def dense_loss(springs):
    values, vectors = traced(chain(springs).as_matrix())
    return values[1] / values[0] + jnp.sum(vectors[:10, 0] ** 2)


difference = abs(jax.jit(jax.grad(dense_loss))(springs) - gradient).max()
print(f"gradients of the two solvers differ by {difference:.0e}")
assert difference < 1e-8 * abs(gradient).max()

# %% [markdown]
# ## Matrices that are not symmetric
#
# Declare `ie.General(k)`. Where your solver has left eigenvectors, $y^\mathsf{H} A = \lambda
# y^\mathsf{H} B$, return them third: a gradient of eigenvalues then takes no linear solve. Their
# scale is free, too. A drift d along the chain has
# $\lambda_j = 2 - 2 \sqrt{1 - d^2} \cos(\pi j/(n+1))$, so that the derivative is known.


# %%
def lapack(A):
    values, left, right = scipy.linalg.eig(A, left=True)
    order = np.argsort(values.real)
    return values[order], right[:, order], left[:, order]


general = ie.eigensolver(lapack, ie.General(k=1))


def slowest(d):
    drift = d * (jnp.eye(n, k=1) - jnp.eye(n, k=-1))
    return general.values(chain(springs).as_matrix() + drift)[0].real


d = 0.05
in_theory = 2 * d / np.sqrt(1 - d**2) * np.cos(np.pi / (n + 1))
slope = jax.jit(jax.grad(slowest))(d)
print(f"∂λ/∂d = {slope:.10f}, in theory {in_theory:.10f}")
assert np.isclose(slope, in_theory, rtol=1e-9)

# %% [markdown]
# ## Where to go next
#
# - [Bring your own linear solver](bring_your_linear_solver.md), for the systems of the derivative.
# - [Extending](../extending.md): a solver as a class with options, which names its linear solver,
#   and problems of your own kind.
# - [Conventions](../conventions.md) on order, normalisation and signs.
