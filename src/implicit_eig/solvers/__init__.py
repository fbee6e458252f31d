"""Ready-made forward solvers: thin adapters to well-kept libraries."""

from ._abstract import AbstractForwardSolver
from .arpack import arpack

__all__ = ["AbstractForwardSolver", "arpack"]
