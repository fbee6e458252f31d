"""The part common to the ready-made solvers."""

import abc
from typing import Any

import lineax as lx

from .._alike import Alike


class AbstractForwardSolver(Alike, abc.ABC):
    """Find eigenpairs on the host, and name the linear solver that suits their derivatives.

    Examples:
        >>> from implicit_eig import solvers
        >>> solver = solvers.arpack(k=2, sigma=1.0)
        >>> isinstance(solver, AbstractForwardSolver), type(solver.linear_solver()).__name__
        (True, 'AutoLinearSolver')
    """

    @abc.abstractmethod
    def __call__(self, A: Any, B: Any = None) -> tuple[Any, ...]:
        """Return (values, vectors) or (values, vectors, left_vectors) of host operators."""

    @abc.abstractmethod
    def linear_solver(self) -> lx.AbstractLinearSolver:
        """Return the linear solver that `eigensolver` uses unless another is given."""
