"""What a distributed solve returns, and what a pullback passes to the contraction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._errors import InputError
from ._ranks import together


class Pairs(NamedTuple):
    """Eigenpairs of A x = λ B x, of which each rank has some rows.

    Attributes:
        values: eigenvalues, ascending for `Hermitian`, else by their distance to the shift; the
            same on all ranks; shape (k,).
        vectors: the rows of this rank; xᴴBx = 1 for `Hermitian`, else ‖x‖ = 1; shape (m, k).
        rows: the first of these rows, and one after the last.
        residuals: ‖A x − λ B x‖ / (‖A x‖ + |λ| ‖B x‖); shape (k,).
        stats: counts: the steps of the forward solve.

    Examples:
        >>> import numpy as np
        >>> from implicit_eig import Hermitian, petsc
        >>> diagonal = petsc.Entries(lambda p: p, np.arange(4), np.arange(4), 4)
        >>> pairs, _ = petsc.eigensolver(diagonal, Hermitian(1))(np.array([2.0, 3.0, 5.0, 1.0]))
        >>> pairs.values.round(6).tolist(), pairs.vectors.shape, pairs.rows
        ([1.0], (4, 1), (0, 4))
    """

    values: np.ndarray
    vectors: np.ndarray
    rows: tuple[int, int]
    residuals: np.ndarray
    stats: dict[str, int]


class Contraction:
    """The vectors that a gradient is made of: Re Σᵢ wᵢᴴ Ȧ xᵢ + vᵢᴴ Ḃ xᵢ is the change of the loss.

    Attributes:
        X, W, V: their rows on this rank; shape (m, k). Without a B, V means nothing.
        values: the eigenvalues.

    Examples:
        >>> import numpy as np
        >>> from implicit_eig import Hermitian, petsc
        >>> diagonal = petsc.Entries(lambda p: p, np.arange(4), np.arange(4), 4)
        >>> contract = lambda p, given: np.sum((given.W.conj() * given.X).real, axis=1)
        >>> solve = petsc.eigensolver(diagonal, Hermitian(1), contract=contract)
        >>> _, pullback = solve(np.array([2.0, 3.0, 5.0, 1.0]))
        >>> pullback(np.ones(1)).round(6).tolist()
        [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, comm: Any, petsc: Any, template: Any, values: Any, X: Any, W: Any, V: Any):
        self.X: np.ndarray = X
        self.W: np.ndarray = W
        self.V: np.ndarray = V
        self.values: np.ndarray = values
        self._comm, self._petsc, self._template = comm, petsc, template

    def at(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X, W and V at some of the n rows, wherever they lie; each (len(indices), k).

        All ranks have to call it, each with its own indices.
        """
        PETSc, n = self._petsc, self._template.getSize()
        # by the communicator of the solve, by which a rank that has failed takes part
        indices = together(
            self._comm, "indices of rows", global_rows, "Contraction.at(indices)", indices, n
        )
        source = self._template.duplicate()
        target = PETSc.Vec().createSeq(len(indices), comm=PETSc.COMM_SELF)
        places = PETSc.IS().createGeneral(indices.astype(PETSc.IntType), comm=PETSc.COMM_SELF)
        scatter = PETSc.Scatter().create(source, places, target, None)
        out = []
        for block in (self.X, self.W, self.V):
            found = np.empty((len(indices), block.shape[1]), block.dtype)
            for i, column in enumerate(block.T):
                source.setArray(column)
                scatter.scatter(source, target)
                found[:, i] = target.getArray(readonly=True)
            out.append(found)
        for thing in (scatter, places, target, source):
            thing.destroy()
        return out[0], out[1], out[2]


def global_rows(argument: str, indices: Any, n: int) -> np.ndarray:
    """Return numbers of rows or columns as an array, or raise `InputError`."""
    array = np.asarray(indices)
    whole = np.issubdtype(array.dtype, np.integer) and array.ndim == 1
    if not (whole and (array.size == 0 or 0 <= array.min() <= array.max() < n)):
        raise InputError(
            f"`{argument}`: a vector of integers in [0, {n}); got an array of {array.dtype} of "
            f"shape {array.shape}. Give global places, counted from 0."
        )
    return array


def matrices(found: Any) -> tuple[Any, Any]:
    """Return A and B, `None` for none, of what `assemble` returned."""
    if isinstance(found, Sequence):
        if len(found) not in (1, 2):
            raise InputError(
                "`petsc.eigensolver(assemble=...)`: A, or A and B; got "
                f"{len(found)} parts. Return one or two matrices."
            )
        A, B = (*found, None)[:2]
        return A, B
    return found, None
