"""MINRES for Hermitian, possibly indefinite systems, in JAX."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ..operators import norm
from ._systems import AbstractOwnSolver


class _State(NamedTuple):
    """The recurrences of Paige & Saunders (1975), in their letters."""

    step: Array
    x: Array
    r1: Array  # the last two Lanczos vectors, times their norms
    r2: Array
    w1: Array  # the last two search directions
    w2: Array
    beta: Array
    beta_old: Array
    delta_bar: Array
    epsilon: Array
    phi_bar: Array  # the residual's norm, by recurrence
    cs: Array
    sn: Array


class MINRES(AbstractOwnSolver):
    """Solve A x = b for Hermitian A, definite or not, by minimal residuals.

    Args:
        rtol: required ‖b − A x‖ / ‖b‖, by the true residual; `None` takes 1e-10, or fifty
            times the machine epsilon where that is larger (6e-6 in float32).
        max_steps: largest number of steps; `None` takes ten times the dimension.

    Cost: one product a step and seven vectors. Restarted, when the recurrence says
        converged and the true residual does not, as an iterative refinement.
    Source: Paige & Saunders (1975) SIAM J. Numer. Anal. 12, 617, doi:10.1137/0712047;
        differs in: complex Hermitian systems, refinement on the true residual.

    Examples:
        >>> import jax.numpy as jnp, lineax as lx
        >>> A = lx.MatrixLinearOperator(jnp.array([[1.0, 2.0], [2.0, 1.0]]), lx.symmetric_tag)
        >>> x = lx.linear_solve(A, jnp.array([3.0, 3.0]), MINRES()).value
        >>> bool(jnp.allclose(x, 1.0, atol=1e-4))
        True
    """

    rtol: float | None = None
    max_steps: int | None = eqx.field(static=True, default=None)

    def working_rtol(self, dtype: Any) -> float:
        """Return `rtol`, or what `None` stands for."""
        return max(1e-10, 50 * float(jnp.finfo(dtype).eps)) if self.rtol is None else self.rtol

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """Solve for one vector; `options` are not used."""
        b, unravel = ravel_pytree(vector)

        def matvec(x: Array) -> Array:
            return ravel_pytree(state.mv(unravel(x)))[0]

        rtol = self.working_rtol(b.dtype)
        max_steps = 10 * b.size if self.max_steps is None else self.max_steps
        target = rtol * norm(b)

        def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
            _, size, previous, steps = carry
            # a restart that no longer halves the residual has met rounding
            return (size > target) & (size < 0.5 * previous) & (steps < max_steps)

        def restart(
            carry: tuple[Array, Array, Array, Array],
        ) -> tuple[Array, Array, Array, Array]:
            x, size, _, steps = carry
            dx, taken = _sweep(matvec, b - matvec(x), target, max_steps - steps)
            x = x + dx
            return x, norm(b - matvec(x)), size, steps + taken

        size = norm(b)
        start = (jnp.zeros_like(b), size, jnp.full_like(size, jnp.inf), jnp.int32(0))
        x, size, _, steps = lax.while_loop(unfinished, restart, start)
        failure = lx.RESULTS.where(
            steps < max_steps, lx.RESULTS.stagnation, lx.RESULTS.max_steps_reached
        )
        result = lx.RESULTS.where(size <= target, lx.RESULTS.successful, failure)
        return unravel(x), result, {"num_steps": steps, "residual": size}


def _sweep(matvec: Any, b: Array, target: Array, max_steps: Array) -> tuple[Array, Array]:
    """Run MINRES from zero until its recurrence meets `target`; return x and the steps."""
    zero = jnp.zeros_like(b)
    beta1 = norm(b)
    z, one = jnp.zeros_like(beta1), jnp.ones_like(beta1)
    start = _State(jnp.int32(0), zero, zero, b, zero, zero, beta1, one, z, z, beta1, -one, z)

    def unfinished(s: _State) -> Array:
        return (s.phi_bar > target) & (s.beta > 0) & (s.step < max_steps)

    def body(s: _State) -> _State:
        def times(factor: Array, vector: Array) -> Array:
            return factor.astype(vector.dtype) * vector

        v = times(1 / s.beta, s.r2)
        y = matvec(v) - times(s.beta / s.beta_old, s.r1)
        alpha = jnp.vdot(v, y).real
        y = y - times(alpha / s.beta, s.r2)
        beta = norm(y)
        # the next plane rotation of the tridiagonal least-squares problem
        delta = s.cs * s.delta_bar + s.sn * alpha
        gamma_bar = s.sn * s.delta_bar - s.cs * alpha
        gamma = jnp.hypot(gamma_bar, beta)
        gamma = jnp.where(gamma > 0, gamma, jnp.finfo(gamma.dtype).tiny)
        cs, sn = gamma_bar / gamma, beta / gamma
        w = times(1 / gamma, v - times(s.epsilon, s.w1) - times(delta, s.w2))
        return _State(
            step=s.step + 1,
            x=s.x + times(cs * s.phi_bar, w),
            r1=s.r2,
            r2=y,
            w1=s.w2,
            w2=w,
            beta=beta,
            beta_old=s.beta,
            delta_bar=-s.cs * beta,
            epsilon=s.sn * beta,
            phi_bar=sn * s.phi_bar,
            cs=cs,
            sn=sn,
        )

    end = jax.lax.while_loop(unfinished, body, start)
    return end.x, end.step
