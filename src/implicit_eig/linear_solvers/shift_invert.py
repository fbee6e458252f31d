"""Solve the systems of all eigenpairs by one factorisation of A − σB."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, PyTree

from .. import host
from .._errors import InputError
from ..operators import has_entries, is_dense
from ..operators.views import host_view
from ._shift_invert_dense import solve_dense
from ._shift_invert_host import on_host, solve_on_host
from ._solve import AbstractBatchedLinearSolver, Outcome, as_result
from ._systems import (
    AbstractLinearSystems,
    ShiftedPencil,
    Structure,
    attainable,
)
from .factorizations import Shift, is_hermitian, shift
from .lagged import LaggedFactors
from .ldlt import Ldlt


class ShiftInvert(AbstractBatchedLinearSolver):
    """Solve the systems of all eigenpairs in one block Krylov space of (A − σB)⁻¹ B.

    One factorisation of A − σB serves all eigenpairs, their transposed systems, and also the
    forward solver where that uses `factorize(A, B, sigma)` or is `solvers.arpack(k, sigma=sigma)`
    or `arpack_general`. The matrix need not be definite. It is for sparse `Hermitian`, `General`
    and `Subspace` problems, where it runs on the host, and for dense Hermitian ones.

    Args:
        sigma: the shift, near the eigenvalues but not one of them; real or complex. For real
            operators choose it real unless the eigenvalues are far from the real axis. Unit: that
            of the eigenvalues. `None` takes a shift next to the eigenvalues of a Hermitian problem,
            on the side where these end, and one amid those of other problems. Where the system of
            an eigenpair of sparse operators does not converge, a shift next to its eigenvalue is
            tried, with a warning.
        factorize: `Ldlt()`, `SuperLU()`, `Cholmod()`, `Pardiso()`, or a function M -> solve of a
            CSC matrix M, where solve(b) returns M⁻¹ b for b of shape (n,) and (n, m).
        rtol: required ‖b − M u‖ / ‖b‖, by the true residual; `None` takes 1e-9, or fifty
            times the machine epsilon where that is larger (6e-6 in float32).
        max_steps: largest number of blocks in a Krylov space.
        reuse: of a `Hermitian` problem, operators near A and B, whose factors precondition. Those
            of A − σB are made only for systems that this does not solve. `solve(A, B, reuse=...)`
            gives them to the forward solver, too.

    Raises:
        InputError: an operator is matrix-free, or dense in a problem that is not Hermitian; the
            problem is not a pencil; or `system=Bordered()`. With `reuse`: there is no `sigma`, or
            the problem is dense, or of another kind than `Hermitian`.
        LinearSolveError: A − σB is singular.

    Cost: one factorisation, if the cache does not hold it, and about ten triangular solves for
        each eigenpair, in blocks; memory for these solutions of twenty eigenpairs at a time.
    Source: see the module `_block_krylov`.

    Examples:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from implicit_eig import SparseOperator
        >>> A = SparseOperator(jnp.array([2.0, 4.0]), [0, 1], [0, 1], (2, 2))
        >>> lx.linear_solve(A, jnp.array([2.0, 4.0]), ShiftInvert(1.0)).value.round(4).tolist()
        [1.0, 1.0]
    """

    sigma: Shift | None = eqx.field(static=True, default=None, converter=shift)
    factorize: Callable[[sp.csc_matrix], Any] = eqx.field(static=True, default=Ldlt())
    rtol: float | None = None
    max_steps: int = eqx.field(static=True, default=100)
    reuse: LaggedFactors | None = None

    def working_rtol(self, dtype: Any) -> float:
        """Return `rtol`, or the value that `None` stands for."""
        return attainable(1e-9, dtype) if self.rtol is None else self.rtol

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> "_State":
        """Keep the operator, which must be that of a sparse matrix."""
        if is_dense(operator) or not has_entries(operator):
            raise InputError(
                "`ShiftInvert()`: a sparse operator to factorise; got "
                f"{type(operator).__name__}. Use a dense or an iterative linear solver."
            )
        self._check_reuse()
        return _State(operator, False, False)

    def compute(
        self, state: "_State", vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector, shape (n,); called by `lineax.linear_solve`."""
        like = (jax.eval_shape(lambda: vector), jax.ShapeDtypeStruct((), jnp.int32))
        arrays, static = eqx.partition((self, state.operator), eqx.is_array)
        # M̄ x = b is the conjugate of M x̄ = b̄
        b = vector.conj() if state.conjugated else vector
        x, verdict = host.call(_HostVector(static, state.transposed), like, arrays, b)
        return x.conj() if state.conjugated else x, as_result(verdict), {}

    def transpose(
        self, state: "_State", options: dict[str, Any]
    ) -> tuple["_State", dict[str, Any]]:
        """Return the state of Mᵀ, which is solved by the factors of M."""
        return _State(state.operator, not state.transposed, state.conjugated), {}

    def conj(self, state: "_State", options: dict[str, Any]) -> tuple["_State", dict[str, Any]]:
        """Return the state of the conjugate of M, which is solved by the factors of M."""
        return _State(state.operator, state.transposed, not state.conjugated), {}

    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        """Solve all systems in one host call; zero columns are skipped."""
        pencil = systems.shifted_pencil()
        if pencil is None:
            raise InputError(
                "`linear_solver=ShiftInvert()`: the systems of a pencil A − λB, those of "
                f"`system=Deflated()` where it is Hermitian; got {type(systems).__name__}. Leave "
                "`system` out, or use another linear solver."
            )
        if systems.structure is Structure.MATRIX_FREE:
            raise InputError(
                "`linear_solver=ShiftInvert()`: operators of known entries, to factorise A − σB; "
                "got products only. Pass a `SparseOperator`, a `scipy.sparse` matrix or an array, "
                "or use `MINRES()`."
            )
        dense = systems.structure is Structure.DENSE
        self._check_reuse(dense=dense, hermitian=pencil.hermitian)
        if dense:
            if not pencil.hermitian:
                raise InputError(
                    "`linear_solver=ShiftInvert()`: sparse operators, or a Hermitian problem; got "
                    "a dense operator in another. Use `lineax.LU()`, leave `linear_solver` out, or "
                    "make the operator sparse."
                )
            rtol = self.working_rtol(b.dtype)
            return solve_dense(pencil, self.sigma, rtol, self.max_steps, b)
        arrays, static = eqx.partition((self, pencil), eqx.is_array)
        k = jax.tree.leaves(b)[0].shape[1]
        like = (jax.eval_shape(lambda: b), Outcome.like(k))
        return host.call(_HostPencil(static), like, arrays, b)

    def _check_reuse(self, *, dense: bool = False, hermitian: bool = True) -> None:
        if self.reuse is None:
            return
        if self.sigma is None:
            found = "no `sigma`"
        elif dense:
            found = "a dense operator"
        elif not hermitian:
            found = "another kind of problem"
        else:
            return
        raise InputError(
            "`ShiftInvert(sigma, reuse=...)`: a fixed shift and a sparse `Hermitian` problem, that "
            f"factors of one nearby precondition; got {found}. Give `sigma`, or no `reuse`."
        )


class _State(eqx.Module):
    operator: lx.AbstractLinearOperator
    transposed: bool = eqx.field(static=True)
    conjugated: bool = eqx.field(static=True)


class _HostVector(eqx.Module):
    static: tuple[ShiftInvert, Any]
    transposed: bool

    def __call__(self, arrays: PyTree, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        solver, operator = eqx.combine(arrays, self.static)
        A = host_view(operator)
        none, zero = np.zeros((A.shape[0], 0), A.dtype), np.zeros(1, A.dtype)
        hermitian = is_hermitian(A)
        solver._check_reuse(hermitian=hermitian)
        pencil = ShiftedPencil(A, None, zero, none, np.ones(1), hermitian, self.transposed)
        U, outcome = _on_host(solver, pencil, vector[:, None])
        return U[:, 0], outcome.verdicts.reshape(())


class _HostPencil(eqx.Module):
    static: tuple[ShiftInvert, Any]

    def __call__(self, arrays: PyTree, b: PyTree[np.ndarray]) -> tuple[PyTree, Outcome]:
        solver, pencil = eqx.combine(arrays, self.static)
        if isinstance(b, np.ndarray):
            return _on_host(solver, on_host(pencil), b)
        U, outcome = _on_host(solver, on_host(pencil), np.concatenate(b))
        return tuple(np.split(U, [len(b[0])])), outcome


def _on_host(
    solver: ShiftInvert, pencil: ShiftedPencil, b: np.ndarray
) -> tuple[np.ndarray, Outcome]:
    options = solver.factorize, solver.working_rtol(b.dtype), solver.max_steps
    earlier = None
    if solver.reuse is not None and solver.sigma is not None:
        earlier = solver.reuse.factorization(solver.sigma, solver.factorize)
    return solve_on_host(pencil, solver.sigma, b, *options, earlier=earlier)
