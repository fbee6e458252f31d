"""What is common to the forms of the linearised eigenproblem."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Inexact

from ..linear_solvers._systems import AbstractLinearSystems, Structure, probe
from ..operators import apply, has_entries, is_dense


class Pencil(eqx.Module):
    """The pencil A − λB with its known pairs, A X = B X Λ, Xᴴ B X = I; B = `None` for I."""

    A: lx.AbstractLinearOperator
    B: lx.AbstractLinearOperator | None
    lam: Float[Array, " k"]
    X: Inexact[Array, "n k"]

    @property
    def structure(self) -> Structure:
        """How much of A and B is known."""
        if not (has_entries(self.A) and has_entries(self.B)):
            return Structure.MATRIX_FREE
        return Structure.DENSE if is_dense(self.A) or is_dense(self.B) else Structure.SPARSE

    def dense(self) -> tuple[Inexact[Array, "n n"], Inexact[Array, "n n"]]:
        """Return A and B as arrays; only for the structure `DENSE`."""
        A = self.A.as_matrix()
        return A, jnp.eye(len(A), dtype=A.dtype) if self.B is None else self.B.as_matrix()

    def size_outside(self, BX: Inexact[Array, "n k"]) -> Float[Array, " k"]:
        """Return a typical value of A − λᵢB outside the span of X, signed; shape (k,).

        The Rayleigh quotient of a random vector: within the spectrum, of the right unit,
        of the sign of the spectrum where A − λᵢB is definite there.
        """
        v = probe(self.X[:, :1])
        v = v - self.X @ (BX.conj().T @ v)
        Av, Bv = apply(self.A, v), apply(self.B, v)
        vAv, vBv = jnp.vdot(v, Av).real, jnp.vdot(v, Bv).real
        quotient = vAv - self.lam * vBv
        size = jnp.linalg.norm(Av) + jnp.abs(self.lam) * jnp.linalg.norm(Bv)
        size = size * jnp.linalg.norm(v)
        # an indefinite spectrum can balance out: keep at least a tenth of its size
        sign = jnp.where(quotient < 0, -1, 1).astype(size.dtype)
        size = sign * jnp.maximum(jnp.abs(quotient), 0.1 * size)
        return jnp.where(vBv > 0, size / jnp.where(vBv > 0, vBv, 1), 1)


class AbstractSystem(eqx.Module):
    """A form in which the linearised conditions of a pencil are solved."""

    @abc.abstractmethod
    def assemble(self, pencil: Pencil) -> AbstractLinearSystems:
        """Return the systems, one for each pair."""

    @abc.abstractmethod
    def right_side(self, R: Inexact[Array, "n k"]) -> Any:
        """Return the right side of the systems for (A − λᵢB) zᵢ = rᵢ, Xᴴ B zᵢ = 0."""

    @abc.abstractmethod
    def solution(self, U: Any) -> Inexact[Array, "n k"]:
        """Return Z from the systems' solution."""


def hermitian_tags(dtype: Any, definite: bool) -> frozenset:
    """Return lineax's tags of a Hermitian operator; symmetric means Mᵀ = M there."""
    tags = set() if jnp.issubdtype(dtype, jnp.complexfloating) else {lx.symmetric_tag}
    return frozenset(tags | {lx.positive_semidefinite_tag} if definite else tags)
