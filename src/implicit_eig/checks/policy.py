"""What is checked, how strictly, and what happens when a check fails."""

import enum
import functools
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from .. import host
from .._compiled import compiled
from .._errors import (
    ClusterWarning,
    EigensolverError,
    ExceptionalPointWarning,
    ForwardWarning,
    GaugeError,
    GaugeWarning,
    ImplicitEigError,
    InputError,
    LinearSolveError,
    LinearSolveWarning,
)


class Action(enum.Enum):
    """Choose what happens when a check fails.

    Examples:
        >>> Policy(gauge=Action.RAISE).gauge.name
        'RAISE'
        >>> for action in Action:
        ...     print(f"{action.name}: {action.value}")
        RAISE: raise an error that says what was required, found and to be done
        WARN: issue a warning with the same text and pass the numbers on
        NAN: replace the numbers by NaN
        IGNORE: do not check
    """

    RAISE = "raise an error that says what was required, found and to be done"
    WARN = "issue a warning with the same text and pass the numbers on"
    NAN = "replace the numbers by NaN"
    IGNORE = "do not check"


class SolveReport(NamedTuple):
    """Describe the linear solves of a derivative; passed to `Policy(monitor=...)` after them.

    Attributes:
        solver: the name of the linear solver that was chosen.
        steps: for each system: 0 for a direct solver, −1 for one that does not report them, the
            number of products asked for by a host solver; shape (k,).
        residuals: ‖b − M u‖ / ‖b‖ of each system, 0 where b is zero; shape (k,).
        errors: an estimate of the relative error of each u, (‖b − M u‖ / ‖b‖ + eps) ‖M‖ ‖u‖ / ‖b‖,
            where ‖M‖ ‖u‖ / ‖b‖ stands for the condition number of M, which it does not exceed;
            shape (k,).

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> reports = []
        >>> policy = Policy(monitor=reports.append)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), policy=policy)
        >>> A = jnp.array([[1.0, 1.0], [1.0, 3.0]])
        >>> gradient = jax.grad(lambda A: solve(A).vectors[0, 0] ** 2)(A)
        >>> reports[0].solver, reports[0].steps.tolist()
        ('LU', [0])
    """

    solver: str
    steps: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray


def _as_float(value: Any) -> Any:
    """Return a number as a float, and anything else unchanged."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return value


class Policy(eqx.Module):
    """Choose what happens when a check fails, and the thresholds of the checks.

    Every threshold is relative: multiplying an operator by a unit changes no decision.
    `None` stands for √eps of the working precision (1.5e-8 in float64, 3.5e-4 in float32).

    Args:
        forward: where the solver's answer fails its conditions.
        cluster: where k cuts a cluster, as the eigenpairs beyond k show: those that `guard` asks
            for, and those that the solver returned without being asked.
        gauge: where, in reverse mode, a function depends on a phase or on the basis of a cluster,
            may mix its eigenvalues and vectors, or distinguishes eigenpairs so near that rounding
            leaves fewer than three digits; where, in forward mode, a direction separates a cluster
            or such eigenpairs.
        linear_solve: where a tangent or adjoint system was not solved.
        exceptional: where the condition number 1/|yᴴBx| of an eigenvalue, ‖x‖ = ‖y‖ = 1, exceeds
            1/√eps, or 2e6 (300 in float32) beside a near eigenvalue, or one that may be unseen. It
            is computed where the left eigenvector y is known; otherwise in forward mode, as a lower
            bound, and in gradients of eigenvalues alone. Where a solution of a derivative of the
            vectors has fewer than three digits by rounding of the operators, or in the worst case
            an error of 0.1 by the residual of an iteration. Where B is so nearly singular that
            rounding changes xᴴBx by as much. In second derivatives of a `matrix_function`, above
            3e4 (75 in float32) beside a near eigenvalue.
        residual_rtol: largest ‖A x − λ B x‖ / (‖A x‖ + |λ| ‖B x‖) of an eigenpair, beyond
            rounding; for `implicit_function` largest ‖F‖ / (‖∂F·z‖ + ‖∂F·args‖).
        degeneracy_rtol: two eigenvalues closer than this times the larger of them, or closer than
            rounding, count as one cluster, in which single eigenvectors have no derivative. `None`
            leaves it at rounding, and at √eps where T(λ) is not a pencil.
        gauge_rtol: largest change of a function under a change of gauge, relative to |x̄|ᵀ|x|,
            x̄ being its cotangent. `None` stands for eps^0.6 (4e-10 in float64, 7e-5 in float32),
            or ten times the tolerance of an iterative linear solver where that is larger.
        linear_solve_rtol: largest ‖b − M u‖ / ‖b‖ of a solve, beyond rounding. `None` stands for
            ten times the linear solver's own tolerance where it has one, √eps for a direct
            solver, and 1e-5 for one of unknown tolerance, but no less than √eps.
        monitor: called on the host with a `SolveReport` after the linear solves of each
            derivative; pass the same function at each call, because programs are compiled for it.

    Raises:
        InputError: a threshold is negative or not a number, or an action is not an `Action`.

    A result of the wrong shape raises an error under every policy, because it cannot be passed on.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> careless = lambda A: (np.array([5.0]), np.array([[1.0], [0.0]]))
        >>> solve = eigensolver(careless, Hermitian(k=1), policy=Policy(forward=Action.NAN))
        >>> solve(jnp.diag(jnp.array([1.0, 2.0]))).values.tolist()
        [nan]
    """

    forward: Action = eqx.field(static=True, default=Action.RAISE)
    cluster: Action = eqx.field(static=True, default=Action.RAISE)
    gauge: Action = eqx.field(static=True, default=Action.WARN)
    linear_solve: Action = eqx.field(static=True, default=Action.RAISE)
    exceptional: Action = eqx.field(static=True, default=Action.WARN)
    residual_rtol: float | None = eqx.field(static=True, default=None, converter=_as_float)
    # not static, because `refine` sets it to the errors that it finds
    degeneracy_rtol: float | None = eqx.field(default=None, converter=_as_float)
    gauge_rtol: float | None = eqx.field(static=True, default=None, converter=_as_float)
    linear_solve_rtol: float | None = eqx.field(static=True, default=None, converter=_as_float)
    monitor: Callable[[SolveReport], None] | None = eqx.field(static=True, default=None)

    @staticmethod
    def nan() -> "Policy":
        """Return the policy under which every result that fails a check is NaN.

        With a `traceable` solver a program under this policy never calls the host.

        Examples:
            >>> Policy.nan().forward.name, Policy.nan().gauge.name
            ('NAN', 'NAN')
        """
        a = Action.NAN
        return Policy(forward=a, cluster=a, gauge=a, linear_solve=a, exceptional=a)

    @staticmethod
    def unchecked() -> "Policy":
        """Return the policy that checks nothing, under which meaningless numbers pass unnoticed.

        With a `traceable` solver a program under this policy never calls the host.

        Examples:
            >>> Policy.unchecked().linear_solve.name
            'IGNORE'
        """
        a = Action.IGNORE
        return Policy(forward=a, cluster=a, gauge=a, linear_solve=a, exceptional=a)

    def __check_init__(self):
        for name in ("forward", "cluster", "gauge", "linear_solve", "exceptional"):
            action = vars(self)[name]
            if not isinstance(action, Action):
                raise InputError(
                    f"`Policy({name}=...)`: an `Action`; got {action!r}. Write "
                    "`Action.RAISE`, `Action.WARN`, `Action.NAN` or `Action.IGNORE`."
                )
        for name in ("residual_rtol", "degeneracy_rtol", "gauge_rtol", "linear_solve_rtol"):
            value = vars(self)[name]
            if value is not None and not (isinstance(value, float) and value >= 0):
                raise InputError(
                    f"`Policy({name}=...)`: a number at or above 0; got {value!r}. "
                    "Leave it out for the default of the working precision."
                )


DEFAULT_POLICY = Policy()


def tolerance(value: float | None, dtype) -> float:
    """Return `value`, or √eps of `dtype` in its place."""
    return float(np.sqrt(jnp.finfo(dtype).eps)) if value is None else value


class Objection(NamedTuple):
    """An objection of a check: where it applies, and its message.

    `found` is a mask of figures, in JAX or NumPy arrays. Where any entry is true, `message` is
    called on the host with the indices of the true entries, an array for each axis.
    """

    found: Any
    message: Callable[..., str]


def ill_conditioned(
    condition: Any, caller: str, source: Callable[[int], str], error: float = 1.0
) -> Objection:
    """Object to eigenvalues so ill conditioned that their derivatives may have a relative error.

    Near a defective eigenvalue it is eps κ². `source(i)` describes eigenvalue i.
    """
    limit = (error / float(jnp.finfo(condition.dtype).eps)) ** 0.5

    def message(_: np.ndarray) -> str:
        i = int(np.argmax(condition))
        return (
            f"{caller}: values that are well conditioned; got a condition number of "
            f"{condition[i]:.1e} {source(i)}, above {limit:.1e}: near a defective value "
            "the derivative grows like it, and its error like its square. Treat the values that "
            "meet there as one, by `Subspace`, or accept this with `Policy(exceptional=...)`."
        )

    return Objection(condition > limit, message)


class Check(eqx.Module):
    """One check: its possible objections, and what follows from them.

    `objections(*figures)` yields those for unbatched figures, the gravest first. The figures are
    JAX arrays where the verdict is found, and NumPy arrays on the host where it becomes a message.
    """

    objections: Callable[..., Iterable[Objection]] = eqx.field(static=True)
    action: Action = eqx.field(static=True)
    error: type[ImplicitEigError] = eqx.field(static=True)
    warning: type[Warning] = eqx.field(static=True)

    def failed(self, *figures: Array) -> Bool[Array, ""]:
        """Return whether there is anything to object to."""
        found = (jnp.any(objection.found) for objection in self.objections(*figures))
        return functools.reduce(operator.or_, found)

    def __call__(self, failed: np.ndarray, *figures: np.ndarray) -> np.ndarray:
        """Raise, or warn, for each failed member of a batch; return that all may pass."""
        for index in map(tuple, np.argwhere(failed)):
            objections = self.objections(*(np.asarray(figure[index]) for figure in figures))
            told = next((each for each in objections if np.any(each.found)), None)
            if told is None:  # rounding on the host differs by an ulp, and the check passes
                continue
            message = told.message(*np.nonzero(np.atleast_1d(told.found)))
            if index:
                message = f"{message} This is member {', '.join(map(str, index))} of the batch."
            if self.action is Action.RAISE:
                raise self.error(message)
            warnings.warn(message, self.warning, stacklevel=2)
        return np.ones_like(failed)


def enforce(check: Check, figures: tuple, value: PyTree) -> PyTree:
    """Return `value`, with the consequences of `check` where it objects to the figures.

    Under `NAN` the floating-point leaves of `value` become NaN, and the host is not called. Under
    `RAISE` and `WARN` the host is called only where the check has failed, also for a batch. The
    leaves depend on its return, so that no compiler removes it. Figures carry no derivative.
    """
    if check.action is Action.IGNORE:
        return value
    figures = jax.lax.stop_gradient(figures)
    failed = _failed(check, figures)
    if check.action is Action.NAN:
        passed = ~failed
    elif host.is_traced((failed, figures)):
        passed = _report(check, failed, figures)
    else:
        if failed:
            check(*host.given((failed, *figures)))
        return value
    if not host.is_traced(passed) and passed:
        return value
    # a factor rather than a selection, because the derivative of a selected NaN would be zero
    return jax.tree.map(
        lambda leaf: (
            _scaled(leaf, jnp.where(passed, 1, jnp.nan)) if eqx.is_inexact_array(leaf) else leaf
        ),
        value,
    )


@compiled
def _failed(check: Check, figures: tuple) -> Bool[Array, ""]:
    return check.failed(*figures)


def _report(check: Check, failed: Bool[Array, "..."], figures: tuple) -> Bool[Array, "..."]:
    """Return True, after the host has judged those members of a batch that failed, if any."""

    def tell(failed: Array, figures: tuple) -> Array:
        like = jax.ShapeDtypeStruct(failed.shape, jnp.bool_)
        return host.in_program(check, like, failed, *figures)

    # the condition of a batch is that any member fails: one condition each would call the host
    # for all members
    @custom_vmap
    def report(failed: Array, figures: tuple) -> Array:
        quiet = lambda failed, figures: jnp.ones(failed.shape, bool)  # noqa: E731
        return jax.lax.cond(jnp.any(failed), tell, quiet, failed, figures)

    @report.def_vmap
    def _(size: int, batched: Any, failed: Array, figures: tuple) -> tuple[Array, bool]:
        spread = lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *x.shape))  # noqa: E731
        return report(*jax.tree.map(spread, (failed, figures), tuple(batched))), True

    return report(failed, figures)


def _scaled(leaf: Array, factor: Array) -> Array:
    """Return leaf · factor, part by part for a complex leaf, which keeps infinite parts."""
    if jnp.iscomplexobj(leaf):
        return jax.lax.complex(_scaled(leaf.real, factor), _scaled(leaf.imag, factor))
    return leaf * factor.astype(leaf.dtype)


def forward_check(policy: Policy, objections: Callable[..., Iterable[Objection]]) -> Check:
    """Return the check of a forward result under `policy`."""
    return Check(objections, policy.forward, EigensolverError, ForwardWarning)


def cluster_check(policy: Policy, objections: Callable[..., Iterable[Objection]]) -> Check:
    """Return the check for a cluster that is cut under `policy`."""
    return Check(objections, policy.cluster, EigensolverError, ClusterWarning)


def gauge_check(policy: Policy, objections: Callable[..., Iterable[Objection]]) -> Check:
    """Return the check of a cotangent under `policy`."""
    return Check(objections, policy.gauge, GaugeError, GaugeWarning)


def exceptional_check(policy: Policy, objections: Callable[..., Iterable[Objection]]) -> Check:
    """Return the check of the eigenvalues' condition under `policy`."""
    return Check(objections, policy.exceptional, EigensolverError, ExceptionalPointWarning)


def linear_solver_check(policy: Policy, objections: Callable[..., Iterable[Objection]]) -> Check:
    """Return the check of a linear solve under `policy`."""
    return Check(objections, policy.linear_solve, LinearSolveError, LinearSolveWarning)
