"""The solution of an eigenproblem."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Inexact, PyTree, Shaped

from ._table import Column, Table, html_or_plain

if TYPE_CHECKING:
    AnyArray = Array
else:  # on the host the arrays are NumPy's, and before the run they are shapes
    AnyArray = Array | np.ndarray | jax.ShapeDtypeStruct


class Joint(eqx.Module):
    """A basis of the known space in which pairs with near values share a block of S.

    A X = B X S and XᴴBX = I, in the problem's own normalisation: S is diagonal in value, its
    tangent is full inside a block. No gap inside a block is divided by, so that derivatives of
    left f(S) rightᴴ are exact at any gap.

    Attributes:
        S: shape (k, k).
        left: X, shape (n, k); U of singular triplets.
        right: left vectors, or V of singular triplets; `None` for X itself.
    """

    S: Inexact[AnyArray, "k k"]
    left: Inexact[AnyArray, "m k"]
    right: Inexact[AnyArray, "n k"] | None = None


class Solution(eqx.Module):
    """Hold the eigenpairs of a problem; unpacks as `values, vectors = solution`.

    Like a tuple of these two it has a length and items.

    Attributes:
        values: the eigenvalues or singular values, shape (k,); real for a Hermitian problem; unit
            [a]/[b]. For a `Subspace` the block S (k, k).
        vectors: shape (n, k); column i belongs to value i; unit of the normalisation. Of operators
            on tensors or pytrees: in that structure, with a last axis k.
        left_vectors: shape (n, k), or `None` where the problem has none of its own.
        stats: figures of the run that carry no derivative: `"residuals"` (k,), each
            ‖A x − λ B x‖ / (‖A x‖ + |λ| ‖B x‖), and against rounding where that is larger; in the
            1-norm, of `Singular` in the 2-norm. Of `solvers.lobpcg` also `"steps"`
            and `"factorised"`, shape ().

    The order is the solver's. A notebook shows a table of the eigenvalues and residuals.

    Examples:
        >>> import jax.numpy as jnp
        >>> solution = Solution(jnp.array([1.0, 2.0]), jnp.eye(3)[:, :2])
        >>> values, vectors = solution
        >>> values.tolist(), vectors.shape, solution.left_vectors
        ([1.0, 2.0], (3, 2), None)
    """

    values: Shaped[AnyArray, " k"] | Inexact[AnyArray, "k k"]
    vectors: PyTree[Inexact[AnyArray, "... k"]]
    left_vectors: PyTree[Inexact[AnyArray, "... k"]] | None = None
    stats: dict[str, Any] = eqx.field(default_factory=dict)
    # For derivatives at repeated eigenvalues, of a problem whose conditions have a block: the basis
    # before its pairs are taken apart; and the `closeness` of the values.
    # Eigenvalues and vectors beyond the k, where the problem has a guard. Of what the solver
    # returned besides, the eigenvalue nearest to each, NaN if there is none; and the closeness to
    # all of these.
    _joint: Joint | None = eqx.field(default=None, repr=False)
    _near: Float[AnyArray, "k k"] | None = eqx.field(default=None, repr=False)
    _beyond: tuple[Shaped[AnyArray, " g"], Inexact[AnyArray, "n g"]] | None = eqx.field(
        default=None, repr=False
    )
    _rest: Shaped[AnyArray, " k"] | None = eqx.field(default=None, repr=False)
    _edge: Float[AnyArray, " k"] | None = eqx.field(default=None, repr=False)

    def __iter__(self) -> Iterator[PyTree]:
        yield self.values
        yield self.vectors

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int | slice) -> PyTree:
        return tuple(self)[i]

    def _repr_html_(self) -> str:
        return html_or_plain(lambda: _table(self), lambda: repr(self))


def eigenvalues(solution: Solution) -> np.ndarray:
    """Return the eigenvalues of a solution or a batch, also those of the block S of a `Subspace`.

    Args:
        solution: concrete.

    Returns:
        Shape (k,), or (..., k) of a batch. The eigenvalues of a block are NaN where it is not
        finite.

    Examples:
        >>> solution = Solution(np.array([[0.0, 2.0], [1.0, 1.0]]), np.eye(3)[:, :2])
        >>> eigenvalues(solution).tolist()
        [-1.0, 2.0]
    """
    values = np.asarray(solution.values)
    if not _is_block(solution):
        return values
    finite = np.isfinite(values).all(axis=(-2, -1), keepdims=True)
    found = np.linalg.eigvals(np.where(finite, values, 0))
    # of a real block NumPy returns complex eigenvalues, from some version on always
    found = np.real(found) if np.isrealobj(values) and np.isreal(found).all() else found
    return np.sort(np.where(finite[..., 0], found, np.nan), axis=-1)


def _is_block(solution: Solution) -> bool:
    """Return whether `values` is a block S (k, k), rather than a batch of k members."""
    shape = solution.values.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        return False
    if "residuals" in solution.stats:
        return len(solution.stats["residuals"].shape) < len(shape)
    return len(jax.tree.leaves(solution.vectors)[0].shape) <= len(shape)


def _table(solution: Solution) -> Table:
    values = eigenvalues(solution)
    columns = {"value": Column(values, "{:.6g}".format)}
    residuals = np.asarray(solution.stats.get("residuals", ()))
    if residuals.shape == values.shape:
        limit = float(np.sqrt(np.finfo(residuals.dtype).eps))
        columns["residual"] = Column(residuals, attention=~(residuals <= limit))
    else:
        limit = np.nan
    *batch, k = values.shape
    members = f"; batch of {' × '.join(map(str, batch))}" if batch else ""
    notes = [f"vectors: {eqx.tree_pformat(solution.vectors, width=1000)}"]
    if solution.left_vectors is not None:
        notes.append(f"left vectors: {eqx.tree_pformat(solution.left_vectors, width=1000)}")
    notes += [
        f"{name}: {figure}" for name, figure in solution.stats.items() if np.ndim(figure) == 0
    ]
    meaning = f"residuals above {limit:.0e}, of eigenpairs that fulfil their equation poorly"
    return Table(f"Solution, k = {k}{members}", values.shape, columns, notes, meaning)
