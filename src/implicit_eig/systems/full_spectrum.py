"""All n pairs are known: the tangent of each vector is a combination of the vectors.

Nothing lies outside their span, so there is no system to solve:  Ẋ = XC, with the couplings C of
`problems.hermitian`.

Source: Giles (2008) An extended collection of matrix derivative results, section 3.1.
"""

from typing import Any

from jaxtyping import Array, Inexact

from .._errors import InputError
from ..linear_solvers._systems import AbstractLinearSystems
from ._abstract import AbstractFormulation, Pencil


class FullSpectrum(AbstractFormulation):
    """Solve no system at all, since all n pairs are known; the default where k = n.

    Raises:
        InputError: k < n.

    Cost: products of k×k and n×k arrays; all pairs at once.
    """

    def assemble(self, pencil: Pencil) -> AbstractLinearSystems:
        """Refuse: there are none."""
        n, k = pencil.X.shape
        raise InputError(
            f"`eigensolver(system=FullSpectrum())`: all n = {n} pairs; got k = {k}. Declare the "
            "problem with k = n, or leave `system` out."
        )

    def right_side(self, R: Inexact[Array, "n k"]) -> Any:
        """Return R itself."""
        return R

    def solution(self, U: Any) -> Inexact[Array, "n k"]:
        """Return U itself."""
        return U
