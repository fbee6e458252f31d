# %% [markdown]
# # Delayed feedback: the growth rate of the rightmost eigenvalue, and where it changes sign
#
# Two coupled oscillators are stabilised by feedback that acts τ later, ẏ(t) = A y(t) + B(g) y(t −
# τ), with two gains g on two measured velocities. Solutions e^{λt} x satisfy
#
#     T(λ) x = (A + B e^{−λτ} − λ I) x = 0,
#
# which has infinitely many eigenpairs. The rightmost eigenvalue decides: the delay at which its
# real part vanishes is the largest that the feedback tolerates. The eigenpair is found by Newton's
# method; its derivatives come from T alone.

# %%
import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import implicit_eig as ie

matplotlib.use("Agg")
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--delays", type=int, default=61, help="delays along the curve")
parser.add_argument("--output", default="delay.png", help="where the picture goes")
options = parser.parse_args()

# %% [markdown]
# ## The problem
#
# The state consists of positions and velocities of two masses between springs, with little damping
# of their own. The actuators push against the velocities that were measured τ ago.

# %%
stiffness = np.array([[3.0, -1.0], [-1.0, 2.0]])
A = jnp.asarray(np.block([[np.zeros((2, 2)), np.eye(2)], [-stiffness, -0.05 * np.eye(2)]]))
gains = jnp.array([0.5, 0.3])


def feedback(gains):
    return jnp.zeros((4, 4)).at[jnp.array([2, 3]), jnp.array([2, 3])].set(-gains)


def delayed(lam, x, gains, tau, start):
    return A @ x + jnp.exp(-lam * tau) * (feedback(gains) @ x) - lam * x


# %% [markdown]
# The last argument is where Newton's method starts: T does not read it, so nothing is
# differentiated through it. Without delay the problem is that of a matrix, for which LAPACK
# computes all eigenpairs.

# %%
solve = ie.eigensolver(
    ie.solvers.newton(delayed, lambda *args: args[-1]), ie.Nonlinear(delayed, n=4)
)


def without_delay(gains):
    """Return the two oscillating pairs at τ = 0."""
    values, vectors = np.linalg.eig(np.asarray(A + feedback(gains)))
    upper = np.flatnonzero(values.imag > 0)
    return [(jnp.asarray(values[i]), jnp.asarray(vectors[:, i])) for i in upper]


# %% [markdown]
# ## λ(τ), by continuation: each eigenpair is the start for the next


# %%
@jax.jit
def follow(gains, delays, start):
    def step(pair, tau):
        values, vectors = solve(gains, tau, pair)
        pair = values[0], vectors[:, 0]
        return pair, pair

    return jax.lax.scan(step, start, delays)[1]


delays = jnp.linspace(0.0, 1.5, options.delays)
branches = [follow(gains, delays, start) for start in without_delay(gains)]
curves = np.array([values for values, _ in branches])
curve, vectors = branches[int(np.argmax(curves.real.max(axis=1)))]
crossing = int(np.argmax(curve.real > 0))
assert curve[0].real < 0 < curve[crossing].real
tau, start = delays[crossing], (curve[crossing], vectors[crossing])

# %% [markdown]
# ## Gradients with respect to gains and delay, compared with finite differences
#
# In JAX's convention the cotangent −i of λ gives the gradient of Im λ.


# %%
@jax.jit
def derivatives(gains, tau):
    lam, pull = jax.vjp(lambda gains, tau: solve(gains, tau, start).values[0], gains, tau)
    growth, frequency = (pull(jnp.asarray(bar)) for bar in (1 + 0j, -1j))
    return lam, growth, frequency


lam, growth, frequency = derivatives(gains, tau)
direction = (jnp.array([0.6, -0.8]), jnp.array(0.5))
difference = ie.testing.finite_difference(
    lambda g, t: derivatives(g, t)[0], (gains, tau), direction, step=1e-3, order=4
)
print(f"λ = {lam:.6f} at τ = {tau:.4f}")
for name, gradient, found in (
    ("Re λ", growth, difference.real),
    ("Im λ", frequency, difference.imag),
):
    exact = gradient[0] @ direction[0] + gradient[1] * direction[1]
    print(f"{name}: along a direction {exact:+.10f}, by differences {found:+.10f}")
    assert abs(exact - found) < 1e-9

# %% [markdown]
# ## The boundary Re λ(g, τ) = 0
#
# Newton's method is used once more, on τ alone, with the exact slope. The boundary moves with the
# gains as dτ/dg = −(∂Re λ/∂g) / (∂Re λ/∂τ), so that the same gradient shows which gain to lower in
# order to tolerate a longer delay.

# %%
for _ in range(6):
    lam, growth, frequency = derivatives(gains, tau)
    tau = tau - lam.real / growth[1]
margin = -growth[0] / growth[1]
print(f"stable up to τ = {tau:.10f}, where Im λ = {lam.imag:.6f}; dτ/dg = {margin}")
assert abs(derivatives(gains, tau)[0].real) < 1e-13


def boundary(gains):
    """Return the delay of the boundary, by bisection on the sign alone."""
    low, high = tau - 0.02, tau + 0.02
    for _ in range(30):
        middle = (low + high) / 2
        stable = derivatives(gains, middle)[0].real < 0
        low, high = (middle, high) if stable else (low, middle)
    return low


change = jnp.array([1e-3, 0.0])
by_bisection = (boundary(gains + change) - boundary(gains - change)) / 2e-3
print(f"dτ/dg₁ = {margin[0]:+.7f}, by bisection and differences {by_bisection:+.7f}")
assert abs(margin[0] - by_bisection) < 1e-4 * abs(margin[0])

# %% [markdown]
# ## The picture

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for values in curves:
    points = left.scatter(values.real, values.imag, c=delays, cmap="viridis", s=14)
figure.colorbar(points, ax=left, label="delay τ")
left.set_xlim(right=1.25 * curve.real.max())
left.axvspan(0, left.get_xlim()[1], color="C3", alpha=0.1)
left.axvline(0, color="C3", label="stability boundary")
left.plot(lam.real, lam.imag, "o", color="C3", markersize=9, label=f"τ = {tau:.3f}")
slopes = {
    "0.2 ∂λ/∂τ": 0.2 * (growth[1] + 1j * frequency[1]),
    "∂λ/∂g₁": growth[0][0] + 1j * frequency[0][0],
    "∂λ/∂g₂": growth[0][1] + 1j * frequency[0][1],
}
for (name, slope), color in zip(slopes.items(), ("k", "C1", "C0"), strict=True):
    line = np.array([lam, lam + slope])
    left.plot(line.real, line.imag, color=color, lw=2, marker="D", markevery=[1], label=name)
left.set(xlabel="growth rate Re λ", ylabel="frequency Im λ", title="λ(τ) of both modes")
left.legend(loc=(0.03, 0.3), frameon=True)

first = jnp.linspace(0.35, 0.65, 9)
span = tau + jnp.linspace(-0.2, 0.2, options.delays)
rates = np.array([follow(gains.at[0].set(g), span, start)[0].real for g in first])
limit = np.abs(rates).max()
filled = right.contourf(first, span, rates.T, 21, cmap="RdBu_r", vmin=-limit, vmax=limit)
figure.colorbar(filled, ax=right, label="growth rate Re λ")
right.contour(first, span, rates.T, [0.0], colors="k")
right.plot(gains[0], tau, "ko")
ends = gains[0] + jnp.array([-0.08, 0.08])
tangent = tau + margin[0] * (ends - gains[0])
right.plot(ends, tangent, "C1", lw=2, label="tangent, from the gradient")
right.set(xlabel="first gain", ylabel="delay τ", title="the stability boundary and its slope")
right.legend(loc="lower left", frameon=True)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
