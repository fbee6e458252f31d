"""What an extension of the package builds on; the page "Extending" shows each in use."""

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
