"""Matrices that host code assembles from parameters, as operators.

JAX sees Y = A(p) X, a function of p and X. Its value is the product on the host with the matrix,
which is assembled once for each p. Its tangent is

    Ẏ = (∂A·ṗ) X + A Ẋ,

by the user's `product` for each column x, and by the matrix again. In reverse mode JAX pairs
cotangent and tangent by Re Σ ȳᵢ ẏᵢ, without conjugation, so that

    p̄ = Re Σ over columns of Σᵢⱼ ȳᵢ (∂Aᵢⱼ/∂p) xⱼ = Re Σ over columns of contract(p, conj(ȳ), x),

with the real part where p is real, and X̄ = Aᵀ Ȳ. For Y = Aᵀ X the roles of x and ȳ are exchanged:
contract(p, conj(x), ȳ).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax import lax
from jaxtyping import Array, Inexact, PyTree, Shaped

from .. import host
from .._errors import InputError
from .._tangents import moves_of
from ..host._products import linear_map, refuse
from ._assembly import Assembly, Multiply, Pull, Push, View, is_complex
from .packed import register_sparse

_MISSING = (
    "`host_operator({}=...)`: the function {} for {}; got none. Give it; the others cannot stand "
    "in for it."
)
_CONTRACT = _MISSING.format("contract", "(p, y, x) -> Σ ȳᵢ (∂Aᵢⱼ/∂p) xⱼ", "reverse mode")
_PRODUCT = _MISSING.format("product", "(p, p_dot, x) -> (∂A·ṗ) x", "forward mode")
_ADJOINT = _MISSING.format(
    "adjoint_product",
    "(p, p_dot, y) -> (∂A·ṗ)ᴴ y",
    "forward mode where Aᴴ is multiplied, as `Singular` and `General(left=True)` do",
)
_NESTED = (
    "`host_operator(...)`: a first derivative; got a second one, for which `contract` and "
    "`product` say nothing. Differentiate once, or build the entries by JAX (`SparseOperator`)."
)


class AbstractHostMatrix(lx.AbstractLinearOperator):
    """A matrix whose entries are known on the host, but not to JAX."""

    @abc.abstractmethod
    def mm(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """Return A X, shape (m, k), for real X and for complex X."""

    @abc.abstractmethod
    def host_matrix(self) -> sp.csr_matrix:
        """Return the matrix on the host, where the leaves of `self` are concrete; a copy."""

    def mv(self, vector: Inexact[Array, " n"]) -> Inexact[Array, " m"]:
        """Return A x, shape (m,)."""
        return self.mm(vector[:, None])[:, 0]

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the dense matrix, shape (m, n), for tests and small problems."""
        return self.mm(jnp.eye(self.in_size(), dtype=self.in_structure().dtype))


class HostOperator(AbstractHostMatrix):
    """Represent a matrix that host code assembles; made by `host_operator`.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> A = host_operator(lambda p: p * np.eye(2), jnp.array(3.0), shape=(2, 2), dtype=float)
        >>> isinstance(A, HostOperator), A.assembled().tolist()
        (True, [[3.0, 0.0], [0.0, 3.0]])
    """

    arrays: tuple[Shaped[Array | np.ndarray, "..."], ...]
    assembly: Assembly = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)
    conjugated: bool = eqx.field(static=True, default=False)

    def mm(self, X: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """Return A X, shape (m, k), for real X and for complex X."""
        view = View(self.assembly, self.transposed)
        if self.conjugated:
            return _product(self.arrays, X.conj(), view=view).conj()
        return _product(self.arrays, X, view=view)

    def assembled(self) -> Any:
        """Return what `assemble` returned, a CSR matrix or an array, on the host; a copy."""
        matrix = self.assembly.matrix(tuple(map(np.asarray, self.arrays)))
        matrix = matrix.T if self.transposed else matrix
        matrix = matrix.conj() if self.conjugated else matrix
        return sp.csr_matrix(matrix, copy=True) if sp.issparse(matrix) else np.array(matrix)

    def host_matrix(self) -> sp.csr_matrix:
        """Return the matrix on the host as a sparse one; a copy."""
        return sp.csr_matrix(self.assembled())

    def cast(self, dtype: Any) -> "HostOperator":
        """Return the matrix in another dtype; its parameters keep theirs."""
        return dataclasses.replace(self, assembly=dataclasses.replace(self.assembly, dtype=dtype))

    def transpose(self) -> "HostOperator":
        """Return Aᵀ, shape (n, m)."""
        return dataclasses.replace(self, transposed=not self.transposed)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of x."""
        size = self.assembly.shape[0 if self.transposed else 1]
        return jax.ShapeDtypeStruct((size,), self.assembly.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of A x."""
        return self.transpose().in_structure()


register_sparse(HostOperator)


@lx.conj.register(HostOperator)
def _(operator: HostOperator) -> HostOperator:
    return dataclasses.replace(operator, conjugated=not operator.conjugated)


@eqx.filter_custom_jvp
def _product(arrays: tuple, X: Array, *, view: View) -> Array:
    """Return A X, which JAX can transpose as a function of X; see `linear_map`."""
    like, other = view.like(X), View(view.assembly, not view.transposed)

    def solve(_: Any, b: tuple[Array, Array]) -> tuple[Array, Array]:
        U, W = b
        return U, W + host.call(Multiply(view, like.dtype), like, arrays, U)

    def solve_transposed(_: Any, b: tuple[Array, Array]) -> tuple[Array, Array]:
        U, W = b
        shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
        return U + host.call(Multiply(other, X.dtype), shape, arrays, W), W

    # JAX must see both parts as functions of X, and of the cotangent. They are connected as in
    # `linear_map`, but column by column, so that a NaN stays in its column
    def tie(part: Array) -> Array:
        zeros = 0 * jnp.sum(part, axis=0, keepdims=True)
        return jnp.broadcast_to(zeros, like.shape).astype(like.dtype)

    solution: Any = lax.custom_linear_solve(
        lambda b: b, (X, tie(X)), solve, transpose_solve=solve_transposed, symmetric=True
    )
    U, Y = solution
    return Y + tie(U)


@_product.def_jvp
def _product_jvp(primals: tuple, tangents: tuple, *, view: View) -> tuple[Array, Array]:
    (arrays, X), (arrays_dot, X_dot) = primals, tangents
    Y = _product(arrays, X, view=view)
    Y_dot = jnp.zeros_like(Y)
    if jax.tree.leaves(arrays_dot):
        Y_dot = Y_dot + _moved(view, arrays, X, arrays_dot, Y)
    if X_dot is not None:
        Y_dot = Y_dot + _product(arrays, X_dot, view=view)
    return Y, Y_dot


def _moved(view: View, arrays: tuple, X: Array, arrays_dot: tuple, Y: Array) -> Array:
    """Return (∂A·ṗ) X, a linear map with its transpose."""
    assembly, moves = view.assembly, moves_of(arrays_dot)
    at = eqx.internal.nondifferentiable((arrays, X), msg=_NESTED)

    def push(at: Any, v: PyTree) -> Array:
        if (assembly.adjoint_product if view.transposed else assembly.product) is None:
            return refuse(_ADJOINT if view.transposed else _PRODUCT, Y, v)
        still = (jnp.zeros_like(a) if eqx.is_inexact_array(a) else None for a in arrays)
        return host.call(Push(view), view.like(X), *at, eqx.combine(v, tuple(still)))

    def pull(at: Any, Y_bar: Array) -> PyTree:
        like = eqx.filter(arrays, moves)
        if assembly.contract is None:
            return refuse(_CONTRACT, like, Y_bar)
        return host.call(Pull(view, moves), jax.eval_shape(lambda: like), *at, Y_bar)

    return linear_map(push, pull, at, arrays_dot, Y, "host_operator(...)")


def host_operator(
    assemble: Callable[[Any], Any],
    p: PyTree,
    *,
    contract: Callable[[Any, np.ndarray, np.ndarray], Any] | None = None,
    product: Callable[[Any, Any, np.ndarray], Any] | None = None,
    adjoint_product: Callable[[Any, Any, np.ndarray], Any] | None = None,
    shape: tuple[int, int],
    dtype: Any,
) -> HostOperator:
    """Return the matrix A(p) that host code assembles as an operator, differentiable in p.

    The functions run on the host, receive NumPy arrays, and must be pure. Define them once, because
    JAX compiles anew for a function that is new at each call, such as a lambda.

    Args:
        assemble: `assemble(p)` -> A, a SciPy sparse matrix or a NumPy array; shape `shape`.
        p: the parameters, a pytree of arrays; complex ones only where A is holomorphic in them.
            Leaves that are neither arrays nor floats are passed on unchanged.
        contract: `contract(p, y, x)` -> Σᵢⱼ conj(yᵢ) (∂Aᵢⱼ/∂p) xⱼ, a pytree shaped like p, for
            vectors y (m,) and x (n,), which are complex where the eigenvectors are; for reverse
            mode. For real parameters the real part counts.
        product: `product(p, p_dot, x)` -> (∂A·ṗ) x, shape (m,), `p_dot` shaped like p: for forward
            mode.
        adjoint_product: `adjoint_product(p, p_dot, y)` -> (∂A·ṗ)ᴴ y, shape (n,): for forward mode
            of `Singular` and `General(left=True)`, which multiply Aᴴ.
        shape: (m, n).
        dtype: that of the operator; the matrix is cast to it.

    Returns:
        HostOperator: an operator for every kind of problem, under `jit`, `vmap`, `grad` and `jvp`.
        A solver on the host receives what `assemble` returned, sparse matrices as CSR; linear
        solvers treat it as sparse.

    Raises:
        InputError: an argument does not fit (when traced); what a function returns does not, or
            a function is missing for the mode that is asked for (when run).

    Cost: one assembly for each p; the latest matrices are kept by the content of p. Reverse mode
        takes one call of `contract` for each of the k eigenpairs, or, where only eigenvalues are
        differentiated, for each that the loss uses; forward mode takes one call of `product` for
        each. `Singular` and `General(left=True)` take two. ∂A/∂p is never formed. Second
        derivatives with respect to p are refused.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> A = np.diag([1.0, 2.0, 4.0])
        >>> def assemble(p):
        ...     return p * A
        >>> def contract(p, y, x):
        ...     return y.conj() @ A @ x
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1))
        >>> def lowest(p):
        ...     K = host_operator(assemble, p, contract=contract, shape=(3, 3), dtype=p.dtype)
        ...     return solve(K).values[0]
        >>> float(jax.grad(lowest)(jnp.array(2.0)))
        1.0
    """
    functions = (assemble, contract, product, adjoint_product)
    names = ("assemble", "contract", "product", "adjoint_product")
    for name, function in zip(names, functions, strict=True):
        if not callable(function) and (function is not None or name == "assemble"):
            raise InputError(
                f"`host_operator({name}=...)`: a function; got {type(function).__name__}. Pass the "
                "function itself, not its result."
            )
    if len(shape) != 2 or not all(isinstance(size, (int, np.integer)) for size in shape):
        raise InputError(
            f"`host_operator(shape=...)`: numbers of rows and columns, (m, n); got {shape!r}. "
            "Give those of what `assemble` returns."
        )
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    leaves, treedef = jax.tree.flatten(p)
    numbers = (jax.Array, np.ndarray, np.generic, float, complex)
    leaves = [_as_array(leaf) if isinstance(leaf, numbers) else leaf for leaf in leaves]
    arrays = tuple(leaf for leaf in leaves if eqx.is_array(leaf))
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"`host_operator(dtype=...)`: a real or complex floating-point dtype; got {dtype}. "
            "Say `float` or `complex`."
        )
    if not is_complex(dtype) and any(map(jnp.iscomplexobj, arrays)):
        raise InputError(
            f"`host_operator(p=...)`: real parameters of a real matrix; got complex ones, and "
            f"{dtype}. Give their real and imaginary parts."
        )
    static = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
    rows, columns = shape
    assembly = Assembly(*functions, (int(rows), int(columns)), dtype, treedef, static)
    return HostOperator(arrays, assembly)


def _as_array(leaf: Any) -> Array:
    # by NumPy, so that a Python float does not become a weakly typed array
    return (
        leaf
        if isinstance(leaf, jax.Array)
        else jnp.asarray(np.asarray(leaf, jnp.result_type(leaf)))
    )
