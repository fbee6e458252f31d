# %% [markdown]
# # Quickstart: differentiate a solver that automatic differentiation cannot see through
#
# A(p) = p pᵀ has one nonzero eigenvalue, λ = ‖p‖², with eigenvector x = p/‖p‖. So the answers are
# known: ∇λ = 2p, and for any vector s the gradient of Σ sᵢ xᵢ² follows by hand. The matrix is never
# formed; only products with it are.

# %%
import argparse

import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib
import numpy as np
from scipy.sparse.linalg import eigsh

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", default="quickstart.png", help="where the picture goes")
options = parser.parse_args()

n = 500
rng = np.random.default_rng(0)
p = jnp.asarray(rng.standard_normal(n))
s = jnp.asarray(rng.standard_normal(n))

# %% [markdown]
# The operator is a function v -> A(p) v. The eigensolver is SciPy's ARPACK, unchanged; the adjoint
# system of the eigenvector is solved by a Krylov method, conjugate gradients from lineax.


# %%
def operator(p):
    return lx.FunctionLinearOperator(lambda v: p * jnp.vdot(p, v), jax.eval_shape(lambda: p))


def arpack(A):
    return eigsh(A, k=1, which="LA", v0=np.ones(A.shape[0]))


solve = ie.eigensolver(arpack, ie.Hermitian(k=1), linear_solver=lx.CG(rtol=1e-10, atol=1e-10))


def value(p):
    return solve(operator(p)).values[0]


def vector(p):
    return jnp.sum(s * solve(operator(p)).vectors[:, 0] ** 2)


# %%
gradient = jax.grad(value)(p)
print(f"largest eigenvalue     {value(p):.12f}   (‖p‖² = {p @ p:.12f})")
print(f"gradient minus 2p      {jnp.max(jnp.abs(gradient - 2 * p)):.1e}")
assert jnp.max(jnp.abs(gradient - 2 * p)) < 1e-12

x = p / jnp.linalg.norm(p)
by_hand = 2 * x * (s - s @ x**2) / jnp.linalg.norm(p)
of_vector = jax.grad(vector)(p)
error = jnp.max(jnp.abs(of_vector - by_hand)) / jnp.max(jnp.abs(by_hand))
print(f"gradient of the vector {error:.1e}  relative error")
assert error < 1e-9

hvp = jax.jit(lambda p: jax.jvp(jax.grad(value), (p,), (s,))[1])(p)
print(f"Hessian times s        {jnp.max(jnp.abs(hvp - 2 * s)):.1e}  from 2s, under jit")
assert jnp.max(jnp.abs(hvp - 2 * s)) < 1e-8

# %% [markdown]
# Plain automatic differentiation fails here in two ways. It cannot trace ARPACK at all; and through
# `jnp.linalg.eigh` of the dense matrix the zero eigenvalue, which is repeated and unrelated to the
# eigenvector that we want, makes the gradient NaN (for a p of three entries, where the zeros are
# exact).

# %%
try:
    jax.grad(lambda p: arpack(p[:, None] * p[None, :])[0][0])(p)
except TypeError as error:
    # the tracer reaches SciPy, which does not accept it as a matrix
    print(f"autodiff of ARPACK     {type(error).__name__}: {error}")


def dense(p):
    return jnp.sum(s * jnp.linalg.eigh(p[:, None] * p[None, :])[1][:, -1] ** 2)


through_eigh = jax.grad(dense)(jnp.zeros(n).at[:3].set(p[:3]))
print(f"autodiff of eigh       {through_eigh[0]}")
assert not jnp.all(jnp.isfinite(through_eigh))

# %% [markdown]
# ## The picture
#
# Each point is one of the 500 derivatives.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for axis, computed, expected, title in (
    (axes[0], gradient, 2 * p, "the eigenvalue"),
    (axes[1], of_vector, by_hand, "a function of the eigenvector"),
):
    axis.plot(expected, computed, "o", markersize=3)
    axis.axline((0, 0), slope=1, color="0.6", zorder=0)
    axis.ticklabel_format(scilimits=(-1, 3))
    axis.set(title=f"gradient of {title}", xlabel="closed form", ylabel="computed")
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
