"""Ready-made forward solvers: thin adapters to established libraries.

Examples:
    >>> import jax.numpy as jnp
    >>> from implicit_eig import Hermitian, eigensolver, solvers
    >>> solve = eigensolver(solvers.arpack(k=1, sigma=3.5), Hermitian(k=1))
    >>> solve(jnp.diag(jnp.array([1.0, 2.0, 4.0]))).values.round(4).tolist()
    [4.0]
"""

from ._abstract import AbstractForwardSolver
from .arpack import arpack
from .arpack_general import arpack_general
from .newton import newton

__all__ = ["AbstractForwardSolver", "arpack", "arpack_general", "newton"]
