"""The default choice of a system, and what goes with what."""

import equinox as eqx
import lineax as lx

from .._errors import InputError
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.minres import MINRES
from ..linear_solvers.sparse_direct import SparseDirect
from ._abstract import AbstractSystem, Pencil
from .bordered import Bordered
from .deflated import Deflated


class AutoSystem(eqx.Module):
    """Choose the form for the linear solver: `Bordered` for `SparseDirect`, else `Deflated`."""


def resolve(
    system: AbstractSystem | AutoSystem, linear_solver: lx.AbstractLinearSolver, pencil: Pencil
) -> tuple[AbstractSystem, lx.AbstractLinearSolver]:
    """Return the system and the linear solver that the two defaults stand for.

    Raises:
        InputError: the two do not go together.
    """
    if isinstance(linear_solver, AutoLinearSolver):
        linear_solver = linear_solver.choose(pencil.structure, True, pencil.X.dtype)
        if isinstance(system, Deflated) and isinstance(linear_solver, SparseDirect):
            linear_solver = MINRES()
    direct = isinstance(linear_solver, SparseDirect)
    if isinstance(system, AutoSystem):
        system = Bordered() if direct else Deflated()
    if direct and isinstance(system, Deflated):
        raise InputError(
            "`eigensolver(system=Deflated(), linear_solver=SparseDirect())`: a system that stays "
            "sparse; got the deflated one, whose low-rank term is dense. Use `Bordered()`, or "
            "leave `system` out."
        )
    return system, linear_solver
