"""Linear solvers that are host code: SciPy, PETSc, or any code that takes a matrix and a vector."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse.linalg as spla
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._errors import LinearSolveError
from ..host import holds_numbers, refuse_jax
from ..host.reverse_communication import Product, converse
from ..operators.views import Remote, host_view, offer, product_view, remote
from ._objections import BREAKDOWN, SUCCESS
from ._solve import AbstractBatchedLinearSolver, Outcome, as_result, solve_by_column
from ._systems import AbstractLinearSystems, AbstractOwnSolver, Handover


class AbstractHostSolver(AbstractBatchedLinearSolver):
    """A linear solver that runs on the host, system by system.

    Implement `solve_host(A, b)`; see `host_linear_solver` for its arguments.
    """

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; called by `lineax.linear_solve`."""
        operator, products = remote(state)
        arrays, static = eqx.partition(operator, eqx.is_array)
        integer = jax.ShapeDtypeStruct((), jnp.int32)
        like = (jax.eval_shape(lambda: vector), Outcome(integer, integer))
        solution, outcome = converse(_HostVector(self, static), like, products, arrays, vector)
        return solution, as_result(outcome.verdicts), {"num_steps": outcome.steps}

    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        """Solve all systems in one host call, or one after another; zero columns are skipped."""
        handover = systems.handover()
        if handover is Handover.ARRAY:
            return solve_by_column(systems, b, _OnArrays(self))
        products: list[Product] = []
        handed: Any = systems
        if handover is Handover.PRODUCTS:
            handed = _offered(systems, b, products)
        arrays, static = eqx.partition(handed, eqx.is_array)
        like = (jax.eval_shape(lambda: b), Outcome.like(jax.tree.leaves(b)[0].shape[-1]))
        return converse(_HostSystems(self, static), like, tuple(products), arrays, b)

    @abc.abstractmethod
    def solve_host(self, A: Any, b: np.ndarray) -> Any:
        """Return x, or (x, info) with info 0 for success."""


class HostLinearSolver(AbstractHostSolver):
    """Solve by a host function; made by `host_linear_solver`."""

    fn: Callable[[Any, np.ndarray], Any] = eqx.field(static=True)
    rtol: float | None

    def working_rtol(self, dtype: Any) -> float | None:
        """Return the tolerance that the user stated for the function."""
        return self.rtol

    def solve_host(self, A: Any, b: np.ndarray) -> Any:
        """Call the user's function."""
        return self.fn(A, b)


def host_linear_solver(
    fn: Callable[[Any, np.ndarray], Any], *, rtol: float | None = None
) -> HostLinearSolver:
    """Wrap a host function `fn(A, b) -> x` as a linear solver.

    Args:
        fn: `A` is a NumPy array (dense operators), a SciPy CSC matrix (`Bordered()` on sparse
            operators) or otherwise a `scipy.sparse.linalg.LinearOperator`; `b` has shape (m,).
            It returns x of shape (m,), or (x, info) as SciPy's iterative solvers do, with info 0
            for success. It is called once for each nonzero right side.
        rtol: the relative residual that `fn` attains; up to ten times this is accepted. `None`
            stands for 1e-5.

    Examples:
        >>> import numpy as np, lineax as lx, jax.numpy as jnp
        >>> solver = host_linear_solver(np.linalg.solve)
        >>> operator = lx.MatrixLinearOperator(jnp.array([[2.0, 0.0], [0.0, 4.0]]))
        >>> lx.linear_solve(operator, jnp.array([2.0, 4.0]), solver).value.tolist()
        [1.0, 1.0]
    """
    return HostLinearSolver(fn, rtol)


def _solve_one(solver: AbstractHostSolver, A: Any, b: np.ndarray) -> tuple[np.ndarray, int]:
    answer = solver.solve_host(A, b)
    x, info = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, 0)
    found = type(x).__name__
    x = np.array(None) if isinstance(x, tuple) else np.asarray(refuse_jax(x))
    if x.shape != b.shape or not holds_numbers(x):
        raise LinearSolveError(
            f"`linear_solver={type(solver).__name__}`: a solution of shape {b.shape}; got "
            f"{x.shape if holds_numbers(x) else f'{found} of {x.dtype}'}. Return x, or (x, info)."
        )
    if np.iscomplexobj(x) and not np.iscomplexobj(b):
        x = np.real(x)
    return x, SUCCESS if info == 0 else BREAKDOWN


class _OnArrays(AbstractOwnSolver):
    """Solve by a host solver that receives arrays, which JAX makes from products."""

    solver: AbstractHostSolver

    def working_rtol(self, dtype: Any) -> float | None:
        return self.solver.working_rtol(dtype)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        return lx.MatrixLinearOperator(operator.as_matrix())

    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        return self.solver.compute(state, vector, options)


class _Columns(eqx.Module):
    """Systems whose products are requested by host code."""

    asked: Remote

    def host_columns(self) -> Callable[[int], Any]:
        return self.asked.view


def _offered(systems: AbstractLinearSystems, b: PyTree[Array], products: list) -> _Columns:
    like = jax.eval_shape(lambda: ravel_pytree(jax.tree.map(lambda leaf: leaf[..., 0], b))[0])
    zero = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[:-1], leaf.dtype), b)
    adjoint = None if systems.is_hermitian() else _Times(systems, zero, True)
    return _Columns(offer(products, _Times(systems, zero, False), adjoint, (like, like)))


class _Times(eqx.Module):
    """x -> Mᵢ x, or Mᵢᴴ x, on vectors ravelled and joined."""

    systems: AbstractLinearSystems
    like: PyTree = eqx.field(static=True)
    adjoint: bool = eqx.field(static=True)

    def __call__(self, i: Any, x: Array) -> Array:
        column = self.systems.column(i, False)
        _, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.like))
        if self.adjoint:
            return ravel_pytree(column.transpose().mv(unravel(x.conj())))[0].conj()
        return ravel_pytree(column.mv(unravel(x)))[0]


class _HostVector(eqx.Module):
    solver: AbstractHostSolver
    operator: Any

    def __call__(self, arrays: PyTree, vector: PyTree) -> tuple[PyTree, Outcome]:
        A, count = _counted(host_view(eqx.combine(arrays, self.operator)))
        leaves, treedef = jax.tree.flatten(vector)
        x, verdict = _solve_one(self.solver, A, _join(leaves))
        outcome = Outcome(np.asarray(verdict, np.int32), np.asarray(count(), np.int32))
        return jax.tree.unflatten(treedef, _split(x, leaves)), outcome


class _HostSystems(eqx.Module):
    solver: AbstractHostSolver
    systems: Any

    def __call__(self, arrays: PyTree, b: PyTree) -> tuple[PyTree, Outcome]:
        column = eqx.combine(arrays, self.systems).host_columns()
        leaves, treedef = jax.tree.flatten(b)
        U = [np.zeros_like(leaf) for leaf in leaves]
        verdicts, steps = outcome = Outcome.start(leaves[0].shape[-1])
        for i in range(verdicts.size):
            parts = [leaf[..., i] for leaf in leaves]
            rhs = _join(parts)
            if not np.any(rhs):
                continue
            A, count = _counted(column(i))
            x, verdicts[i] = _solve_one(self.solver, A, rhs)
            steps[i] = count()
            for leaf, part in zip(U, _split(x, parts), strict=True):
                leaf[..., i] = part
        return jax.tree.unflatten(treedef, U), outcome


def _counted(A: Any) -> tuple[Any, Callable[[], int]]:
    """Return A, and a count of the products requested, which are the steps of an iteration."""
    if not isinstance(A, spla.LinearOperator):
        return A, lambda: 0
    columns = []

    def counted(product: Callable) -> Callable:
        def multiply(V: np.ndarray) -> np.ndarray:
            columns.append(V.shape[1])
            return product(V)

        return multiply

    view = product_view(A.shape, A.dtype, counted(A.matmat), counted(A.rmatmat))
    return view, lambda: sum(columns)


def _join(leaves: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([leaf.reshape(-1) for leaf in leaves])


def _split(x: np.ndarray, like: list[np.ndarray]) -> list[np.ndarray]:
    parts = np.split(x, np.cumsum([leaf.size for leaf in like])[:-1])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True)]
