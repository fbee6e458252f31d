"""The proof that no eigenpair of a Hermitian problem was lost, by counting eigenvalues."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._errors import InputError
from ..checks.policy import Action, Objection, Policy, enforce, forward_check
from ..linear_solvers.inertia import UNKNOWN, count
from ..solution import Solution
from ._abstract import Operators

ENDS = ("lowest", "highest", "between")
CERTIFIED = "`eigensolver(problem=Hermitian(k={k}, certified={which!r}))`: "


def check_certified(certified: Any) -> None:
    """Raise `InputError` unless `certified` is one of the values allowed."""
    if not isinstance(certified, bool) and certified not in ENDS:
        raise InputError(
            f"`Hermitian(certified=...)`: True, False, {', '.join(map(repr, ENDS))}; got "
            f"{certified!r}. Name the eigenpairs that the solver is asked for."
        )


def certify(
    certified: bool | str, solution: Solution, operators: Operators, policy: Policy
) -> Solution:
    """Return a checked solution, after the proof that none of its eigenpairs was lost."""
    if not certified or policy.forward is Action.IGNORE:
        return solution
    which = "lowest" if certified is True else str(certified)
    n, k = solution.vectors.shape
    lower, upper = _shifts(solution)
    below_lower = count(operators, lower, forgiving=True) if which != "lowest" else 0
    below_upper = count(operators, upper, forgiving=True) if which != "highest" else n
    figures = tuple(jnp.stack([jnp.asarray(x)]) for x in (lower, upper, below_lower, below_upper))
    return enforce(forward_check(policy, _Lost(k, which)), figures, solution)


def _shifts(solution: Solution) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return shifts below and above the eigenvalues, amid the gap to others that are known."""
    lam = solution.values
    others = [] if solution._beyond is None else [solution._beyond[0]]
    others = jnp.concatenate([*others, lam[:0] if solution._rest is None else solution._rest])
    first, last = jnp.min(lam), jnp.max(lam)
    margin = float(jnp.finfo(lam.dtype).eps) ** 0.5 * jnp.max(jnp.abs(lam))
    below = jnp.max(jnp.where(others < first, others, -jnp.inf), initial=-jnp.inf)
    above = jnp.min(jnp.where(others > last, others, jnp.inf), initial=jnp.inf)
    lower = jnp.where(jnp.isfinite(below), (below + first) / 2, first - margin)
    upper = jnp.where(jnp.isfinite(above), (above + last) / 2, last + margin)
    return lower, upper


class _Lost(eqx.Module):
    """Object to a number of eigenvalues other than k."""

    k: int = eqx.field(static=True)
    which: str = eqx.field(static=True)

    def __call__(
        self, lower: Any, upper: Any, below_lower: Any, below_upper: Any
    ) -> Iterator[Objection]:
        k, requirement = self.k, CERTIFIED.format(k=self.k, which=self.which)
        unknown = (below_lower == UNKNOWN) | (below_upper == UNKNOWN)
        found = below_upper - below_lower

        def not_proved(_: np.ndarray) -> str:
            return (
                f"{requirement}eigenvalues separated from the others; got one so near "
                f"{lower[0]:.6g} or {upper[0]:.6g} that rounding does not show on which side. Ask "
                "for pairs up to a gap, and for `guard=1`, so that the shift lies amid the gap."
            )

        def lost(_: np.ndarray) -> str:
            where = {
                "lowest": f"below {upper[0]:.6g}",
                "highest": f"above {lower[0]:.6g}",
                "between": f"between {lower[0]:.6g} and {upper[0]:.6g}",
            }[self.which]
            return (
                f"{requirement}all eigenpairs {where}; got {k} of {found[0]}, as the inertia of a "
                "factorisation shows. The solver lost some, k cuts a cluster, or these are not the "
                f"{self.which} ones. Ask for more pairs, give the solver a start or a smaller "
                "tolerance, or name the pairs by another `certified`."
            )

        yield Objection(unknown, not_proved)
        yield Objection(~unknown & (found != k), lost)
