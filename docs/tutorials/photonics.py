# %% [markdown]
# # Photonics: complex and lossy materials
#
# After this tutorial you can compute the effective index, the loss and the group index of a mode
# in materials that absorb, with the sensitivity to the permittivity of every pixel, and you will
# know how to read gradients with respect to complex parameters. Bring a map of your permittivity
# and a discretisation of your equation; the example is the scalar Helmholtz equation by finite
# differences.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Your cross-section
#
# A core of silicon nitride, 1 µm by 0.4 µm, lies in silica, and 0.4 µm above it a film absorbs, a
# heater for example. The permittivity $\varepsilon = n^2$ of these two depends on the
# wavelength (Sellmeier's formulas, wavelengths in µm). With time dependence $e^{-i\omega t}$ a
# positive imaginary part absorbs. Replace the masks and the materials in them.

# %%
H, WIDTH, HEIGHT, FILM = 0.05, 3.6, 2.7, 2.5 + 0.01j  # lengths in µm
x, y = np.meshgrid(np.arange(H, WIDTH - H / 2, H), np.arange(H, HEIGHT - H / 2, H), indexing="ij")
core = (abs(x - WIDTH / 2) < 0.51) & (abs(y - 1.2) < 0.21)
film = (abs(x - WIDTH / 2) < 1.01) & (abs(y - 1.9) < 0.11)


def permittivity(wavelength):
    """Return ε of each pixel."""
    w2 = wavelength**2
    nitride = 1 + 3.0249 * w2 / (w2 - 0.1353406**2) + 40314 * w2 / (w2 - 1239.842**2)
    terms = ((0.6961663, 0.0684043), (0.4079426, 0.1162414), (0.8974794, 9.896161))
    silica = 1 + sum(strength * w2 / (w2 - place**2) for strength, place in terms)
    return jnp.where(core, nitride, jnp.where(film, FILM, silica)).astype(complex)


# %% [markdown]
# ## The eigenproblem
#
# A mode $E(x, y)\,e^{i k_0 n z}$, $k_0 = 2\pi/\text{wavelength}$, satisfies
#
# $$
# \left(k_0^{-2}\,\nabla^2 + \varepsilon\right) E = n^2 E .
# $$
#
# The eigenvalue is the square of the effective index $n$, and is complex where $\varepsilon$ is.
# The kind of problem is therefore `ie.General`, also where the loss is tiny: `ie.Hermitian` stands
# for a matrix that equals its conjugate transpose, and this one equals its transpose.
#
# Guided modes have the largest $\operatorname{Re} n^2$, bounded by the permittivity of the core.
# With a shift there, shift-and-invert ARPACK finds the fundamental mode first. A symmetric matrix
# has the left eigenvectors $y = \bar x$: returned as a third output, they spare the gradient of an
# eigenvalue its linear solve. If your matrix is not symmetric, leave the wrapper out.

# %%
second = lambda m: sp.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(m, m)) / H**2
laplacian = sp.kronsum(second(x.shape[1]), second(x.shape[0])).tocsr()  # y runs fastest
laplacian, diagonal = ie.SparseOperator.from_scipy(laplacian), np.arange(x.size)
arpack = ie.solvers.arpack_general(1, sigma=4.0)


def with_left_vectors(A):
    """Return the eigenpair of a complex symmetric matrix with its left eigenvector."""
    values, vectors = arpack(A)
    return values, vectors, vectors.conj()


solve = ie.eigensolver(with_left_vectors, ie.General(1))


@jax.jit
def mode(epsilon, wavelength):
    """Return the effective index and the field."""
    material = ie.SparseOperator(epsilon.ravel(), diagonal, diagonal, laplacian.shape)
    values, vectors = solve(laplacian * (wavelength / (2 * np.pi)) ** 2 + material)
    return jnp.sqrt(values[0]), vectors[:, 0].reshape(x.shape)


def loss(epsilon, wavelength):
    """Return the loss in dB/cm, from |exp(i k₀ n z)|² and 10⁴ µm to the centimetre."""
    n = mode(epsilon, wavelength)[0]
    return 10 / np.log(10) * 2 * (2 * np.pi / wavelength) * n.imag * 1e4


wavelength = 1.55
epsilon = permittivity(wavelength)
n, field = mode(epsilon, wavelength)
print(f"{x.size} pixels, n = {n:.6f}, loss {loss(epsilon, wavelength):.2f} dB/cm")
assert n.imag > 0

# %% [markdown]
# ## The gradient of the loss with respect to every pixel
#
# The loss is a real function $f$ of complex numbers $\varepsilon = u + iv$. JAX's gradient is $g =
# \partial f/\partial u - i\,\partial f/\partial v$, so that
#
# $$
# f(\varepsilon + \delta) - f(\varepsilon) \approx \operatorname{Re} \sum g\,\delta .
# $$
#
# `g.real` tells what a change of the index does to the loss, `-g.imag` what a change of the
# absorption does, and the direction of steepest ascent is `g.conj()`. **Conjugate before you hand g
# to an optimiser**: descent along `g` moves the imaginary parts the wrong way. Check both
# directions.

# %%
g = jax.jit(jax.grad(loss))(epsilon, wavelength)
rng = np.random.default_rng(0)
bump = jnp.asarray(rng.standard_normal(x.shape) * (core | film))
for name, direction in {"real": bump + 0j, "imaginary": 1j * bump}.items():
    exact = jnp.sum(g * direction).real
    difference = ie.testing.finite_difference(
        lambda epsilon: loss(epsilon, wavelength), (epsilon,), (direction,), step=1e-3, order=4
    )
    print(f"{name} direction: gradient {exact:+.7f}, differences {difference:+.7f}")
    assert abs(exact - difference) < 1e-6 * abs(difference)
step = -1e-5 * g.conj() / jnp.abs(g).max()
predicted = jnp.sum(g * step).real
change = loss(epsilon + step, wavelength) - loss(epsilon, wavelength)
print(f"a step along −conj(g): {change:+.4f} dB/cm, predicted {predicted:+.4f}")
assert abs(change - predicted) < 0.01 * abs(change)

# %% [markdown]
# Perturbation theory confirms it: a symmetric matrix has $\partial n^2/\partial\varepsilon = E^2 /
# \sum E^2$, without a conjugate. And $n$ is a holomorphic function of $\varepsilon$, so that the
# gradient of $\operatorname{Re} n$ is $dn/d\varepsilon$, and that of $\operatorname{Im} n$ is
# $-i\,dn/d\varepsilon$.

# %%
scale = 10 / np.log(10) * 2 * (2 * np.pi / wavelength) * 1e4
by_hand = -1j * scale * field**2 / jnp.sum(field**2) / (2 * n)
error = jnp.abs(g - by_hand).max() / jnp.abs(by_hand).max()
print(f"gradient against perturbation theory: {error:.0e}")
assert error < 1e-8

# %% [markdown]
# ## The group index
#
# $n_g = n - \text{wavelength}\cdot dn/d\,\text{wavelength}$ takes one derivative with respect to a
# number, and forward mode serves. The wavelength acts on the operator and on the materials alike;
# write both as functions of it, and nothing is forgotten. Without dispersion of the materials the
# result would be $\sum \varepsilon E^2 / (n \sum E^2)$, and their dispersion adds the second term
# of the check.

# %%
index = lambda w: mode(permittivity(w), w)[0]
slope = jax.jit(lambda w: jax.jvp(index, (w,), (1.0,))[1])(wavelength)
group = n - wavelength * slope
difference = ie.testing.finite_difference(index, (wavelength,), (1.0,), step=1e-2, order=4)
dispersion = jax.jit(lambda w: jax.jvp(permittivity, (w,), (1.0,))[1])(wavelength)
weights = field**2 / jnp.sum(field**2) / n
closed = jnp.sum((epsilon - wavelength / 2 * dispersion) * weights)
print(f"group index {group.real:.6f}, from the field {closed.real:.6f}")
assert abs(slope - difference) < 1e-6 * abs(difference)
assert abs(group - closed) < 1e-8

# %% [markdown]
# ## Exceptional points
#
# In a lossy structure two modes can become one: eigenvalues and eigenvectors meet, and near there
# $n^2$ behaves like the square root of the distance, with a derivative that grows without bound.
# Two coupled slabs show it, one with gain and the other with as much loss, the contrast $c$. What
# stays smooth is the space of both modes: `ie.Subspace` returns a matrix $S$ that represents the
# operator there, and of any function of $S$ that does not depend on the basis the derivatives are
# exact. One of these is the discriminant,
#
# $$
# 2\operatorname{tr} S^2 - (\operatorname{tr} S)^2 = (n_1^2 - n_2^2)^2 ,
# $$
#
# whose zero Newton's method finds.

# %%
s = np.arange(0.04, 6, 0.04)  # µm
slabs = [jnp.asarray(abs(s - centre) < 0.25, float) for centre in (2.3, 3.7)]
stretch = sp.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(s.size, s.size))
stretch = ie.SparseOperator.from_scipy(stretch.tocsr() / (0.04 * 2 * np.pi / 1.55) ** 2)
two = ie.solvers.arpack_general(2, sigma=3.5)
single, space = ie.eigensolver(two, ie.General(2)), ie.eigensolver(two, ie.Subspace(2))


def coupled(contrast):
    """Return the operator of two slabs in glass, one with gain and one with loss."""
    material = 2.1 + 1.9 * (slabs[0] + slabs[1]) + 1j * contrast * (slabs[0] - slabs[1])
    return stretch + ie.SparseOperator(
        material, np.arange(s.size), np.arange(s.size), (s.size,) * 2
    )


def discriminant(contrast):
    """Return (n₁² − n₂²)², which is real here."""
    S = space(coupled(contrast)).values
    return (2 * jnp.trace(S @ S) - jnp.trace(S) ** 2).real


newton = jax.jit(lambda c: jax.jvp(discriminant, (c,), (1.0,)))
contrast = 0.01
for _ in range(5):
    value, derivative = newton(contrast)
    print(f"contrast {contrast:.12f}, discriminant {value:+.1e}")
    contrast -= value / derivative
assert abs(newton(contrast)[0]) < 1e-12

# %% [markdown]
# The derivative of a single $n^2$ grows tenfold where the distance shrinks a hundredfold. The
# package computes it as long as digits are left, warns where fewer than three may be right, and at
# the point itself refuses a pair of modes that are one. Where only one mode is asked for, the
# condition number of `ie.diagnose` tells how near another one is; an `ExceptionalPointWarning` is
# issued where derivatives mean nothing any more.

# %%
slope = jax.jit(lambda c: jax.jvp(lambda c: single(coupled(c)).values, (c,), (1.0,))[1])
slopes = [abs(slope(contrast - distance)[0]) for distance in (1e-3, 1e-5, 1e-7, 1e-11)]
print("|dn²/dc| at 1e-3, 1e-5, 1e-7, 1e-11:", [f"{size:.1f}" for size in slopes])
assert abs(slopes[2] / slopes[1] - 10) < 0.1
try:
    slope(contrast)
except (ie.EigensolverError, jax.errors.JaxRuntimeError, ValueError) as error:
    print("at the point:", str(error).splitlines()[-1])

# %% [markdown]
# ## The picture
#
# A sensitivity per pixel, divided by the area of one, is a density that does not depend on the
# mesh. On the right is the part of the gradient that belongs to the real part of the permittivity:
# a larger index between core and film draws the field towards the absorber, and one in the core,
# most of all in its lower half, keeps the field away from it.

# %%
density = g.real / H**2
limit = float(jnp.abs(density).max())
assert density[film].mean() > 0 > density[core].mean()
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
intensity = axes[0].pcolormesh(x, y, abs(field) ** 2 / jnp.max(abs(field) ** 2))
sensitivity = axes[1].pcolormesh(x, y, density, cmap="RdBu_r", vmin=-limit, vmax=limit)
labels = "|E|², largest = 1", "dB/cm for each µm² and unit of Re ε"
titles = "the mode", "sensitivity of the loss to Re ε"
for axis, image, label, title in zip(axes, (intensity, sensitivity), labels, titles, strict=True):
    for mask in (core, film):
        axis.contour(x, y, mask, [0.5], colors="0.6", linewidths=0.8)
    figure.colorbar(image, ax=axis, orientation="horizontal", label=label)
    axis.set(aspect="equal", xlabel="x in µm", title=title)
axes[0].set(ylabel="y in µm")

# %% [markdown]
# ## Where to go next
#
# - [A lossy waveguide](../gallery/waveguide.md) does the same for Maxwell's equations with edge
#   elements of scikit-fem, and with a function of the field.
# - [How accurate a gradient is near an exceptional point](../gallery/exceptional_point.md) measures
#   what is lost there.
# - [Conventions](../conventions.md) states the normalisation of left and right eigenvectors and the
#   rules for complex numbers.
