"""The default choice of a linear solver."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree

from ..operators import SparseOperator
from ._systems import Structure
from .factorizations import Shift, SuperLU
from .minres import MINRES
from .shift_invert import ShiftInvert

# The longest steps of GMRES before it restarts; its memory is this many vectors.
RESTART = 100


class AutoLinearSolver(lx.AbstractLinearSolver):
    """Choose the linear solver from what the operators are.

    Dense arrays: LU (`lineax.LU`). Sparse operators: `ShiftInvert()`. Matrix-free: `MINRES()`
    for Hermitian systems, else `lineax.GMRES`.

    Args:
        sigma: for `ShiftInvert`.
        factorize: for `ShiftInvert`.
    """

    sigma: Shift | None = None
    factorize: Callable[[Any], Any] = eqx.field(static=True, default=SuperLU())

    def choose(self, structure: Structure, hermitian: bool, dtype: Any) -> lx.AbstractLinearSolver:
        """Return the solver for systems of this kind."""
        if structure is Structure.DENSE:
            return lx.LU()
        if structure is Structure.SPARSE:
            return ShiftInvert(self.sigma, self.factorize)
        if hermitian:
            return MINRES()
        rtol = 1e-10 if dtype in ("float64", "complex128") else 1e-5
        # right sides have norm 1 here; with atol = 0 lineax divides by the zeros in them
        return lx.GMRES(rtol, rtol, restart=RESTART, stagnation_iters=RESTART)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """Choose for a single operator and initialise the choice."""
        structure = Structure.MATRIX_FREE
        if isinstance(operator, lx.MatrixLinearOperator):
            structure = Structure.DENSE
        elif isinstance(operator, SparseOperator):
            structure = Structure.SPARSE
        dtype = operator.in_structure().dtype
        solver = self.choose(structure, lx.is_symmetric(operator), dtype)
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

    def assume_full_rank(self) -> bool:
        """Return True: the systems are nonsingular."""
        return True
