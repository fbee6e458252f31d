"""The host side of a `HostOperator`: assembly, products, and contractions."""

import dataclasses
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import PyTree

from .._errors import InputError

# The latest matrices are kept: those of a pencil, or of a polynomial, at a few p.
KEPT = 16
MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The static part of a `HostOperator`: the user's functions, and leaves of p without arrays."""

    assemble: Callable[..., Any]
    contract: Callable[..., Any] | None
    product: Callable[..., Any] | None
    adjoint_product: Callable[..., Any] | None
    shape: tuple[int, int]
    dtype: Any
    treedef: Any
    static: tuple[Any, ...]  # `None` in the place of an array

    def tree(self, arrays: Any, static: tuple[Any, ...]) -> PyTree:
        """Return a pytree shaped like p from its arrays and the rest."""
        arrays, places = iter(arrays), zip(self.static, static, strict=True)
        leaves = [next(arrays) if known is None else other for known, other in places]
        return jax.tree.unflatten(self.treedef, leaves)

    def parameters(self, arrays: Any) -> PyTree:
        """Return p."""
        return self.tree(arrays, self.static)

    def matrix(self, arrays: Any) -> Any:
        """Return A(p), a CSR matrix or an array, read-only; assembled once for each p."""
        key = self, _digest(arrays)
        # held while the user's code runs, so that it runs once, in one thread at a time
        with _lock:
            found = _kept.pop(key, None)
            _kept[key] = self._assembled(arrays) if found is None else found
            while len(_kept) > 1 and (
                len(_kept) > KEPT or sum(map(_size, _kept.values())) > MAX_BYTES
            ):
                _kept.popitem(last=False)
            return _kept[key]

    def _assembled(self, arrays: Any) -> Any:
        given = self.assemble(self.parameters(arrays))
        if not (sp.issparse(given) or isinstance(given, np.ndarray)) or given.shape != self.shape:
            found = f"{type(given).__name__} of shape {np.shape(given)}"
            raise InputError(
                "`host_operator(assemble=...)`: a SciPy sparse matrix or a NumPy array of shape "
                f"{self.shape}; got {found}. Correct `shape`, or what `assemble` returns."
            )
        if np.iscomplexobj(given) and not is_complex(self.dtype):
            raise InputError(
                "`host_operator(dtype=...)`: a dtype that holds what `assemble` returns; got "
                f"{self.dtype}, and {given.dtype} from it. Declare it complex, or return the real "
                "part."
            )
        # copied, because the user's code may write into its arrays in the next call
        if not sp.issparse(given):
            return np.array(given, self.dtype)
        matrix: Any = sp.csr_matrix(given, dtype=self.dtype, copy=True)
        matrix.sum_duplicates()
        return matrix


_kept: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.RLock()


def _size(matrix: Any) -> int:
    return matrix.data.nbytes


def _digest(arrays: Any) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    for array in arrays:
        digest.update(repr((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def is_complex(dtype: Any) -> bool:
    """Return whether numbers of this dtype are complex."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


class View(eqx.Module):
    """A or Aᵀ."""

    assembly: Assembly = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    def like(self, X: Any) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of the product with X."""
        m = self.assembly.shape[1 if self.transposed else 0]
        return jax.ShapeDtypeStruct((m, X.shape[1]), np.result_type(self.assembly.dtype, X.dtype))


class Multiply(eqx.Module):
    """Return A X, real where `dtype` is."""

    view: View
    dtype: Any = eqx.field(static=True)

    def __call__(self, arrays: tuple, X: np.ndarray) -> np.ndarray:
        matrix = self.view.assembly.matrix(arrays)
        Y = (matrix.T if self.view.transposed else matrix) @ X
        return Y if is_complex(self.dtype) else Y.real


class Push(eqx.Module):
    """Return (∂A·ṗ) X by one call of the user's product for each column."""

    view: View

    def __call__(self, arrays: tuple, X: np.ndarray, arrays_dot: tuple) -> np.ndarray:
        assembly, transposed = self.view.assembly, self.view.transposed
        name = "adjoint_product" if transposed else "product"
        product: Any = assembly.adjoint_product if transposed else assembly.product
        p = assembly.parameters(arrays)
        p_dot = assembly.tree(arrays_dot, (None,) * len(assembly.static))
        Y = np.zeros(self.view.like(X).shape, self.view.like(X).dtype)
        for i, x in enumerate(np.ascontiguousarray(X.T)):
            if np.any(x):
                y = np.asarray(product(p, p_dot, x.conj() if transposed else x))
                _check(name, y, Y[:, i])
                Y[:, i] = y.conj() if transposed else y
        return Y


class Pull(eqx.Module):
    """Return p̄ by one call of `contract` for each column; see `_host_operator`."""

    view: View
    moves: tuple[bool, ...] = eqx.field(static=True)

    def __call__(self, arrays: tuple, X: np.ndarray, Y_bar: np.ndarray) -> tuple:
        assembly: Any = self.view.assembly
        p, total = assembly.parameters(arrays), [np.zeros_like(a) for a in arrays]
        for x, w in zip(np.ascontiguousarray(X.T), np.ascontiguousarray(Y_bar.T), strict=True):
            if not (np.any(x) and np.any(w)):
                continue
            left, right = (x, w) if self.view.transposed else (w, x)
            p_bar = assembly.contract(p, left.conj(), right)
            self._add(total, p_bar)
        return tuple(t if moves else None for t, moves in zip(total, self.moves, strict=True))

    def _add(self, total: list[np.ndarray], p_bar: PyTree) -> None:
        assembly = self.view.assembly
        try:
            given = assembly.treedef.flatten_up_to(p_bar)
        except (TypeError, ValueError) as error:
            raise InputError(
                "`host_operator(contract=...)`: a pytree shaped like p; got "
                f"{jax.tree.structure(p_bar)}. Return {assembly.treedef}."
            ) from error
        parts = [bar for bar, known in zip(given, assembly.static, strict=True) if known is None]
        for i, part in enumerate(parts):
            if self.moves[i]:
                part = np.asarray(part)
                part = part if np.iscomplexobj(total[i]) else part.real
                _check("contract", part, total[i])
                total[i] += part.astype(total[i].dtype)


def _check(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    narrowed = np.iscomplexobj(found) and not np.iscomplexobj(expected)
    if found.shape != expected.shape or narrowed:
        raise InputError(
            f"`host_operator({name}=...)`: {expected.dtype} numbers of shape {expected.shape}; got "
            f"{found.dtype} of shape {found.shape}. Correct what it returns."
        )
