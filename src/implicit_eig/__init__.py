"""Bring any eigensolver; get exact, checked derivatives of what it returns."""

from . import bridges, extending, linalg, petsc, plot, solvers, testing
from ._eigensolver import Eigensolver, eigensolver
from ._errors import (
    ClusterWarning,
    EigensolverError,
    ExceptionalPointWarning,
    ForwardWarning,
    GaugeError,
    GaugeWarning,
    HostCallWarning,
    ImplicitEigError,
    InputError,
    LinearSolveError,
    LinearSolveWarning,
    TrackingWarning,
)
from .checks.gauge import gauge_defect
from .checks.policy import Action, Policy, SolveReport
from .crossings.matrix_function import MatrixFunction, matrix_function
from .crossings.one_sided import directional_derivatives
from .crossings.subgradient import minimum_norm_subgradient
from .crossings.tracking import Followed, Tracked, follow, track
from .diagnostics import Diagnosis, diagnose, refine
from .host import traceable
from .implicit.derivatives import (
    ComplexStep,
    FiniteDifferences,
    ForwardMode,
    ReverseMode,
    UserProducts,
    host_function,
)
from .implicit.function import implicit_function
from .linear_solvers.auto import AutoLinearSolver
from .linear_solvers.cache import FactorizationCache, factorization_cache, factorize
from .linear_solvers.cholmod import Cholmod
from .linear_solvers.factorizations import Factorization, SuperLU
from .linear_solvers.functions import linear_solver
from .linear_solvers.host import host_linear_solver
from .linear_solvers.inertia import count_below
from .linear_solvers.lagged import LaggedFactors
from .linear_solvers.ldlt import Ldlt
from .linear_solvers.minres import MINRES
from .linear_solvers.pardiso import Pardiso
from .linear_solvers.shift_invert import ShiftInvert
from .linear_solvers.sparse_direct import SparseDirect
from .operators import SparseOperator
from .operators.host_operator import HostOperator, host_operator
from .problems._abstract import AbstractProblem
from .problems.general import General
from .problems.hermitian import Hermitian
from .problems.nonlinear import Nonlinear
from .problems.normalization import (
    AbstractNormalization,
    BNorm,
    LargestComponent,
    TwoNorm,
    UnitComponent,
)
from .problems.polynomial import Polynomial
from .problems.singular import Singular
from .problems.subspace import Subspace, apply_projector
from .solution import Solution
from .systems._abstract import AbstractFormulation
from .systems.auto import AutoSystem
from .systems.bordered import Bordered
from .systems.deflated import Deflated
from .systems.full_spectrum import FullSpectrum

__version__ = "0.2.0"

__all__ = [
    "MINRES",
    "AbstractFormulation",
    "AbstractNormalization",
    "AbstractProblem",
    "Action",
    "AutoLinearSolver",
    "AutoSystem",
    "BNorm",
    "Bordered",
    "Cholmod",
    "ClusterWarning",
    "ComplexStep",
    "Deflated",
    "Diagnosis",
    "Eigensolver",
    "EigensolverError",
    "ExceptionalPointWarning",
    "Factorization",
    "FactorizationCache",
    "FiniteDifferences",
    "Followed",
    "ForwardMode",
    "ForwardWarning",
    "FullSpectrum",
    "GaugeError",
    "GaugeWarning",
    "General",
    "Hermitian",
    "HostCallWarning",
    "HostOperator",
    "ImplicitEigError",
    "InputError",
    "LaggedFactors",
    "LargestComponent",
    "Ldlt",
    "LinearSolveError",
    "LinearSolveWarning",
    "MatrixFunction",
    "Nonlinear",
    "Pardiso",
    "Policy",
    "Polynomial",
    "ReverseMode",
    "ShiftInvert",
    "Singular",
    "Solution",
    "SolveReport",
    "SparseDirect",
    "SparseOperator",
    "Subspace",
    "SuperLU",
    "Tracked",
    "TrackingWarning",
    "TwoNorm",
    "UnitComponent",
    "UserProducts",
    "apply_projector",
    "bridges",
    "count_below",
    "diagnose",
    "directional_derivatives",
    "eigensolver",
    "extending",
    "factorization_cache",
    "factorize",
    "follow",
    "gauge_defect",
    "host_function",
    "host_linear_solver",
    "host_operator",
    "implicit_function",
    "linalg",
    "linear_solver",
    "matrix_function",
    "minimum_norm_subgradient",
    "petsc",
    "plot",
    "refine",
    "solvers",
    "testing",
    "traceable",
    "track",
]
