"""Checks of the solution of any conditions F(z, *args) = 0."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._compiled import compiled
from .._real import to_real
from ..operators import norm
from .policy import Objection, Policy, enforce, forward_check, tolerance
from .rounding import PRODUCT


def check_conditions(
    caller: str,
    policy: Policy,
    conditions: Callable[..., PyTree],
    z: PyTree,
    args: tuple,
    kwargs: dict,
    value: PyTree,
) -> PyTree:
    """Return `value`, with the consequences of `Policy(forward=...)` where F(z, *args) is not 0."""
    figures = _residual_figures(conditions, z, args, kwargs)
    rtol = tolerance(policy.residual_rtol, figures[0].dtype)
    return enforce(forward_check(policy, UnsolvedConditions(caller, rtol)), figures, value)


@compiled
def _residual_figures(
    conditions: Callable[..., PyTree], z: PyTree, args: tuple, kwargs: dict
) -> tuple[Array, Array, Array]:
    """Return ‖F‖, the size ‖∂F/∂z·z‖ + ‖∂F/∂θ·θ‖ of its parts, and whether z is finite."""
    moving, still = eqx.partition(args, eqx.is_inexact_array)

    def flat(z: PyTree, moving: PyTree) -> Array:
        return to_real(conditions(z, *eqx.combine(moving, still), **kwargs))

    F, along_z = jax.jvp(lambda z: flat(z, moving), (z,), (z,))
    size = norm(along_z)
    if jax.tree.leaves(moving):
        _, along_args = jax.jvp(lambda m: flat(z, m), (moving,), (moving,))
        size = size + norm(along_args)
    return norm(F), size, jnp.all(jnp.isfinite(to_real(z)))


class UnsolvedConditions(eqx.Module):
    """Object to a z that does not satisfy the conditions."""

    caller: str = eqx.field(static=True)
    residual_rtol: float = eqx.field(static=True)

    def __call__(self, residual: Any, size: Any, finite: Any) -> Iterator[Objection]:
        """Object to ‖F‖ relative to the size of its parts."""
        allowed = max(self.residual_rtol, PRODUCT * float(jnp.finfo(size.dtype).eps)) * size
        yield Objection(
            ~finite,
            lambda _: (
                f"{self.caller}: a finite solution; got NaN or inf. Check the "
                "solver's own report of convergence."
            ),
        )
        yield Objection(
            ~((residual <= allowed) & (allowed < np.inf)),
            lambda _: (
                f"{self.caller}: a solution of conditions(z, *args) = 0; got a "
                f"residual of norm {float(residual):.1e}, where {float(allowed):.1e} is allowed "
                f"(the parts of the conditions have size {float(size):.1e}). Tighten the solver, "
                "check that the conditions are its own, or accept this with "
                "`Policy(residual_rtol=...)`."
            ),
        )
