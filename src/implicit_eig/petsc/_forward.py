"""The forward solve: SLEPc's EPS on distributed matrices, its eigenpairs checked."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._errors import EigensolverError, InputError
from ..checks.rounding import PRODUCT, VALUE
from ..linear_solvers._systems import PROBES
from ..solvers._slepc import TOLERANCE, Library
from ._ranks import inner, least, most, norms, total


class Found(NamedTuple):
    """The eigenpairs of one forward solve, on the local rows, and what the adjoint needs.

    Attributes:
        eps: the solver of SLEPc, with the factors of A − σB if it has any.
        A, B: the matrices; B may be `None`.
        lam, X: the k eigenvalues, and the local rows of the eigenvectors.
        BX: B X, or X.
        Y, BY: left eigenvectors, (A − λB)ᴴ y = 0, and Bᴴ Y; `None` for a Hermitian problem.
        rest: the next eigenvalues, if any.
        error: the rounding error of each eigenvalue and of the rest.
        residuals: ‖A x − λ B x‖ / (‖A x‖ + |λ| ‖B x‖).
        excess: ‖A x − λ B x‖ / ‖|A x| + |λ B x|‖, both beyond rounding of each row.
        steps: of SLEPc, in all of its runs.
        states: PETSc's counts of the changes of A and B.
    """

    eps: Any
    A: Any
    B: Any
    lam: np.ndarray
    X: np.ndarray
    BX: np.ndarray
    Y: Any
    BY: Any
    rest: np.ndarray
    error: np.ndarray
    residuals: np.ndarray
    excess: np.ndarray
    steps: int
    states: tuple[int, ...]

    def unchanged(self) -> None:
        """Raise unless the matrices are still those of the solve."""
        mats = [M for M in (self.A, self.B) if M is not None]
        if not (all(mats) and states(self.A, self.B) == self.states):
            raise InputError(
                "`pullback(...)`: the matrices of its solve, unchanged; got ones that have been "
                "assembled anew or destroyed. Pull back first, or assemble new matrices each time."
            )


def states(A: Any, B: Any) -> tuple[int, ...]:
    """Return PETSc's counts of the changes of the matrices."""
    return tuple(M.stateGet() for M in (A, B) if M is not None)


def times(M: Any, V: np.ndarray, adjoint: bool = False) -> np.ndarray:
    """Return the local rows of M V, or of Mᴴ V."""
    x, y = M.createVecs()
    out = np.empty_like(V)
    multiply = M.multHermitian if adjoint else M.mult
    for i, column in enumerate(V.T):
        x.setArray(column)
        multiply(x, y)
        out[:, i] = y.getArray(readonly=True)
    x.destroy()
    y.destroy()
    return out


def moduli(M: Any, V: np.ndarray, adjoint: bool = False) -> np.ndarray:
    """Return about |M| |V|, the sizes of the terms of M V, on the local rows; `None` stands for I.

    They are the mean moduli of M W, where W has the moduli of V times random factors of both signs
    and sizes between 1/2 and 3/2: by signs alone, or one draw, a row can seem small by chance.
    Unlike ‖M‖ ‖v‖ they do not depend on the units of the unknowns, nor on a large entry where V is
    small.
    """
    if M is None:
        return np.abs(V)
    rng, sizes = np.random.default_rng(M.getOwnershipRange()[0]), np.zeros(V.shape)
    for _ in range(PROBES):
        factors = rng.choice([-1.0, 1.0], V.shape) * rng.uniform(0.5, 1.5, V.shape)
        sizes += np.abs(times(M, (factors * np.abs(V)).astype(V.dtype), adjoint)) / PROBES
    return sizes


@contextlib.contextmanager
def options_set(petsc: Library, prefix: str, options: dict[str, Any]) -> Iterator[None]:
    """Give PETSc options for the time inside."""
    for name, value in options.items():
        petsc.set_option(prefix + name, value)
    try:
        yield
    finally:
        for name in options:
            petsc.PETSc.Options().delValue(prefix + name)


def refuse_unused(petsc: Library, prefix: str, options: Any, argument: str) -> None:
    """Raise if there are options that nothing has read."""
    unused = petsc.unused(prefix, options)
    if unused:
        raise InputError(
            f"`petsc.eigensolver({argument}=...)`: options that SLEPc or PETSc reads in this run; "
            f"got {', '.join(unused)}. Look up their names in its manual, without the dash."
        )


class Forward:
    """Find the k eigenpairs nearest to a shift, and one more that shows whether k cuts a cluster.

    Args:
        petsc: the libraries.
        k, sigma: how many eigenpairs, and the shift.
        hermitian: whether A and B are Hermitian and B positive definite.
        options: of SLEPc and PETSc, by their names without the dash.
    """

    def __init__(
        self, petsc: Library, k: int, sigma: Any, hermitian: bool, options: dict[str, Any]
    ):
        self.petsc, self.k, self.sigma, self.hermitian = petsc, k, sigma, hermitian
        self.options = options
        self.steps = 0

    def __call__(self, A: Any, B: Any, prefix: str) -> Found:
        """Return the eigenpairs of the pencil."""
        n = A.getSize()[0]
        if self.k > n:
            raise InputError(
                f"`petsc.eigensolver(problem=...)`: at most n = {n} pairs; got k = {self.k}. Ask "
                "for fewer."
            )
        if not self.hermitian and not least(A.getComm().tompi4py(), A.getLocalSize()[0]):
            raise InputError(
                "`petsc.eigensolver(problem=General(...))`: rows of the matrices on every rank, "
                f"which SLEPc needs for left eigenvectors; got a rank without any of the {n}. "
                "Start fewer ranks, or distribute the rows evenly."
            )
        eps, usual = self._solver(A, B, min(self.k + 1, n), prefix)
        with options_set(self.petsc, prefix, usual | self.options):
            lam, X, Y = self._all(eps, A, prefix)
        order = np.argsort(np.abs(lam - self.sigma), kind="stable")
        rest = lam[order[self.k :]]
        order = order[: self.k]
        if self.hermitian:
            order = order[np.argsort(lam[order], kind="stable")]
        lam, X = lam[order], X[:, order]
        return self._checked(eps, A, B, lam, X, None if Y is None else Y[:, order], rest)

    def _all(self, eps: Any, A: Any, prefix: str) -> tuple[np.ndarray, np.ndarray, Any]:
        """Run the solver; return the eigenvalues, and right and left eigenvectors."""
        self._run(eps, prefix)
        found = min(eps.getConverged(), self.k + 1)
        if found < self.k:
            raise self._not_converged(eps, found, self.k)
        lam, X, Y = self._collect(eps, A, found)
        if self.hermitian:
            lam, X = self._completed(eps, A, lam, X, prefix)
        return lam, X, Y

    def _completed(
        self, eps: Any, A: Any, lam: np.ndarray, X: np.ndarray, prefix: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the eigenpairs, and those that a Krylov space of one vector has missed.

        It has one eigenvector of each repeated eigenvalue, and further ones by rounding alone. So
        the nearest eigenpair outside of the known ones is sought, until it is not among the k.
        """
        while lam.size < A.getSize()[0]:
            known = [A.createVecRight() for _ in range(lam.size)]
            for vector, column in zip(known, X.T, strict=True):
                vector.setArray(column)
            eps.setDeflationSpace(known)
            eps.setDimensions(1)
            self._run(eps, prefix)
            for vector in known:
                vector.destroy()
            if not eps.getConverged():
                raise self._not_converged(eps, 0, 1)
            more, vectors, _ = self._collect(eps, A, 1)
            farthest = np.sort(np.abs(lam - self.sigma))[self.k - 1]
            lam, X = np.append(lam, more), np.concatenate([X, vectors], axis=1)
            if not np.abs(more[0] - self.sigma) < farthest:
                break
        return lam, X

    def _not_converged(self, eps: Any, found: int, wanted: int) -> EigensolverError:
        return EigensolverError(
            f"`petsc.eigensolver(...)`: convergence; got {found} of {wanted} pairs after "
            f"{eps.getIterationNumber()} iterations. Give a `sigma` near the wanted values, or "
            "options such as `eps_ncv`, `eps_max_it` or `eps_tol`."
        )

    def _solver(self, A: Any, B: Any, wanted: int, prefix: str) -> tuple[Any, dict[str, Any]]:
        """Return a solver of SLEPc, and its usual options."""
        SLEPc = self.petsc.SLEPc
        eps = SLEPc.EPS().create(A.getComm())
        eps.setOperators(A, B)
        kinds, generalised = SLEPc.EPS.ProblemType, B is not None
        if self.hermitian:
            eps.setProblemType(kinds.GHEP if generalised else kinds.HEP)
            for mat in (A, B):
                if mat is not None:
                    mat.setOption(self.petsc.PETSc.Mat.Option.HERMITIAN, True)
        else:
            eps.setProblemType(kinds.GNHEP if generalised else kinds.NHEP)
            eps.setTwoSided(True)
        eps.setDimensions(wanted)
        eps.setTarget(self.sigma)
        eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
        usual: dict[str, Any] = {"st_type": "sinvert", "st_ksp_type": "preonly"}
        usual |= {"st_pc_type": "lu", "eps_tol": float(np.finfo(float).eps) ** TOLERANCE}
        usual["st_pc_factor_mat_solver_type"] = self.petsc.direct_solver
        eps.setOptionsPrefix(prefix)
        self.wanted = wanted, eps.getWhichEigenpairs(), eps.getTarget()
        return eps, usual

    def _run(self, eps: Any, prefix: str) -> None:
        try:
            eps.setFromOptions()
            self._refuse_others(eps)
            eps.solve()
        except (self.petsc.PETSc.Error, SystemError) as error:
            raise EigensolverError(
                "`petsc.eigensolver(...)`: a run without errors; got "
                f"{self.petsc.complaint(error)}. If `sigma` is an eigenvalue, choose another; if "
                "`options` name a method, look up in SLEPc's manual what it needs."
            ) from error
        self.steps += eps.getIterationNumber()
        refuse_unused(self.petsc, prefix, self.options, "options")

    def _refuse_others(self, eps: Any) -> None:
        """Raise if options have changed which eigenpairs are found."""
        least, which, target = self.wanted
        same = eps.getWhichEigenpairs() == which and eps.getTarget() == target
        if not (same and eps.getDimensions()[0] <= least):
            raise InputError(
                "`petsc.eigensolver(options=...)`: the eigenpairs nearest to `sigma`; got options "
                "that ask for others. Give `sigma` and the problem's k instead."
            )

    def _collect(self, eps: Any, A: Any, found: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return the eigenvalues, and local rows of right and left eigenvectors."""
        x = A.createVecRight()
        scalar = self.petsc.PETSc.ScalarType
        X = np.empty((x.getLocalSize(), found), scalar)
        Y = None if self.hermitian else np.empty_like(X)
        lam = np.empty(found, float if self.hermitian else complex)
        for i in range(found):
            value = eps.getEigenpair(i, x)
            lam[i] = value.real if self.hermitian else value
            X[:, i] = x.getArray(readonly=True)
            if Y is not None:
                eps.getLeftEigenvector(i, x)
                Y[:, i] = x.getArray(readonly=True)
        x.destroy()
        return lam, X, Y

    def _checked(
        self, eps: Any, A: Any, B: Any, lam: np.ndarray, X: np.ndarray, Y: Any, rest: np.ndarray
    ) -> Found:
        """Return the eigenpairs, normalised, with their residuals."""
        comm = A.getComm().tompi4py()
        if self.hermitian:
            # the Cholesky factor makes vectors of one cluster orthogonal, too
            gram = inner(comm, X, X if B is None else times(B, X))
            X = X @ np.linalg.inv(np.linalg.cholesky((gram + gram.conj().T) / 2)).conj().T
        else:
            X = X / norms(comm, X)
        AX, BX = times(A, X), X if B is None else times(B, X)
        size = norms(comm, AX) + np.abs(lam) * norms(comm, BX)
        R = AX - BX * lam
        residuals = norms(comm, R) / np.where(size > 0, size, 1)
        rounding = self._of_rows(A, B, lam) * most(comm, np.abs(X))
        part, of = (
            norms(comm, np.maximum(sizes - rounding, 0))
            for sizes in (np.abs(R), np.abs(AX) + np.abs(BX * lam))
        )
        excess = np.where(part > 0, part / np.where(of > 0, of, 1), part)
        BY = None if self.hermitian else Y if B is None else times(B, Y, True)
        error = self._errors(A, B, np.append(lam, rest), X, BX, Y)
        pairs = eps, A, B, lam, X, BX, Y, BY, rest, error, residuals, excess
        return Found(*pairs, self.steps, states(A, B))

    def _errors(
        self, A: Any, B: Any, lam: np.ndarray, X: np.ndarray, BX: np.ndarray, Y: Any
    ) -> np.ndarray:
        """Return the rounding errors of eigenvalues, the first of which belong to X."""
        comm = A.getComm().tompi4py()
        terms = [moduli(M, X) for M in (A, B)]
        if self.hermitian:  # |x|ᴴ(|A| + |λ||B|)|x|, as xᴴBx = 1
            of_A, of_B = (total(comm, np.sum(np.abs(X) * term, axis=0)) for term in terms)
        else:  # the solver's errors are relative to norms
            product = np.abs(total(comm, np.sum(Y.conj() * BX, axis=0)))
            scale = norms(comm, Y) / np.where(product > 0, product, np.inf)
            of_A, of_B = (scale * norms(comm, term) for term in terms)
        beyond = lam.size - X.shape[1]
        of_A, of_B = (np.append(part, np.full(beyond, np.max(part))) for part in (of_A, of_B))
        return VALUE * float(np.finfo(float).eps) * (of_A + np.abs(lam) * of_B)

    def _of_rows(self, A: Any, B: Any, lam: np.ndarray) -> np.ndarray:
        """Return the rounding of each local row of A − λᵢB, times a vector of entries near 1.

        No row counts as smaller than their geometric mean, because a solver mixes the rows.
        """
        comm = A.getComm().tompi4py()
        ones = np.ones((A.getLocalSize()[0], 1), self.petsc.PETSc.ScalarType)
        of_A, of_B = (moduli(M, ones) for M in (A, B))
        rows = of_A + np.abs(lam) * of_B
        logs = np.log(np.where(rows > 0, rows, 1))
        count = np.maximum(total(comm, np.sum(rows > 0, axis=0)), 1)
        mean = np.exp(total(comm, np.sum(logs, axis=0)) / count)
        return PRODUCT * float(np.finfo(float).eps) * np.maximum(rows, mean)
