"""Operators of lineax given by functions, transposed by their derivative."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .._alike import Steps, Traced
from .packed import register_sparse


def comparable(operator: lx.FunctionLinearOperator) -> lx.FunctionLinearOperator:
    """Return the operator in a form for which one with an equal function compiles nothing anew."""
    arrays, static = eqx.partition(operator, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    like: Any = operator.in_structure()

    def product(leaves: list[Array], vector: Array) -> Array:
        return eqx.combine(jax.tree.unflatten(structure, leaves), static).mv(vector)

    closed = jax.make_jaxpr(product)(leaves, like)
    # in a closed jaxpr captured arrays are constants, and arrays passed to it are arguments
    jaxpr = closed.jaxpr
    count = len(jaxpr.invars) - 1
    opened = jaxpr.replace(
        constvars=[*jaxpr.constvars, *jaxpr.invars[:count]], invars=jaxpr.invars[count:]
    )
    found = list(map(jnp.asarray, [*closed.consts, *leaves]))
    fn: Any = Traced(Steps(opened), found)
    return lx.FunctionLinearOperator(fn, like, operator.tags, closure_convert=False)


class FunctionOperator(lx.AbstractLinearOperator):
    """A `lineax.FunctionLinearOperator` f, or its transpose y -> ∂f(0)ᵀ y.

    lineax transposes f by `jax.linear_transpose`, which transposes each operation of f and cannot
    do so for host code. A derivative in reverse mode uses the given products (`host_function`).
    """

    operator: lx.AbstractLinearOperator
    transposed: bool = eqx.field(static=True, default=False)

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """Return A x, shape (m,)."""
        if not self.transposed:
            return self.operator.mv(vector)
        # at zero, because the derivative of a linear function is the same everywhere
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.operator.in_structure())
        _, pull = jax.vjp(lambda x: self.operator.mv(x), zero)
        return pull(vector)[0]

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n), for tests and small problems."""
        matrix = self.operator.as_matrix()
        return matrix.T if self.transposed else matrix

    def transpose(self) -> "FunctionOperator":
        """Return Aᵀ, shape (n, m)."""
        if lx.is_symmetric(self.operator):
            return self
        return FunctionOperator(self.operator, not self.transposed)

    def in_structure(self) -> Any:
        """Return the shape and dtype of x."""
        return self.operator.out_structure() if self.transposed else self.operator.in_structure()

    def out_structure(self) -> Any:
        """Return the shape and dtype of A x."""
        return self.operator.in_structure() if self.transposed else self.operator.out_structure()


register_sparse(FunctionOperator)


@lx.conj.register(FunctionOperator)
def _(operator: FunctionOperator) -> FunctionOperator:
    return FunctionOperator(lx.conj(operator.operator), operator.transposed)
