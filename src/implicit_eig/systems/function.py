"""T(λ) given by the user's function T(λ, x, *args), through its products.

The transpose is that of the derivative in x, which is T(λ) itself because T is linear in x.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, PyTree

from ..linear_solvers._systems import PROBES, Structure, probe
from ..linear_solvers.auto import SMALL
from ..operators import at, column_sums, dtype_of, is_dense, scale_columns
from ..operators.views import ComplexView
from .matrices import AbstractMatrices

# A combination with a complex coefficient: a function that conjugates x is not linear in it.
FACTOR = 0.6 + 0.8j


def is_operator(leaf: Any) -> bool:
    """Return whether this leaf of the arguments is an operator."""
    return isinstance(leaf, ComplexView)


def leaves(args: PyTree) -> list[Any]:
    """Return the operators, arrays and other leaves of the arguments."""
    return jax.tree.leaves(args, is_leaf=is_operator)


def working_dtype(args: PyTree) -> Any:
    """Return the complex dtype of λ and x: that of the arguments, or JAX's default."""
    found = [
        dtype_of(leaf.operator) if is_operator(leaf) else leaf.dtype
        for leaf in leaves(args)
        if is_operator(leaf) or (eqx.is_inexact_array(leaf) and not leaf.weak_type)
    ]
    return np.result_type(np.complex64, *found) if found else jnp.result_type(complex)


def structure_of(args: PyTree, n: int) -> Structure:
    """Return `DENSE` where a matrix of n² numbers may be made from n products.

    A sparse or matrix-free operator among the arguments excludes it. Otherwise it holds where n is
    small, or where an argument itself has as many numbers.
    """
    found = leaves(args)
    if any(is_operator(leaf) and not is_dense(leaf.operator) for leaf in found):
        return Structure.MATRIX_FREE
    large = any(is_operator(leaf) or jnp.size(leaf) >= n**2 for leaf in found if _counts(leaf))
    return Structure.DENSE if n <= SMALL or large else Structure.MATRIX_FREE


def _counts(leaf: Any) -> bool:
    return is_operator(leaf) or eqx.is_array(leaf)


class Function(AbstractMatrices):
    """T(λᵢ) x = T(λᵢ, x, *args), or its transpose."""

    T: Callable[..., Any] = eqx.field(static=True)
    lam: Inexact[Array, " k"]
    args: tuple[Any, ...]
    is_transposed: bool = eqx.field(static=True, default=False)

    def structure(self, n: int) -> Structure:
        """Return `DENSE` or `MATRIX_FREE`."""
        return structure_of(self.args, n)

    def product(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Return T(λᵢ) xᵢ."""
        return self._product(self.lam, X)

    def transposed(self) -> "Function":
        """Return T(λᵢ)ᵀ."""
        return Function(self.T, self.lam, self.args, not self.is_transposed)

    def take(self, i: Any) -> "Function":
        """Return T(λᵢ) alone."""
        return Function(self.T, at(self.lam, i)[None], self.args, self.is_transposed)

    def twice(self) -> "Function":
        """Return all T(λᵢ) twice."""
        return Function(self.T, jnp.tile(self.lam, 2), self.args, self.is_transposed)

    def rows(self, like: Inexact[Array, "n 1"]) -> Float[Array, "n k"]:
        """Return |T(λᵢ) v| + |λᵢ T'(λᵢ) v|, of which the first can vanish as a whole."""
        v = probe(jax.ShapeDtypeStruct((len(like), PROBES), like.dtype), 1)

        def moduli(v: Array) -> Array:
            product = lambda lam: self._product(lam, self._spread(v[:, None]))  # noqa: E731
            TV, along = jax.jvp(product, (self.lam,), (self.lam,))
            return jnp.abs(TV) + jnp.abs(along)

        return jax.lax.stop_gradient(jnp.sum(jax.vmap(moduli, 1)(v), axis=0))

    def terms(self, X: Inexact[Array, "n k"]) -> Float[Array, "n k"]:
        """Return |λᵢ T'(λᵢ) xᵢ|: a change of λᵢ by a part of it changes T(λᵢ) xᵢ by that part."""
        return jnp.abs(scale_columns(self._along(X, jnp.ones_like(self.lam)), self.lam))

    def defects(self, X: Inexact[Array, "n k"]) -> Float[Array, "2 k"]:
        """Return ‖T(a v + x) − a T v − T x‖ / ‖T v‖, and T'x along i against i times it along 1."""
        V = self._spread(probe(X[:, :1], 1))
        a = jnp.asarray(FACTOR, X.dtype)
        TV = self.product(V)
        additive = self.product(a * V + X) - a * TV - self.product(X)
        ones = jnp.ones_like(self.lam)
        i = jnp.asarray(1j, X.dtype)
        along, across = self._along(X, ones), self._along(X, i * ones)
        parts = ((additive, TV), (across - i * along, along))
        return jnp.stack([_ratio(column_sums(d), column_sums(size)) for d, size in parts])

    def _product(self, lam: Array, X: Array) -> Array:
        def apply(lam: Array, x: Array) -> Array:
            return self.T(lam, x, *self.args)

        def apply_transposed(lam: Array, v: Array) -> Array:
            # at zero, because the derivative of a linear function is the same everywhere
            _, pull = jax.vjp(lambda x: apply(lam, x), jnp.zeros_like(v))
            return pull(v)[0]

        return jax.vmap(apply_transposed if self.is_transposed else apply, (0, 1), 1)(lam, X)

    def _along(self, X: Array, lam_dot: Array) -> Array:
        return jax.jvp(lambda lam: self._product(lam, X), (self.lam,), (lam_dot,))[1]

    def _spread(self, v: Array) -> Array:
        return jnp.broadcast_to(v, (len(v), len(self.lam)))


def _ratio(part: Array, size: Array) -> Array:
    return jnp.where(part == 0, 0, part / jnp.where(size == 0, 1, size))
