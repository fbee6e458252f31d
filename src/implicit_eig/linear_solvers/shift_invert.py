"""Solve all pairs' systems by one factorisation of A − σB."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Inexact, Integer, PyTree

from .. import host
from .._errors import InputError, LinearSolveWarning
from ..operators import host_view
from ._block_krylov import add, inner, solve_shifted
from ._shift_invert_dense import solve_dense
from ._solve import VERDICTS, AbstractSystemsSolver
from ._systems import AbstractLinearSystems, AbstractShiftedSystems, ShiftedPencil, Structure
from .factorizations import Shift, SingularError, SuperLU, factorize, is_hermitian

SUCCESS = VERDICTS.index(lx.RESULTS.successful)
MAX_STEPS = VERDICTS.index(lx.RESULTS.max_steps_reached)
STAGNATION = VERDICTS.index(lx.RESULTS.stagnation)
# Pairs that share a space. A larger group needs fewer steps, and memory for all its blocks.
GROUP = 20
# The residual inside the space, whose norm is another, against the one required.
INSIDE = 0.3
# From true residual to true residual; each pass gains many digits, or rounding is met.
PASSES = 10


class ShiftInvert(AbstractSystemsSolver):
    """Solve the systems of all pairs in one block Krylov space of (A − σB)⁻¹ B, on the host.

    One factorisation of A − σB serves all pairs, and the forward solver too where that
    inverts by `factorize(A, B, sigma)` or is `solvers.arpack(k, sigma=sigma)`. It does not
    have to be definite.

    Args:
        sigma: the shift, near the values and none of them. Unit: that of the values. `None`
            takes one next to the pairs, on the side where they end. Where the systems of a
            pair do not converge by it, one next to that pair is tried, with a warning.
        factorize: `SuperLU()`, `Cholmod()`, `Pardiso()`, or a function M -> solve of a CSC matrix
            M, where solve(b) returns M⁻¹ b for b of shape (n,) and (n, m).
        rtol: required ‖b − M u‖ / ‖b‖, by the true residual; `None` takes 1e-9, or fifty
            times the machine epsilon where that is larger (6e-6 in float32).
        max_steps: largest number of blocks in a Krylov space.

    Raises:
        InputError: the operators are not sparse; `system=Bordered()`.
        LinearSolveError: A − σB is singular.

    Cost: one factorisation, if the cache does not hold it; about ten triangular solves a
        pair, in blocks; memory for these solutions of twenty pairs at a time.
    Source: see the module `_block_krylov`.

    Examples:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from implicit_eig import SparseOperator
        >>> A = SparseOperator(jnp.array([2.0, 4.0]), [0, 1], [0, 1], (2, 2))
        >>> lx.linear_solve(A, jnp.array([2.0, 4.0]), ShiftInvert(1.0)).value.round(4).tolist()
        [1.0, 1.0]
    """

    sigma: Shift | None = None
    factorize: Callable[[sp.csc_matrix], Any] = eqx.field(static=True, default=SuperLU())
    rtol: float | None = None
    max_steps: int = eqx.field(static=True, default=100)

    def working_rtol(self, dtype: Any) -> float:
        """Return `rtol`, or what `None` stands for."""
        return max(1e-9, 50 * float(jnp.finfo(dtype).eps)) if self.rtol is None else self.rtol

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector, shape (n,): what `lineax.linear_solve` calls."""
        like = (jax.eval_shape(lambda: vector), jax.ShapeDtypeStruct((), jnp.int32))
        arrays, static = eqx.partition(state, eqx.is_array)
        x, verdict = host.call(_HostVector(self, static), like, arrays, vector)
        result = lx.RESULTS.successful
        for i in (MAX_STEPS, STAGNATION):
            result = lx.RESULTS.where(verdict == i, VERDICTS[i], result)
        return x, result, {}

    def solve_systems(
        self, systems: AbstractLinearSystems, b: Inexact[Array, "n k"]
    ) -> tuple[Inexact[Array, "n k"], Integer[Array, " k"]]:
        """Solve all systems in one call of the host; zero columns are skipped."""
        if not isinstance(systems, AbstractShiftedSystems):
            raise InputError(
                "`linear_solver=ShiftInvert()`: the deflated systems of an eigenproblem; got "
                f"{type(systems).__name__}. Use `eigensolver(system=Deflated())`, or leave "
                "`system` out."
            )
        if systems.structure is Structure.MATRIX_FREE:
            raise InputError(
                "`linear_solver=ShiftInvert()`: operators of known entries, to factorise A − σB; "
                "got products only. Pass a `SparseOperator`, a `scipy.sparse` matrix or an array, "
                "or use `MINRES()`."
            )
        if systems.structure is Structure.DENSE:
            rtol = self.working_rtol(b.dtype)
            return solve_dense(systems.shifted_pencil(), self.sigma, rtol, self.max_steps, b)
        arrays, static = eqx.partition(systems, eqx.is_array)
        like = (jax.eval_shape(lambda: b), jax.ShapeDtypeStruct((b.shape[1],), jnp.int32))
        return host.call(_HostSystems(self, static), like, arrays, b)


class _HostVector(eqx.Module):
    solver: ShiftInvert
    operator: Any

    def __call__(self, arrays: PyTree, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        A = host_view(eqx.combine(arrays, self.operator))
        if not sp.issparse(A):
            raise InputError(
                "`ShiftInvert()`: a sparse operator to factorise; got "
                f"{type(A).__name__}. Use a dense or an iterative linear solver."
            )
        none, zero = np.zeros((A.shape[0], 0), A.dtype), np.zeros(1, A.dtype)
        pencil = ShiftedPencil(A, None, zero, none, none, np.ones(1), is_hermitian(A))
        U, verdicts = _solve(self.solver, pencil, vector[:, None])
        return U[:, 0], verdicts.reshape(())


class _HostSystems(eqx.Module):
    solver: ShiftInvert
    systems: Any

    def __call__(self, arrays: PyTree, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        systems: AbstractShiftedSystems = eqx.combine(arrays, self.systems)
        return _solve(self.solver, on_host(systems.shifted_pencil()), b)


def on_host(pencil: ShiftedPencil) -> ShiftedPencil:
    """Return the pencil with its operators as CSR matrices, whose leaves must be concrete."""
    A, B = host_view(pencil.A), None if pencil.B is None else host_view(pencil.B)
    lam, X, Y, tau = map(np.asarray, pencil[2:6])
    return ShiftedPencil(A, B, lam, X, Y, tau, pencil.hermitian)


def _solve(
    solver: ShiftInvert, pencil: ShiftedPencil, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve (A − λᵢB) uᵢ + BX Dᵢ Yᴴ B uᵢ = bᵢ; see `systems.deflated`."""
    verdicts = np.full(b.shape[1], SUCCESS, np.int32)
    todo = np.flatnonzero(np.any(b != 0, axis=0))
    U = np.zeros_like(b)
    if not todo.size:
        return U, verdicts
    krylov = _Krylov(pencil)
    R = np.asfortranarray(b[:, todo])
    # on the known pairs the system is BX τᵢ, on their complement A − λᵢB
    along = inner(krylov.Y, R)
    R = add(R, -1.0, krylov.BX, along)
    rtol = solver.working_rtol(b.dtype)
    options = (solver.factorize, rtol, solver.max_steps)
    sigma = float(pencil.shift(np)) if solver.sigma is None else solver.sigma
    Z, verdicts[todo] = _solve_by_shifts(krylov, sigma, todo, R, *options)
    U[:, todo] = add(Z, 1.0, krylov.X, along / pencil.tau[todo])
    return U, verdicts


def _solve_by_shifts(
    krylov: "_Krylov", sigma: Shift, pairs: np.ndarray, R: np.ndarray, *options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Solve by one shift for all pairs, then by one for each pair that it did not solve."""
    pencil = krylov.pencil
    try:
        Z, verdicts = krylov.solve(sigma, pairs, R, *options)
        reason = "does not converge"
    except SingularError:
        Z, verdicts = np.zeros_like(R), np.full(pairs.size, STAGNATION, np.int32)
        reason = "is an eigenvalue"
    for j in np.flatnonzero(verdicts != SUCCESS):
        lam = float(np.real(pencil.lam[pairs[j]]))
        side = 1 if np.real(sigma) > lam else -1
        own = lam + side * 1e-3 * max(float(pencil.size(np)), abs(lam))
        warnings.warn(
            f"`ShiftInvert()`: the shift {sigma:.6g} {reason} for pair {pairs[j]}; trying "
            f"{own:.6g}. Give a `sigma` nearer to the pairs to save factorisations.",
            LinearSolveWarning,
            stacklevel=2,
        )
        one = slice(j, j + 1)
        Z[:, one], verdicts[one] = krylov.solve(own, pairs[one], R[:, one], *options)
    return Z, verdicts


class _Krylov:
    """The pencil with what its systems share."""

    def __init__(self, pencil: ShiftedPencil):
        self.pencil = pencil
        self.X = np.asfortranarray(pencil.X)
        self.Y = self.X if pencil.hermitian else np.asfortranarray(pencil.Y)
        self.BX = _times(pencil.B, self.X)
        # Bᴴ Y, which is B X for a Hermitian pencil
        adjoint = None if pencil.B is None else pencil.B.conj().T.tocsr()
        self.BY = self.BX if pencil.hermitian else _times(adjoint, self.Y)

    def dual(self, V: np.ndarray) -> np.ndarray:
        return _times(self.pencil.B, V) if self.pencil.hermitian else V

    def project(self, V: np.ndarray) -> np.ndarray:
        return add(V, -1.0, self.X, inner(self.BY, V))

    def residual(self, R: np.ndarray, Z: np.ndarray, lam: np.ndarray) -> np.ndarray:
        rest = R - _times(self.pencil.A, Z) + lam * _times(self.pencil.B, Z)
        return add(rest, -1.0, self.BX, inner(self.Y, rest))

    def solve(
        self,
        sigma: Shift,
        pairs: np.ndarray,
        R: np.ndarray,
        method: Callable,
        rtol: float,
        max_steps: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return Z with (A − λᵢB) zᵢ = rᵢ for these pairs, and the verdicts."""
        pencil = self.pencil
        factors = factorize(pencil.A, pencil.B, sigma, method)

        def inverse(V: np.ndarray) -> np.ndarray:
            return self.project(np.asfortranarray(factors.solve(V)))

        def power(V: np.ndarray) -> np.ndarray:
            return inverse(V if pencil.hermitian else _times(pencil.B, V))

        lam = pencil.lam[pairs].astype(R.dtype)
        Z, rest = np.zeros_like(R), R
        norm = np.linalg.norm(R, axis=0)
        size = np.sign(norm)
        norm[norm == 0] = 1
        verdicts = np.full(pairs.size, SUCCESS, np.int32)
        active = np.flatnonzero(size > rtol)
        # neighbours share a space: they need steps of about the same number
        active = active[np.argsort(np.abs(lam[active] - sigma))]
        for _ in range(PASSES):
            if not active.size:
                break
            before = size[active]
            for start in range(0, active.size, GROUP):
                group = active[start : start + GROUP]
                S = inverse(rest[:, group])
                tol = np.minimum(INSIDE * rtol / size[group], 0.1)
                dZ, steps = solve_shifted(
                    power,
                    self.dual,
                    self.project,
                    S,
                    lam[group] - lam.dtype.type(sigma),
                    tol,
                    max_steps,
                    pencil.hermitian,
                )
                Z[:, group] += dZ
                if steps == max_steps:
                    verdicts[group] = MAX_STEPS
            rest = R.copy(order="F")
            rest[:, active] = self.residual(R[:, active], Z[:, active], lam[active])
            size[active] = np.linalg.norm(rest[:, active], axis=0) / norm[active]
            solved = size[active] <= rtol
            verdicts[active[solved]] = SUCCESS
            stalled = ~solved & ~(size[active] < 0.5 * before)
            verdicts[active[stalled & (verdicts[active] == SUCCESS)]] = STAGNATION
            active = active[~solved & ~stalled & (verdicts[active] != MAX_STEPS)]
        return Z, verdicts


def _times(M: sp.csr_matrix | None, V: np.ndarray) -> np.ndarray:
    """Return M V, by columns: faster than SciPy's product with a block, which is in rows."""
    if M is None:
        return V
    out = np.empty(V.shape, np.result_type(M.dtype, V.dtype), order="F")
    for j in range(V.shape[1]):
        out[:, j] = M @ V[:, j]
    return out
