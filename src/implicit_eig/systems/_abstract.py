"""What is common to the forms of the linearised eigenproblem."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..checks.rounding import VALUE
from ..linear_solvers._systems import AbstractLinearSystems, Structure, probe
from ..operators import apply, column_sums, diagonal, has_entries, is_dense


class Pencil(eqx.Module):
    """The pencil A − λB with its known pairs, A X = B X S, Xᴴ B X = I; B = `None` for I.

    S is diagonal in value, S = Λ. In its tangent the block of each cluster is full. `beyond` are
    values and vectors of other pairs, where some are known: they have no part in the conditions.
    """

    A: lx.AbstractLinearOperator
    B: lx.AbstractLinearOperator | None
    S: Inexact[Array, "k k"]
    X: Inexact[Array, "n k"]
    beyond: tuple[Float[Array, " g"], Inexact[Array, "n g"]] | None = None

    @property
    def lam(self) -> Float[Array, " k"]:
        """The values, shape (k,)."""
        return diagonal(self.S).real

    def host_lam(self) -> np.ndarray:
        """Return the values on the host, where S is a NumPy array and JAX is not to be called."""
        return np.real(np.diagonal(self.S))

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

    def sizes(self) -> Float[Array, " k"]:
        """Return a typical ‖A v‖ + |λᵢ| ‖B v‖ for ‖v‖ = 1, in the 1-norm; shape (k,)."""
        v = probe(self.X[:, :1], 1)
        size = column_sums(apply(self.A, v)) + jnp.abs(self.lam) * column_sums(apply(self.B, v))
        return lax.stop_gradient(size)

    def rounding(self) -> Float[Array, " k"]:
        """Return what rounding can do to each value: some eps |xᵢ|ᵀ |A − λᵢB| |xᵢ|; shape (k,).

        Like the values it does not depend on the units of the unknowns, which ‖A‖ ‖xᵢ‖² does.
        """
        sizes = jnp.abs(self.X)
        largest = jnp.max(sizes, axis=1, keepdims=True)
        v = len(largest) * probe(self.X[:, :1], 1) * largest.astype(self.X.dtype)
        of_A, of_B = (sizes.T @ jnp.abs(apply(M, v)) for M in (self.A, self.B))
        eps = float(jnp.finfo(largest.dtype).eps)
        return lax.stop_gradient(VALUE * eps * (of_A[:, 0] + jnp.abs(self.lam) * of_B[:, 0]))

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
        # |v|ᴴ|A v|, where entries are alike
        size = column_sums(Av) + jnp.abs(self.lam) * column_sums(Bv)
        size = size * (column_sums(v) / len(v))
        # an indefinite spectrum can balance out: keep at least a tenth of its size
        sign = jnp.where(quotient < 0, -1, 1).astype(size.dtype)
        size = sign * jnp.maximum(jnp.abs(quotient), 0.1 * size)
        return jnp.where(vBv > 0, size / jnp.where(vBv > 0, vBv, 1), 1)

    def part_beyond(self, R: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Return the part of (A − λᵢB)⁻¹ rᵢ along the pairs (μ, V) beyond; shape (n, k)."""
        assert self.beyond is not None
        mu, V = self.beyond
        gap = mu[:, None] - self.lam[None, :]
        # a value that is one of the k is left to the solver, which says so
        apart = jnp.abs(gap) > VALUE * float(jnp.finfo(gap.dtype).eps) * jnp.abs(mu[:, None])
        inverse = jnp.where(apart, 1 / jnp.where(apart, gap, 1), 0)
        return V @ (inverse.astype(R.dtype) * (V.conj().T @ R))


class AbstractPencilSystems(AbstractLinearSystems):
    """The systems (A − λᵢB) zᵢ = rᵢ, XᴴBZ = 0, one for each pair of a pencil, in some form."""

    pencil: eqx.AbstractVar[Pencil]
    BX: eqx.AbstractVar[Inexact[Array, "n k"]]

    def right_side(self, R: Inexact[Array, "n k"]) -> Any:
        """Return the right side that stands for R, whose columns are rᵢ."""
        return R

    def solution(self, U: Any) -> Inexact[Array, "n k"]:
        """Return Z from the solution of the systems."""
        return U

    def is_hermitian(self) -> bool:
        """Return True: so far all pencils are."""
        return True

    def sizes(self) -> Float[Array, " k"]:
        """Return those of the pencil."""
        return self.pencil.sizes()

    @staticmethod
    def name(i: int) -> str:
        """Return the pair."""
        return f"the linearised system of pair {i}"

    @staticmethod
    def if_singular() -> str:
        """Return what it means."""
        return "If it is singular, the last value belongs to a cluster that k cuts."


class AbstractFormulation(eqx.Module):
    """A form in which the linearised conditions are solved, which a problem has or refuses.

    Examples:
        >>> from implicit_eig import Bordered, Deflated, FullSpectrum
        >>> [issubclass(form, AbstractFormulation) for form in (Bordered, Deflated, FullSpectrum)]
        [True, True, True]
    """


class AbstractPencilForm(AbstractFormulation):
    """A form for the known pairs of a Hermitian pencil."""

    @abc.abstractmethod
    def assemble(self, pencil: Pencil) -> AbstractPencilSystems:
        """Return the systems, one for each pair."""


def hermitian_tags(dtype: Any, definite: bool) -> frozenset:
    """Return lineax's tags of a Hermitian operator; symmetric means Mᵀ = M there."""
    tags = set() if jnp.issubdtype(dtype, jnp.complexfloating) else {lx.symmetric_tag}
    return frozenset(tags | {lx.positive_semidefinite_tag} if definite else tags)
