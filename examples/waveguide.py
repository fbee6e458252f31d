# %% [markdown]
# # A lossy waveguide: how its mode depends on the permittivity of every element
#
# A mode E(x, y) exp(i k₀n z) of a dielectric waveguide, E = (e, −i k₀n φ), satisfies Maxwell's
# equations, ∇×∇×E = k₀² ε E, where for all test functions v (Nédélec's) and ψ (Lagrange's)
#
#     ∫ (e + ∇φ)·v              = λ ∫ (ε e·v − k₀⁻² curl e curl v),      λ = 1/n²,
#     ∫ (e + ∇φ)·∇ψ − k₀² ε φ ψ = 0.
#
# This is a pencil A(ε) x = λ B(ε) x of complex symmetric matrices, not Hermitian where ε is complex
# because the materials absorb. B is singular: it is zero in the rows and columns of φ. With
# xᵀ(∂A − λ ∂B)x / xᵀBx = ∂λ one eigenvector gives the derivatives of the effective index n by the
# permittivity of all elements; those of a function of the mode take one linear solve.

# %%
import argparse
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import skfem
from scipy.optimize import newton
from scipy.sparse.linalg import splu
from skfem.helpers import curl, dot, grad

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cells", type=int, default=7, help="cells along half a micrometre")
parser.add_argument("--output", default="waveguide.png", help="where the picture goes")
options = parser.parse_args()
K0 = 2 * np.pi / 1.55  # lengths are in micrometres
CORE, GLASS, WATER = 4 + 0.02j, 2.1 + 0j, 1.77 + 0.001j

# %% [markdown]
# ## Element matrices
#
# scikit-fem gives the element matrices, of which A and B are linear combinations with the
# permittivities as coefficients. The walls of the box conduct, so that tangential fields are zero.


# %%
def make_guide(x, y):
    """Return the element matrices (c, b, b), and the places (c, b) of the unknowns, −1 on the wall."""
    mesh = skfem.MeshTri.init_tensor(x, y)
    basis = skfem.Basis(mesh, skfem.ElementTriN1() * skfem.ElementTriP1())
    places = np.full(basis.N, -1)
    free = basis.complement_dofs(basis.get_dofs())
    places[free] = np.arange(free.size)
    # rows belong to test functions
    local = lambda form: skfem.BilinearForm(form).coo_data(basis).tolocal().swapaxes(1, 2)
    return SimpleNamespace(
        mesh=mesh,
        centres=mesh.p[:, mesh.t].mean(axis=1),
        places=places[basis.element_dofs.T],
        A=local(lambda e, f, v, g, w: dot(e + grad(f), v + grad(g))),
        dA=local(lambda e, f, v, g, w: -(K0**2) * f * g),  # ∂A/∂ε
        B=local(lambda e, f, v, g, w: -curl(e) * curl(v) / K0**2),
        dB=local(lambda e, f, v, g, w: dot(e, v)),
        flux=local(lambda e, f, v, g, w: dot(e, v + grad(g))),
    )


def operator(guide, data):
    """Return the matrix that these element matrices add up to."""
    rows, cols = np.broadcast_arrays(guide.places[:, :, None], guide.places[:, None, :])
    free, n = (rows >= 0) & (cols >= 0), guide.places.max() + 1
    return ie.SparseOperator(data[free], rows[free], cols[free], (n, n))


def factorize(M):
    """Order by the pattern of M + Mᵀ, which fills less where the pattern is symmetric."""
    return splu(M, permc_spec="MMD_AT_PLUS_A").solve


# λ = 1/ε_core bounds 1/n² from below, so that the mode of largest n is nearest to it
arpack = ie.solvers.arpack_general(1, sigma=1 / CORE.real, factorize=factorize)
solve = ie.eigensolver(arpack, ie.General(1))


def measure(guide, permittivity, core):
    """Return n, the fraction of the power that flows in the core, and the field on each element.

    The power density is Re(n̄ e·conj(e + ∇φ)), up to a factor that is the same everywhere.
    """
    epsilon = permittivity[:, None, None]
    A, B = guide.A + epsilon * guide.dA, guide.B + epsilon * guide.dB
    values, vectors = solve(operator(guide, A), operator(guide, B))
    n = 1 / jnp.sqrt(values[0])
    x = jnp.append(vectors[:, 0], 0)[guide.places]
    power = (n.conj() * jnp.einsum("ci,cij,cj->c", x.conj(), guide.flux, x)).real
    return n, jnp.sum(power * core) / jnp.sum(power), x


# %% [markdown]
# ## A check: the slab
#
# In a slab between two walls, the mode polarised across them does not depend on y, and
# κ tan(κd/2) = γ with κ² = k₀²(ε_core − n²), γ² = k₀²(n² − ε_glass). The error of the elements is
# O(h²), so that (4n(h/2) − n(h))/3 is far more accurate. Complex ε is nothing special.


# %%
def lines(start, stop, h):
    return np.linspace(start, stop, round((stop - start) / h) + 1)


def slab(h):
    guide = make_guide(lines(-1.75, 1.75, h), lines(0, 2 * h, h))
    core = np.abs(guide.centres[0]) < 0.25
    return measure(guide, jnp.asarray(np.where(core, CORE, GLASS)), core)[0]


def dispersion(n):
    kappa, gamma = np.sqrt(CORE - n**2), np.sqrt(n**2 - GLASS)
    return kappa * np.tan(K0 * kappa * 0.25) - gamma


exact = newton(dispersion, 1.8 + 0j, tol=1e-14)
coarse, fine = slab(0.05), slab(0.025)
extrapolated = (4 * fine - coarse) / 3
print(f"slab: n = {exact:.7f}, by elements {fine:.7f}, extrapolated {extrapolated:.7f}")
assert abs(fine - exact) < 0.3 * abs(coarse - exact)
assert abs(extrapolated - exact) < 0.01 * abs(fine - exact)

# %% [markdown]
# ## A nitride core on glass, under water
#
# n is a holomorphic function of ε, so that the gradient of Re n, which by JAX's convention is
# ∂/∂(Re ε) − i ∂/∂(Im ε), is dn/dε.

# %%
h = 0.5 / options.cells
guide = make_guide(lines(-1.5, 1.5, h), lines(-1, 1.5, h))
x, y = guide.centres
core = (np.abs(x) < 0.5) & (y > 0) & (y < 0.5)
permittivity = jnp.asarray(np.where(core, CORE, np.where(y < 0, GLASS, WATER)))


@jax.jit
def sensitivities(permittivity):
    """Return the gradients of (Re n, the fraction in the core), these, and the field."""

    def f(permittivity):
        n, fraction, field = measure(guide, permittivity, core)
        return jnp.stack([n.real, fraction]), (n, fraction, field)

    return jax.jacrev(f, has_aux=True)(permittivity)


(dn, dfraction), (n, fraction, field) = sensitivities(permittivity)
print(f"n = {n:.6f}, {fraction:.1%} of the power in the core; {dn.size} elements")

# %% [markdown]
# By hand, dn = −½ λ^(−3/2) dλ, and the formula for ∂λ at the top is a sum over the unknowns of one
# element. The other gradient is compared with central differences.

# %%
lam, inner = n**-2, lambda M: np.einsum("ci,cij,cj->c", field, M, field)
scale = inner(guide.B).sum() + permittivity @ inner(guide.dB)
by_hand = -0.5 * lam**-1.5 * inner(guide.dA - lam * guide.dB) / scale
error = np.abs(dn - by_hand).max() / np.abs(by_hand).max()
print(f"dn/dε against the formula: {error:.0e}")
assert error < 1e-7
for place in ((0.0, 0.25), (0.45, 0.1), (0.0, 0.55)):
    element = np.argmin((x - place[0]) ** 2 + (y - place[1]) ** 2)
    step = 1e-2 * np.exp(1j) * (np.arange(dn.size) == element)
    plus, minus = (sensitivities(permittivity + s * step)[1][1] for s in (1, -1))
    slope, difference = jnp.vdot(dfraction.conj(), step).real, (plus - minus) / 2
    print(f"element at {place}: {slope:+.8e}, by differences {difference:+.8e}")
    assert abs(slope - difference) < 1e-4 * abs(difference)

# %% [markdown]
# Without loss n is real. A layer of molecules on top of the core, Δε = 0.1, is what a sensor sees;
# the gradient predicts the change of n up to terms of second order.

# %%
assert abs(sensitivities(permittivity.real + 0j)[1][0].imag) < 1e-10
layer = (np.abs(x) < 0.5) & (y > 0.5) & (y < 0.5 + h)
found = sensitivities(permittivity + 0.1 * layer)[1][0] - n
predicted = 0.1 * jnp.sum(dn[layer])
print(f"layer on the core: Δn = {found:.3e}, predicted {predicted:.3e}")
assert abs(found - predicted) < 0.1 * abs(predicted)

# %% [markdown]
# ## The picture

# %%
area = h**2 / 2
maps = {
    "|e|² of the mode": np.einsum("ci,cij,cj->c", field.conj(), guide.dB, field).real / area,
    "Re dn/dε per area": dn.real / area,
    "Im dn/dε per area": dn.imag / area,
    "d(power in the core)/dε per area": dfraction.real / area,
}
figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
for axis, (title, numbers) in zip(axes.flat, maps.items(), strict=True):
    limit = np.abs(numbers).max()
    style = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if numbers.min() < 0 else {}
    image = axis.tripcolor(*guide.mesh.p, guide.mesh.t.T, facecolors=np.asarray(numbers), **style)
    axis.plot([-0.5, 0.5, 0.5, -0.5, -0.5], [0, 0, 0.5, 0.5, 0], "0.55", lw=0.8)
    axis.axhline(0, color="0.55", lw=0.8)
    axis.set(aspect="equal", xlabel="x in µm", title=title)
    figure.colorbar(image, ax=axis, shrink=0.8)
for axis in axes[:, 0]:
    axis.set(ylabel="y in µm")
figure.suptitle(f"n = {n:.5f}, {fraction:.1%} of the power in the core")
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
