"""What is objected to in the solution of a linear system, and the verdicts of its solver."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import lineax as lx
import numpy as np

from ..checks.clusters import loose
from ..checks.policy import Objection, ill_conditioned
from ._systems import AbstractLinearSystems

# The verdicts of lineax in a fixed order; the first is success.
VERDICTS = (
    lx.RESULTS.successful,
    lx.RESULTS.max_steps_reached,
    lx.RESULTS.singular,
    lx.RESULTS.breakdown,
    lx.RESULTS.stagnation,
    lx.RESULTS.conlim,
    lx.RESULTS.nonfinite_input,
)
# Written as integers: comparing members is a computation, which would start JAX at import.
SUCCESS, MAX_STEPS, SINGULAR, BREAKDOWN, STAGNATION = 0, 1, 2, 3, 4
# The estimated error above which the solution of an iteration is warned about. It stands for the
# worst case, so it is large.
WORST = 0.1


class Unsolved(eqx.Module):
    """Object to the residuals of the solves."""

    solver: str = eqx.field(static=True)
    systems: type[AbstractLinearSystems] = eqx.field(static=True)

    def __call__(
        self, residual: Any, allowed: Any, verdicts: Any, steps: Any
    ) -> Iterator[Objection]:
        """Yield what is wrong."""

        def message(failed: np.ndarray) -> str:
            i = int(failed[0])
            report = lx.RESULTS[VERDICTS[int(verdicts[i])]] or "success"
            if verdicts[i] == SUCCESS and not np.isfinite(residual[i]):
                report = (
                    "nothing, but it has divided by zero: the system is singular, or the solver an "
                    "iteration that does not notice when it has found the exact solution"
                )
            taken = f" after {steps[i]} steps" if steps[i] > 0 else ""
            return (
                f"`linear_solver={self.solver}`: {self.systems.name(i)} must be solved to a "
                f"relative residual of {allowed[i]:.1e}; got {residual[i]:.1e} ({len(failed)} of "
                f"{len(residual)} systems failed{taken}; the solver reported: {report.strip()}). "
                "Allow it more steps or a larger restart, tighten its tolerance, precondition it, "
                "choose another linear solver, or accept this with "
                f"`Policy(linear_solve_rtol=...)`. {self.systems.if_singular()}"
            )

        # `not <=` also catches NaN. A failure reported by a solver counts only where the true
        # residual agrees: reaching `max_steps` with a small residual is a solved system.
        yield Objection(~(residual <= allowed), message)


class Loose(eqx.Module):
    """Object to iterations whose residual may leave an inexact solution."""

    solver: str = eqx.field(static=True)
    systems: type[AbstractLinearSystems] = eqx.field(static=True)

    def __call__(self, errors: Any, hidden: Any, steps: Any) -> Iterator[Objection]:
        """Yield what is wrong; what stiff rows hide is multiplied by no condition number yet."""

        def message(failed: np.ndarray) -> str:
            i = int(failed[np.argmax(errors[failed] + hidden[failed])])
            return (
                f"`linear_solver={self.solver}`: {self.systems.name(i)} must be solved to more "
                "digits than the iteration was asked for; got a residual that in the worst case "
                f"leaves an error of {errors[i]:.1e} of the solution, and in rows that are not "
                f"stiff {hidden[i]:.1e} times their condition, because the matrix is ill "
                "conditioned. Tighten the tolerance, scale the unknowns, choose a direct solver, "
                "or accept this with `Policy(exceptional=...)`."
            )

        loosely = (errors > WORST) | (hidden > loose(hidden.dtype))
        yield Objection(loosely & (steps != 0), message)


class Inexact(eqx.Module):
    """Object to solutions that rounding of the operators has changed."""

    systems: type[AbstractLinearSystems] = eqx.field(static=True)

    def __call__(self, rounding: Any) -> Iterator[Objection]:
        """Yield what is wrong."""

        def message(failed: np.ndarray) -> str:
            i = int(failed[np.argmax(rounding[failed])])
            return (
                f"`jax.grad`, `jax.jvp`: {self.systems.name(i)} must be solved for operators that "
                f"are known well enough; got one whose solution, and with it the derivative of the "
                f"vector, rounding errors of their entries change by {rounding[i]:.1e} of itself. "
                "Its value lies too near to others, or beside entries that are too large, for the "
                "precision. Use a higher one, scale the unknowns, or accept this with "
                "`Policy(exceptional=...)`."
            )

        yield Objection(rounding > loose(rounding.dtype), message)


class IllConditioned(eqx.Module):
    """Object to eigenvalues that a solution shows to be ill conditioned."""

    systems: type[AbstractLinearSystems] = eqx.field(static=True)

    def __call__(self, bound: Any) -> Iterator[Objection]:
        """Yield what is wrong."""
        source = lambda i: f"or more from {self.systems.name(i)}"  # noqa: E731
        yield ill_conditioned(bound, "`jax.grad`, `jax.jvp`", source)
