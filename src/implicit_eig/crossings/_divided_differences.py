"""Divided differences of any function, and the derivatives of f(S) that they give.

At S = Λ, in value, the derivatives of a matrix function are (Daleckii & Krein)

    f(S) = diag f(λ),    Dᵐf(S)[E₁, …, Eₘ]ᵢⱼ = Σ f[λᵢ, λₗ, …, λⱼ] (E₁)ᵢₗ … (Eₘ)․ⱼ,

the sum over the indices between i and j and over the orders of the Eₛ. The tangent of Dᵐf along Ṡ
is Dᵐ⁺¹f with one more direction, so that one rule gives every order; no gap is divided by.

Divided differences are integrals over a simplex (Hermite, Genocchi),

    f[x₀, …, xₘ] = ∫ f⁽ᵐ⁾(x₀ + u₁(x₁ − x₀) + … + uₘ(xₘ − xₘ₋₁)) du,    1 ≥ u₁ ≥ … ≥ uₘ ≥ 0,

by Gauss's rule where f is resolved between the points that are farthest apart, else

    f[x₀, …, xₘ] = (f[x₁, …, xₘ] − f[x₀, …, xₘ₋₁]) / (xₘ − x₀),

where these are far from each other, as measured by f, or a jump lies between them.

Source: Higham (2008) Functions of Matrices, sections 3.2 and B.16; Bhatia (1997) Matrix Analysis,
section V.3.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Inexact, PyTree

from .._compiled import compiled
from .._tangents import jvp_at
from ..operators import diagonal

NODES = 7
# f′ is resolved if its Legendre coefficients of degree 4 and 5 are below eps^⅓ of its size: they
# decay like a geometric sequence, and those that the rule does not integrate are rounding.
RESOLVED = 1 / 3
# Roundings that are forgiven in f′, and in f, where it may jump.
NOISE = 100.0
# so many divided differences at a time
BATCH = 2**12

Function = Callable[[Any], Any]


@eqx.filter_custom_jvp
def derivative(
    f: Function, S: Inexact[Array, "k k"], *directions: Inexact[Array, "k k"], real: bool
) -> Inexact[Array, "k k"]:
    """Return Dᵐf(S)[E₁, …, Eₘ], S diagonal in value; f(S) where there is no direction.

    Differentiable in S, in the directions, and in the arrays that `f` holds. `real`: whether
    eigenvalues are.
    """
    return _value(f, S, *directions, real=real)


@compiled
def _value(f: Function, S: Array, *directions: Array, real: bool) -> Array:
    lam = diagonal(S).real if real else diagonal(S)
    if not directions:
        values = jax.vmap(f)(lam)
        return jnp.diag(values).astype(np.promote_types(values.dtype, S.dtype))
    m = len(directions)
    # in units of the eigenvalues, so that their powers do not overflow
    unit = _unit(lam)
    lam = lam / unit.astype(lam.dtype)
    scaled = [E / unit.astype(E.dtype) for E in directions]
    f = _InUnits(f, unit)
    points = jnp.stack(jnp.meshgrid(*[lam] * (m + 1), indexing="ij"), -1).reshape(-1, m + 1)
    table = lax.map(lambda x: divided_difference(f, x), points, batch_size=BATCH)
    dtype = np.promote_types(table.dtype, S.dtype)
    table = table.reshape((len(lam),) * (m + 1)).astype(dtype)
    axes = "abcdefgh"[: m + 1]
    pairs = ",".join(map("".join, itertools.pairwise(axes)))
    product = functools.partial(jnp.einsum, f"{axes},{pairs}->{axes[0]}{axes[-1]}", table)
    orders = itertools.permutations([E.astype(dtype) for E in scaled])
    return functools.reduce(jnp.add, itertools.starmap(product, orders))


@derivative.def_jvp
def _derivative_jvp(primals: Any, tangents: Any, *, real: bool) -> tuple[Array, Array | None]:
    out = derivative(*primals, real=real)
    return out, _tangent(primals, tangents, out.dtype, real)


@compiled
def _tangent(primals: Any, tangents: Any, dtype: Any, real: bool) -> Array | None:
    (f, S, *directions), (f_dot, S_dot, *dots) = primals, tangents
    parts = [
        _along(f, S, [*directions[:s], *directions[s + 1 :]], dot, dtype, real)
        for s, dot in enumerate(dots)
        if dot is not None
    ]
    if S_dot is not None:
        parts.append(_along(f, S, directions, S_dot, dtype, real))
    # One number of f after the other: in what is transposed there would be no such rule, see below.
    leaves, structure = jax.tree.flatten(f_dot)
    for i, leaf in enumerate(leaves):

        def of_unit(unit: Array, i: int = i) -> Array:
            units = [unit if j == i else jnp.zeros_like(other) for j, other in enumerate(leaves)]
            moved = _Moved(f, jax.tree.unflatten(structure, units))
            return derivative(moved, S, *directions, real=real)

        for one, part in _components(leaf):
            units = one * jnp.eye(leaf.size, dtype=leaf.dtype).reshape(-1, *leaf.shape)
            rates = jax.vmap(of_unit)(units)
            parts.append(jnp.tensordot(part.reshape(-1).astype(dtype), rates, 1))
    return functools.reduce(jnp.add, parts) if parts else None


def _along(f: Function, S: Array, directions: Any, dot: Array, dtype: Any, real: bool) -> Array:
    """Return Dᵐf(S)[…, Ė], whose transpose is differentiable, too.

    Of a function of what it transposes JAX forgets the rule. So this is a solve,

        Y = Ė,    X − Dᵐf(S)[…, Y]ᵀ = 0,

    of what is symmetric, for tr(Z Dᵐf(S)[…, E]) is the same with E and Z exchanged.
    """

    def transposed(E: Array) -> Array:
        return derivative(f, S, *directions, E, real=real).T

    def matvec(unknowns: Array) -> Array:
        X, Y = unknowns
        return jnp.stack([Y, X - transposed(Y)])

    def solve(_: Any, b: Array) -> Array:
        return jnp.stack([b[1] + transposed(b[0]), b[0]])

    dot = dot.astype(dtype)
    b = jnp.stack([dot, jnp.zeros_like(dot)])
    return lax.custom_linear_solve(matvec, b, solve, symmetric=True)[0].T


def _unit(lam: Inexact[Array, " k"]) -> Array:
    """Return a power of two of the size of the eigenvalues, which rounds nothing."""
    size = jnp.max(jnp.abs(lax.stop_gradient(lam)))
    usable = (size > 0) & (size < jnp.inf)
    return jnp.where(usable, jnp.exp2(jnp.floor(jnp.log2(jnp.where(usable, size, 1)))), 1)


class _InUnits(eqx.Module):
    """A function of eigenvalues that are multiples of a unit."""

    f: Function
    unit: Array

    def __call__(self, x: Array) -> Array:
        return self.f(x * self.unit.astype(x.dtype))


class _Moved(eqx.Module):
    """The derivative of a function with respect to the arrays that it holds."""

    f: Function
    f_dot: PyTree

    def __call__(self, x: Array) -> Array:
        return jvp_at(lambda f: f(x), self.f, self.f_dot)


def divided_difference(f: Function, x: Inexact[Array, " m"]) -> Inexact[Array, ""]:
    """Return f[x₀, …, xₘ]."""
    m = len(x) - 1
    if m == 0:
        return f(x[0])
    if m > 1:  # from one end of the longest distance to the other
        end = jnp.argmax(jnp.max(jnp.abs(x[:, None] - x[None, :]), axis=1))
        x = x[jnp.argsort(jnp.abs(x - x[end]))]
    near = _resolved(f, x[0], x[-1])
    u, weights = _rule(m)
    # what is not used is made harmless
    nodes = _points(jnp.where(near, x, x[0]), u)
    together = _dot(weights, jax.vmap(functools.reduce(_d, range(m), f))(nodes))
    gap = jnp.where(near, jnp.ones_like(x[0]), x[-1] - x[0])
    rise = divided_difference(f, x[1:]) - divided_difference(f, x[:-1])
    return jnp.where(near, together, rise / gap.astype(rise.dtype))


def _resolved(f: Function, a: Inexact[Array, ""], b: Inexact[Array, ""]) -> Array:
    """Return whether Gauss's rule integrates f′ from a to b to rounding, and to f(b) − f(a)."""
    u, weights = _rule(1)
    x = _points(jnp.stack([a, b]), u)
    slopes, bends = jax.vmap(_d(f))(x), jax.vmap(_d(_d(f)))(x)
    size = jnp.maximum(jnp.abs(a), jnp.abs(b))
    eps = float(jnp.finfo(size.dtype).eps)
    slope, bend = jnp.max(jnp.abs(slopes)), jnp.max(jnp.abs(bends))
    high = jnp.max(jnp.abs(jnp.stack([_dot(row, slopes) for row in _high_degrees()])))
    smooth = high <= eps**RESOLVED * slope + NOISE * eps * size * bend
    fa, fb = f(a), f(b)
    jump = jnp.abs(fb - fa - (b - a).astype(fa.dtype) * _dot(weights, slopes))
    level = jnp.maximum(jnp.abs(fa), jnp.abs(fb)) + size * slope + size * (size * bend)
    return smooth & (jump <= NOISE * eps * level)


def _d(f: Function, _: int = 0) -> Function:
    """Return f′, of a function of one number."""
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _points(x: Inexact[Array, " m"], u: np.ndarray) -> Inexact[Array, " q"]:
    """Return x₀ + Σ uₛ(xₛ − xₛ₋₁)."""
    return x[0] + jnp.asarray(u, x.dtype) @ jnp.diff(x)


def _dot(weights: np.ndarray, values: Inexact[Array, " q"]) -> Inexact[Array, ""]:
    return jnp.dot(jnp.asarray(weights, values.dtype), values)


@functools.cache
def _rule(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes u (q, m) and weights (q,) for 1 ≥ u₁ ≥ … ≥ uₘ ≥ 0: uₛ = t₁ ⋯ tₛ."""
    t, w = np.polynomial.legendre.leggauss(NODES)
    t, w = (t + 1) / 2, w / 2
    grid = np.stack(np.meshgrid(*[t] * m, indexing="ij"), -1).reshape(-1, m)
    weights = functools.reduce(np.multiply.outer, [w] * m).reshape(-1)
    return np.cumprod(grid, axis=1), weights * np.prod(grid ** np.arange(m - 1, -1, -1), axis=1)


@functools.cache
def _high_degrees() -> np.ndarray:
    """Return what takes the values at Gauss's nodes to Legendre coefficients 4 and 5, (2, q)."""
    t, w = np.polynomial.legendre.leggauss(NODES)
    P = np.polynomial.legendre.legvander(t, 5)[:, 4:]
    return ((2 * np.array([4, 5]) + 1) / 2 * P * w[:, None]).T


def _components(x: Array) -> list[tuple[Any, Array]]:
    """Return x as a sum of numbers times real arrays."""
    return [(1, x.real), (1j, x.imag)] if jnp.iscomplexobj(x) else [(1, x)]
