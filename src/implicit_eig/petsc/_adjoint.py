"""The adjoint systems on the complement of the known vectors, by KSP.

For a Hermitian pencil and xᴴBx = 1 the change of a loss with cotangents λ̄ and X̄ is

    Re Σᵢ λ̄ᵢ xᵢᴴ(Ȧ − λᵢḂ)xᵢ + x̄ᵢᴴẋᵢ = Re Σᵢ wᵢᴴ Ȧ xᵢ + vᵢᴴ Ḃ xᵢ,

    wᵢ = λ̄ᵢxᵢ + zᵢ,      vᵢ = −λᵢwᵢ − ½ Σⱼ xⱼ xⱼᴴx̄ᵢ      (j in the cluster of i),

where zᵢ is a sum of xⱼ xⱼᴴx̄ᵢ/(λᵢ − λⱼ) over the other known eigenvectors and of the solution of

    (A − λᵢB) zᵢ = −(I − BXXᴴ) x̄ᵢ,      XᴴB zᵢ = 0.

For other pencils, ‖x‖ = 1 and left eigenvectors y, it is Re Σᵢ zᵢᴴ(Ȧ − λᵢḂ)xᵢ with

    (A − λᵢB)ᴴ zᵢ = −(I − xᵢxᵢᴴ) x̄ᵢ,      (Bxᵢ)ᴴ zᵢ = λ̄ᵢ.

The systems are solved by GMRES, with the factors of A − σB on the same complement as the
preconditioner, or with what PETSc's options say.

Source: `systems.deflated`; Dailey (1989) AIAA J. 27, 486, for clusters.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._errors import InputError
from ..checks.policy import SolveReport
from ..checks.rounding import SOLVED, VALUE
from ..solvers._slepc import Library
from ._forward import Found, moduli, options_set, refuse_unused, times
from ._ranks import inner, norms

# Passes of iterative refinement on the true residual.
PASSES = 5
RESTART = 60


class Solves(NamedTuple):
    """What is known of the solutions of the adjoint systems; arrays of shape (k,).

    Attributes:
        steps: of the KSP.
        residuals: ‖r − M z‖ / ‖r‖, M being (A − λᵢB)ᴴ.
        growth: ‖|M| |z|‖ / ‖r‖.
    """

    steps: np.ndarray
    residuals: np.ndarray
    growth: np.ndarray

    @property
    def rounding(self) -> np.ndarray:
        """The part of the residuals that rounding explains."""
        return rounding_of(self.growth)

    def report(self) -> SolveReport:
        """Return what a monitor receives."""
        errors = (self.residuals + np.finfo(float).eps) * self.growth
        return SolveReport("KSP", self.steps, self.residuals, errors)


def rounding_of(growth: Any) -> Any:
    """Return the residual that rounding explains, which excuses no singular system."""
    return np.minimum(VALUE * np.finfo(float).eps * growth, SOLVED)


class Adjoint:
    """The adjoint systems of one forward solve.

    Args:
        petsc: the libraries.
        found: the forward solve.
        sigma: its shift.
        options: of the KSP, by their names without the dash, such as `{"pc_type": "hypre"}`: the
            preconditioner is then made of A − σB instead of the forward solve's factors.
        prefix: of the options.
        rtol: of the residuals.
    """

    def __init__(
        self,
        petsc: Library,
        found: Found,
        sigma: Any,
        options: dict[str, Any],
        prefix: str,
        rtol: float,
    ):
        self.petsc, self.found, self.sigma = petsc, found, sigma
        self.options, self.prefix, self.rtol = options, prefix, rtol
        self.comm = found.A.getComm().tompi4py()

    def solve(self, R: np.ndarray) -> tuple[np.ndarray, Solves]:
        """Solve (A − λᵢB)ᴴ zᵢ = rᵢ on the complement."""
        k = R.shape[1]
        Z, solves = np.zeros_like(R), Solves(np.zeros(k, np.int32), np.zeros(k), np.zeros(k))
        size = norms(self.comm, R)
        _ = self.preconditioner  # made here, because PETSc would hide an error of it
        for i in np.flatnonzero(size != 0):
            if np.isfinite(size[i]):
                Z[:, i], *figures = self._solve(int(i), R[:, [i]], size[i])
                for of_all, figure in zip(solves, figures, strict=True):
                    of_all[i] = figure
            else:
                Z[:, i] = np.nan  # of a cotangent that is not finite, which is no fault of ours
        return Z, solves

    def _solve(self, i: int, r: np.ndarray, size: float) -> tuple[np.ndarray, int, float, float]:
        complement, image = self._projections(i)
        z, rest = np.zeros_like(r), image(r)
        begun = float(norms(self.comm, rest)[0])
        if begun <= 100 * np.finfo(float).eps * size:
            return z[:, 0], 0, 0.0, 0.0  # there is no complement, or the loss does not reach it
        ksp = self._ksp(i, complement, image)
        before = np.inf
        b, x = self.found.A.createVecs()
        steps, residual, growth = 0, 1.0, 0.0
        for _ in range(PASSES):
            b.setArray(rest[:, 0])
            ksp.solve(b, x)
            steps += ksp.getIterationNumber()
            z = z + complement(np.array(x.getArray(readonly=True))[:, None])
            rest = image(r - self._product(i, z))
            residual = float(norms(self.comm, rest)[0]) / begun
            growth = float(norms(self.comm, self._terms(i, z))[0]) / begun
            if not self.rtol + rounding_of(growth) < residual < 0.5 * before:
                break
            before = residual
        for thing in (ksp, b, x):
            thing.destroy()
        return z[:, 0], steps, residual, growth

    def _product(self, i: int, z: np.ndarray) -> np.ndarray:
        """Return (A − λᵢB)ᴴ z."""
        found = self.found
        adjoint = found.Y is not None
        lam = np.conj(found.lam[i])
        Bz = z if found.B is None else times(found.B, z, adjoint)
        return times(found.A, z, adjoint) - lam * Bz

    def _terms(self, i: int, z: np.ndarray) -> np.ndarray:
        """Return the sizes of the terms of (A − λᵢB)ᴴ z."""
        found = self.found
        adjoint = found.Y is not None
        return moduli(found.A, z, adjoint) + abs(found.lam[i]) * moduli(found.B, z, adjoint)

    def _projections(self, i: int) -> tuple[Callable, Callable]:
        """Return the projections of solutions and of right sides on the complement."""
        found, comm = self.found, self.comm
        if found.Y is None:
            X, BX = found.X, found.BX
            return (
                lambda z: z - X @ inner(comm, BX, z),
                lambda r: r - BX @ inner(comm, X, r),
            )
        x, Bx, y, By = (M[:, [i]] for M in (found.X, found.BX, found.Y, found.BY))
        along = inner(comm, y, Bx)[0, 0]
        return (
            lambda z: z - y * (inner(comm, Bx, z) / along.conj()),
            lambda r: r - By * (inner(comm, x, r) / inner(comm, x, By)),
        )

    def _ksp(self, i: int, complement: Callable, image: Callable) -> Any:
        PETSc, found = self.petsc.PETSc, self.found
        shell = _Shell(lambda v: image(self._product(i, v)))
        sizes = found.A.getSizes()
        operator = PETSc.Mat().createPython(sizes, shell, comm=found.A.getComm())
        operator.setUp()
        ksp = PETSc.KSP().create(found.A.getComm())
        ksp.setOperators(operator)
        ksp.setType("gmres")
        ksp.setGMRESRestart(RESTART)
        ksp.setTolerances(rtol=0.1 * self.rtol, max_it=10 * RESTART)
        pc = ksp.getPC()
        pc.setType("python")
        pc.setPythonContext(_Shell(lambda v: complement(self._inverse(v))))
        ksp.setOptionsPrefix(self.prefix)
        own = {k: v for k, v in self.options.items() if k.startswith("ksp_")}
        with options_set(self.petsc, self.prefix, own):
            ksp.setFromOptions()
            refuse_unused(self.petsc, self.prefix, own, "adjoint")
        return ksp

    def _inverse(self, v: np.ndarray) -> np.ndarray:
        """Return (A − σB)⁻ᴴ v, by the factors of the forward solve or another preconditioner."""
        solver = self.preconditioner
        if solver is None:
            return v
        b, x = self.found.A.createVecs()
        if self.found.Y is None:
            b.setArray(v[:, 0])
            solver.solve(b, x)
            out = np.array(x.getArray(readonly=True))
        else:
            b.setArray(v[:, 0].conj())
            solver.solveTranspose(b, x)
            out = np.array(x.getArray(readonly=True)).conj()
        b.destroy()
        x.destroy()
        return out[:, None]

    @functools.cached_property
    def preconditioner(self) -> Any:
        """The KSP that applies the preconditioner, `None` for none."""
        own = {k: v for k, v in self.options.items() if not k.startswith("ksp_")}
        if not own:
            st = self.found.eps.getST()
            return st.getKSP() if st.getType() == "sinvert" else None
        shifted = self.found.A.copy()
        if self.sigma != 0:
            if self.found.B is None:
                shifted.shift(-self.sigma)
            else:
                shifted.axpy(-self.sigma, self.found.B)
        ksp = self.petsc.PETSc.KSP().create(shifted.getComm())
        ksp.setOperators(shifted)
        ksp.setType("preonly")
        # not the prefix of the outer KSP, whose preconditioner is ours
        prefix = f"{self.prefix}inner_"
        ksp.setOptionsPrefix(prefix)
        with options_set(self.petsc, prefix, own):
            try:
                ksp.getPC().setFromOptions()
                ksp.setUp()
            except (self.petsc.PETSc.Error, SystemError) as error:
                raise InputError(
                    f"`petsc.eigensolver(adjoint={own})`: a preconditioner that PETSc can make; "
                    f"got {self.petsc.complaint(error)}. Look up its options in PETSc's manual."
                ) from error
            refuse_unused(self.petsc, prefix, own, "adjoint")
        return ksp


class _Shell:
    """A product, or a preconditioner, as PETSc calls it."""

    def __init__(self, times: Callable[[np.ndarray], np.ndarray]):
        self.times = times

    def mult(self, _: Any, x: Any, y: Any) -> None:
        """Set y to the product with x."""
        y.setArray(self.times(np.array(x.getArray(readonly=True))[:, None])[:, 0])

    apply = mult
