"""Pass from the basis of a subspace to the single eigenvectors in it.

The conditions are stated for blocks: eigenpairs whose eigenvalues are near each other share one, S,
which is equal to Λ and whose tangent is full. Nothing is divided by a gap inside a block, so the
tangents of S and of its basis X are exact to rounding at any gap. The single eigenpairs are those
of S = PΛP⁻¹, and their vectors are XP. As P is equal to I, both are returned unchanged; but they
turn, Ṗ = PK,

    KΛ − ΛK = P⁻¹ṠP − Λ̇,    Λ̇ diagonal, K off the diagonal:    Kⱼᵢ = (P⁻¹ṠP)ⱼᵢ / (λᵢ − λⱼ).

Eigenvalues that are equal to rounding, or that the user declares to be equal, stay one block.

A function of the single vectors needs K, however large it is. A function of the subspace alone does
not, and what K contributes to it is rounding divided by a gap. In reverse mode the cotangent of K
distinguishes the two: it is dropped where it is rounding. So gradients of functions of the subspace
are exact at any gap, and gradients of functions of single vectors have the error eps/g that the
vectors themselves have. In forward mode there is no cotangent, and the vectors are always turned,
so tangents have the error eps/g for every function; and so have second derivatives.

Source: Giles (2008) An extended collection of matrix derivative results, section 3.1, for K.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from .._compiled import compiled, constant_like, full_precision
from ..checks.clusters import as_one
from ..checks.cotangents import look, watch
from ..checks.rounding import INNER
from ..operators import scale_columns
from ._couplings import couplings
from ._turns import product_sizes

# Eigenvalues closer than this fraction of the largest share a block, and so do those of which
# rounding changes the distance by more than this power of eps.
NEAR = 0.01
INEXACT = 0.6


@compiled
def near_blocks(lam: Inexact[Array, " k"], near: Float[Array, "k k"]) -> Bool[Array, "k k"]:
    """Return which eigenpairs share a block: those joined by a chain of near eigenvalues.

    Shape (k, k), an equivalence relation; `near` is the `closeness` of the eigenvalues.
    """
    lam = lax.stop_gradient(lam)
    largest = jnp.max(jnp.where(jnp.isfinite(lam), jnp.abs(lam), 0))
    inexact = near > float(jnp.finfo(near.dtype).eps) ** INEXACT
    joined = inexact | (jnp.abs(lam[:, None] - lam[None, :]) <= NEAR * largest)

    def longer(state: tuple[Array, Array]) -> tuple[Array, Array]:
        joined = state[0].astype(near.dtype)
        wider = joined @ joined > 0
        return wider, jnp.any(wider != state[0])

    # chains of two, of four, and so on, until none is longer; usually at once
    return lax.while_loop(lambda state: state[1], longer, (joined, jnp.any(joined)))[0]


def separate_orthonormal(
    S: Inexact[Array, "k k"], X: Inexact[Array, "n k"], near: Float[Array, "k k"]
) -> tuple[Inexact[Array, "k k"], Inexact[Array, "n k"], Float[Array, "k k"]]:
    """Return (Λ, XQ, near) with S = QΛQᴴ, S Hermitian.

    Λ has a block for each cluster; `near` is 1 for two eigenpairs of one. It is constant, but its
    cotangent carries the size of the cotangents of turns when gradients are differentiated.
    """
    S, X, near, _ = _separate_orthonormal(S, X, near)
    return S, X, near


def separate(
    S: Inexact[Array, "k k"],
    X: Inexact[Array, "n k"],
    V: Inexact[Array, "n k"],
    near: Float[Array, "k k"],
) -> tuple[
    Inexact[Array, "k k"], Inexact[Array, "n k"], Inexact[Array, "n k"], Float[Array, "k k"]
]:
    """Return (Λ, XP, VP⁻ᵀ, near) with S = PΛP⁻¹, each vector x moving orthogonally to itself."""
    S, X, V, near, *_ = _separate(S, X, V, near)
    return S, X, V, near


@jax.custom_jvp
def _separate_orthonormal(S: Array, X: Array, near: Array) -> tuple[Array, ...]:
    """Return Q in addition to what `separate_orthonormal` returns."""
    return S, X, near, _identity(S)


@_separate_orthonormal.defjvp
@full_precision
def _separate_orthonormal_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    S_dot, X_dot, near_dot = tangents
    out = S, X, near, Q = _separate_orthonormal(*primals)
    # solves with a matrix equal to I cost nothing until they are differentiated themselves
    M = _solve(lambda M: Q @ M @ Q.conj().T, S_dot)
    Y = _solve(lambda Y: Y @ Q.conj().T, X_dot)
    S_dot, K, (Y,), near_dot = _turn(S, M, (X,), (Y,), near, near_dot)
    K = (K - K.conj().T) / 2
    return out, (S_dot, X @ K + Y, near_dot, Q @ K)


@jax.custom_jvp
def _separate(S: Array, X: Array, V: Array, near: Array) -> tuple[Array, ...]:
    """Return P and P⁻¹ in addition to what `separate` returns."""
    return S, X, V, near, _identity(S), _identity(S)


@_separate.defjvp
@full_precision
def _separate_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    S_dot, X_dot, V_dot, near_dot = tangents
    out = S, X, V, near, P, inverse = _separate(*primals)
    M = _solve(lambda M: P @ M @ inverse, S_dot)
    Y = _solve(lambda Y: Y @ inverse, X_dot)
    L = _solve(lambda L: L @ P.T, V_dot)
    S_dot, K, (Y, L), near_dot = _turn(S, M, (X, V), (Y, L), near, near_dot)
    # Y is orthogonal to the vectors of its block
    fixed, turn = lax.stop_gradient(X), X @ K
    along = jnp.sum(fixed.conj() * turn, axis=0) / jnp.sum(fixed.conj() * X, axis=0)
    K = K - jnp.diag(along)
    X_dot = turn - scale_columns(X, along) + Y
    return out, (S_dot, X_dot, L - V @ K.T, near_dot, P @ K, -K @ inverse)


def _identity(S: Array) -> Array:
    return constant_like(jnp.eye(len(S), dtype=S.dtype), S)


def _solve(fn: Any, b: Array) -> Array:
    same = lambda _, b: b  # noqa: E731
    return lax.custom_linear_solve(fn, b, same, same)


def _turn(
    S: Array, M: Array, vectors: tuple, dots: tuple, near: Array, near_dot: Array
) -> tuple[Array, Array, tuple, Array]:
    """Return Λ̇, K, `dots` and `near_dot`; a cotangent of K that is rounding is dropped."""
    S_dot, K = couplings(S, M, None, as_one(near))
    K, dots, near_dot = watch(_dropped, (K, dots, near_dot), (vectors, near))
    return S_dot, K, dots, near_dot


def _dropped(bars: Any, residuals: Any, absent: Any) -> Any:
    return _drop_rounding(bars, residuals)


@eqx.filter_custom_jvp
def _drop_rounding(bars: Any, residuals: Any) -> Any:
    return _without_rounding(bars, residuals)


# A tangent is judged by its own size, because it need not vanish where the cotangent does. In
# gradients of gradients it is divided by gaps, and so is the rounding in all that follows from it:
# the cotangent of `near` carries its size to where that rounding is judged.
@_drop_rounding.def_jvp
@full_precision
def _drop_rounding_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (bars, residuals), (bars_dot, residuals_dot) = primals, tangents
    still = jax.tree.map(jnp.zeros_like, bars)
    bars_dot = still if bars_dot is None else eqx.combine(bars_dot, still)
    K_dot, *others = look(_without_rounding, bars_dot, residuals)
    if residuals_dot is not None and residuals_dot[1] is not None:
        both = 1 + 1j if jnp.iscomplexobj(K_dot) else 1  # real and imaginary parts
        sizes = both * _sizes(residuals[0], bars[1]).astype(K_dot.dtype)
        K_dot = K_dot + sizes * residuals_dot[1].astype(K_dot.dtype)
    return _drop_rounding(bars, residuals), (K_dot, *others)


@full_precision
def _without_rounding(bars: Any, residuals: Any) -> Any:
    (K_bar, dots_bar, near_bar), (vectors, _) = bars, residuals
    sizes = _sizes(vectors, dots_bar) + jnp.abs(near_bar) + jnp.abs(near_bar).T
    quiet = jnp.abs(K_bar) <= INNER * float(jnp.finfo(sizes.dtype).eps) * sizes
    return jnp.where(quiet, jnp.zeros_like(K_bar), K_bar), dots_bar, near_bar


def _sizes(vectors: tuple, bars: tuple) -> Array:
    """Return the size of the terms summed in the cotangent of a turn; symmetric and constant."""
    parts = [product_sizes(x, bar) for x, bar in zip(vectors, bars, strict=True)]
    sizes = sum(parts[1:], parts[0])
    return lax.stop_gradient(sizes + sizes.T)
