"""The parts common to all forms of the linearised eigenproblem."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from ..checks.rounding import VALUE
from ..linear_solvers._systems import (
    PROBES,
    AbstractLinearSystems,
    Report,
    Run,
    Structure,
    probe,
)
from ..operators import (
    apply,
    column_norms,
    column_sums,
    diagonal,
    geometric_means,
    has_entries,
    is_dense,
    row_sums,
    scale_columns,
)


class Pencil(eqx.Module):
    """The pencil A − λB with its known eigenpairs, A X = B X S, Xᴴ B X = I; B = `None` for I.

    S is equal to Λ, which is diagonal. In its tangent the block of each cluster is full. `beyond`
    holds the eigenvalues and eigenvectors of other known eigenpairs, outside the conditions.
    """

    A: lx.AbstractLinearOperator
    B: lx.AbstractLinearOperator | None
    S: Inexact[Array, "k k"]
    X: Inexact[Array, "n k"]
    beyond: tuple[Float[Array, " g"], Inexact[Array, "n g"]] | None = None

    @property
    def lam(self) -> Float[Array, " k"]:
        """Return the eigenvalues, shape (k,)."""
        return diagonal(self.S).real

    def with_more(self, pairs: Array) -> "Pencil":
        """Return the pencil with some of its eigenpairs once more, behind the others."""
        S = jax.scipy.linalg.block_diag(self.S, jnp.diag(diagonal(self.S)[pairs]))
        X = jnp.concatenate([self.X, self.X[:, pairs]], axis=1)
        return Pencil(self.A, self.B, S, X, self.beyond)

    def host_lam(self) -> np.ndarray:
        """Return the eigenvalues on the host, where S is a NumPy array and JAX must not be used."""
        return np.real(np.diagonal(self.S))

    @property
    def structure(self) -> Structure:
        """Return how much of A and B is known."""
        if not (has_entries(self.A) and has_entries(self.B)):
            return Structure.MATRIX_FREE
        return Structure.DENSE if is_dense(self.A) or is_dense(self.B) else Structure.SPARSE

    def dense(self) -> tuple[Inexact[Array, "n n"], Inexact[Array, "n n"]]:
        """Return A and B as arrays; only for the structure `DENSE`."""
        A = self.A.as_matrix()
        return A, jnp.eye(len(A), dtype=A.dtype) if self.B is None else self.B.as_matrix()

    def sizes(self) -> Float[Array, " k"]:
        """Return a typical ‖A v‖ + |λᵢ| ‖B v‖ for ‖v‖ = 1, in the 1-norm; shape (k,)."""
        return column_sums(self.rows())

    def rows(self) -> Float[Array, "n k"]:
        """Return |A v| + |λᵢ| |B v|, summed over random v whose 1-norms sum to 1."""
        like = jax.ShapeDtypeStruct((len(self.X), PROBES), self.X.dtype)
        of_A, of_B = (row_sums(apply(M, probe(like, 1))) for M in (self.A, self.B))
        return lax.stop_gradient(of_A[:, None] + of_B[:, None] * jnp.abs(self.lam)[None, :])

    def rounding(self) -> Float[Array, " k"]:
        """Return the effect of rounding on each eigenvalue: some eps |xᵢ|ᵀ |A − λᵢB| |xᵢ|; (k,).

        Like the eigenvalues, and unlike ‖A‖ ‖xᵢ‖², it does not depend on the units of the unknowns.
        """
        of_A, of_B = map(self.absolute, (self.A, self.B))
        eps = float(jnp.finfo(of_A.dtype).eps)
        return VALUE * eps * (of_A + jnp.abs(self.lam) * of_B)

    def absolute(self, M: lx.AbstractLinearOperator | None) -> Float[Array, " k"]:
        """Return about |xᵢ|ᵀ |M| |xᵢ|, the terms that are summed in xᵢᴴMxᵢ; shape (k,)."""
        sizes = jnp.abs(self.X)
        largest = jnp.max(sizes, axis=1, keepdims=True)
        v = len(largest) * probe(self.X[:, :1], 1) * largest.astype(self.X.dtype)
        return lax.stop_gradient(sizes.T @ jnp.abs(apply(M, v)))[:, 0]

    def size_outside(self, BX: Inexact[Array, "n k"]) -> Float[Array, " k"]:
        """Return a typical size of A − λᵢB outside the span of X, signed; shape (k,).

        It is the Rayleigh quotient of a random vector, so it lies within the spectrum, has the
        right unit, and has the sign of the spectrum where A − λᵢB is definite there.
        """
        v = probe(self.X[:, :1])
        v = v - self.X @ (BX.conj().T @ v)
        Av, Bv = apply(self.A, v), apply(self.B, v)
        vAv, vBv = jnp.vdot(v, Av).real, jnp.vdot(v, Bv).real
        quotient = vAv - self.lam * vBv
        # |v|ᴴ|A v|, since the entries are of similar size
        size = column_sums(Av) + jnp.abs(self.lam) * column_sums(Bv)
        size = size * (column_sums(v) / len(v))
        # with an indefinite spectrum the quotient can cancel: keep at least a tenth of its size
        sign = jnp.where(quotient < 0, -1, 1).astype(size.dtype)
        size = sign * jnp.maximum(jnp.abs(quotient), 0.1 * size)
        return jnp.where(vBv > 0, size / jnp.where(vBv > 0, vBv, 1), 1)

    def part_beyond(self, R: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Return the part of (A − λᵢB)⁻¹ rᵢ along the known eigenpairs `beyond`; shape (n, k)."""
        assert self.beyond is not None
        mu, V = self.beyond
        gap = mu[:, None] - self.lam[None, :]
        # an eigenvalue equal to one of the k is left to the solver, which reports it
        apart = jnp.abs(gap) > VALUE * float(jnp.finfo(gap.dtype).eps) * jnp.abs(mu[:, None])
        inverse = jnp.where(apart, 1 / jnp.where(apart, gap, 1), 0)
        return V @ (inverse.astype(R.dtype) * (V.conj().T @ R))


class AbstractPencilSystems(AbstractLinearSystems):
    """The systems (A − λᵢB) zᵢ = rᵢ, XᴴBZ = 0, one for each eigenpair of a pencil, in some form."""

    pencil: eqx.AbstractVar[Pencil]
    BX: eqx.AbstractVar[Inexact[Array, "n p"]]

    def right_side(self, R: Inexact[Array, "n k"]) -> Any:
        """Return the right side that stands for R, whose columns are rᵢ."""
        return R

    def solution(self, U: Any) -> Inexact[Array, "n k"]:
        """Return Z, given the solution of the systems."""
        return U

    def is_hermitian(self) -> bool:
        """Return True, because all pencils here are Hermitian."""
        return True

    def sizes(self) -> Float[Array, " k"]:
        """Return the sizes of the pencil."""
        return self.pencil.sizes()

    def typical_sizes(self) -> Float[Array, " k"]:
        """Return the size of a typical row of the pencil."""
        return len(self.pencil.X) * geometric_means(self.pencil.rows())

    def rounding_of(self, b: Any, U: Any) -> Float[Array, " k"]:
        """Return ρᵢ / |zᴴr / zᴴBz|, ρᵢ being the rounding of λᵢ, and more where z and r are apart.

        The Rayleigh quotient is the distance of the eigenvalues that z is made of, and a change of
        the operators that moves λᵢ by ρᵢ changes z by that much of itself. It turns xᵢ, and so r,
        by as much of ‖r‖ towards z, where r may have only a small part.
        """
        Z, R = (self.solution(part) for part in (U, b))
        norms, sizes = column_norms(Z), column_norms(R)  # squares could overflow
        norms, sizes = (jnp.where(norm > 0, norm, 1) for norm in (norms, sizes))
        Z, R = scale_columns(Z, 1 / norms), scale_columns(R, 1 / sizes)
        inner = lambda X, Y: jnp.abs(jnp.sum(X.conj() * Y, axis=0))  # noqa: E731
        square, cosine = inner(Z, apply(self.pencil.B, Z)), inner(Z, R)
        distance = cosine * (sizes / norms) / jnp.where(square > 0, square, 1)
        # the rounding is some ten times the typical one
        part = distance * jnp.minimum(VALUE * cosine, 1)
        return jnp.where(part > 0, self.pencil.rounding() / jnp.where(part > 0, part, 1), 0)

    @staticmethod
    def name(i: int) -> str:
        """Return the name of eigenpair i."""
        return f"the linearised system of pair {i}"

    @staticmethod
    def if_singular() -> str:
        """Return the meaning of a singular system."""
        return "If it is singular, the last value belongs to a cluster that k cuts."

    @abc.abstractmethod
    def with_more(self, pairs: Array) -> "AbstractPencilSystems":
        """Return the systems with those of some eigenpairs once more, behind the others."""

    def solve_and_prove(self, run: Run, b: Any) -> tuple[Any, Report]:
        """Solve all systems, and show that k cuts no cluster where solutions may not show it.

        A cluster that k cuts makes the system of its value singular. Right sides have a part along
        the missing eigenvector, and no solution; but where the operators decouple the unknowns,
        and vectors have zeros, they may have none by chance. A random right side has one, and its
        solution is nothing but rounding, or none is found.
        """
        pencil = self.pencil
        lam, X = pencil.lam, pencil.X
        # k takes an end of the spectrum, or a part amid it
        ends = jnp.stack([jnp.argmax(lam), jnp.argmin(lam)])[: min(2, len(lam))]
        decoupled = jnp.any(X[:, ends] == 0, axis=0)
        r = probe(X[:, :1])
        r = (r - self.BX @ (X.conj().T @ r)) * decoupled[None, :].astype(r.dtype)
        systems = self.with_more(ends)
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, -1), b, systems.right_side(r))
        U, report = run(systems, both)
        residuals, allowed, rounding = (
            part[len(lam) :] for part in (report.residuals, report.allowed, report.rounding)
        )
        cut = decoupled & ~((residuals <= allowed) & (rounding < 1))
        report = jax.tree.map(lambda part: part[: len(lam)], report)
        worse = jnp.where(cut, jnp.inf, report.residuals[ends])
        report = report._replace(residuals=report.residuals.at[ends].max(worse))
        return jax.tree.map(lambda part: part[..., : len(lam)], U), report


class AbstractFormulation(eqx.Module):
    """A form in which the linearised conditions are solved; a problem supports or refuses it.

    Examples:
        >>> from implicit_eig import Bordered, Deflated, FullSpectrum
        >>> [issubclass(form, AbstractFormulation) for form in (Bordered, Deflated, FullSpectrum)]
        [True, True, True]
    """


class AbstractPencilForm(AbstractFormulation):
    """A form for the known eigenpairs of a Hermitian pencil."""

    @abc.abstractmethod
    def assemble(self, pencil: Pencil) -> AbstractPencilSystems:
        """Return the systems, one for each eigenpair."""


def hermitian_tags(dtype: Any, definite: bool) -> frozenset:
    """Return lineax's tags of a Hermitian operator; in lineax, symmetric means Mᵀ = M."""
    tags = set() if jnp.issubdtype(dtype, jnp.complexfloating) else {lx.symmetric_tag}
    return frozenset(tags | {lx.positive_semidefinite_tag} if definite else tags)
