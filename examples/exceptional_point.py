# %% [markdown]
# # How accurate a gradient is near an exceptional point
#
# At an exceptional point two eigenvalues meet along with their eigenvectors, and yᴴx = 0. Near it
# the condition number of an eigenvalue is κ = 1/|yᴴx|, for vectors of unit norm. In the family
#
#     A(δ) = S · diag(H(δ), D) · S⁻¹,    H(δ) = [ 0  1 ]      λ = √δ,    κ ~ 1/√δ,
#                                               [ δ  0 ]
#
# where the eigenvalues of D are separate, everything is known in closed form. A solver can do no
# better than answer for A + E with ‖E‖ ~ eps ‖A‖, as if δ were changed by eps. The gradient is of
# size κ and its derivative of size κ³, so that the relative error of the gradient is eps · κ³ / κ =
# eps · κ². It is the same for the second derivative, with κ³ and κ⁵. Below, the errors of what the
# package returns are measured: they grow with this power, and no faster.

# %%
import argparse
import warnings

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
parser.add_argument("--distances", type=int, default=20, help="values of δ")
parser.add_argument("--trials", type=int, default=8, help="similarities S for each")
parser.add_argument("--output", default="exceptional_point.png", help="where the picture goes")
options = parser.parse_args()
N = 8
EPS = np.finfo(float).eps

# %% [markdown]
# ## The family and its derivatives in closed form
#
# With the left eigenvectors as rows of Y, Y X = I, the first derivative of λ₀ is y₀ Ȧ x₀, and the
# second
#
#     Σⱼ (y₀ Ȧ xⱼ)(yⱼ Ä x₀) + (y₀ Ä xⱼ)(yⱼ Ȧ x₀)  over  λ₀ − λⱼ,   j ≠ 0.
#
# S is random with condition number 3, drawn anew for each trial.

# %%
rng = np.random.default_rng(0)
direction = rng.standard_normal((N, N))


def member(delta):
    """Return A(δ), κ, and the gradients of λ₀ and of its derivative along `direction`."""
    turns = [np.linalg.qr(rng.standard_normal((N, N)))[0] for _ in range(2)]
    scales = np.linspace(1, 3, N)
    S, inverse = turns[0] * scales @ turns[1], turns[1].T / scales @ turns[0].T
    root = np.sqrt(delta)
    values = np.r_[root, -root, np.linspace(2, 4, N - 2)]
    H = np.diag(np.r_[0, 0, values[2:]])
    H[0, 1], H[1, 0] = 1, delta
    right, left = np.eye(N), np.eye(N)
    right[:2, :2] = [[1, 1], [root, -root]]
    left[:2, :2] = [[0.5, 0.5 / root], [0.5, -0.5 / root]]
    X, Y = S @ right, left @ inverse
    kappa = np.linalg.norm(X[:, 0]) * np.linalg.norm(Y[0])
    first = np.outer(Y[0], X[:, 0])
    weights = 1 / (values[0] - values[1:])
    rows = weights * (Y[1:] @ direction @ X[:, 0])
    cols = weights * (Y[0] @ direction @ X[:, 1:])
    second = np.outer(Y[0], X[:, 1:] @ rows) + np.outer(cols @ Y[1:], X[:, 0])
    return jnp.asarray(S @ H @ inverse), kappa, first, second


# %% [markdown]
# ## What the package returns
#
# The black box is LAPACK; of the two near eigenvalues it returns the larger.


# %%
def larger_of_the_close(A):
    values, vectors = sla.eig(A)
    close = np.argsort(np.abs(values))[:2]
    first = close[[np.argmax(values[close].real)]]
    return values[first], vectors[:, first]


solve = ie.eigensolver(larger_of_the_close, ie.General(k=1))
value = lambda A: solve(A).values[0].real
gradient = jax.grad(value)
along = lambda A: jnp.vdot(gradient(A), jnp.asarray(direction))
derivatives = jax.jit(lambda A: (gradient(A), jax.grad(along)(A)))

deltas = np.geomspace(1e-1, 1e-10, options.distances)
kappas, errors = [], []
with warnings.catch_warnings():
    # a large κ is the purpose here, so that its warning is not wanted
    warnings.simplefilter("ignore", UserWarning)
    for delta in deltas:
        parts = []
        for _ in range(options.trials):
            A, kappa, *exact = member(delta)
            found = derivatives(A)
            parts.append(
                [kappa]
                + [
                    np.linalg.norm(f - e) / np.linalg.norm(e)
                    for f, e in zip(found, exact, strict=True)
                ]
            )
        parts = np.exp(np.mean(np.log(parts), axis=0))
        kappas.append(parts[0])
        errors.append(parts[1:])
kappas, errors = np.array(kappas), np.array(errors)

# %% [markdown]
# ## The power
#
# Straight lines are fitted to the logarithms, where κ² is above 10.

# %%
tail = kappas**2 > 10
for order in range(2):
    power, _ = np.polyfit(np.log(kappas[tail]), np.log(errors[tail, order]), 1)
    factor = np.max(errors[:, order] / (EPS * kappas**2))
    print(
        f"derivative {order + 1}: relative error ~ κ^{power:.2f}, at most {factor:.0f} · eps · κ²; "
        f"{errors[-1, order]:.0e} at κ = {kappas[-1]:.0e}"
    )
    assert 1.8 < power < 2.2
    assert factor < 100

# %% [markdown]
# ## The picture

# %%
figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
for order, name in enumerate(("gradient of λ", "second derivative")):
    axis.loglog(kappas, errors[:, order], "o", label=name)
axis.loglog(kappas, EPS * kappas**2, "k--", label="eps · κ²")
axis.set(
    xlabel="κ = 1 / |yᴴx|", ylabel="relative error", title="towards an exceptional point, n = 8"
)
axis.legend()
axis.grid(alpha=0.3)
figure.savefig(options.output, dpi=110)
print(f"picture: {options.output}")
