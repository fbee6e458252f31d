# %% [markdown]
# # Bring your own linear solver
#
# The derivative of an eigenvector is the solution of a linear system, and you may know a better way
# to solve it than the default: a preconditioner for your equations, a multigrid code, a solver for
# your machine. After this tutorial you can plug in solvers of lineax, JAX and SciPy or functions of
# your own, see what they do, and read the error of one that fails. Bring your matrices and, if you
# have it, your preconditioner.

# %%
import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Which systems have to be solved
#
# For every eigenvector that your function uses there is one system
#
# $$(A - \lambda_i B)\, z_i = r_i, \qquad X^\mathsf{H} B z_i = 0.$$
#
# The matrix is singular, as it stands: it maps $x_i$ to zero. The package therefore never hands it
# to a solver, but one of two nonsingular forms of it.
#
# - `ie.Deflated()`, the default: $A - \lambda_i B + B X D_i X^\mathsf{H} B$ with a diagonal $D_i$
#   that moves the known eigenvalues away. It is of size n, known by its products (or as an array,
#   if A is one), and definite if you know all eigenvalues at one end of the spectrum, up to
#   $\lambda_i$; otherwise it is indefinite.
# - `ie.Bordered()`: $A - \lambda_i B$ with the eigenvectors near $\lambda_i$ as additional rows and
#   columns. It is sparse if A and B are, so that a direct solver can take it. It is always
#   indefinite.
#
# The example is a Schrödinger operator on a grid, differences plus a potential p that varies over
# three decades. **Replace** `operator` and `loss` by your own.

# %%
NX, NY = 36, 24
n = NX * NY
second = [sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(m, m)) for m in (NX, NY)]
laplacian = sp.kronsum(*second, format="coo")
i = np.arange(n)
rows, cols = np.append(laplacian.row, i), np.append(laplacian.col, i)
rng = np.random.default_rng(0)
p = jnp.asarray(10 ** rng.uniform(-1, 2, n))
weights = jnp.asarray(rng.standard_normal(n))


def operator(p):
    return ie.SparseOperator(jnp.concatenate([laplacian.data, p]), rows, cols, (n, n))


def loss(solution):
    return weights @ jnp.sum(solution.vectors**2, axis=1)


# %% [markdown]
# `Policy(monitor=...)` passes a report to your function after the linear solves of a derivative:
# the solver's name, the steps and the residual for each eigenpair. The reference is the default,
# `ShiftInvert`, which factorises A − σB once for all eigenpairs; its steps are solves with the
# factors.

# %%
steps = {}


def gradient_by(name, linear_solver=None, **options):
    reports = []
    policy = ie.Policy(monitor=reports.append)
    forward, problem = ie.solvers.arpack(sigma=0.0), ie.Hermitian(k=3)
    solve = ie.eigensolver(forward, problem, linear_solver=linear_solver, policy=policy, **options)
    gradient = jax.jit(jax.grad(lambda p: loss(solve(operator(p)))))(p).block_until_ready()
    report = reports[-1]
    steps[name] = report.steps
    print(f"{name}: {report.solver}, steps {report.steps}, residual {report.residuals.max():.0e}")
    return gradient


reference = gradient_by("default")


def check(gradient, rtol=1e-6):
    error = jnp.linalg.norm(gradient - reference) / jnp.linalg.norm(reference)
    print(f"    differs from the default by {error:.0e}")
    assert error < rtol


v = jnp.asarray(rng.standard_normal(n))
solve = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(k=3))
ends = [loss(solve(operator(p + step * v))) for step in (1e-5, -1e-5)]
print(f"slope {reference @ v:+.7f}, by differences {(ends[0] - ends[1]) / 2e-5:+.7f}")
assert np.isclose(reference @ v, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)

# %% [markdown]
# ## Solvers of JAX
#
# Any solver of lineax can be passed as it is. Functions `f(matvec, b)`, such as those of
# `jax.scipy.sparse.linalg` or one of your own, are wrapped by `ie.linear_solver` together with
# their options. Neither is ever differentiated, and both solve the systems of forward and of
# reverse mode. Conjugate gradients suit this problem, because the lowest eigenpairs are known. (A
# function does not report its steps, which shows as −1.)

# %%
check(gradient_by("lineax, CG", lx.CG(rtol=1e-10, atol=1e-10, max_steps=2000)))
cg = ie.linear_solver(jax.scipy.sparse.linalg.cg, tol=1e-10, maxiter=2000)
check(gradient_by("jax.scipy", cg))

# %% [markdown]
# `ie.MINRES` also solves indefinite systems. A preconditioner is a positive definite operator near
# the inverse, one for all eigenpairs; the inverse of A's diagonal is the simplest. It takes a third
# of the steps here. It may be that of an earlier p, because the solution does not depend on it.

# %%
diagonal = lx.DiagonalLinearOperator(1 / (4 + p))
check(gradient_by("MINRES, diagonal", ie.MINRES(preconditioner=diagonal)))
assert max(steps["MINRES, diagonal"]) < max(steps["lineax, CG"]) / 2

# %% [markdown]
# ## Solvers of SciPy, and your own host code
#
# `ie.host_linear_solver` takes a function `f(A, b) -> x`, or `(x, info)` as SciPy's solvers return
# it. A is a `LinearOperator` here; with dense operators it is an array, and with `ie.Bordered()` on
# sparse ones a sparse matrix, so that a direct solver can take it. `rtol` states what the function
# attains. It may close over whatever you have, here an incomplete factorisation of the matrix.
# **Replace** that by your multigrid or your PETSc.

# %%
assembled = (laplacian + sp.diags_array(np.asarray(p))).tocsc()
incomplete = spla.spilu(assembled, drop_tol=1e-3)
near_inverse = spla.LinearOperator((n, n), incomplete.solve)


def by_incomplete_factors(A, b):
    return spla.gmres(A, b, M=near_inverse, rtol=1e-10, restart=50)


host = ie.host_linear_solver(by_incomplete_factors, rtol=1e-9)
check(gradient_by("SciPy, incomplete LU", host))


direct = ie.host_linear_solver(lambda A, b: spla.spsolve(A, b))
check(gradient_by("SciPy, direct", direct, system=ie.Bordered()))

# %%
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
names = [name for name in steps if min(steps[name]) > 0]
for pair in range(3):
    places = np.arange(len(names)) + 0.25 * (pair - 1)
    axis.barh(places, [steps[name][pair] for name in names], 0.22, label=f"eigenpair {pair}")
axis.set_yticks(range(len(names)), names)
axis.set(xlabel="steps of the linear solver", title="one adjoint system for each eigenpair")
axis.legend()

# %% [markdown]
# ## A factorisation that is used again
#
# `ie.ShiftInvert(sigma)` solves the systems of all eigenpairs in one Krylov space of
# (A − σB)⁻¹ B, and takes the factors that the forward solver has made. If the factorisation is
# yours, say so in both places at once: `factorize=` of `ie.solvers.arpack` is a function from a
# sparse matrix to a solve. A forward solver of your own gets the shared factors by
# `ie.factorize(A, B, sigma)`, together with `linear_solver=ie.ShiftInvert(sigma)`.

# %%
factorised = []


def my_factors(matrix):
    factorised.append(matrix.shape)
    return spla.splu(matrix).solve


own = ie.eigensolver(ie.solvers.arpack(sigma=0.0, factorize=my_factors), ie.Hermitian(k=3))
check(jax.jit(jax.grad(lambda p: loss(own(operator(p)))))(p))
print(f"{len(factorised)} factorisation for the eigenpairs and the gradient")
assert len(factorised) == 1

# %% [markdown]
# ## When a solve fails
#
# Every solution is judged by its true residual, whatever the solver reports. One that falls short
# is an error, which says which system failed, by how much, and what can be done. Inside `jit` JAX
# delivers it as a `JaxRuntimeError` with this text. `Policy(linear_solve=ie.Action.WARN)` makes it
# a warning, and `ie.Action.NAN` a NaN.

# %%
try:
    gradient_by("too few steps", lx.CG(rtol=1e-10, atol=1e-10, max_steps=20))
except jax.errors.JaxRuntimeError as error:
    told = str(error)
    print(told[told.index("`linear_solver=") :].split("\n", maxsplit=1)[0])
assert "systems failed after 20 steps" in told

# %% [markdown]
# ## Where to go next
#
# - [How to choose a linear solver](../how-to-choose.md), with measured times.
# - [Large problems](large_problems.md), where factors no longer fit into memory.
# - [Extending](../extending.md): a solver that takes the systems of all eigenpairs at once.
