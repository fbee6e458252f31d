"""The border to PETSc and SLEPc: matrices, vectors, options, and the end of all of them.

Everything lives on one process. PETSc is not safe for threads; here it is called with the
interpreter's lock held, and releases it inside products alone, where a run waits for the program
that multiplies. Each run has its own objects and its own options, so that another may begin there.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._errors import EigensolverError, InputError
from ._abstract import to_array

# SLEPc stops where the residual is below this power of eps, relative to |λ|.
TOLERANCE = 0.7
_numbers = itertools.count()


class Library(NamedTuple):
    """The two packages."""

    PETSc: Any
    SLEPc: Any

    @property
    def is_complex(self) -> bool:
        """Return whether this PETSc has complex numbers."""
        return np.issubdtype(self.PETSc.ScalarType, np.complexfloating)

    @property
    def direct_solver(self) -> str:
        """Return the sparse direct solver; PETSc's own has no pivots, so that a zero stops it."""
        return "mumps" if self.PETSc.Sys.hasExternalPackage("mumps") else "petsc"

    def set_option(self, name: str, value: Any) -> None:
        """Set an option of PETSc or SLEPc."""
        text = "true" if value is True else "false" if value is False else str(value)
        self.PETSc.Options().setValue(name, text)

    def unused(self, prefix: str, options: dict[str, Any]) -> list[str]:
        """Return the options that nothing has read."""
        known = self.PETSc.Options()
        return [name for name in options if not known.used(prefix + name)]

    def complaint(self, error: Exception) -> str:
        """Return what an error says, without the places in the library's code."""
        # petsc4py raises a `SystemError` where its own error is raised inside another function
        cause = error if isinstance(error, self.PETSc.Error) else error.__cause__
        lines = str(cause).replace("[0] ", "").splitlines()
        return "; ".join(line for line in lines if "() at " not in line)


def library(caller: str = "solvers.slepc(...)") -> Library:
    """Return petsc4py and slepc4py, or raise an error that names the command to install them."""
    # MPI, because PETSc does not find its own where all come from wheels; and primme, because its
    # BLAS, of the same name as that of these wheels but another version, cannot be loaded later
    for name in ("mpi4py.MPI", "primme"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        _load_blas()
        import slepc4py  # pyright: ignore[reportMissingImports]  # noqa: PLC0415

        # PETSc would end the process at signals that Python handles; ignored if it has started
        slepc4py.init(["implicit_eig", "-no_signal_handler"])
        from petsc4py import PETSc  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
        from slepc4py import SLEPc  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise InputError(
            f"`{caller}`: the packages slepc4py and petsc4py; got {error}. Run "
            '`pip install "implicit_eig[slepc]"`, or build them with your own SLEPc.'
        ) from error
    return Library(PETSc, SLEPc)


def _load_blas() -> None:
    """Load the BLAS in the wheel of PETSc for all, if PETSc comes from one.

    The system's has the same name, and where another package has loaded it before, PETSc would be
    linked to it; an older one lacks functions.
    """
    wheel = importlib.util.find_spec("dolfinx_solver")
    if wheel is not None and wheel.origin is not None:
        for path in (pathlib.Path(wheel.origin).parent / "lib").glob("libopenblas*"):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


class Run:
    """One run of SLEPc: its objects, its options, and the exceptions of products."""

    def __init__(self, petsc: Library, operators: Sequence[Any], call: str):
        self.petsc = petsc
        self.comm = petsc.PETSc.COMM_SELF
        self.call = call
        self.prefix = f"implicit_eig_{next(_numbers)}_"
        self.options = petsc.PETSc.Options()
        self.set: list[str] = []
        self.made: list[Any] = []
        self.raised: BaseException | None = None
        dense = any(isinstance(M, np.ndarray) for M in operators)
        self.given = [to_array(M) if dense and sp.issparse(M) else M for M in operators]
        self.dtype = np.result_type(*(M.dtype for M in operators))
        self.is_real = not np.issubdtype(self.dtype, np.complexfloating)
        if not (petsc.is_complex or self.is_real):
            raise InputError(
                f"`solvers.{call}`: operators of real numbers, where PETSc is built for these; got "
                f"{self.dtype}. Install its complex build, `dolfinx-solver-complex`."
            )

    @property
    def tolerance(self) -> float:
        """Return the default tolerance."""
        return float(np.finfo(self.dtype).eps) ** TOLERANCE

    def is_known(self, M: Any) -> bool:
        """Return whether the entries of an operator are known."""
        return not isinstance(M, spla.LinearOperator)

    def keep(self, thing: Any) -> Any:
        """Return an object of PETSc that ends with the run."""
        self.made.append(thing)
        return thing

    def matrices(self, hermitian: bool = False) -> list[Any]:
        """Return the operators as matrices of PETSc."""
        mats = list(map(self.matrix, self.given))
        for mat in mats:
            if hermitian:
                mat.setOption(self.petsc.PETSc.Mat.Option.HERMITIAN, True)
        return mats

    def matrix(self, M: Any) -> Any:
        """Return an operator as a matrix of PETSc: dense, sparse, or known by its products."""
        Mat, scalar = self.petsc.PETSc.Mat, self.petsc.PETSc.ScalarType
        if isinstance(M, np.ndarray):
            array = np.asfortranarray(M, scalar)
            mat = self.keep(Mat().createDense(M.shape, array=array, comm=self.comm))
            mat.assemble()
            return mat
        if sp.issparse(M):
            csr: Any = sp.csr_matrix(M, dtype=scalar)
            csr.sum_duplicates()
            index = [part.astype(self.petsc.PETSc.IntType) for part in (csr.indptr, csr.indices)]
            mat = Mat().createAIJ(csr.shape, csr=(*index, csr.data), comm=self.comm)
            return self.keep(mat)
        mat = self.keep(Mat().createPython(M.shape, _Shell(self, M), comm=self.comm))
        mat.setUp()
        return mat

    def vectors(self, X: np.ndarray) -> list[Any]:
        """Return the columns of an array as vectors of PETSc."""
        scalar = self.petsc.PETSc.ScalarType
        make = self.petsc.PETSc.Vec().createWithArray
        columns = [np.ascontiguousarray(x.astype(scalar)) for x in X.T]
        return [self.keep(make(x, comm=self.comm)) for x in columns]

    def empty(self, n: int) -> Any:
        """Return a vector of zeros of PETSc."""
        return self.keep(self.petsc.PETSc.Vec().createSeq(n, comm=self.comm))

    def prepare(self, solver: Any, options: dict[str, Any], usual: dict[str, Any]) -> None:
        """Give a solver of SLEPc its options: the user's, and the usual ones besides."""
        if self.is_real and self.petsc.is_complex:
            # SLEPc adds random vectors, by default of complex numbers, which in a cluster of
            # eigenvalues would make the eigenvectors of real operators complex
            random = self.keep(self.petsc.PETSc.Random().create(self.comm))
            random.setType("rander48")
            random.setInterval((-1.0, 1.0))
            bases = solver.getBV()
            for basis in bases if isinstance(bases, tuple) else (bases,):
                basis.setRandomContext(random)
        for name, value in (usual | options).items():
            self.petsc.set_option(self.prefix + name, value)
            self.set.append(self.prefix + name)
        solver.setOptionsPrefix(self.prefix)

    def solve(self, solver: Any, options: dict[str, Any]) -> None:
        """Run a solver of SLEPc, and raise an error that says why where it fails."""
        try:
            solver.setFromOptions()
            solver.solve()
        except (self.petsc.PETSc.Error, SystemError) as error:
            if self.raised is not None:
                raise self.raised from None
            raise EigensolverError(
                f"`solvers.{self.call}`: a run without errors; got {self.petsc.complaint(error)}. "
                "If `sigma` is an eigenvalue, choose another; if `options` name a method, look up "
                "in SLEPc's manual what it needs."
            ) from error
        unused = self.petsc.unused(self.prefix, options)
        if unused:
            raise InputError(
                f"`solvers.{self.call}`: options that SLEPc or PETSc reads in this run; got "
                f"{', '.join(unused)}. Look up their names in SLEPc's manual, without the dash."
            )

    def not_converged(self, solver: Any) -> EigensolverError:
        """Return the error of a run that found too few."""
        kind, reason = type(solver), solver.getConvergedReason()
        why = [name for name, code in vars(kind.ConvergedReason).items() if code == reason]
        prefix = kind.__name__.lower()
        return EigensolverError(
            f"`solvers.{self.call}`: convergence; got {solver.getConverged()} pairs after "
            f"{solver.getIterationNumber()} iterations, {why[0] if why else reason}. Give a "
            f"`sigma` near the wanted eigenvalues, or options such as `{prefix}_max_it`, "
            f"`{prefix}_ncv` or `{prefix}_tol`."
        )

    def end(self) -> None:
        """Release everything."""
        for name in self.set:
            self.options.delValue(name)
        for thing in reversed(self.made):
            try:
                thing.destroy()
            except (self.petsc.PETSc.Error, SystemError):
                # it failed in the middle of its work: it is left alone, also by Python
                thing.incRef()
                thing.incRef()


class _Shell:
    """The products of an operator as PETSc requests them."""

    def __init__(self, run: Run, M: spla.LinearOperator):
        self.run, self.M = run, M
        self.dtype: Any = M.dtype

    def mult(self, mat: Any, x: Any, y: Any) -> None:
        """Set y to M x."""
        self._set(y, self.M.matvec, x)

    def multTranspose(self, mat: Any, x: Any, y: Any) -> None:  # noqa: N802
        """Set y to Mᵀ x."""
        self._set(y, lambda x: self.M.rmatvec(x.conj()).conj(), x)

    def multHermitian(self, mat: Any, x: Any, y: Any) -> None:  # noqa: N802
        """Set y to Mᴴ x."""
        self._set(y, self.M.rmatvec, x)

    def _set(self, y: Any, times: Callable[[np.ndarray], Any], x: Any) -> None:
        array: np.ndarray = np.array(x.getArray(readonly=True))
        real = not np.issubdtype(self.dtype, np.complexfloating)
        if real and np.iscomplexobj(array) and not np.any(np.imag(array)):
            array = np.real(array)  # a real operator multiplies complex vectors by parts
        try:
            y.setArray(np.asarray(times(array)).reshape(-1))
        except BaseException as error:
            # PETSc would raise an error of its own
            self.run.raised = error
            raise
