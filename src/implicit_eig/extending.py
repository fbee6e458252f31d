"""Base classes for extensions of the package; the documentation's page "Extending" uses each.

Examples:
    >>> import jax.numpy as jnp
    >>> from implicit_eig import Action, EigensolverError, ForwardWarning
    >>> def negative(values):
    ...     yield Objection(values < 0, lambda i: f"eigenvalue {i[0]} is negative")
    >>> check = Check(negative, Action.NAN, EigensolverError, ForwardWarning)
    >>> values = jnp.array([-1.0, 2.0])
    >>> enforce(check, (values,), values).tolist()
    [nan, nan]
"""

from .checks.policy import Check, Objection, enforce
from .linear_solvers._solve import AbstractBatchedLinearSolver, Outcome
from .linear_solvers._systems import AbstractLinearSystems
from .problems._abstract import AbstractLinearised, AbstractProblem
from .solvers._abstract import AbstractForwardSolver

__all__ = [
    "AbstractBatchedLinearSolver",
    "AbstractForwardSolver",
    "AbstractLinearSystems",
    "AbstractLinearised",
    "AbstractProblem",
    "Check",
    "Objection",
    "Outcome",
    "enforce",
]
