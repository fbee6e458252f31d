"""What a linear solver receives: k systems M_i u_i = b_i of one shape."""

import abc
import enum
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, PyTree

from ..operators import column_norms, has_entries, is_dense
from ..operators.views import host_view

# How many random vectors show the sizes of rows: by one alone a row can seem small by chance.
PROBES = 2
# In shift and invert: the residual inside the space, in its own norm, relative to the required one.
INSIDE = 0.3


class Structure(enum.Enum):
    """How much of the matrices is known, which decides which solvers can be used."""

    DENSE = "dense arrays"
    SPARSE = "entries on a sparse pattern"
    MATRIX_FREE = "products only"


class Handover(enum.Enum):
    """How a linear solver on the host receives the matrices."""

    ENTRIES = "it makes them from the entries of the operators"
    ARRAY = "JAX makes an array"
    PRODUCTS = "it asks for products"


class Report(NamedTuple):
    """What is known of the solution of each system; arrays of shape (k,).

    Attributes:
        residuals: ‖b − M u‖ / ‖b‖.
        allowed: the largest residual that counts as solved.
        verdicts: the solver's report, an index into `VERDICTS` of `_solve`.
        steps: those of an iteration, 0 for a direct solver, -1 where they are not known.
        errors: an estimate of the relative error of each solution.
        hidden: the part of that in rows that are not stiff, where those of b are small beside them.
        rounding: the relative error of each solution by rounding of the operators; `None` where
            it is not known.
        conditions: a lower bound, from the solution, of the condition number of each eigenvalue;
            `None` where it gives none.
    """

    residuals: Any
    allowed: Any
    verdicts: Any
    steps: Any
    errors: Any
    hidden: Any
    rounding: Any
    conditions: Any

    def then(self, other: "Report") -> "Report":
        """Return the report of this solve continued by `other`: the worse one, with all steps."""
        excess, of_other = (
            jnp.nan_to_num(r.residuals / r.allowed, nan=jnp.inf) for r in (self, other)
        )
        pick = lambda a, b: jnp.where(of_other > excess, b, a)  # noqa: E731
        # no literals, which would not vary over a mesh as the steps do
        known = (self.steps == abs(self.steps)) & (other.steps == abs(other.steps))
        steps = jnp.where(known, self.steps + other.steps, jnp.minimum(self.steps, other.steps))
        rounding = _largest(self.rounding, other.rounding)
        conditions = _largest(self.conditions, other.conditions)
        errors, hidden = map(jnp.maximum, self[4:6], other[4:6])
        residuals, allowed, verdicts = map(pick, self[:3], other[:3])
        return Report(residuals, allowed, verdicts, steps, errors, hidden, rounding, conditions)


def _largest(*figures: Any) -> Any:
    """Return the largest of those that are known, `None` if none is."""
    known = [figure for figure in figures if figure is not None]
    return functools.reduce(jnp.maximum, known) if known else None


# (systems, b) -> u and its report
Run = Callable[["AbstractLinearSystems", PyTree[Array]], tuple[PyTree[Array], Report]]


class AbstractSquareSystem(eqx.Module):
    """A square linear system M u = b, solved by means of `systems` that linear solvers receive."""

    @abc.abstractmethod
    def handed(self) -> "AbstractLinearSystems":
        """Return the systems that linear solvers receive."""

    @abc.abstractmethod
    def mv(self, U: PyTree[Array], skip_zeros: bool = False) -> PyTree[Array]:
        """Return M u; linear in `U`, and transposable without `skip_zeros`.

        With it, a zero column of u costs no product, where products are made column by column.
        """

    @abc.abstractmethod
    def solve(self, run: Run, b: PyTree[Array]) -> tuple[PyTree[Array], Report]:
        """Solve M u = b by `run(systems, b)`, which solves the systems of `handed`."""

    @abc.abstractmethod
    def solve_transposed(self, run: Run, b: PyTree[Array]) -> tuple[PyTree[Array], Report]:
        """Solve Mᵀ u = b by `run(systems, b)`."""


class Border(NamedTuple):
    """The border of known eigenpairs of A x = λ B x, by parts; see `systems.bordered_pairs`.

    [ A − λᵢB    C Nᵢ       ]
    [ Nᵢ Rᵀ      α (I − Nᵢ) ]
    """

    col: Any
    row: Any
    near: Any
    alpha: Any


class ShiftedPencil(NamedTuple):
    """The matrices A − λᵢB, of which the eigenpairs (λᵢ, X) are known and deflated.

    If Hermitian, they are (A − λᵢB) + BX Dᵢ XᴴB, XᴴBX = I, which maps xⱼ to τᵢ B xⱼ for every known
    eigenpair; `known` is τ. Otherwise they have a `Border`, or are transposes of such matrices.
    """

    A: Any
    B: Any
    lam: Any
    X: Any
    known: Any
    hermitian: bool
    transposed: bool = False

    def shift(self, xp: Any) -> Any:
        """Return a shift for all eigenpairs, by NumPy or `jax.numpy`; for Hermitian pencils.

        It lies outside the known eigenvalues, on the side without unknown ones: A − σB is definite
        if the known eigenvalues are the lowest or the highest.
        """
        lam, tau = self.lam, self.known
        side = xp.where(xp.sum(xp.sign(tau)) >= 0, -1, 1).astype(lam.dtype)
        size, spectrum = xp.max(xp.abs(lam)), xp.max(xp.abs(tau))
        zero = 10 * float(xp.finfo(lam.dtype).eps)
        size = xp.where(size > zero * spectrum, size, 1e-3 * spectrum)
        beyond = xp.maximum(0.1 * (xp.max(lam) - xp.min(lam)), 0.01 * size)
        return side * xp.max(side * lam) + side * beyond


class AbstractLinearSystems(AbstractSquareSystem):
    """k square systems M_i u_i = b_i; each leaf of u and b carries the systems on its last axis."""

    structure: eqx.AbstractVar[Structure]

    def handed(self) -> "AbstractLinearSystems":
        """Return the systems themselves."""
        return self

    @staticmethod
    @abc.abstractmethod
    def name(i: int) -> str:
        """Return the name of system i, for a message."""

    @staticmethod
    @abc.abstractmethod
    def if_singular() -> str:
        """Return the meaning of a singular system, for a message."""

    def solve(self, run: Run, b: PyTree[Array]) -> tuple[PyTree[Array], Report]:
        """Solve all systems at once."""
        return run(self, b)

    @abc.abstractmethod
    def is_hermitian(self) -> bool:
        """Return whether each M_i is Hermitian."""

    @abc.abstractmethod
    def sizes(self) -> Array:
        """Return a typical ‖M_i v‖ / ‖v‖ for each system, shape (k,), the scale of rounding."""

    def typical_sizes(self) -> Array:
        """Return the norm of a typical row of each M_i, no stiff one, shape (k,)."""
        return self.sizes()

    def condition_bound(self, b: PyTree[Array], U: PyTree[Array]) -> Array | None:
        """Return a lower bound of each eigenvalue's condition number, from U for b of norm 1.

        `None` where an eigenvalue cannot be ill conditioned.
        """
        return None

    def rounding_of(self, b: PyTree[Array], U: PyTree[Array]) -> Array | None:
        """Return the relative error of U by rounding of the operators, for b of norm 1."""
        return None

    @abc.abstractmethod
    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return M_i; `i` may be traced. `definite` declares that M_i is definite."""

    def shifted_pencil(self) -> ShiftedPencil | None:
        """Return the parts, where M_i is A − λᵢB with known eigenpairs deflated or bordered."""
        return None

    def handover(self) -> Handover:
        """Return how a linear solver on the host receives the matrices."""
        known = self.structure is not Structure.MATRIX_FREE
        return Handover.ENTRIES if known else Handover.PRODUCTS

    @abc.abstractmethod
    def host_columns(self) -> Callable[[int], Any]:
        """Return a function i -> M_i: a NumPy array, SciPy sparse matrix or `LinearOperator`.

        For a `handover` of `ENTRIES`. It is called on the host, where the leaves of `self` are
        NumPy arrays; the matrices act on the leaves of u_i, ravelled and joined.
        """


class OneSystem(AbstractLinearSystems):
    """The system of one operator, k = 1."""

    structure: Structure
    operator: lx.AbstractLinearOperator

    @staticmethod
    def name(i: int) -> str:
        """Return "the system", because there is only one."""
        return "the system"

    @staticmethod
    def if_singular() -> str:
        """Return an empty text."""
        return ""

    def mv(self, U: PyTree[Array], skip_zeros: bool = False) -> PyTree[Array]:
        """Return M u."""
        return columns_last(jax.vmap(self.operator.mv)(columns_first(U)))

    def solve_transposed(self, run: Run, b: PyTree[Array]) -> tuple[PyTree[Array], Report]:
        """Solve with the transposed operator."""
        return run(OneSystem(self.structure, self.operator.transpose()), b)

    def is_hermitian(self) -> bool:
        """Return what the operator's tags state; in lineax, symmetric means Mᵀ = M."""
        leaves = jax.tree.leaves(self.operator.in_structure())
        real = not any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves)
        return real and lx.is_symmetric(self.operator)

    def sizes(self) -> Array:
        """Return ‖M v‖ for a random v."""
        v = jax.tree.map(probe, self.operator.in_structure())
        return system_norms(jax.tree.map(lambda leaf: leaf[..., None], self.operator.mv(v)))

    def column(self, i: Any, definite: bool) -> lx.AbstractLinearOperator:
        """Return the operator."""
        return self.operator

    def host_columns(self) -> Callable[[int], Any]:
        """Return the operator in the form for host code."""
        return lambda i: host_view(self.operator)


def one_system(operator: lx.AbstractLinearOperator) -> OneSystem:
    """Return the system of an operator."""
    known = Structure.SPARSE if has_entries(operator) else Structure.MATRIX_FREE
    return OneSystem(Structure.DENSE if is_dense(operator) else known, operator)


class AbstractOwnSolver(lx.AbstractLinearSolver):
    """A linear solver whose state is the operator unless it overrides `init`."""

    @abc.abstractmethod
    def working_rtol(self, dtype: Any) -> float | None:
        """Return its relative residual: 0 for a direct solver, `None` where it is not known."""

    @property
    def name(self) -> str:
        """Return the name that a monitor receives."""
        return type(self).__name__

    @property
    def needs_sparse(self) -> bool:
        """Return whether it factorises each matrix, which must therefore stay sparse."""
        return False

    def choice(
        self, systems: AbstractLinearSystems, b: PyTree[Array], on_host: bool
    ) -> lx.AbstractLinearSolver:
        """Return the solver that does the work, which a solver that chooses replaces by another.

        `on_host` is false where the policy forbids host calls; a solver that needs the host stays.
        """
        return self

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """Keep the operator, because no work is done before the right side is known."""
        return operator

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the transposed operator."""
        return state.transpose(), {}

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the conjugate operator."""
        return lx.conj(state), {}

    def assume_full_rank(self) -> bool:
        """Return True, because the systems are nonsingular."""
        return True


def columns_first(U: PyTree[Array]) -> PyTree[Array]:
    """Move the axis of the systems to the front of each leaf."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), U)


def columns_last(U: PyTree[Array]) -> PyTree[Array]:
    """Undo `columns_first`."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), U)


def system_norms(U: PyTree[Array], norms: Callable[[Array], Array] = column_norms) -> Array:
    """Return ‖u_i‖ for each system, shape (k,), from those of its leaves."""
    # leaves that are spread over devices are not joined, which would gather them
    leaves = [leaf for leaf in jax.tree.leaves(U) if leaf.size]
    parts = [norms(leaf.reshape(-1, leaf.shape[-1])) for leaf in leaves]
    return parts[0] if len(parts) == 1 else norms(jnp.stack(parts))


def attainable(rtol: float, dtype: Any) -> float:
    """Return `rtol`, or fifty times the machine epsilon where that is larger."""
    return max(rtol, 50 * float(jnp.finfo(dtype).eps))


def probe(like: jax.ShapeDtypeStruct | Array, order: int = 2) -> Array:
    """Return a fixed random array, of norm about 1 in the norm of `order`.

    Its components have random signs, and sizes within a factor of three of each other. They are
    computed from their places, so that a program holds no constant of this size, and each device
    no more than its own part.
    """
    place = lax.iota(jnp.uint32, math.prod(like.shape)).reshape(like.shape)
    real = jnp.finfo(like.dtype).dtype
    size = place.size if order == 1 else (13 / 12 * place.size) ** 0.5  # the mean
    if not jnp.issubdtype(like.dtype, jnp.complexfloating):
        return _uniform(place, real) / size
    size *= 2**0.5
    return lax.complex(_uniform(place, real) / size, _uniform(~place, real) / size)


def _uniform(place: Array, dtype: Any) -> Array:
    """Return numbers of random signs, uniform between 1/2 and 3/2 in size.

    Source: the mixing of bits that ends Appleby's MurmurHash3.
    """
    h = (place + 1) * jnp.uint32(0x9E3779B1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> shift)) * jnp.uint32(factor)
    h = h ^ (h >> 16)
    size = 0.5 + (h >> 1).astype(dtype) * 2.0**-31
    return jnp.where(h & 1 == 1, size, -size)
