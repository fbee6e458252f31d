"""The default form of the linear systems, and which forms suit which problems and solvers."""

import lineax as lx

from .._errors import InputError
from ..linear_solvers._systems import AbstractOwnSolver
from ._abstract import AbstractFormulation, AbstractPencilForm, AbstractPencilSystems, Pencil
from .bordered import Bordered
from .deflated import Deflated
from .full_spectrum import FullSpectrum


class AutoSystem(AbstractFormulation):
    """Choose `FullSpectrum` where k = n, `Bordered` for `SparseDirect`, and else `Deflated`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, Policy, eigensolver
        >>> reports = []
        >>> policy = Policy(monitor=reports.append)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2), policy=policy)
        >>> vector_at = lambda t: solve(jnp.array([[1.0, t], [t, 3.0]])).vectors[:, 0]
        >>> round(float(jax.grad(lambda t: jnp.prod(vector_at(t)))(0.0)), 4)  # x₁x₂ = −t/2 + …
        -0.5
        >>> reports  # k = n, so that there was no linear system to solve
        []
    """

    partial: AbstractPencilForm = Deflated()


def suited(
    system: AbstractFormulation, linear_solver: lx.AbstractLinearSolver
) -> AbstractFormulation:
    """Return the form: one that keeps matrices sparse if the solver factorises sparse matrices.

    Raises:
        InputError: the form and the linear solver cannot be combined.
    """
    if not (isinstance(linear_solver, AbstractOwnSolver) and linear_solver.needs_sparse):
        return system
    if isinstance(system, Deflated):
        raise InputError(
            f"`eigensolver(system=Deflated(), linear_solver={linear_solver.name}())`: a system "
            "that stays sparse; got the deflated one, whose low-rank term is dense. Use "
            "`Bordered()`, or leave `system` out."
        )
    return AutoSystem(Bordered()) if isinstance(system, AutoSystem) else system


def known_in_full(
    system: AbstractFormulation, complete: bool, problem: str, wanted: str, found: str
) -> bool:
    """Return whether no system has to be solved, because all eigenpairs are known.

    Raises:
        InputError: `FullSpectrum()` is asked for, and the eigenpairs are not `complete`.
    """
    if isinstance(system, FullSpectrum) and not complete:
        raise InputError(
            f"`eigensolver(problem={problem}(...), system=FullSpectrum())`: all {wanted}; got "
            f"{found}. Ask for all of them, or leave `system` out."
        )
    return complete and isinstance(system, (AutoSystem, FullSpectrum))


def pencil_systems(
    system: AbstractFormulation, pencil: Pencil, problem: str
) -> AbstractPencilSystems:
    """Return the systems of a Hermitian pencil in the form asked for.

    Raises:
        InputError: the form is none of those for a pencil.
    """
    form = system.partial if isinstance(system, AutoSystem) else system
    if not isinstance(form, AbstractPencilForm):
        raise refusal(system, problem, "`Deflated()`, `Bordered()`, or a form for a pencil")
    return form.assemble(pencil)


def refusal(system: AbstractFormulation, problem: str, wanted: str) -> InputError:
    """Return the error for a form that a problem does not support."""
    return InputError(
        f"`eigensolver(problem={problem}(...), system={type(system).__name__}())`: {wanted}. "
        "Leave `system` out."
    )
