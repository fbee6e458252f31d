"""Plots; they need matplotlib.

Each function draws into the axes that it is given, or into a new figure, and returns the axes, so
that titles, limits and scales can be changed afterwards.

Examples:
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import jax.numpy as jnp
    >>> from implicit_eig import Solution, follow, plot
    >>> solve_at = lambda t: Solution(jnp.array([t, 1 - t]), jnp.eye(2))
    >>> plot.branches(follow(solve_at, jnp.array([0.25, 0.5]))).get_xlabel()
    'parameter'
"""

from ._branches import branches
from ._convergence import convergence
from ._sensitivity import sensitivity
from ._spectrum import spectrum

__all__ = ["branches", "convergence", "sensitivity", "spectrum"]
