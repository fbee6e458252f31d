"""Eigenproblems whose matrices and vectors are spread over the ranks of MPI, by PETSc and SLEPc.

PETSc distributes, SLEPc finds the eigenpairs, and the adjoint systems are solved by KSP with the
factors of the forward solve. Parameters and cotangents are local to each rank.

Examples:
    >>> import numpy as np
    >>> from implicit_eig import Hermitian, petsc
    >>> diagonal = petsc.Entries(lambda p: p**2, np.arange(3), np.arange(3), 3)  # on a single rank
    >>> pairs, pullback = petsc.eigensolver(diagonal, Hermitian(1))(np.array([3.0, 2.0, 5.0]))
    >>> pullback(np.ones(1)).round(6).tolist()  # the gradient of the lowest eigenvalue
    [0.0, 4.0, 0.0]
"""

from ._entries import Entries
from ._solver import DistributedEigensolver, eigensolver
from ._state import Contraction, Pairs

__all__ = ["Contraction", "DistributedEigensolver", "Entries", "Pairs", "eigensolver"]
