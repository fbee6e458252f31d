"""The default choice of a system, and what goes with what."""

import equinox as eqx
import lineax as lx

from .._errors import InputError
from ..linear_solvers.sparse_direct import SparseDirect
from ._abstract import AbstractFormulation, Pencil
from .bordered import Bordered
from .deflated import Deflated
from .full_spectrum import FullSpectrum


class AutoSystem(eqx.Module):
    """Choose: `FullSpectrum` where k = n, `Bordered` for `SparseDirect`, else `Deflated`."""


def resolve(
    system: AbstractFormulation | AutoSystem, linear_solver: lx.AbstractLinearSolver, pencil: Pencil
) -> AbstractFormulation:
    """Return the system that goes with the linear solver and the known pairs.

    Raises:
        InputError: the two do not go together.
    """
    direct = isinstance(linear_solver, SparseDirect)
    if isinstance(system, AutoSystem):
        n, k = pencil.X.shape
        if k == n:
            return FullSpectrum()
        return Bordered() if direct else Deflated()
    if direct and isinstance(system, Deflated):
        raise InputError(
            "`eigensolver(system=Deflated(), linear_solver=SparseDirect())`: a system that stays "
            "sparse; got the deflated one, whose low-rank term is dense. Use `Bordered()`, or "
            "leave `system` out."
        )
    return system
