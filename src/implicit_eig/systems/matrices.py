"""The k matrices T(λᵢ) of a problem T(λ) x = 0, to the extent that they are known.

`Sum` is T(λ) = Σⱼ fⱼ(λ) Aⱼ with operators Aⱼ, for example a polynomial, and `Shifted` is A − λB.
`Function`, in `systems.function`, multiplies by the user's function.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import PROBES, Structure, probe
from ..operators import (
    apply_complex,
    at,
    column_sums,
    geometric_means,
    has_entries,
    is_dense,
    row_sums,
    scale_columns,
)
from ..operators.views import host_view


class AbstractMatrices(eqx.Module):
    """k square matrices T(λᵢ), linear in what they multiply and holomorphic in λᵢ."""

    @abc.abstractmethod
    def structure(self, n: int) -> Structure:
        """Return how much of the matrices, of size n, is known."""

    @abc.abstractmethod
    def product(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Return T(λᵢ) xᵢ for all i."""

    @abc.abstractmethod
    def transposed(self) -> "AbstractMatrices":
        """Return T(λᵢ)ᵀ."""

    @abc.abstractmethod
    def take(self, i: Any) -> "AbstractMatrices":
        """Return T(λᵢ) alone, k = 1; `i` may be traced."""

    @abc.abstractmethod
    def twice(self) -> "AbstractMatrices":
        """Return all of them twice, one after the other."""

    @abc.abstractmethod
    def rows(self, like: Inexact[Array, "n 1"]) -> Float[Array, "n k"]:
        """Return |T(λᵢ) v|, summed over random v whose 1-norms sum to 1; without a derivative."""

    @abc.abstractmethod
    def terms(self, X: Inexact[Array, "n k"]) -> Float[Array, "n k"]:
        """Return the moduli of the terms that cancel in T(λᵢ) xᵢ = 0."""

    def sizes(self, like: Inexact[Array, "n 1"]) -> Float[Array, " k"]:
        """Return a typical ‖T(λᵢ) v‖ for ‖v‖ = 1, in the 1-norm; it carries no derivative."""
        return column_sums(self.rows(like))

    @abc.abstractmethod
    def defects(self, X: Inexact[Array, "n k"]) -> Float[Array, "2 k"]:
        """Return the relative defects of T in being linear in x and holomorphic in λ."""

    def typical(self, like: Inexact[Array, "n 1"]) -> Float[Array, " k"]:
        """Return the 2-norm of a typical row of T(λᵢ), whatever the size of a few stiff ones."""
        return len(like) * geometric_means(self.rows(like))


class Sum(AbstractMatrices):
    """T(λᵢ) = Σⱼ fⱼᵢ Aⱼ."""

    operators: tuple[lx.AbstractLinearOperator | None, ...]  # `None` is the identity
    weights: tuple[Inexact[Array, " k"], ...]

    def structure(self, n: int) -> Structure:
        """Return `MATRIX_FREE` if one operator is, else `DENSE` if one is, else `SPARSE`."""
        if not all(map(has_entries, self.operators)):
            return Structure.MATRIX_FREE
        return Structure.DENSE if any(map(is_dense, self.operators)) else Structure.SPARSE

    def product(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Return Σⱼ fⱼᵢ Aⱼ xᵢ."""
        terms = [scale_columns(apply_complex(A, X), f) for f, A in self._pairs()]
        return sum(terms[1:], terms[0])

    def transposed(self) -> "Sum":
        """Return the sum of the Aⱼᵀ."""
        operators = tuple(None if A is None else A.transpose() for A in self.operators)
        return dataclasses.replace(self, operators=operators)

    def take(self, i: Any) -> "Sum":
        """Return the sum with the weights of λᵢ."""
        return dataclasses.replace(self, weights=tuple(at(f, i)[None] for f in self.weights))

    def twice(self) -> "Sum":
        """Return the sums with the weights of all λᵢ twice."""
        return dataclasses.replace(self, weights=tuple(jnp.tile(f, 2) for f in self.weights))

    def rows(self, like: Inexact[Array, "n 1"]) -> Float[Array, "n k"]:
        """Return Σⱼ |fⱼᵢ| |Aⱼ v|."""
        v = probe(jax.ShapeDtypeStruct((len(like), PROBES), like.dtype), 1)
        parts = [
            jnp.abs(f)[None, :] * row_sums(apply_complex(A, v))[:, None] for f, A in self._pairs()
        ]
        return jax.lax.stop_gradient(sum(parts[1:], parts[0]))

    def terms(self, X: Inexact[Array, "n k"]) -> Float[Array, "n k"]:
        """Return Σⱼ |fⱼᵢ| |Aⱼ xᵢ|."""
        parts = [jnp.abs(f)[None, :] * jnp.abs(apply_complex(A, X)) for f, A in self._pairs()]
        return sum(parts[1:], parts[0])

    def defects(self, X: Inexact[Array, "n k"]) -> Float[Array, "2 k"]:
        """Return 0, because a sum of operators has no such defects."""
        return jnp.zeros((2, X.shape[1]), X.real.dtype)

    def host_matrices(self, n: int, dtype: Any) -> Callable[[int], Any]:
        """Return the function i -> Σⱼ fⱼᵢ Aⱼ, as NumPy arrays or SciPy matrices.

        Called on the host, where the leaves of `self` are NumPy arrays.
        """
        operators = [
            sp.eye_array(n, dtype=dtype.type, format="csr") if A is None else host_view(A)
            for A in self.operators
        ]
        if self.structure(n) is Structure.DENSE:
            operators = [A.toarray() if sp.issparse(A) else A for A in operators]
        weights = np.asarray(self.weights)
        return lambda i: sum(f * A for f, A in zip(weights[:, i], operators, strict=True))

    def _pairs(self) -> Any:
        return zip(self.weights, self.operators, strict=True)


class Shifted(Sum):
    """T(λᵢ) = A − λᵢB, or its transpose if `is_transposed`; the weights are 1 and −λᵢ."""

    is_transposed: bool = eqx.field(static=True, default=False)

    def transposed(self) -> "Shifted":
        """Return the transpose of A − λᵢB, or A − λᵢB again."""
        other = super().transposed()
        return Shifted(other.operators, other.weights, not self.is_transposed)
