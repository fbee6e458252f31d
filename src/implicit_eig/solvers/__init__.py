"""Ready-made forward solvers: thin adapters to well-kept libraries."""

from ._abstract import AbstractForwardSolver
from .arpack import arpack
from .arpack_general import arpack_general
from .newton import newton

__all__ = ["AbstractForwardSolver", "arpack", "arpack_general", "newton"]
