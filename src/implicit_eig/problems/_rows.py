"""Residuals judged row by row, so that stiff rows do not excuse errors in the others.

A solver that is backward stable in norm leaves a residual of eps ‖A‖ ‖x‖. Where a few rows are
large, such as those of penalties, that can exceed all other terms of A x = λ B x, and then the
solver's answer has no correct digit although its residual is "rounding". What rounding of x itself
explains is less: in row i it is some eps ‖aᵢ‖ max|x|, large in the large rows alone. So what lies
beyond this in each row must be small relative to the terms of the equation beyond it.

Source: Higham (2002) Accuracy and Stability of Numerical Algorithms, SIAM, section 7.2, for errors
judged by rows.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from ..checks.policy import Objection
from ..checks.rounding import PRODUCT
from ..operators import column_sums, geometric_means


def beyond_rows(
    R: Inexact[Array, "n k"],
    terms: Float[Array, "n k"],
    rows: Float[Array, "n k"],
    X: Inexact[Array, "n k"],
) -> Float[Array, "2 k"]:
    """Return the 1-norms of R and of `terms` beyond rounding of each row; shape (2, k).

    Args:
        R: the residual.
        terms: the moduli of the terms that cancel in it.
        rows: the moduli of products with random vectors, whose 1-norms sum to 1.
        X: the vectors that are multiplied.
    """
    eps = float(jnp.finfo(X.dtype).eps)
    # no row counts as smaller than their geometric mean: a solver mixes the rows
    least = geometric_means(rows)
    # entries of the random vectors are of size 1/n
    largest = len(rows) * jnp.max(jnp.abs(X), axis=0)
    sizes = jnp.maximum(rows, least[None, :]) * largest[None, :]
    # an eigenvalue that is 0 next to each row sets no scale, as those of rigid motions
    sets = jnp.any(~(terms <= eps**0.5 * sizes), axis=0)
    excess, beyond = (jnp.maximum(jnp.abs(M) - PRODUCT * eps * sizes, 0) for M in (R, terms))
    return jnp.where(sets[None, :], jnp.stack([column_sums(excess), column_sums(beyond)]), 0)


def at_least(relative: Float[Array, " k"], excess: Float[Array, "2 k"]) -> Float[Array, " k"]:
    """Return the relative residuals, no smaller than those beyond rounding of the rows."""
    part, of = excess
    return jnp.maximum(relative, jnp.where(part > 0, part / jnp.where(of > 0, of, part), 0))


def lost_to_stiff_rows(requirement: str, equation: str, excess: Any, rtol: float) -> Objection:
    """Return the objection to residuals that rounding of their own rows does not explain."""
    part, of = excess

    def message(*where: np.ndarray) -> str:
        worst = np.argmax((part / np.where(of > 0, of, 1))[where])
        i = tuple(int(axis[worst]) for axis in where)
        return (
            f"{requirement}{equation} in every row; got a residual of {part[i]:.1e} for pair "
            f"{i[-1]}, where the terms have size {of[i]:.1e}, both beyond rounding of each row. "
            "Next to the largest rows it would be rounding: the solver has lost the others to "
            "stiff ones, such as those of penalties. Eliminate the unknowns that a penalty fixes, "
            "lower it, take a solver that inverts the operator (shift and invert), or accept this "
            "with `Policy(residual_rtol=...)`."
        )

    return Objection(~(part <= rtol * of), message)
