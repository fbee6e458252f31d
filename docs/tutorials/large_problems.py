# %% [markdown]
# # Large problems and many devices
#
# After this tutorial you can differentiate eigenpairs of a problem that is too large for a dense
# matrix, with respect to thousands of parameters; you know which eigensolver and which linear
# solver to choose for it, how to count what they cost, and how to divide the work over several
# devices. Bring a sparse matrix that depends on parameters, or a function that multiplies by it.
#
# The example is an electron in a potential $V$ on the points of a cubic grid,
#
# $$
# H(V)\,x = \lambda x, \qquad H(V) = -\tfrac12 \Delta_h + \operatorname{diag}(V),
# $$
#
# in atomic units, with one parameter for each point.

# %%
import time

import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp
from scipy.fft import dstn
from scipy.sparse.linalg import LinearOperator

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)
# the last section divides arrays over devices: without GPUs, make two of this CPU
jax.config.update("jax_num_cpu_devices", 2)

# %% [markdown]
# ## How memory grows
#
# A dense matrix takes $8n^2$ bytes, a sparse one a fixed number of bytes for each unknown, and its
# factors lie between the two. How far between depends on the dimension of the domain: with a good
# ordering the factors of a grid in two dimensions have some $n \log n$ entries and take
# $n^{3/2}$ operations, those of a grid in three dimensions $n^{4/3}$ entries and $n^2$ operations.
# `ie.factorize` shows what they need for a matrix of your own.


# %%
def laplacian(m, dimensions, side=10.0):
    """Return -Δ/2 on m points each way, zero at the boundary, as a SciPy matrix."""
    line = sp.diags_array([-0.5, 1.0, -0.5], offsets=[-1, 0, 1], shape=(m, m))
    line = line * ((m + 1) / side) ** 2
    total = line
    for _ in range(dimensions - 1):
        total = sp.kronsum(total, line)
    return sp.csr_matrix(total)


for dimensions, m in ((2, 70), (2, 140), (3, 17), (3, 27)):
    A = laplacian(m, dimensions)
    start = time.perf_counter()
    factors = ie.factorize(A)
    seconds, n = time.perf_counter() - start, A.shape[0]
    print(
        f"{dimensions}-D, n = {n:6}: matrix {A.nnz * 12 / 2**20:4.1f} MB, factors "
        f"{factors.nbytes / 2**20:5.1f} MB in {seconds:.2f} s, dense {8 * n**2 / 2**20:6.0f} MB"
    )

# %% [markdown]
# ## The operator, sparse
#
# A `SparseOperator` keeps the pattern and is differentiable in its entries; sums of two of them are
# formed on the union of the patterns. Replace `hamiltonian` by the assembly of your own matrix: the
# pattern as NumPy arrays, the entries as JAX code of the parameters.

# %%
m, side = 28, 10.0
n, h = m**3, side / (m + 1)
points = np.linspace(-side / 2, side / 2, m + 2)[1:-1]
X, Y, Z = np.meshgrid(points, points, points, indexing="ij")
potential = jnp.asarray(0.15 * X**2 + 0.2 * Y**2 + 0.3 * Z**2 + 2 * np.exp(-((X - 0.3) ** 2)))

kinetic = ie.SparseOperator.from_scipy(laplacian(m, 3, side))
place = np.arange(n)


def hamiltonian(V):
    """Return -Δ/2 + diag(V), V of shape (m, m, m), on one pattern."""
    return kinetic + ie.SparseOperator(V.reshape(-1), place, place, (n, n))


# %% [markdown]
# The barrier at $x = 0.3$ divides the potential into two wells, of which the left one is wider. The
# quantity of interest is the probability that the electron in its lowest state is found on the
# right.


# %%
def on_the_right(solution):
    """Return the probability of x > 0 in the lowest state."""
    density = solution.vectors[:, 0].reshape(m, m, m) ** 2
    return jnp.sum(jnp.where(X > 0, density, 0.0))


# %% [markdown]
# ## With one factorisation
#
# `arpack(sigma=0.0)` finds the eigenvalues nearest to 0 by shift and invert. All eigenvalues lie
# above, so that $H - \sigma I$ is definite. The adjoint system of the eigenvector is solved with
# the same factors, which `ie.factorization_cache` hands from one to the other: its counter `misses`
# is the number of factorisations. `Policy(monitor=...)` passes a report on every linear solve of a
# derivative to a function of yours, here `append`.

# %%
reports = []
policy = ie.Policy(monitor=reports.append)
by_factors = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(2), policy=policy)


@jax.jit
def with_factors(V):
    """Return the probability and the solution, and the gradient of the probability."""

    def function(V):
        solution = by_factors(hamiltonian(V))
        return on_the_right(solution), solution

    return jax.value_and_grad(function, has_aux=True)(V)


ie.factorization_cache.clear()
(probability, solution), gradient = with_factors(potential)
print(f"{gradient.size} derivatives of the probability {probability:.5f}")
print(f"factorisations: {ie.factorization_cache.misses}")
print(f"adjoint: {reports[0].solver}, steps for each eigenpair: {reports[0].steps}")
assert ie.factorization_cache.misses == 1

# %% [markdown]
# The second eigenpair is not used by the function, and its system is not solved. One gradient costs
# one factorisation, the forward solve and some ten pairs of triangular solves, whatever the number
# of parameters. Check it as you would check your own: along one random direction by differences,
# and by what is known. Here a constant added to the potential moves no density.

# %%
direction = jnp.asarray(np.random.default_rng(0).standard_normal(potential.shape))
difference = ie.testing.finite_difference(
    lambda V: with_factors(V)[0][0], (potential,), (direction,), step=1e-3
)
error = abs(jnp.vdot(gradient, direction) - difference) / abs(difference)
constant = abs(jnp.sum(gradient)) / jnp.sum(jnp.abs(gradient))
print(f"differs from finite differences by {error:.0e}, sum of the derivatives {constant:.0e}")
assert error < 1e-6
assert constant < 1e-8

# %% [markdown]
# ## The same without a matrix
#
# If only products with $H$ are known, or the factors do not fit into memory, products and a
# preconditioner have to suffice: LOBPCG for the eigenpairs, MINRES for the adjoint. Replace
# `stencil` by your own product, which has to be JAX code in order to be differentiated.


# %%
def stencil(V):
    """Return the same operator by its products."""
    m, inside = V.shape[0], slice(1, -1)
    h = side / (m + 1)

    def product(v):
        u = jnp.pad(v.reshape(V.shape), 1)
        around = u[2:, inside, inside] + u[:-2, inside, inside] + u[inside, 2:, inside]
        around += u[inside, :-2, inside] + u[inside, inside, 2:] + u[inside, inside, :-2]
        return ((V + 3 / h**2) * u[inside, inside, inside] - around / (2 * h**2)).reshape(-1)

    return lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((V.size,), V.dtype))


# %% [markdown]
# The preconditioner is $(-\tfrac12\Delta_h + c)^{-1}$ with a constant $c$, by sine transforms. As
# MINRES requires, it is positive definite. It is written twice: as host code for SciPy's LOBPCG,
# and as JAX code for MINRES. On a mesh without such structure take algebraic multigrid for both, as
# shown in [How to choose](../how-to-choose.md#matrix-free).

# %%
modes = np.arange(1, m + 1)
S = np.sqrt(2 / (m + 1)) * np.sin(np.pi * np.outer(modes, modes) / (m + 1))
energy = (1 - np.cos(np.pi * modes / (m + 1))) / h**2
energies = energy[:, None, None] + energy[None, :, None] + energy[None, None, :] + 1.0


def on_host(V):
    """Apply the preconditioner to V of shape (n,) or (n, k), in NumPy."""
    sines = dstn(V.reshape(m, m, m, -1), type=1, axes=(0, 1, 2), norm="ortho")
    sines = dstn(sines / energies[..., None], type=1, axes=(0, 1, 2), norm="ortho")
    return sines.reshape(V.shape)


def in_jax(v):
    """Apply the preconditioner to v of shape (n,), in JAX."""
    sines = jnp.einsum("ia,jb,kc,abc->ijk", S, S, S, v.reshape(m, m, m)) / energies
    return jnp.einsum("ia,jb,kc,abc->ijk", S, S, S, sines).reshape(-1)


host_preconditioner = LinearOperator((n, n), matvec=on_host, matmat=on_host, dtype=float)
vector = jax.ShapeDtypeStruct((n,), jnp.float64)
jax_preconditioner = lx.FunctionLinearOperator(in_jax, vector, lx.positive_semidefinite_tag)

# %% [markdown]
# The guard asks for two eigenpairs more than are returned: the last ones of a block converge
# slowest, and the adjoint deflates them all. LOBPCG counts its steps, of one product with a block
# of four vectors each.

# %%
by_products = ie.eigensolver(
    ie.solvers.lobpcg(preconditioner=host_preconditioner),
    ie.Hermitian(2, guard=2),
    linear_solver=ie.MINRES(preconditioner=jax_preconditioner),
    policy=policy,
)


@jax.jit
def without_matrix(V):
    """Return the probability and the steps, and the gradient of the probability."""

    def function(V):
        solution = by_products(stencil(V))
        return on_the_right(solution), solution.stats["steps"]

    return jax.value_and_grad(function, has_aux=True)(V)


reports.clear()
(_, steps), again = without_matrix(potential)
difference = jnp.linalg.norm(again - gradient) / jnp.linalg.norm(gradient)
print(f"LOBPCG: {steps} steps; adjoint: {reports[0].solver}, steps {reports[0].steps}")
print(f"the gradient differs from that by factors by {difference:.0e}")
assert difference < 1e-7

# %% [markdown]
# Which of the two is better?
#
# | your problem | forward | derivative |
# |---|---|---|
# | sparse, in two dimensions | `arpack(sigma=...)` | the same factors, `ShiftInvert`, the default |
# | sparse, in three dimensions, factors fit into memory | `arpack(sigma=...)` | the same factors |
# | sparse, in three dimensions, larger | `lobpcg` with multigrid | host MINRES with multigrid |
# | products alone | `lobpcg` with a preconditioner, or `lanczos` | `MINRES(preconditioner=...)` |
#
# In three dimensions the forward solve with multigrid overtakes that with factors at some 60,000
# unknowns, and for gradients factors are still ahead there; [How to choose](../how-to-choose.md)
# and [Benchmarks](../benchmarks.md) have the figures. If the function uses eigenvalues alone, a
# Hermitian problem needs no linear solve at all for its gradient.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
density = solution.vectors[:, 0].reshape(m, m, m) ** 2 / h**3
frame = (-side / 2, side / 2) * 2
limit = float(jnp.max(jnp.abs(gradient[:, :, m // 2])))
for axis, field, colours, title in (
    (axes[0], density, {}, "density (1/bohr³)"),
    (axes[1], gradient, {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}, "sensitivity (1/Ha)"),
):
    image = axis.imshow(field[:, :, m // 2].T, origin="lower", extent=frame, **colours)
    axis.set(title=title, xlabel="x (bohr)", ylabel="y (bohr)")
    axis.grid(visible=False)
    figure.colorbar(image, ax=axis, shrink=0.8)

# %% [markdown]
# The left picture is the density of the lowest state in the plane $z \approx 0$; the right one is
# the change of the probability for a change of the potential at each point. A lower potential on
# the right, where the sensitivity is negative, draws the electron there.
#
# ## A sequence of problems
#
# An optimisation solves many problems that differ little. Two things can be carried from step to
# step: the solution as a start, and the factors as a preconditioner, by `LaggedFactors`. Both are
# arguments that may be traced, so that all steps use one compiled program. Five steps of steepest
# descent move the electron to the left.

# %%
lobpcg = ie.solvers.lobpcg(preconditioner=ie.ShiftInvert(0.0))
in_sequence = ie.eigensolver(lobpcg, ie.Hermitian(2))


@jax.jit
def descend(V, start, lagged):
    """Return the probability, what the next step starts from, and the next potential."""

    def function(V):
        solution = in_sequence(hamiltonian(V), start=start, reuse=lagged)
        return on_the_right(solution), solution

    (value, solution), slope = jax.value_and_grad(function, has_aux=True)(V)
    lagged = lagged.after(solution, hamiltonian(V))
    return value, solution, lagged, V - 0.1 * slope / jnp.max(jnp.abs(slope))


V, lagged, history = potential, ie.LaggedFactors(hamiltonian(potential)), []
ie.factorization_cache.clear()
for _ in range(5):
    value, solution, lagged, V = descend(V, solution.vectors, lagged)
    history.append((float(value), int(solution.stats["steps"])))
print("probability", *(f"{value:.4f}" for value, _ in history))
print("steps of LOBPCG", *(steps for _, steps in history))
print(f"factorisations in {len(history)} steps: {ie.factorization_cache.misses}")
assert history[-1][0] < 0.7 * history[0][0]
assert ie.factorization_cache.misses < len(history)

# %% [markdown]
# Every answer is as accurate as one with new factors, because it is judged by its own residual; and
# `after` takes new matrices as soon as the additional steps cost more than a factorisation. Whether
# this is faster is a different question: with the default factorisation, which is cheap, new
# factors at each step are as fast up to some 60,000 unknowns in three dimensions and faster in two
# ([Sequences of problems](../how-to-choose.md#sequences-of-problems)). It pays where factorising
# takes most of the time.
#
# ## Several devices
#
# JAX divides the work where the parameters are divided. What is needed is an eigensolver that is
# JAX code, marked by `ie.traceable`, and `MINRES` for the adjoint. `ie.solvers.lanczos` is such a
# solver (it needs the package matfree). Any code of your own will do, such as this subspace
# iteration with a Chebyshev filter, which reduces what lies above the wanted eigenvalues. Its inner
# products are small Gram matrices, so that devices exchange sums and never gather a vector.


# %%
def lowest(top, block=6, degree=40, rounds=6):
    """Return a solver for two eigenpairs of an operator whose eigenvalues lie below `top`."""

    def rayleigh_ritz(H, X):
        inverse = jnp.linalg.inv(jnp.linalg.cholesky(X.T @ X))
        values, turn = jnp.linalg.eigh(inverse @ (X.T @ jax.vmap(H.mv, 1, 1)(X)) @ inverse.T)
        return values, X @ (inverse.T @ turn)

    @ie.traceable
    def solver(H):
        def filtered(X, _):
            values, X = rayleigh_ritz(H, X)
            middle, half = (top + values[-1]) / 2, (top - values[-1]) / 2
            mapped = lambda X: (jax.vmap(H.mv, 1, 1)(X) - middle * X) / half
            step = lambda _, pair: (pair[1], 2 * mapped(pair[1]) - pair[0])
            _, X = jax.lax.fori_loop(1, degree, step, (X, mapped(X)))
            return X / jnp.max(jnp.abs(X), axis=0), None

        X = jax.random.normal(jax.random.key(0), (H.in_size(), block))
        X, _ = jax.lax.scan(filtered, X, length=rounds)
        values, X = rayleigh_ritz(H, X)
        return values[:2], X[:, :2]

    return solver


# %% [markdown]
# The grid is cut into slabs, one on each device. The same lines run on one device, on the two that
# were made of this CPU, and on several GPUs; their number has to divide the number of slices. The
# filter needs an upper bound of the spectrum, here the largest row sum of the absolute entries.

# %%
devices = max(d for d in range(1, jax.device_count() + 1) if m % d == 0)
auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((devices,), ("x",), axis_types=auto, devices=jax.devices()[:devices])
divided = jax.device_put(potential, jax.NamedSharding(mesh, jax.P("x")))

solver = lowest(top=6 / h**2 + float(jnp.max(potential)))
minres = ie.MINRES(preconditioner=jax_preconditioner)
on_devices = ie.eigensolver(solver, ie.Hermitian(2), linear_solver=minres)
slope = jax.jit(jax.grad(lambda V: on_the_right(on_devices(stencil(V)))))

program = slope.lower(divided).compile()
together = program(divided)
difference = np.linalg.norm(together - np.asarray(gradient)) / np.linalg.norm(gradient)
print(f"{devices} devices, each with {together.addressable_shards[0].data.shape} of the gradient")
print(f"differs from the gradient by factors, on one device, by {difference:.0e}")
assert together.sharding.is_equivalent_to(divided.sharding, 3)
assert difference < 1e-7
assert "all-gather" not in program.as_text()

# %% [markdown]
# `axis_types` leaves it to XLA how intermediate results are divided. The compiled program holds no
# gather: memory and work are divided by the number of devices, those of the preconditioner too.
# [Many devices, many machines](../scale.md) tells what is exchanged and where the limit lies, and
# the [quantum dot](../gallery/sharded_schroedinger.md) is a whole program, also for several
# processes.
#
# ## MPI
#
# Sparse matrices on many ranks belong to PETSc, and `ie.petsc` differentiates what SLEPc finds. You
# give the entries that each rank owns as JAX code of the parameters; the adjoint uses the factors
# of the forward solve. This listing is not executed here, because it needs MPI
# (`pip install -e ".[examples,slepc]"`); [the membrane](../gallery/mpi_membrane.md) is the whole
# program:
#
# ```text
# assembly = ie.petsc.Entries(entries, rows, cols, n)  # entries(p) -> a, b on this rank
# solve = ie.petsc.eigensolver(assembly, ie.Hermitian(6), sigma=0.0, replicated=False)
# pairs, pullback = solve(p)                           # p: the parameters of this rank
# p_bar = pullback(values_bar, vectors_bar)            # vectors_bar: the rows of this rank
# ```
#
# It is started by `mpiexec -n 4 python -m mpi4py program.py`.
#
# ## Where to go next
#
# - [How to choose a linear solver](../how-to-choose.md) has the measurements behind the table
#   above.
# - [Many devices, many machines](../scale.md) continues the last two sections.
# - [Reformulate instead](reformulate.md) shows when single eigenpairs need not be computed at all.
