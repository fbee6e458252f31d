"""Operators in the forms that JAX code, host code and code with complex vectors receive.

Host code receives entries where they are known. For other operators it receives a SciPy operator,
which requests its products from the program by reverse communication.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jaxtyping import Array, Inexact, PyTree

from .._errors import InputError
from ..host.reverse_communication import Product, current
from . import (
    apply,
    apply_adjoint,
    apply_complex,
    has_entries,
)
from .function_operator import FunctionOperator
from .host_operator import AbstractHostMatrix, HostOperator
from .packed import PackedOperator, register_sparse
from .sparse import SparseOperator


def traced_view(operator: lx.AbstractLinearOperator) -> Any:
    """Return the operator as JAX code expects it: an array, or a lineax operator."""
    if isinstance(operator, lx.MatrixLinearOperator):
        return operator.matrix
    if isinstance(operator, PackedOperator):
        return SparseOperator(*operator.entries(), operator.pattern.shape)
    if isinstance(operator, FunctionOperator):
        return operator.operator
    return operator


class ComplexView(lx.AbstractLinearOperator):
    """An operator, real or complex, that multiplies complex vectors."""

    operator: lx.AbstractLinearOperator

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """Return A x, shape (m,)."""
        return apply_complex(self.operator, vector[:, None])[:, 0]

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n), for tests and small problems."""
        matrix = self.operator.as_matrix()
        return matrix.astype(jnp.result_type(matrix.dtype, jnp.complex64))

    def transpose(self) -> "ComplexView":
        """Return Aᵀ, shape (n, m)."""
        return ComplexView(self.operator.transpose())

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of x."""
        return _as_complex(self.operator.in_structure())

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of A x."""
        return _as_complex(self.operator.out_structure())


register_sparse(ComplexView)


@lx.conj.register(ComplexView)
def _(operator: ComplexView) -> ComplexView:
    return ComplexView(lx.conj(operator.operator))


def _as_complex(structure: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(structure.shape, np.result_type(structure.dtype, np.complex64))


class Remote(eqx.Module):
    """An operator that the program holds: host code requests its products by number.

    Args:
        like: the operator's vectors, x (n,) and A x (m,).
        number: that of the product A x.
        adjoint: that of the product Aᴴ y; `None` where JAX cannot transpose A, with `reason`.
    """

    like: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct] = eqx.field(static=True)
    number: int = eqx.field(static=True)
    adjoint: int | None = eqx.field(static=True)
    reason: str = eqx.field(static=True)

    def view(self, i: int = 0) -> spla.LinearOperator:
        """Return SciPy operator i of this form; called on the thread of the host code."""
        n, m = (end.shape[0] for end in self.like)
        dtype, ask = self.like[0].dtype, current().ask

        def product(X: np.ndarray) -> np.ndarray:
            return _ask_columns(ask, self.number, i, X, dtype)

        def adjoint(Y: np.ndarray) -> np.ndarray:
            if self.adjoint is None:
                raise InputError(
                    "Products Aᴴ y of a matrix-free operator: a function that JAX can transpose; "
                    f"got one that it cannot ({self.reason}). Use a solver that needs A x alone."
                )
            return _ask_columns(ask, self.adjoint, i, Y, dtype)

        return product_view((m, n), dtype, product, adjoint)


def _ask_columns(
    ask: Callable[..., np.ndarray], number: int, i: int, X: np.ndarray, dtype: Any
) -> np.ndarray:
    """Return the products of the columns of X, complex ones of a real operator by parts."""
    if np.iscomplexobj(X) and not np.issubdtype(dtype, np.complexfloating):
        real, imag = (
            _ask_columns(ask, number, i, part, dtype) for part in (np.real(X), np.imag(X))
        )
        return real + 1j * imag
    return np.stack([ask(number, i, np.asarray(x, dtype)) for x in X.T], axis=1)


def remote(tree: PyTree, hermitian: bool = False) -> tuple[PyTree, tuple[Product, ...]]:
    """Return `tree` with operators of unknown entries replaced by `Remote` ones, and products.

    Args:
        tree: holds canonical operators.
        hermitian: whether Aᴴ y is A y.
    """
    products: list[Product] = []

    def is_leaf(leaf: Any) -> bool:
        return isinstance(leaf, lx.AbstractLinearOperator) and not isinstance(leaf, ComplexView)

    def replace(leaf: Any) -> Any:
        if not is_leaf(leaf) or has_entries(leaf):
            return leaf
        like: Any = leaf.in_structure(), leaf.out_structure()
        back = None if hermitian else _AdjointTimes(leaf)
        return offer(products, _Times(leaf), back, like)

    return jax.tree.map(replace, tree, is_leaf=is_leaf), tuple(products)


def offer(products: list[Product], times: Any, adjoint_times: Any, like: tuple) -> Remote:
    """Return the operators x -> times(i, x), added to the `products` that host code may request.

    `adjoint_times` is their adjoint, `None` where it is `times` itself. One that JAX cannot derive
    is not added.
    """
    number = len(products)
    products.append(Product(times, *like))
    if adjoint_times is None:
        return Remote(like, number, number, "")
    adjoint = Product(adjoint_times, *like[::-1])
    try:
        jax.eval_shape(adjoint, jnp.int32(0), like[1])
    except Exception as error:  # of any kind, because a user's function is transposed
        return Remote(like, number, None, str(error))
    products.append(adjoint)
    return Remote(like, number, number + 1, "")


class _Times(eqx.Module):
    operator: lx.AbstractLinearOperator

    def __call__(self, i: Any, x: Array) -> Array:
        return apply(self.operator, x[:, None])[:, 0]


class _AdjointTimes(eqx.Module):
    operator: lx.AbstractLinearOperator

    def __call__(self, i: Any, x: Array) -> Array:
        return apply_adjoint(self.operator, x[:, None])[:, 0]


def host_view(operator: lx.AbstractLinearOperator | Remote) -> Any:
    """Return the operator as a host solver expects it; its leaves must be concrete.

    A dense one is a `numpy.ndarray` that the solver may overwrite, a sparse one a SciPy
    CSR matrix, a `Remote` one a `scipy.sparse.linalg.LinearOperator`.
    """
    if isinstance(operator, lx.MatrixLinearOperator):
        return np.array(operator.matrix)
    if isinstance(operator, PackedOperator):
        layout = operator.pattern.layout
        # copied, because the solver may sort, prune or overwrite it
        parts = [np.asarray(operator.data)[layout.order], layout.indices, layout.indptr]
        matrix: Any = sp.csr_matrix(tuple(map(np.array, parts)), shape=operator.pattern.shape)
        matrix.has_canonical_format = True
        return matrix
    if isinstance(operator, SparseOperator):
        entries = np.asarray(operator.data), tuple(map(np.asarray, operator.places()))
        return sp.csr_matrix(entries, shape=operator.shape)
    if isinstance(operator, AbstractHostMatrix):
        return operator.host_matrix()
    if isinstance(operator, Remote):
        return operator.view()
    raise NotImplementedError(f"host view of {type(operator).__name__}")


def solver_view(operator: lx.AbstractLinearOperator | Remote) -> Any:
    """Return the same for a forward solver, with matrices assembled on the host unconverted."""
    return operator.assembled() if isinstance(operator, HostOperator) else host_view(operator)


def product_view(
    shape: tuple[int, int],
    dtype: Any,
    product: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
) -> spla.LinearOperator:
    """Return a SciPy operator from A X and Aᴴ X on arrays X of two dimensions."""

    def on_vectors(fn: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: fn(x.reshape(-1, 1)).reshape(-1)

    return spla.LinearOperator(  # pyright: ignore[reportCallIssue]
        shape,
        matvec=on_vectors(product),  # pyright: ignore[reportCallIssue]
        rmatvec=on_vectors(adjoint),  # pyright: ignore[reportCallIssue]
        matmat=product,  # pyright: ignore[reportCallIssue]
        rmatmat=adjoint,  # pyright: ignore[reportCallIssue]
        dtype=dtype,  # pyright: ignore[reportCallIssue]
    )
