"""The default choice of a linear solver, and the fallback where that does not converge."""

import dataclasses
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

from .._errors import InputError, LinearSolveWarning
from ..checks.rounding import SOLVED
from ..operators import scale_columns
from ._solve import AbstractBatchedLinearSolver, Outcome, solve_all, solve_one
from ._systems import (
    AbstractLinearSystems,
    AbstractOwnSolver,
    Handover,
    Structure,
    attainable,
    system_norms,
)
from .factorizations import Shift, shift
from .host import AbstractHostSolver
from .lagged import LaggedFactors
from .ldlt import Ldlt
from .minres import MINRES
from .shift_invert import ShiftInvert
from .sparse_direct import SparseDirect

# Up to this size an LU factorisation for each eigenpair costs less than the steps of an iteration.
SMALL = 256
# GMRES restarts after at most this many steps; its memory is this many vectors.
RESTART = 100


class AutoLinearSolver(AbstractOwnSolver):
    """Choose the linear solver from what the operators are.

    - Sparse operators are treated by `ShiftInvert`, because one factorisation serves all
      eigenpairs; those of a `Polynomial` by `SparseDirect`.
    - Dense arrays are treated by `lineax.LU`, and by `ShiftInvert` where the problem is Hermitian
      and n > 256.
    - Matrix-free operators are treated by `MINRES` where the systems are Hermitian, else by
      `lineax.GMRES`.
    - With `system=Bordered()` Hermitian problems take `SparseDirect`, `lineax.LU` and `MINRES`
      respectively, because the bordered matrix is indefinite.

    Where an iteration does not converge, a host solver takes over with a warning: LAPACK for dense
    systems, `SparseDirect` for sparse ones that are not Hermitian, SciPy's `gcrotmk` where only
    products are known. Under `Policy(linear_solve=...)` of `NAN` or `IGNORE` the host is not
    called: `lineax.LU` takes over for dense systems, and others are left as they are. The
    documentation's page "How to choose" gives the figures behind these choices.

    Args:
        sigma: for `ShiftInvert`.
        factorize: for `ShiftInvert`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, Policy, SparseOperator, eigensolver, solvers
        >>> names = []
        >>> policy = Policy(monitor=lambda report: names.append(report.solver))
        >>> solve = eigensolver(solvers.arpack(k=1), Hermitian(k=1), policy=policy)
        >>> A = np.array([[1, 1, 0], [1, 3, 1], [0, 1, 7]], np.float32)
        >>> K = SparseOperator.from_scipy(sp.csr_array(A))
        >>> _ = jax.grad(lambda t: solve(t * K).vectors[0, 0] ** 2)(jnp.float32(1))
        >>> names
        ['ShiftInvert']
    """

    sigma: Shift | None = eqx.field(static=True, default=None, converter=shift)
    factorize: Callable[[Any], Any] = eqx.field(static=True, default=Ldlt())

    def working_rtol(self, dtype: Any) -> float:
        """Return the largest tolerance of the possible choices."""
        return attainable(1e-9, dtype)

    def choice(
        self, systems: AbstractLinearSystems, b: PyTree[Array], on_host: bool
    ) -> lx.AbstractLinearSolver:
        """Return the linear solver for the systems, with a second one if the first iterates."""
        leaf = jax.tree.leaves(b)[0]
        by_products = systems.handover() is Handover.PRODUCTS
        dense = systems.structure is Structure.DENSE and not by_products
        n, pencil = leaf.shape[0], systems.shifted_pencil()
        if by_products:
            first = iterative(systems.is_hermitian(), leaf.dtype)
        elif dense and (n <= SMALL or pencil is None or not pencil.hermitian):
            return lx.LU()
        elif pencil is None:
            return SparseDirect()
        else:
            first = ShiftInvert(self.sigma, self.factorize)
            if pencil.hermitian and not dense:
                return first
        if on_host:
            return _WithSecond(first, _Fallback(type(first).__name__))
        return _WithSecond(first, lx.LU()) if dense else first

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector by the chosen solver."""
        return solve_one(self, state, vector)


def reusing(linear_solver: lx.AbstractLinearSolver, lagged: LaggedFactors) -> ShiftInvert:
    """Return the linear solver with the factors of earlier operators as a preconditioner.

    Raises:
        InputError: it cannot use them.
    """
    if isinstance(linear_solver, AutoLinearSolver):
        linear_solver = ShiftInvert(linear_solver.sigma, linear_solver.factorize)
    if not isinstance(linear_solver, ShiftInvert):
        raise InputError(
            "`solve(reuse=...)`: an eigensolver whose linear solver is `ShiftInvert(sigma)`; got "
            f"{type(linear_solver).__name__}. Leave `linear_solver` out."
        )
    return dataclasses.replace(linear_solver, reuse=lagged)


def iterative(hermitian: bool, dtype: Any) -> lx.AbstractLinearSolver:
    """Return the solver for systems of which only products are known."""
    if hermitian:
        return MINRES()
    rtol = 1e-10 if dtype in ("float64", "complex128") else 1e-5
    # right sides have norm 1 here; with atol = 0 lineax would divide by their zero entries
    return lx.GMRES(rtol, rtol, restart=RESTART, stagnation_iters=RESTART)


class _WithSecond(AbstractBatchedLinearSolver):
    """Solve by one solver, and by a second one those systems that it has not solved."""

    first: lx.AbstractLinearSolver
    second: lx.AbstractLinearSolver

    @property
    def name(self) -> str:
        return type(self.first).__name__

    def working_rtol(self, dtype: Any) -> float | None:
        return None

    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        U, outcome = solve_all(systems, b, self.first)
        # the GMRES of lineax divides 0 by 0, and reports success, where a residual is exactly 0
        residual = system_norms(jax.tree.map(jnp.subtract, b, systems.mv(U)))
        failed = (outcome.verdicts != 0) | ~(residual <= SOLVED)

        def again(U: PyTree[Array]) -> tuple[PyTree[Array], Outcome]:
            rest = jax.tree.map(lambda leaf: scale_columns(leaf, failed), b)
            V, new = solve_all(systems, rest, self.second)
            return jax.tree.map(lambda u, v: jnp.where(failed[None, :], v, u), U, V), new

        return lax.cond(jnp.any(failed), again, lambda U: (U, outcome), U)


class _Fallback(AbstractHostSolver):
    """The last solver to be tried, called on the host for the systems that remain."""

    first: str = eqx.field(static=True)

    def working_rtol(self, dtype: Any) -> float | None:
        return None

    def solve_host(self, A: Any, b: np.ndarray) -> Any:
        dense, sparse = isinstance(A, np.ndarray), sp.issparse(A)
        second = "LAPACK" if dense else "SparseDirect" if sparse else "SciPy's gcrotmk"
        warnings.warn(
            f"`AutoLinearSolver()`: {self.first} did not converge; trying {second}. Choose a "
            "linear solver, or precondition it, as the documentation's page How to choose says.",
            LinearSolveWarning,
            stacklevel=2,
        )
        if dense:
            return np.linalg.solve(A, b)
        if sparse:
            return SparseDirect().solve_host(A, b)
        rtol = attainable(1e-10, b.dtype)
        return spla.gcrotmk(A, b, rtol=rtol, m=RESTART, maxiter=max(1, 10 * len(b) // RESTART))
