"""What a run of SLEPc has found.

Left eigenvectors y, yᴴA = λ yᴴB, come from a two-sided run. SLEPc's are wrong at times where PETSc
has real numbers and there is a shift, so they are verified here, and left out where they fail:
`eigensolver` then finds them by transposed solves.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.linalg as spla

from ._slepc import Run


class Found(NamedTuple):
    """Eigenvalues, eigenvectors and perhaps left ones."""

    lam: Any
    X: Any
    Y: Any = None

    def each(self, change: Any) -> "Found":
        """Return them with each part changed."""
        return Found(*(None if part is None else change(part) for part in self))

    def real_if(self, expected: bool) -> "Found":
        """Return the real parts, if they are expected and the imaginary ones are rounding."""
        rounding = float(np.finfo(self.X.dtype).eps) ** 0.5
        sizes = [np.max(np.abs(np.imag(part)), initial=0) for part in parts(self)]
        return self.each(np.real) if expected and max(sizes) <= rounding else self


def collect(run: Run, solver: Any, n: int, left: bool) -> Found:
    """Return the eigenpairs that have converged, from a PETSc of real numbers in two parts."""
    x, imag = run.empty(n), run.empty(n)

    def vector() -> np.ndarray:
        if run.petsc.is_complex:
            return np.array(x.getArray())
        return x.getArray() + 1j * imag.getArray()

    lam, X, Y = [], [], []
    for i in range(solver.getConverged()):
        lam.append(complex(solver.getEigenpair(i, x, imag)))
        X.append(vector())
        if left:
            solver.getLeftEigenvector(i, x, imag)
            Y.append(vector())
    return Found(np.asarray(lam), np.stack(X, axis=1), np.stack(Y, axis=1) if left else None)


def with_upper(found: Found) -> Found:
    """Return the pairs of real operators, with Im λ > 0 where the conjugate was not found.

    Where k cuts a conjugate pair the result is then deterministic.
    """
    lam = found.lam
    scale = np.max(np.abs(lam)) * float(np.finfo(lam.dtype).eps) ** 0.5
    distance = np.abs(lam[:, None] - lam.conj()[None, :])
    alone = (lam.imag < -scale) & (np.min(distance, axis=1) > scale)
    return found.each(lambda part: np.where(alone, part.conj(), part))


def verified(run: Run, found: Found) -> Found:
    """Return the eigenpairs, without left eigenvectors if one of them is none."""
    Y = found.Y
    if Y is None:
        return found
    AY, *rest = (_adjoint(M, Y) for M in run.given)
    BY = (rest[0] if rest else Y) * found.lam.conj()
    norm = lambda Z: np.linalg.norm(Z, axis=0)  # noqa: E731
    right = norm(AY - BY) <= float(np.finfo(run.dtype).eps) ** 0.5 * (norm(AY) + norm(BY))
    return found if np.all(right) else found._replace(Y=None)


def _adjoint(M: Any, Y: np.ndarray) -> Any:
    return M.H @ Y if isinstance(M, spla.LinearOperator) else M.conj().T @ Y


def parts(found: Found) -> tuple[np.ndarray, ...]:
    """Return what there is."""
    return tuple(part for part in found if part is not None)
