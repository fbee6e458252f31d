"""What is checked, how strictly, and what happens when a check fails."""

import enum
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from . import host
from ._errors import (
    EigensolverError,
    ForwardWarning,
    ImplicitEigError,
    InputError,
    LinearSolveError,
    LinearSolveWarning,
)


class Action(enum.Enum):
    """What happens when a check fails."""

    RAISE = "raise an error that says what was required, found and to be done"
    WARN = "issue a warning with the same text and pass the numbers on"
    NAN = "replace the numbers by NaN"
    IGNORE = "do not check"


class Policy(eqx.Module):
    """Choose what happens when a check fails, and the thresholds of the checks.

    Every threshold is relative: multiplying an operator by a unit changes no decision.
    `None` stands for √eps of the working precision (1.5e-8 in float64, 3.5e-4 in float32).

    Args:
        forward: the solver's answer fails its conditions.
        linear_solve: the tangent or adjoint system was not solved.
        residual_rtol: largest ‖A x − λ B x‖ / (‖A x‖ + |λ| ‖B x‖) of a pair, beyond
            rounding; for `implicit_function` largest ‖F‖ / (‖∂F·z‖ + ‖∂F·args‖).
        degeneracy_rtol: two values closer than this times the larger of them, or closer than
            rounding, count as one cluster.
        linear_solve_rtol: largest ‖b − M u‖ / ‖b‖ of a solve, beyond rounding. `None`
            takes ten times the linear solver's own tolerance where it has one, and √eps
            for a direct solver.

    Raises:
        InputError: a threshold is negative.

    A result of the wrong shape raises under every policy, having no other form.
    """

    forward: Action = Action.RAISE
    linear_solve: Action = Action.RAISE
    residual_rtol: float | None = None
    degeneracy_rtol: float | None = None
    linear_solve_rtol: float | None = None

    def __check_init__(self):
        for name in ("residual_rtol", "degeneracy_rtol", "linear_solve_rtol"):
            value = vars(self)[name]
            if value is not None and not value >= 0:
                raise InputError(
                    f"`Policy({name}=...)`: a number at or above 0; got {value}. "
                    "Leave it out for the default of the working precision."
                )


DEFAULT_POLICY = Policy()


def tolerance(value: float | None, dtype) -> float:
    """Return `value`, or √eps of `dtype` in its place."""
    return float(np.sqrt(jnp.finfo(dtype).eps)) if value is None else value


class Check(eqx.Module):
    """One check: a verdict on figures, and what follows from it.

    `inspect(*figures)` runs on the host on unbatched NumPy arrays and returns the message
    of the failure, or `None`.
    """

    inspect: Callable[..., str | None] = eqx.field(static=True)
    action: Action = eqx.field(static=True)
    error: type[ImplicitEigError] = eqx.field(static=True)
    warning: type[Warning] = eqx.field(static=True)
    ndims: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, suspect: np.ndarray, *figures: np.ndarray) -> np.ndarray:
        """Judge each member of a batch that is suspect; return whether it passed."""
        batch = figures[0].shape[: figures[0].ndim - self.ndims[0]]
        passed = np.ones(batch, bool)
        for index in map(tuple, np.argwhere(np.broadcast_to(suspect, batch))):
            message = self.inspect(*(np.asarray(figure[index]) for figure in figures))
            if message is None:
                continue
            if self.action is Action.RAISE:
                raise self.error(message)
            if self.action is Action.WARN:
                warnings.warn(message, self.warning, stacklevel=2)
            else:
                passed[index] = False
        return passed


def enforce(
    check: Check, figures: tuple, value: PyTree, suspect: Bool[Array, ""] | bool = True
) -> PyTree:
    """Return `value` once `check` has passed judgement on `figures`, unless they are beyond doubt.

    The floating-point leaves of `value` depend on the verdict, so that no compiler
    removes the check; they become NaN where the verdict says so. Figures carry no
    derivative. `suspect` spares the host a look at each member of a large batch.
    """
    if check.action is Action.IGNORE:
        return value
    figures = jax.lax.stop_gradient(figures)
    like = jax.ShapeDtypeStruct((), jnp.bool_)
    passed = host.call(check, like, jnp.asarray(suspect), *figures, vmap_method="broadcast_all")
    if not host.is_traced(passed) and passed:
        return value
    return jax.tree.map(
        lambda leaf: (
            jnp.where(passed, leaf, jnp.nan).astype(leaf.dtype)
            if eqx.is_inexact_array(leaf)
            else leaf
        ),
        value,
    )


def forward_check(policy: Policy, inspect: Callable[..., str | None], figures: tuple) -> Check:
    """Return the check of a forward result under `policy`."""
    ndims = tuple(jnp.ndim(figure) for figure in figures)
    return Check(inspect, policy.forward, EigensolverError, ForwardWarning, ndims)


def linear_solver_check(
    policy: Policy, inspect: Callable[..., str | None], figures: tuple
) -> Check:
    """Return the check of a linear solve under `policy`."""
    ndims = tuple(jnp.ndim(figure) for figure in figures)
    return Check(inspect, policy.linear_solve, LinearSolveError, LinearSolveWarning, ndims)
