# %% [markdown]
# # Where plane Poiseuille flow turns unstable
#
# The Orr–Sommerfeld equation for waves φ(y) exp(iα(x − ct)) on the flow U = 1 − y² between walls,
#
#     (U − c)(D² − α²) φ − U″ φ = (D² − α²)² φ / (iα Re),    φ = φ′ = 0 at y = ±1,
#
# is a complex pencil A φ = c B φ that is neither Hermitian nor normal. The wave grows if c has a
# positive imaginary part. The critical point, the least Reynolds number at which a wave grows,
# satisfies
#
#     c_i = 0,    ∂c_i/∂α = 0.
#
# Newton's method on these two equations takes second derivatives of an eigenvalue.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.linalg as sla

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--order", type=int, default=48, help="degree of the Chebyshev polynomials")
parser.add_argument("--grid", type=int, default=10, help="points along a side of the map")
parser.add_argument("--curve", type=int, default=16, help="steps along the neutral curve")
parser.add_argument("--output", default="orr_sommerfeld.png", help="where the picture goes")
options = parser.parse_args()

# %% [markdown]
# ## The pencil
#
# We use collocation in Chebyshev points, as in Trefethen (2000) Spectral Methods in MATLAB, program
# 40: φ = (1 − y²) q, where q is a polynomial with q = 0 at the walls. A and B are JAX functions of
# Re and α.

# %%
N = options.order
y = np.cos(np.pi * np.arange(N + 1) / N)
weight = np.r_[2, np.ones(N - 1), 2] * (-1.0) ** np.arange(N + 1)
D = np.outer(weight, 1 / weight) / (y[:, None] - y[None, :] + np.eye(N + 1))
D -= np.diag(D.sum(axis=1))
D2 = D @ D
inner = y[1:-1]
wall = np.diag(np.r_[0, 1 / (1 - inner**2), 0])
D4 = (np.diag(1 - y**2) @ D2 @ D2 - 8 * np.diag(y) @ D2 @ D - 12 * D2) @ wall
y, D2, D4, identity = (
    jnp.asarray(M) for M in (inner, D2[1:-1, 1:-1], D4[1:-1, 1:-1], np.eye(N - 1))
)


def pencil(reynolds, alpha):
    laplacian = D2 - alpha**2 * identity
    squared = D4 - 2 * alpha**2 * D2 + alpha**4 * identity
    A = (1 - y**2)[:, None] * laplacian + 2 * identity + 1j * squared / (alpha * reynolds)
    return A, laplacian.astype(A.dtype)


# %% [markdown]
# ## The black box: LAPACK's eigenpair of largest growth, with its left eigenvector
#
# The left eigenvector costs little, and with it the gradient of c needs no linear solve.


# %%
def least_stable(A, B):
    values, left, right = sla.eig(A, B, left=True)
    first = np.argmax(values.imag)
    return values[[first]], right[:, [first]], left[:, [first]]


solve = ie.eigensolver(least_stable, ie.General(k=1))
# Re in thousands, so that both parameters are of the same size
speed = jax.jit(lambda z: solve(*pencil(1e3 * z[0], z[1])).values[0])
growth = lambda z: solve(*pencil(1e3 * z[0], z[1])).values[0].imag
growth_and_slope = jax.jit(jax.value_and_grad(growth))

z = jnp.array([10.0, 1.0])
c = complex(speed(z))
print(f"Re = 10000, α = 1: c = {c:.8f}")
# Orszag (1971) J. Fluid Mech. 50, 689
assert abs(c - (0.23752649 + 0.00373967j)) < 1e-7

_, slope = growth_and_slope(z)
for name, direction in (("Re", [1.0, 0.0]), ("α", [0.0, 1.0])):
    direction = jnp.asarray(direction)
    difference = ie.testing.finite_difference(growth, (z,), (direction,), step=1e-2, order=4)
    print(f"∂c_i/∂{name:2} = {slope @ direction:+.9f}, by differences {difference:+.9f}")
    assert abs(slope @ direction - difference) < 1e-6 * jnp.linalg.norm(slope)

# %% [markdown]
# ## The critical point


# %%
def conditions(z):
    value, slope = jax.value_and_grad(growth)(z)
    return jnp.stack([value, slope[1]])


newton = jax.jit(lambda z: (conditions(z), jax.jacfwd(conditions)(z)))
z = jnp.array([6.0, 1.0])
for step in range(12):
    residual, jacobian = newton(z)
    change = jnp.linalg.solve(jacobian, residual)
    z = z - change
    print(
        f"step {step + 1}: Re = {1e3 * z[0]:.6f}, α = {z[1]:.8f}, change {jnp.linalg.norm(change):.1e}"
    )
    if jnp.linalg.norm(change) < 1e-8:
        break
critical = z
# Orszag (1971): 5772.22, 1.02056
assert abs(1e3 * critical[0] - 5772.22) < 0.01
assert abs(critical[1] - 1.02056) < 2e-5

# %% [markdown]
# ## The neutral curve
#
# The curve c_i = 0 is followed from the critical point in both directions: a step along the
# tangent, which is orthogonal to the gradient, then Newton's method along the gradient.


# %%
def follow(z, turn, length=0.1):
    points = [np.asarray(z)]
    before = np.array([0.0, turn])
    for _ in range(options.curve):
        # the wave number changes little while Re doubles
        scale = np.array([points[-1][0], 0.3])
        slope = np.asarray(growth_and_slope(jnp.asarray(points[-1]))[1]) * scale
        tangent = np.array([-slope[1], slope[0]]) / np.linalg.norm(slope)
        tangent *= np.sign(tangent @ before)
        before = tangent
        point = points[-1] + length * tangent * scale
        for _ in range(8):
            value, slope = growth_and_slope(jnp.asarray(point))
            slope = np.asarray(slope) * scale
            point = point - float(value) * slope / (slope @ slope) * scale
            if abs(value) < 1e-10:
                break
        assert abs(value) < 1e-8
        points.append(point)
    return np.array(points)


lower, upper = (follow(critical, turn) for turn in (-1.0, 1.0))
curve = np.concatenate([lower[::-1], upper[1:]])
assert np.all(curve[:, 0] >= float(critical[0]) - 1e-6)
print(f"neutral curve: {len(curve)} points, up to Re = {1e3 * curve[:, 0].max():.0f}")

# %% [markdown]
# ## The picture

# %%
reynolds = np.linspace(3.0, max(12.0, curve[:, 0].max()), options.grid)
alpha = np.linspace(min(0.75, curve[:, 1].min()), 1.15, options.grid)
rates = np.array([[float(speed(jnp.array([R, a])).imag) * a for R in reynolds] for a in alpha])
_, vectors = solve(*pencil(1e3 * critical[0], critical[1]))

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained", width_ratios=[2, 1]
)
limit = np.abs(rates).max()
image = left.contourf(reynolds, alpha, rates, 21, cmap="RdBu_r", vmin=-limit, vmax=limit)
figure.colorbar(image, ax=left, label="growth rate")
left.plot(*curve.T, "k.-", label="neutral curve")
left.plot(
    *np.asarray(critical),
    "o",
    color="C1",
    ms=9,
    label=f"Re = {1e3 * critical[0]:.2f}, α = {critical[1]:.5f}",
)
left.set(
    xlabel="Re / 1000",
    ylabel="wave number α",
    title="plane Poiseuille flow",
    xlim=reynolds[[0, -1]],
    ylim=alpha[[0, -1]],
)
left.legend(loc="center right", frameon=True)
phi = np.asarray(vectors[:, 0])
phi = phi / phi[np.argmax(np.abs(phi))]
right.plot(phi.real, inner, label="Re φ")
right.plot(phi.imag, inner, label="Im φ")
right.set(xlabel="φ", ylabel="y", title="the critical wave")
right.legend()
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
