"""The Jacobian of any conditions F(z) = 0, in real unknowns, as one linear system."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._compiled import constant_like
from .._errors import InputError
from .._real import from_real, to_real
from ..linear_solvers._systems import (
    AbstractLinearSystems,
    Handover,
    Report,
    Run,
    Structure,
    probe,
    system_norms,
)

# Up to this many unknowns the default forms the Jacobian and factorises it: 32 MB in float64.
DENSE_LIMIT = 2000


class JacobianSystem(AbstractLinearSystems):
    """The one system of ∂F/∂z or its transpose, in real unknowns; arrays of shape (m, 1)."""

    structure: Structure
    conditions: Callable[[PyTree], PyTree]
    z: PyTree
    transposed: bool = eqx.field(static=True, default=False)

    @staticmethod
    def name(i: int) -> str:
        """Return the name of the equation."""
        return "∂F/∂z · ż = −∂F/∂args · args_dot, or its transpose,"

    @staticmethod
    def if_singular() -> str:
        """Return the meaning of a singular system."""
        return "If ∂F/∂z is singular there, the solution is not isolated and has no derivative."

    def mv(self, U: Array, skip_zeros: bool = False) -> Array:
        """Return ∂F/∂z u, or its transpose."""
        # the vector of a single system is never zero, so `skip_zeros` changes nothing
        return self.column(0, False).mv(U[:, 0])[:, None]

    def is_hermitian(self) -> bool:
        """Return False."""
        return False

    def sizes(self) -> Array:
        """Return the norm of a product with a random vector; shape (1,)."""
        u = to_real(self.z)
        size = system_norms(self.mv(probe(u)[:, None]))
        # a NaN root is reported elsewhere; a NaN derivative at a finite root is unsolved: inf
        return jnp.where(jnp.isnan(size) & ~jnp.any(jnp.isnan(u)), jnp.inf, size)

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return the Jacobian by its product."""
        u = to_real(self.z)

        def residual(u: Array) -> Array:
            return to_real(self.conditions(from_real(u, self.z)))

        _, product = jax.linearize(residual, u)
        if self.transposed:
            transpose = jax.linear_transpose(product, u)
            product = lambda w: transpose(w)[0]  # noqa: E731
        nothing = constant_like(jnp.zeros_like(u), u)
        of_any = lambda w: product(w + nothing)  # noqa: E731
        tags = {lx.positive_semidefinite_tag, lx.symmetric_tag} if definite else ()
        like = jax.eval_shape(lambda u: u, u)
        return lx.FunctionLinearOperator(of_any, like, tags, closure_convert=False)

    def handover(self) -> Handover:
        """Return that JAX makes an array, where the system is small."""
        small = jax.eval_shape(to_real, self.z).size <= DENSE_LIMIT
        return Handover.ARRAY if small else Handover.PRODUCTS

    def host_columns(self) -> Callable[[int], Any]:
        """Refuse, because only JAX has the products."""
        raise NotImplementedError

    def solve_transposed(self, run: Run, b: Array) -> tuple[Array, Report]:
        """Solve with the transpose."""
        return run(dataclasses.replace(self, transposed=not self.transposed), b)


def as_many(caller: str, residual: PyTree, z: PyTree) -> Array:
    """Return the residual as one real vector, of as many numbers as z.

    Raises:
        InputError: it has more, or fewer.
    """
    flat, unknowns = to_real(residual), jax.eval_shape(to_real, z)
    if flat.shape != unknowns.shape:
        raise InputError(
            f"{caller}: one real condition for each real unknown; got {flat.size} conditions for "
            f"{unknowns.size} unknowns. Add the missing condition (a normalisation?), or drop the "
            "spare one."
        )
    return flat
