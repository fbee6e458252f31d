"""Eigenproblems whose matrices and vectors are spread over the ranks of MPI, by PETSc and SLEPc.

PETSc distributes, SLEPc finds the eigenpairs, and the adjoint systems are solved by KSP with the
factors of the forward solve. Parameters and cotangents are local to each rank.
"""

from ._entries import Entries
from ._solver import DistributedEigensolver, eigensolver
from ._state import Contraction, Pairs

__all__ = ["Contraction", "DistributedEigensolver", "Entries", "Pairs", "eigensolver"]
