"""The default choice of a linear solver, and what is tried when that does not converge."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jax import lax
from jaxtyping import Array, PyTree

from .._errors import LinearSolveWarning
from ..operators import SparseOperator, scale_columns
from ._solve import AbstractBatchedLinearSolver, Outcome, solve_all
from ._systems import AbstractLinearSystems, Structure, attainable
from .factorizations import Shift, SuperLU, shift
from .host import AbstractHostSolver
from .minres import MINRES
from .shift_invert import ShiftInvert
from .sparse_direct import SparseDirect

# Up to this size an LU factorisation for each pair costs less than the steps of an iteration.
SMALL = 256
# The longest steps of GMRES before it restarts; its memory is this many vectors.
RESTART = 100


class AutoLinearSolver(AbstractBatchedLinearSolver):
    """Choose the linear solver from what the operators are; figures in `docs/how-to-choose.md`.

    Sparse operators: `ShiftInvert`; `SparseDirect` for `Polynomial`. Dense arrays: `lineax.LU`;
    `ShiftInvert` for Hermitian systems above n = 256. Matrix-free: `MINRES` for Hermitian
    systems, else `lineax.GMRES`. With `system=Bordered()` for Hermitian problems:
    `SparseDirect`, `lineax.LU` and `MINRES`. Where an iteration does not converge, a host solver
    takes over with a warning: LAPACK for dense systems, `SparseDirect` for sparse ones that are
    not Hermitian, SciPy's `gcrotmk` for products.

    Under `Policy(linear_solve=...)` of `NAN` or `IGNORE` no host takes over: `lineax.LU` does for
    dense systems, and others are left as they are.

    Args:
        sigma: for `ShiftInvert`.
        factorize: for `ShiftInvert`.
        on_host: whether a host solver may take over; policies that ask no host say no.
    """

    sigma: Shift | None = eqx.field(static=True, default=None, converter=shift)
    factorize: Callable[[Any], Any] = eqx.field(static=True, default=SuperLU())
    on_host: bool = eqx.field(static=True, default=True)

    def without_host(self) -> "AutoLinearSolver":
        """Return the choice whose second choice is no host solver."""
        return AutoLinearSolver(self.sigma, self.factorize, False)

    def working_rtol(self, dtype: Any) -> float:
        """Return the loosest tolerance of the choices."""
        return attainable(1e-9, dtype)

    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        """Solve all systems by the choice; by the fallback those that did not converge."""
        solver = self.choice(systems, b)
        U, outcome = solve_all(systems, b, solver)
        deflated = systems.structure is Structure.SPARSE and systems.is_hermitian()
        if isinstance(solver, (lx.LU, SparseDirect)) or deflated:  # no second choice
            return U, outcome
        failed = outcome.verdicts != 0
        fallback: lx.AbstractLinearSolver = _Fallback(type(solver).__name__)
        if not self.on_host:
            if systems.structure is not Structure.DENSE:
                return U, outcome
            fallback = lx.LU()

        def again(U: PyTree[Array]) -> tuple[PyTree[Array], Outcome]:
            rest = jax.tree.map(lambda leaf: scale_columns(leaf, failed), b)
            V, new = solve_all(systems, rest, fallback)
            return jax.tree.map(lambda u, v: jnp.where(failed[None, :], v, u), U, V), new

        return lax.cond(jnp.any(failed), again, lambda U: (U, outcome), U)

    def choice(self, systems: AbstractLinearSystems, b: PyTree[Array]) -> lx.AbstractLinearSolver:
        """Return the linear solver that is tried first."""
        leaf = jax.tree.leaves(b)[0]
        n, dtype = leaf.shape[0], leaf.dtype
        if systems.structure is Structure.MATRIX_FREE:
            return iterative(systems.is_hermitian(), dtype)
        pencil = systems.shifted_pencil()
        if systems.structure is Structure.DENSE:
            if n <= SMALL or pencil is None or not pencil.hermitian:
                return lx.LU()
        elif pencil is None:
            return SparseDirect()
        return ShiftInvert(self.sigma, self.factorize)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """Choose for a single operator and initialise the choice."""
        if isinstance(operator, lx.MatrixLinearOperator):
            solver = lx.LU()
        elif isinstance(operator, SparseOperator):
            solver = SparseDirect()
        else:
            solver = iterative(lx.is_symmetric(operator), operator.in_structure().dtype)
        return solver, solver.init(operator, options)

    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve by the choice."""
        solver, inner = state
        return solver.compute(inner, vector, options)

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Transpose the choice's state."""
        solver, inner = state
        inner, options = solver.transpose(inner, options)
        return (solver, inner), options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Conjugate the choice's state."""
        solver, inner = state
        inner, options = solver.conj(inner, options)
        return (solver, inner), options


def iterative(hermitian: bool, dtype: Any) -> lx.AbstractLinearSolver:
    """Return the choice for systems of which only products are known."""
    if hermitian:
        return MINRES()
    rtol = 1e-10 if dtype in ("float64", "complex128") else 1e-5
    # right sides have norm 1 here; with atol = 0 lineax divides by the zeros in them
    return lx.GMRES(rtol, rtol, restart=RESTART, stagnation_iters=RESTART)


class _Fallback(AbstractHostSolver):
    """What is tried last; the host calls it for the systems that are left."""

    first: str = eqx.field(static=True)

    def working_rtol(self, dtype: Any) -> float | None:
        return None

    def solve_host(self, A: Any, b: np.ndarray) -> Any:
        dense, sparse = isinstance(A, np.ndarray), sp.issparse(A)
        second = "LAPACK" if dense else "SparseDirect" if sparse else "SciPy's gcrotmk"
        warnings.warn(
            f"`AutoLinearSolver()`: {self.first} did not converge; trying {second}. Choose a "
            "linear solver, or precondition it, as `docs/how-to-choose.md` says.",
            LinearSolveWarning,
            stacklevel=2,
        )
        if dense:
            return np.linalg.solve(A, b)
        if sparse:
            return SparseDirect().solve_host(A, b)
        rtol = attainable(1e-10, b.dtype)
        return spla.gcrotmk(A, b, rtol=rtol, m=RESTART, maxiter=max(1, 10 * len(b) // RESTART))
