"""Problems T(λ) = Σⱼ fⱼ(λ) Aⱼ of operators: pencils and polynomials."""

import abc

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._errors import InputError
from ..checks.policy import Policy
from ..operators import apply_complex, dtype_of, promoted
from ..solution import Solution
from ..systems.matrices import Sum
from ._abstract import Operators
from ._pairs import AbstractPairs, solution_structure


class AbstractSums(AbstractPairs):
    """A kind of problem with T(λ) = Σⱼ fⱼ(λ) Aⱼ, square operators of one size."""

    @abc.abstractmethod
    def terms(self, operators: Operators) -> tuple[lx.AbstractLinearOperator | None, ...]:
        """Return the Aⱼ, `None` for the identity."""

    @abc.abstractmethod
    def weights(self, lam: Inexact[Array, " k"], count: int) -> tuple[Inexact[Array, " k"], ...]:
        """Return the `count` functions fⱼ(λ), each of shape (k,)."""

    @abc.abstractmethod
    def block_weights(
        self, S: Inexact[Array, "k k"], count: int
    ) -> tuple[Inexact[Array, "k k"], ...]:
        """Return the `count` functions fⱼ(S)."""

    @abc.abstractmethod
    def most_pairs(self, count: int, n: int) -> int:
        """Return how many eigenpairs `count` operators have; raise `InputError` if none."""

    def matrices(self, lam: Inexact[Array, " k"], operators: Operators) -> Sum:
        """Return the sums at each of the λᵢ."""
        terms = self.terms(operators)
        return Sum(terms, self.weights(lam, len(terms)))

    def product(
        self,
        S: Inexact[Array, "k k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
        transposed: bool = False,
    ) -> Inexact[Array, "n k"]:
        """Return Σⱼ Aⱼ X fⱼ(S), or Σⱼ Aⱼᵀ X fⱼ(Sᵀ)."""
        terms = self.terms(operators)
        if transposed:
            S = S.T
            terms = tuple(None if A is None else A.transpose() for A in terms)
        weights = self.block_weights(S, len(terms))
        parts = [apply_complex(A, X @ f) for A, f in zip(terms, weights, strict=True)]
        return sum(parts[1:], parts[0])

    def pairing(
        self,
        S: Inexact[Array, "k k"],
        V: Inexact[Array, "n k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
    ) -> Inexact[Array, "k k"]:
        """Return Σⱼ Dfⱼ(S)[VᵀAⱼX]: for powers Σ Sᵃ VᵀAⱼX Sᵇ over a + b = j − 1."""
        terms = self.terms(operators)

        out = jnp.zeros_like(S)
        for j, A in enumerate(terms):
            weight = lambda S, j=j: self.block_weights(S, len(terms))[j]  # noqa: E731
            out = out + jax.jvp(weight, (S,), (V.T @ apply_complex(A, X),))[1]
        return out

    def slope_terms(
        self, lam: Inexact[Array, " k"], X: Inexact[Array, "n k"], operators: Operators
    ) -> Float[Array, "n k"]:
        """Return Σⱼ |fⱼ'(λᵢ)| |Aⱼ xᵢ|."""
        terms = self.terms(operators)
        weights = lambda lam: self.weights(lam, len(terms))  # noqa: E731
        _, slopes = jax.jvp(weights, (lam,), (jnp.ones_like(lam),))
        return Sum(terms, slopes).terms(X)

    def structure(self, operators: Operators) -> Solution:
        """Return the shapes, with complex dtypes."""
        dtype = np.result_type(dtype_of(operators[0]), np.complex64)
        return solution_structure(operators[0].in_size(), self.k, dtype)

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return the operators, square and of one size, in one dtype."""
        most = self.most_pairs(len(operators), operators[0].in_size())
        return check_square(self.name, self.k, most, operators)


def check_square(name: str, k: int, most: int, operators: Operators) -> Operators:
    """Return the operators, square and of one size, in one dtype, if k is at most `most`."""
    first = operators[0]
    if k > most:
        raise InputError(
            f"`eigensolver(problem={name}(k={k}))`: at most {most} pairs, for "
            f"n = {first.in_size()}. Ask for fewer pairs."
        )
    for operator in operators:
        shape = (operator.out_size(), operator.in_size())
        if shape != (first.in_size(),) * 2:
            raise InputError(
                f"`eigensolver(problem={name}(...))`: square operators of one size; got "
                f"shape {shape} beside n = {first.in_size()}. Check how they were assembled."
            )
    return promoted(f"eigensolver(problem={name}(...))", operators)
