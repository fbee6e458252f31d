"""MINRES for Hermitian, possibly indefinite systems, in JAX, for all columns in one loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Integer, PyTree

from ..operators import apply, column_norms, scale_columns
from ._objections import MAX_STEPS, STAGNATION, SUCCESS
from ._solve import AbstractBatchedLinearSolver, Outcome, as_result, solve_by_column
from ._systems import AbstractLinearSystems, Structure, attainable

Columns = Array  # (n, k)


class _State(NamedTuple):
    """The recurrences of Paige & Saunders (1975), in their letters; scalars are (k,)."""

    step: Array
    x: Columns
    r1: Columns  # the last two Lanczos vectors, times their norms
    r2: Columns
    y: Columns  # the dual of r2
    w1: Columns  # the last two search directions
    w2: Columns
    beta: Array
    beta_old: Array
    delta_bar: Array
    epsilon: Array
    phi_bar: Array  # the residual's norm, by recurrence
    cs: Array
    sn: Array


class MINRES(AbstractBatchedLinearSolver):
    """Solve A x = b for Hermitian A, definite or indefinite, by minimal residuals.

    The systems of all eigenpairs run as one block in one loop where that is faster than one after
    another, which is for dense operators and on a GPU. A system that has converged costs no further
    products, unless A is dense.

    Args:
        rtol: required ‖b − A x‖ / ‖b‖, by the true residual; `None` takes 1e-10, or fifty
            times the machine epsilon where that is larger (6e-6 in float32).
        max_steps: largest number of steps; `None` takes ten times the dimension.
        preconditioner: Hermitian positive definite, near A⁻¹: a lineax operator on vectors (m,)
            like the unknowns, ravelled (m = n with `system=Deflated()`). It serves both modes
            and all eigenpairs.

    Cost: one product and one application of the preconditioner for each step; eight vectors for
        each eigenpair. Where the recurrence has converged but the true residual has not, the
        iteration is restarted on the residual, as iterative refinement.
    Source: Paige & Saunders (1975) SIAM J. Numer. Anal. 12, 617, doi:10.1137/0712047;
        differs in: complex Hermitian systems, many columns, refinement on the true residual.

    Examples:
        >>> import jax.numpy as jnp, lineax as lx
        >>> A = lx.MatrixLinearOperator(jnp.array([[1.0, 2.0], [2.0, 1.0]]), lx.symmetric_tag)
        >>> x = lx.linear_solve(A, jnp.array([3.0, 3.0]), MINRES()).value
        >>> bool(jnp.allclose(x, 1.0, atol=1e-4))
        True
    """

    rtol: float | None = None
    max_steps: int | None = eqx.field(static=True, default=None)
    preconditioner: lx.AbstractLinearOperator | None = None

    def working_rtol(self, dtype: Any) -> float:
        """Return `rtol`, or the value that `None` stands for."""
        return attainable(1e-10, dtype) if self.rtol is None else self.rtol

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; `options` are not used."""
        b, unravel = ravel_pytree(vector)

        def matvec(X: Columns) -> Columns:
            return ravel_pytree(state.mv(unravel(X[:, 0])))[0][:, None]

        X, verdicts, stats = self._solve(matvec, b[:, None])
        return unravel(X[:, 0]), as_result(verdicts[0]), stats

    def solve_systems(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        """Solve all systems in one loop; on a CPU one after another unless they are dense.

        In a loop on a CPU a step costs the sum over all columns, including converged ones.
        """
        if systems.structure is Structure.DENSE:
            return self._solve_block(systems, b)
        return lax.platform_dependent(
            b,
            cpu=lambda b: solve_by_column(systems, b, self),
            default=lambda b: self._solve_block(systems, b),
        )

    def _solve_block(
        self, systems: AbstractLinearSystems, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Outcome]:
        leaves, treedef = jax.tree.flatten(b)
        ends = [sum(leaf.shape[0] for leaf in leaves[: i + 1]) for i in range(len(leaves) - 1)]

        def split(X: Columns) -> PyTree[Array]:
            return jax.tree.unflatten(treedef, jnp.split(X, ends))

        def matvec(X: Columns) -> Columns:
            return jnp.concatenate(jax.tree.leaves(systems.mv(split(X), skip_zeros=True)))

        X, verdicts, stats = self._solve(matvec, jnp.concatenate(leaves))
        return split(X), Outcome(verdicts, jnp.full_like(verdicts, stats["num_steps"]))

    def _solve(
        self, matvec: Callable, b: Columns
    ) -> tuple[Columns, Integer[Array, " k"], dict[str, Any]]:
        P = self.preconditioner

        def sweep(r: Columns, shrink: Array, max_steps: Array) -> tuple[Columns, Array]:
            def product(_: Columns, y: Columns) -> Columns:
                return matvec(y)

            def dual(r: Columns) -> Columns:
                return apply(P, r, skip_zeros=True)

            return minres(product, dual, lambda r, y: y, r, shrink, max_steps)

        max_steps = 10 * len(b) if self.max_steps is None else self.max_steps
        rtol = self.working_rtol(b.dtype)
        return refine(sweep, lambda x: b - matvec(x), b, rtol, max_steps)


def refine(
    sweep: Callable[[Columns, Array, Array], tuple[Columns, Array]],
    residual: Callable[[Columns], Columns],
    b: Columns,
    rtol: float,
    max_steps: int,
) -> tuple[Columns, Integer[Array, " k"], dict[str, Any]]:
    """Solve by `sweep` until the true residuals are `rtol` of b, or no longer halve.

    Args:
        sweep: (r, shrink, max_steps) -> (dx, steps), dx reducing each column's residual r by
            its factor `shrink`.
        residual: x -> b − A x.
        b: right sides; shape (n, k).
        rtol: required relative residual.
        max_steps: largest number of steps of all sweeps.
    """
    sizes = column_norms(b)
    target = rtol * sizes

    def unfinished(carry: tuple[Columns, Columns, Array, Array, Array]) -> Array:
        _, _, size, previous, steps = carry
        return jnp.any(_open(size, previous, target)) & (steps < max_steps)

    def restart(
        carry: tuple[Columns, Columns, Array, Array, Array],
    ) -> tuple[Columns, Columns, Array, Array, Array]:
        x, r, size, previous, steps = carry
        todo = _open(size, previous, target)
        shrink = target / jnp.where(size > 0, size, 1)
        dx, taken = sweep(scale_columns(r, todo.astype(size.dtype)), shrink, max_steps - steps)
        x = x + dx
        r = residual(x)
        return x, r, jnp.where(todo, column_norms(r), size), size, steps + taken

    start = (jnp.zeros_like(b), b, sizes, jnp.full_like(sizes, jnp.inf), jnp.int32(0))
    x, _, size, _, steps = lax.while_loop(unfinished, restart, start)
    failure = jnp.where(steps < max_steps, STAGNATION, MAX_STEPS)
    verdicts = jnp.where(size <= target, SUCCESS, failure).astype(jnp.int32)
    return x, verdicts, {"num_steps": steps, "residual": size}


def _open(size: Array, previous: Array, target: Array) -> Bool[Array, " k"]:
    """Return which columns to restart; one whose residual no longer halves has reached rounding."""
    return (size > target) & (size < 0.5 * previous)


def minres(
    product: Callable[[Columns, Columns], Columns],
    dual: Callable[[Columns], Columns],
    direction: Callable[[Columns, Columns], Columns],
    r: Columns,
    shrink: Array,
    max_steps: Array,
) -> tuple[Columns, Array]:
    """Run MINRES from zero until each column's residual is `shrink` times the initial one.

    In exact arithmetic the residuals are minimal in the norm √(rᴴ y), y = dual(r).

    Args:
        product: (r, y) -> the operator applied to that Lanczos vector, in the space of r.
        dual: r -> y, a Hermitian positive definite map.
        direction: (r, y) -> the one of the two that is in the space of x.
        r: right sides; shape (n, k).
        shrink: shape (k,).
        max_steps: largest number of steps.

    Returns:
        x, shape (n, k), and the steps taken.
    """
    zero = jnp.zeros_like(r)
    y = dual(r)
    beta = _product_norm(r, y, jnp.any(r != 0, axis=0))
    z, one = jnp.zeros_like(beta), jnp.ones_like(beta)
    target = shrink * beta
    start = _State(jnp.int32(0), zero, zero, r, y, zero, zero, beta, one, z, z, beta, -one, z)

    def unfinished(s: _State) -> Array:
        return jnp.any(s.beta > 0) & (s.step < max_steps)

    def body(s: _State) -> _State:
        # a column with beta = 0 has converged; its later vectors are zero
        inverse = 1 / jnp.where(s.beta > 0, s.beta, 1)
        u, v = scale_columns(s.r2, inverse), scale_columns(s.y, inverse)
        r = product(u, v) - scale_columns(s.r1, s.beta / s.beta_old)
        alpha = _inner(v, r)
        r = r - scale_columns(s.r2, alpha * inverse)

        # the next plane rotation
        delta = s.cs * s.delta_bar + s.sn * alpha
        gamma_bar = s.sn * s.delta_bar - s.cs * alpha
        y = dual(r)
        beta = _product_norm(r, y, s.beta > 0)
        gamma = jnp.hypot(gamma_bar, beta)
        gamma = jnp.where(gamma > 0, gamma, 1)
        cs, sn = gamma_bar / gamma, beta / gamma

        w = direction(u, v) - scale_columns(s.w1, s.epsilon) - scale_columns(s.w2, delta)
        w = scale_columns(w, 1 / gamma)
        x = s.x + scale_columns(w, cs * s.phi_bar)
        phi_bar = sn * s.phi_bar
        more = ((phi_bar > target) & (s.beta > 0)).astype(beta.dtype)
        r, y, beta = scale_columns(r, more), scale_columns(y, more), beta * more
        return _State(
            s.step + 1,
            x,
            s.r2,
            r,
            y,
            s.w2,
            w,
            beta,
            jnp.where(s.beta > 0, s.beta, 1),
            -s.cs * beta,
            s.sn * beta,
            phi_bar * more,
            cs,
            sn,
        )

    final = lax.while_loop(unfinished, body, start)
    return final.x, final.step


def _product_norm(r: Columns, y: Columns, live: Bool[Array, " k"]) -> Array:
    """Return √(rᴴ y) of each column, without overflow or underflow of squares.

    Where that threatens in a column that is live, not zero, it takes more passes.
    """
    square = jnp.maximum(_inner(r, y), 0)
    info = jnp.finfo(square.dtype)
    fits = (square > float(info.tiny) / float(info.eps)) & (square < jnp.inf)

    def scaled() -> Array:
        sizes = [jnp.max(jnp.abs(V), axis=0) for V in (r, y)]
        sizes = [jnp.where(size > 0, size, 1) for size in sizes]
        u, v = (scale_columns(V, 1 / size) for V, size in zip((r, y), sizes, strict=True))
        square = jnp.maximum(_inner(u, v), 0)
        return jnp.sqrt(square) * jnp.sqrt(sizes[0]) * jnp.sqrt(sizes[1])

    return lax.cond(jnp.all(fits | ~live), lambda: jnp.sqrt(square), scaled)


def _inner(r: Columns, y: Columns) -> Array:
    """Return Re rᴴ y of each column; of a single one in one pass."""
    products = jnp.vdot(r, y)[None] if r.shape[1] == 1 else jnp.sum(r.conj() * y, axis=0)
    return products.real
