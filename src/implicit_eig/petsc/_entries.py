"""Distributed matrices whose entries on each rank are a JAX function of its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._errors import InputError
from ..solvers._slepc import library
from ._ranks import agree, together
from ._state import Contraction, global_rows


class Entries:
    """Assemble A, or A and B, from the entries that each rank computes; with its contraction.

    Args:
        entries: a JAX function of this rank's parameters that returns a, or a and b: the values of
            the rank's entries of A and of B, at the same places; shape (e,).
        rows: their rows in the whole matrix; NumPy, shape (e,). Entries at one place add up, also
            those of different ranks, as in an assembly by elements.
        cols: their columns, likewise.
        n: the number of rows of the whole matrices.
        comm: the communicator, `None` for all ranks. PETSc divides the rows evenly.

    The gradient of complex parameters is that of JAX, the conjugate of the direction of ascent.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import implicit_eig as ie
        >>> place = np.arange(8)  # on a single rank
        >>> spring = lambda p: (p * jnp.arange(1.0, 9.0), jnp.ones(8))
        >>> assembly = ie.petsc.Entries(spring, place, place, 8)
        >>> solve = ie.petsc.eigensolver(assembly, ie.Hermitian(2), sigma=0.5)
        >>> pairs, pullback = solve(np.full(8, 3.0))
        >>> pairs.values.round(6).tolist()
        [3.0, 6.0]
        >>> pullback(np.array([1.0, 0.0])).round(6).tolist()[:2]
        [1.0, 0.0]
    """

    def __init__(
        self,
        entries: Callable[[Any], Any],
        rows: np.ndarray,
        cols: np.ndarray,
        n: int,
        comm: Any = None,
    ):
        petsc = library("petsc.Entries(...)").PETSc
        self.entries, self.n, self.petsc = entries, n, petsc
        self.comm = petsc.COMM_WORLD if comm is None else petsc.Comm(comm)
        together(self.comm.tompi4py(), "places inside of the matrix", self._place, rows, cols)

    def _place(self, rows: Any, cols: Any) -> None:
        self.rows, self.cols = (
            global_rows(f"petsc.Entries({name}=...)", places, self.n).astype(self.petsc.IntType)
            for name, places in (("rows", rows), ("cols", cols))
        )
        if self.rows.shape != self.cols.shape:
            raise InputError(
                "`petsc.Entries(rows=..., cols=...)`: as many rows as columns; got "
                f"{self.rows.size} and {self.cols.size}. Give both for each entry."
            )
        self.needed, places = np.unique(np.concatenate([self.rows, self.cols]), return_inverse=True)
        self.at_rows, self.at_cols = places[: self.rows.size], places[self.rows.size :]

    def __call__(self, p: Any) -> tuple[Any, ...]:
        """Return the matrices; all ranks have to call it."""
        comm = self.comm.tompi4py()
        parts = together(comm, "entries", self._values, p)
        agree(comm, "numbers of matrices", np.asarray(len(parts)))
        mats = []
        for values in parts:
            mat = self.petsc.Mat().create(comm=self.comm)
            mat.setSizes((self.n, self.n))
            mat.setType("aij")
            mat.setPreallocationCOO(self.rows.copy(), self.cols.copy())  # PETSc sorts them
            mat.setValuesCOO(values, self.petsc.InsertMode.ADD_VALUES)
            mats.append(mat)
        return tuple(mats)

    def _values(self, p: Any) -> list[np.ndarray]:
        found = self.entries(p)
        found = found if isinstance(found, tuple) else (found,)
        if len(found) not in (1, 2):
            raise InputError(
                f"`petsc.Entries(entries=...)`: a, or a and b; got {len(found)} parts. Return the "
                "entries of one or two matrices."
            )
        out, scalar = [], np.dtype(self.petsc.ScalarType)
        for name, part in zip("ab", found, strict=False):
            values = np.asarray(part)
            if values.shape != self.rows.shape:
                raise InputError(
                    f"`petsc.Entries(entries=...)`: a value for each place in {name}, shape "
                    f"{self.rows.shape}; got {values.shape}. Return as many as `rows` has."
                )
            if np.iscomplexobj(values) and scalar.kind != "c":
                raise InputError(
                    f"`petsc.Entries(entries=...)`: real entries, because this PETSc was built for "
                    f"real numbers; got {values.dtype}. Install `dolfinx-solver-complex`."
                )
            out.append(values.astype(scalar))
        return out

    def contract(self, p: Any, pairs: Contraction) -> Any:
        """Return this rank's part of the gradient."""
        X, W, V = pairs.at(self.needed)
        return together(self.comm.tompi4py(), "a contraction", self._pull, p, X, W, V)

    def _pull(self, p: Any, X: np.ndarray, W: np.ndarray, V: np.ndarray) -> Any:
        found, pull = jax.vjp(self.entries, p)
        tuple_like = isinstance(found, tuple)
        bars = []
        for part, Y in zip(found if tuple_like else (found,), (W, V), strict=False):
            bar: Any = np.sum(Y[self.at_rows].conj() * X[self.at_cols], axis=1)
            bar = bar if np.iscomplexobj(part) else bar.real
            bars.append(bar.astype(part.dtype))
        return jax.tree.map(np.asarray, pull(tuple(bars) if tuple_like else bars[0])[0])
