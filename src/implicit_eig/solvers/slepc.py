"""Problems of all kinds by SLEPc: EPS for pencils, SVD, PEP for polynomials, NEP for functions.

A `Nonlinear` problem whose T is a polynomial is solved by PEP, which finds the nearest eigenvalues
wherever they are; of NEP's methods the one that does so too, in a disc, is the default.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._errors import InputError
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.factorizations import Shift, shift
from ._abstract import AbstractForwardSolver, kind_of, start_vectors
from ._slepc import Run, library
from ._slepc_found import Found, collect, parts, verified, with_upper
from ._slepc_split import Terms, terms_of
from ._which import FIRST, FIRST_OF_REAL, by_pairs, check_which

# The methods of EPS that take a preconditioner and a block of vectors to start from.
PRECONDITIONED = ("gd", "jd", "lobpcg", "rqcg", "blopex")
# The relative distance to a start at which these methods begin.
BESIDE = 1e-4
# SLEPc's name of each word. It has no word for |Im λ|.
WHICH = {
    "LM": "LARGEST_MAGNITUDE",
    "SM": "SMALLEST_MAGNITUDE",
    "LA": "LARGEST_REAL",
    "SA": "SMALLEST_REAL",
    "LR": "LARGEST_REAL",
    "SR": "SMALLEST_REAL",
}
# The words for each kind of problem, the default first; `Nonlinear` needs a shift.
WORDS = {
    "Hermitian": ("SA", "LA", "LM", "SM"),
    "General": ("LM", "SM", "LR", "SR"),
    "Subspace": ("LM", "SM", "LR", "SR"),
    "Polynomial": ("LM", "SM", "LR", "SR"),
    "Singular": ("LM", "SM"),
    "Nonlinear": (),
}


class Slepc(AbstractForwardSolver):
    """Find eigenpairs or singular triplets by SLEPc; made by `slepc`."""

    name = "slepc"

    def __init__(
        self,
        k: int | None,
        sigma: Shift | None,
        which: str | None,
        left: bool | None,
        split: Callable[..., Any] | None,
        radius: float | None,
        options: dict[str, Any],
    ):
        self.k = k
        self.sigma = sigma
        self.which = which
        self.left = left
        self.split = split
        self.radius = radius
        self.options = options
        self.kind = "Hermitian"

    def suited_to(self, problem: Any) -> "Slepc":
        """Return the solver for the kind of a problem, with its k."""
        solver = copy.copy(super().suited_to(problem))
        solver.kind = kind = kind_of(problem) or "General"
        if self.left is None:
            solver.left = problem.left if kind == "General" else False
        if self.which is not None:
            check_which("slepc", self.which, WORDS[kind])
        if solver.left and kind != "General":
            raise InputError(
                f"`solvers.slepc(left=True)`: a `General` problem; got `{kind}`. Leave it out."
            )
        if (self.split is None) == (kind == "Nonlinear"):
            raise InputError(
                "`solvers.slepc(split=...)`: the terms of T(λ) of a `Nonlinear` problem, and of no "
                f"other; got `{kind}` with split={self.split}. Describe T as "
                "`split=lambda *args: [(matrix, function), ...]`."
            )
        return solver

    def __call__(self, *operators: Any, start: Any = None, sigma: Any = None) -> tuple[Any, ...]:
        """Return as many pairs as have converged, or triplets, the most wanted first."""
        petsc = library()
        sigma = self.sigma if sigma is None else shift(sigma)
        self._check_shift(sigma, petsc.is_complex)
        kind, terms = self.kind, None
        if kind == "Nonlinear":
            terms = terms_of(self.split, operators, petsc)
            operators = terms.matrices
            if terms.is_polynomial and "nep_type" not in self.options:
                kind, operators = "Polynomial", terms.coefficients()
        run = Run(petsc, operators, f"slepc(k={self.k or 1})")
        try:
            if kind == "Singular":
                return self._triplets(run, start)
            if kind == "Polynomial":
                return parts(self._of_polynomial(run, sigma, start))
            if kind == "Nonlinear" and terms is not None:
                return parts(self._of_terms(run, terms, sigma, start))
            return self._of_pencil(run, sigma, start)
        finally:
            run.end()

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver(self.sigma)

    def _check_shift(self, sigma: Shift | None, is_complex: bool) -> None:
        kind = self.kind
        if kind == "Singular" and sigma is not None:
            raise InputError(
                f"`solvers.slepc(sigma=...)`: no shift for singular values; got {sigma}. Choose by "
                "`which`."
            )
        if kind == "Nonlinear" and sigma is None:
            raise InputError(
                "`solvers.slepc(sigma=...)`: a shift, near which the eigenvalues of a `Nonlinear` "
                "problem are sought; got none. Give one."
            )
        if np.iscomplexobj(sigma) and (kind == "Hermitian" or not is_complex):
            why = "eigenvalues are real" if kind == "Hermitian" else "PETSc has real numbers"
            raise InputError(
                f"`solvers.slepc(sigma=...)`: a real shift, because {why}; got {sigma}. Give its "
                "real part, or declare `General` and install `dolfinx-solver-complex`."
            )
        if sigma is not None and self.which not in (None, "LM"):
            raise InputError(
                f"`solvers.slepc(which=...)`: the nearest, 'LM', with a shift; got {self.which!r}. "
                "Leave it out."
            )

    def _of_pencil(self, run: Run, sigma: Shift | None, start: Any) -> tuple[np.ndarray, ...]:
        hermitian, generalised = self.kind == "Hermitian", len(run.given) == 2
        EPS = run.petsc.SLEPc.EPS
        mats = run.matrices(hermitian)
        self._check_k(run.given[0].shape[0])
        eps = run.keep(EPS().create(run.comm))
        eps.setOperators(*mats)
        names = ("NHEP", "GNHEP", "HEP", "GHEP")
        eps.setProblemType(vars(EPS.ProblemType)[names[2 * hermitian + generalised]])
        eps.setTwoSided(bool(self.left))
        preconditioned = self.options.get("eps_type") in PRECONDITIONED
        factorised = run.given if sigma is not None else run.given[1:]
        usual = {} if preconditioned else self._transformation(run, sigma, factorised)
        if preconditioned and not all(map(run.is_known, run.given)):
            usual = {"st_matmode": "shell", "st_pc_type": "none"}
        # of a Krylov space that is closed too early copies of repeated eigenvalues are missing,
        # and the estimates of its residuals, unlike residuals, may become that small
        tolerance = None if preconditioned else 10 * float(np.finfo(run.dtype).eps)
        found = self._found(run, eps, sigma, start, usual, preconditioned, tolerance)
        if not hermitian:
            return parts(verified(run, found))
        return parts(found._replace(lam=found.lam.real).real_if(run.is_real))

    def _of_polynomial(self, run: Run, sigma: Shift | None, start: Any) -> Found:
        self._check_k((len(run.given) - 1) * run.given[0].shape[0])
        pep = run.keep(run.petsc.SLEPc.PEP().create(run.comm))
        pep.setOperators(run.matrices())
        factorised = run.given if sigma is not None else run.given[-1:]
        usual = {"pep_scale": "scalar"} | self._transformation(run, sigma, factorised)
        return self._found(run, pep, sigma, start, usual)

    def _of_terms(self, run: Run, terms: Terms, sigma: Shift | None, start: Any) -> Found:
        PETSc, SLEPc = run.petsc.PETSc, run.petsc.SLEPc
        nep = run.keep(SLEPc.NEP().create(run.comm))
        structure = PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN
        nep.setSplitOperator(run.matrices(), terms.functions(run), structure)
        usual: dict[str, Any] = {"nep_type": "nleigs"}
        interpolates = self.options.get("nep_type", "nleigs") == "nleigs"
        if interpolates and not run.petsc.is_complex:
            raise InputError(
                "`solvers.slepc(radius=...)`: a PETSc of complex numbers, for the interpolation in "
                "a disc; got one of real numbers. Install `dolfinx-solver-complex`, or choose "
                'another method, `options={"nep_type": "slp"}`.'
            )
        if self.radius is not None:
            region = nep.getRG()
            region.setType(SLEPc.RG.Type.ELLIPSE)
            region.setEllipseParameters(sigma, self.radius, 1.0)
        elif interpolates:
            raise InputError(
                "`solvers.slepc(radius=...)`: that of the disc around `sigma` in which eigenvalues "
                "are sought and T(λ) is interpolated, unless T is a polynomial; got none. Give one "
                "that holds k eigenvalues and no singularity of T."
            )
        if all(not isinstance(M, np.ndarray) for M in run.given):
            usual["nep_nleigs_pc_factor_mat_solver_type"] = run.petsc.direct_solver
        return self._found(run, nep, sigma, start, usual)

    def _triplets(self, run: Run, start: Any) -> tuple[np.ndarray, ...]:
        SLEPc, k = run.petsc.SLEPc, self.k or 1
        ((m, n),) = (M.shape for M in run.given)
        self._check_k(min(m, n))
        svd = run.keep(SLEPc.SVD().create(run.comm))
        svd.setOperators(*run.matrices())
        svd.setDimensions(k)
        svd.setTolerances(run.tolerance)
        word = self.which or "LM"
        svd.setWhichSingularTriplets(vars(SLEPc.SVD.Which)[WHICH[word].removesuffix("_MAGNITUDE")])
        V = start_vectors(self.name, start, n, run.dtype)
        if V is not None:
            svd.setInitialSpace(run.vectors(V.sum(axis=1)[:, None]), [])
        run.prepare(svd, self.options, {"svd_type": "trlanczos"})
        run.solve(svd, self.options)
        if svd.getConverged() < k:
            raise run.not_converged(svd)
        u, v = run.empty(m), run.empty(n)
        values, left, right = [], [], []
        for i in range(svd.getConverged()):
            values.append(svd.getSingularTriplet(i, u, v))
            left.append(np.array(u.getArray()))
            right.append(np.array(v.getArray()))
        found = Found(np.asarray(values), np.stack(right, axis=1), np.stack(left, axis=1))
        order = np.argsort(FIRST[word](found.lam), kind="stable")
        return parts(found.real_if(run.is_real).each(lambda part: part[..., order]))

    def _transformation(
        self, run: Run, sigma: Shift | None, factorised: Sequence[Any]
    ) -> dict[str, Any]:
        """Return the usual options of the spectral transformation, which factorises."""
        if not factorised:
            return {}
        usual: dict[str, Any] = {} if sigma is None else {"st_type": "sinvert"}
        usual["st_ksp_rtol"] = run.tolerance  # of an iteration that the user chooses
        if not all(map(run.is_known, factorised)):
            if not any(name.startswith("st_") for name in self.options):
                raise InputError(
                    f"`solvers.{run.call}`: operators of known entries, to factorise "
                    f"{'the last one' if sigma is None else 'their sum at `sigma`'}; got "
                    f"{', '.join(type(M).__name__ for M in factorised)}. Choose a method that "
                    'needs products alone, `options={"eps_type": "jd"}`, or an iteration in place '
                    'of the factors, `{"st_ksp_type": "gmres", "st_pc_type": "none"}`.'
                )
            return usual | {"st_matmode": "shell"}
        usual |= {"st_ksp_type": "preonly", "st_pc_type": "lu"}
        if not any(isinstance(M, np.ndarray) for M in factorised):
            usual["st_pc_factor_mat_solver_type"] = run.petsc.direct_solver
        return usual

    def _found(
        self,
        run: Run,
        solver: Any,
        sigma: Shift | None,
        start: Any,
        usual: dict[str, Any],
        block: bool = False,
        tolerance: float | None = None,
    ) -> Found:
        """Run a solver of eigenpairs, and return those that have converged, in order."""
        n, k, hermitian = run.given[0].shape[0], self.k or 1, self.kind == "Hermitian"
        word = self.which or (WORDS[self.kind][0] if sigma is None else "LM")
        solver.setDimensions(k)
        solver.setTolerances(run.tolerance if tolerance is None else tolerance)
        name = WHICH[word] if sigma is None else "TARGET_MAGNITUDE"
        solver.setWhichEigenpairs(vars(type(solver).Which)[name])
        if sigma is not None:
            solver.setTarget(sigma)
        scalar = run.dtype if hermitian else run.petsc.PETSc.ScalarType
        X = start_vectors(self.name, start, n, scalar)
        if X is not None:
            solver.setInitialSpace(run.vectors(_inexact(X) if block else X.sum(axis=1)[:, None]))
        run.prepare(solver, self.options, usual)
        run.solve(solver, self.options)
        if solver.getConverged() < k:
            raise run.not_converged(solver)
        found = collect(run, solver, n, bool(self.left))
        if run.is_real and not (hermitian or np.iscomplexobj(sigma) or self.split):
            found = with_upper(found)
        first = (FIRST | FIRST_OF_REAL)[word](found.lam)
        first = first if sigma is None else np.abs(found.lam - sigma)
        order = np.argsort(first, kind="stable") if hermitian else by_pairs(first, found.lam)
        return found.each(lambda part: part[..., order])

    def _check_k(self, most: int) -> None:
        if (self.k or 1) > most:
            raise InputError(
                f"`solvers.slepc(k={self.k})`: as many pairs as there are; got operators with "
                f"{most}. Ask for fewer."
            )


def slepc(
    k: int | None = None,
    *,
    sigma: Shift | None = None,
    which: str | None = None,
    left: bool | None = None,
    split: Callable[..., Any] | None = None,
    radius: float | None = None,
    options: dict[str, Any] | None = None,
) -> Slepc:
    """Make a solver for k eigenpairs of a problem of any kind by SLEPc, on one process.

    EPS solves `Hermitian`, `General` and `Subspace` problems, SVD `Singular`, PEP `Polynomial`, and
    NEP `Nonlinear` ones. Matrix-free operators are shell matrices.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        sigma: the shift, real or complex; the eigenvalues nearest to it are found by
            shift-and-invert. Unit: that of the eigenvalues. `None` finds those at an end of the
            spectrum, by products with A; a B is factorised.
        which: without a shift: "SA" (default), "LA", "LM", "SM" of a Hermitian problem; "LM"
            (default), "SM", "LR", "SR" of others; "LM" (default) or "SM" for singular values.
        left: whether a `General` problem's left eigenvectors are found too, by a two-sided run;
            `None` where the problem asks for them. Gradients of eigenvalues then need no solve.
        split: for `Nonlinear`: a function of its arguments, as NumPy arrays and SciPy matrices,
            that returns T(λ) = Σᵢ fᵢ(λ) Aᵢ as a list of pairs (Aᵢ, fᵢ). An f is
            - a list of numbers: a polynomial's coefficients, highest first, as of `numpy.polyval`;
            - a tuple of two such lists: the quotient of two polynomials;
            - a tuple of `numpy.exp`, `numpy.log` or `numpy.sqrt` and a number a: f(aλ);
            - an `FN` object of SLEPc.
        radius: for `Nonlinear`: that of the disc around `sigma` in which T is interpolated, and
            eigenvalues are sought. It has to hold k of them and no singularity of T. Polynomials
            need none.
        options: those of SLEPc and PETSc by their names without the dash, such as
            `{"eps_type": "jd", "eps_ncv": 60, "st_ksp_type": "gmres"}`.

    Returns:
        A solver for `eigensolver`, with the eigenvalues in the order of `which`, or of the distance
        to `sigma`, the most wanted first; of two equal ones that of larger imaginary part comes
        first. The start is the same at every call. `solve(A, start=..., sigma=...)` takes an
        earlier solution, or its vectors, and another shift.

    Raises:
        InputError: slepc4py is not installed; a word or an option is unknown, or not used by the
            run; `sigma` or an operator is complex, and PETSc is not; or a matrix-free operator has
            to be factorised (when run).
        EigensolverError: SLEPc does not converge, or raises an error (when run).

    Cost: with a shift one factorisation, by MUMPS where PETSc has it. Operators of single precision
        are treated in double precision. Where PETSc has complex numbers, real operators take twice
        the memory and up to four times the work.
    Source: Hernandez, Roman & Vidal (2005) ACM Trans. Math. Softw. 31, 351,
        doi:10.1145/1089014.1089019; Güttel, Van Beeumen, Meerbergen & Michiels (2014) SIAM J. Sci.
        Comput. 36, A2842, doi:10.1137/130935045, for `Nonlinear`.

    Examples:
        >>> import numpy as np, jax.numpy as jnp
        >>> from implicit_eig import Nonlinear, eigensolver
        >>> T = lambda lam, x, A, a: A @ x - lam * x - a * jnp.exp(-lam) * x
        >>> split = lambda A, a: [(A, [1]), (-np.eye(2), [1, 0]), (-a * np.eye(2), (np.exp, -1))]
        >>> solve = eigensolver(slepc(sigma=1.0, split=split, radius=2.0), Nonlinear(T))
        >>> A = jnp.array([[1.0 + 0j, 0.0], [0.0, 5.0]])
        >>> float(solve(A, jnp.array(0.1 + 0j)).values[0].real.round(3))  # λ = 1 − 0.1 exp(−λ)
        0.962
    """
    library()
    if which is not None:
        check_which(
            "slepc", which, dict.fromkeys(word for words in WORDS.values() for word in words)
        )
    if radius is not None and split is None:
        raise InputError(
            f"`solvers.slepc(radius={radius})`: a `split`, for a `Nonlinear` problem; got none. "
            "Leave `radius` out."
        )
    options = {name.removeprefix("-"): value for name, value in (options or {}).items()}
    return Slepc(k, shift(sigma), which, left, split, radius, options)


def _inexact(X: np.ndarray) -> np.ndarray:
    """Return vectors beside the given ones, because SLEPc's LOBPCG breaks down at eigenvectors."""
    noise = np.random.default_rng(0).standard_normal(X.shape).astype(X.dtype)
    sizes = np.linalg.norm(X, axis=0) / np.linalg.norm(noise, axis=0)
    return X + BESIDE * noise * sizes.astype(X.dtype)
