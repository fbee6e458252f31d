"""How vectors are scaled, apart from the gauge in which their derivative is found.

The conditions fix an eigenvector up to a factor c(θ), and its tangent in some gauge, ẋ + (ċ/c) x.
A function f with f(c x) = f(x) for every number c removes this freedom: f(x(θ)) has the same
derivatives of every order in all gauges, so f is plain JAX code and is differentiated as such.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .._errors import InputError
from ..checks.policy import Objection, Policy, enforce, forward_check
from ..operators import apply_complex, scale_columns
from ..solution import Solution

Metric = Callable[[], lx.AbstractLinearOperator | None]


class AbstractNormalization(eqx.Module):
    """Choose one among the multiples of an eigenvector, independently of which one is given.

    Subclass it and define `factors`, or pass a function x -> x to `eigensolver` instead.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> class SumIsOne(AbstractNormalization):
        ...     def factors(self, X, metric):
        ...         return jnp.sum(X, axis=0)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), normalization=SumIsOne())
        >>> solve(jnp.array([[2.0, -1.0], [-1.0, 2.0]])).vectors[:, 0].round(4).tolist()
        [0.5, 0.5]
    """

    @abc.abstractmethod
    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return the number by which each column is divided; it scales with the column.

        `metric()` is the operator B, `None` for I, and an `InputError` where there is none.
        """


class BNorm(AbstractNormalization):
    """Scale to xᴴBx = 1, B Hermitian positive definite, and keep the phase as `TwoNorm` does.

    Examples:
        >>> import jax.numpy as jnp, scipy.linalg
        >>> from implicit_eig import General, eigensolver
        >>> solve = eigensolver(scipy.linalg.eig, General(k=1), normalization=BNorm())
        >>> x = solve(jnp.diag(jnp.array([4.0, 8.0])), 4 * jnp.eye(2)).vectors[:, 0]
        >>> abs(x).round(4).tolist()  # 4 |x|² = 1
        [0.5, 0.0]
    """

    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return √(xᴴBx)."""
        return jnp.sqrt(jnp.sum(X.conj() * apply_complex(metric(), X), axis=0).real).astype(X.dtype)


class TwoNorm(AbstractNormalization):
    """Scale to ‖x‖₂ = 1, and keep the phase of the solver and its tangent in the problem's gauge.

    Examples:
        >>> import jax.numpy as jnp, scipy.linalg
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(scipy.linalg.eigh, Hermitian(k=1), normalization=TwoNorm())
        >>> x = solve(jnp.diag(jnp.array([4.0, 8.0])), 4 * jnp.eye(2)).vectors[:, 0]
        >>> abs(x).round(4).tolist()  # without it xᵀBx = 1, which is x₁ = 1/2
        [1.0, 0.0]
    """

    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return ‖x‖₂."""
        return jnp.sqrt(jnp.sum(X.conj() * X, axis=0).real).astype(X.dtype)


class LargestComponent(AbstractNormalization):
    """Rotate the component of largest modulus to the positive reals, and keep the norm.

    Where two components are equally large the choice between them, and with it the phase, is
    discontinuous.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> negative = lambda A: (np.array([1.0]), np.array([[-1.0], [0.0]]))
        >>> solve = eigensolver(negative, Hermitian(k=1), normalization=LargestComponent())
        >>> (solve(jnp.diag(jnp.array([1.0, 2.0]))).vectors[:, 0] + 0).tolist()
        [1.0, 0.0]
    """

    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return the phase of the largest component, whose index carries no derivative."""
        i = jnp.argmax(jnp.abs(jax.lax.stop_gradient(X)), axis=0)
        largest = jnp.take_along_axis(X, i[None, :], axis=0)[0]
        return largest / jnp.abs(largest).astype(X.dtype)


class UnitComponent(AbstractNormalization):
    """Scale so that component `index` is 1; it must not be 0, not even up to rounding.

    Args:
        index: that of the component, from 0; negative ones count from the end.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), normalization=UnitComponent(0))
        >>> vector_at = lambda t: solve(jnp.array([[1.0, t], [t, 3.0]])).vectors[:, 0]
        >>> jax.jvp(vector_at, (0.0,), (1.0,))[1].round(4).tolist()  # x = (1, −t/2 + …)
        [0.0, -0.5]
    """

    index: int = eqx.field(static=True)

    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return the component."""
        if not -len(X) <= self.index < len(X):
            raise InputError(
                f"`UnitComponent(index={self.index})`: a component of vectors with n = {len(X)}. "
                "Give an index from 0 to n − 1."
            )
        return X[self.index]


class FunctionNormalization(AbstractNormalization):
    """Scale by the user's function; made from a bare function x (n,) -> x (n,)."""

    fn: Callable[[Array], Array] = eqx.field(static=True)

    def factors(self, X: Inexact[Array, "n k"], metric: Metric) -> Inexact[Array, " k"]:
        """Return x / f(x), by a projection on f(x)."""
        F = jax.vmap(self.fn, 1)(X).T
        if F.shape != X.shape:
            raise InputError(
                "`eigensolver(normalization=...)`: a function of a vector (n,) that returns a "
                f"multiple of it; got shape {F.T.shape[1:]} for {X.shape[:1]}. Return x divided "
                "by a number that scales with x."
            )
        return jnp.sum(F.conj() * X, axis=0) / jnp.sum(F.conj() * F, axis=0)


def rescale(
    normalization: AbstractNormalization,
    solution: Solution,
    metric: Metric,
    policy: Policy,
) -> Solution:
    """Return the solution with its vectors scaled; left vectors keep yᴴBx, or yᴴT'(λ)x.

    Raises:
        EigensolverError: a factor is 0, under `Policy(forward=Action.RAISE)` (when run).
    """
    factors = normalization.factors(solution.vectors, metric)
    figures = (jnp.abs(factors),)
    check = forward_check(policy, _Zeros(type(normalization).__name__))
    factors = enforce(check, figures, factors)
    vectors = scale_columns(solution.vectors, 1 / factors)
    left = solution.left_vectors
    if left is not None:
        left = scale_columns(jnp.asarray(left), factors.conj())
    return dataclasses.replace(solution, vectors=vectors, left_vectors=left)


class _Zeros(eqx.Module):
    """Object to eigenvectors that cannot be scaled."""

    normalization: str = eqx.field(static=True)

    def __call__(self, sizes: Any) -> Iterator[Objection]:
        yield Objection(
            sizes == 0,
            lambda zero: (
                f"`eigensolver(normalization={self.normalization})`: a number to divide each "
                f"vector by that is not 0; got 0 for pair {zero[0]}. Choose a component in which "
                "no vector vanishes, or another normalisation."
            ),
        )
