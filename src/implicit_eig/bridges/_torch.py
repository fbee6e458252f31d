"""Functions of PyTorch tensors with `backward`, to any order."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from .._optional import extra, optional
from ..operators import SparseOperator
from ..operators._entries import PRECISIONS
from ._evaluation import Flat, Pullback, evaluate, is_array, moves
from ._leaves import as_jax, check_callable, check_kept

NAME = "bridges.torch"


def torch(fn: Any) -> Callable[..., Any]:
    r"""Return a JAX function as one of PyTorch tensors, which `backward` differentiates.

    Gradients follow PyTorch: that of a real function f of z = x + iy is ∂f/∂x + i ∂f/∂y.

    Args:
        fn: JAX function of arrays, `SparseOperator`\ s and pytrees of these, which returns a pytree
            of arrays. It is traced by JAX, and must be pure.

    Returns:
        A function of the same arguments, which returns what `fn` does, with tensors. Dense tensors
        lie on the CPU, and are shared with JAX, not copied, if they are aligned and contiguous. A
        sparse tensor (COO or CSR) stands where `fn` takes a `SparseOperator`; its gradient is
        a sparse tensor of the same layout on the same pattern. NumPy arrays, `scipy.sparse`
        matrices and numbers are constants. With `create_graph=True` the gradient is differentiable
        again; it then solves once more.

    Raises:
        InputError: PyTorch is not installed; `fn` is not a function; or, from a call, a tensor does
            not lie on the CPU, has another layout or neither single nor double precision, or is in
            double precision while JAX is set to single precision. A call also raises what `fn`
            raises: `EigensolverError` and the like keep their type.

    Cost: `fn` is compiled once for all tensors of the same shapes and patterns, and its pullback
        too. Where no tensor requires a gradient the value alone is computed.

    Examples:
        >>> import numpy as np
        >>> from torch import tensor
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1))
        >>> lowest = torch(lambda A: solve(A).values[0])
        >>> A = tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
        >>> lowest(A).backward()
        >>> A.grad.tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    check_callable(NAME, fn)
    library = optional("torch", f"{NAME}(fn)", extra("torch"))

    def of_tensors(*args: Any) -> Any:
        leaves, arguments = jax.tree.flatten(args, is_leaf=sp.issparse)
        parts = [_part(library, leaf) for leaf in leaves]
        forms = jax.tree.unflatten(arguments, [form for _, form in parts])
        arrays, structure = jax.tree.flatten(forms)
        once = any(
            isinstance(form, SparseOperator) and tensor is not None and tensor.requires_grad
            for tensor, form in parts
        )
        return _apply(library, Flat(fn, structure), arrays, [tensor for tensor, _ in parts], once)

    return of_tensors


def _part(library: Any, leaf: Any) -> tuple[Any, Any]:
    """Return the tensor that an argument is differentiated in, if any, and its form in JAX."""
    if not isinstance(leaf, library.Tensor):
        return None, as_jax(NAME, leaf)
    _check(library, leaf)
    if leaf.layout == library.strided:
        return leaf, _shared(leaf)
    # the gradient of `values` is turned into one of the sparse tensor by PyTorch itself
    if leaf.layout == library.sparse_coo:
        leaf = leaf.coalesce()
        rows, cols = leaf.indices().numpy()
    else:
        ends, cols = leaf.crow_indices().numpy(), leaf.col_indices().numpy()
        rows = np.repeat(np.arange(ends.size - 1), np.diff(ends))
    values = leaf.values()
    places = rows.astype(np.int32), cols.astype(np.int32)
    return values, SparseOperator(_shared(values), *places, tuple(leaf.shape))


def _check(library: Any, tensor: Any) -> None:
    where = f"`{NAME}(fn)(...)`"
    if tensor.device.type != "cpu":
        raise InputError(
            f"{where}: tensors on the CPU; got one on the device {tensor.device}. Move it, "
            "`tensor.cpu()`; its gradient moves back by itself."
        )
    if tensor.layout not in (library.strided, library.sparse_coo, library.sparse_csr):
        raise InputError(
            f"{where}: dense tensors, or sparse ones in COO or CSR layout; got {tensor.layout}. "
            "Convert it, `tensor.to_sparse_csr()`."
        )
    if tensor.layout != library.strided and (tensor.ndim != 2 or tensor.dense_dim()):
        raise InputError(
            f"{where}: sparse matrices; got a sparse tensor of shape {tuple(tensor.shape)} with "
            f"{tensor.dense_dim()} dense dimensions. Give its matrices one by one."
        )
    if tensor.is_floating_point() or tensor.is_complex():
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in [np.dtype(precision).name for precision in PRECISIONS]:
            raise InputError(
                f"{where}: tensors in single or double precision; got {tensor.dtype}. Convert it, "
                "`tensor.double()`."
            )
        check_kept(NAME, np.dtype(name))


def _shared(tensor: Any) -> jax.Array:
    """Return a tensor as a JAX array, of the same memory if its layout allows."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if not (plain.is_floating_point() or plain.is_complex()):
        return as_jax(NAME, plain.numpy())
    try:
        return jax.dlpack.from_dlpack(plain.contiguous())
    except RuntimeError as error:
        raise InputError(
            f"`{NAME}(fn)(...)`: tensors that hold numbers; got one inside a transformation, such "
            "as `torch.func.grad`. Use `torch.autograd.grad`, or transform `fn` by JAX."
        ) from error


def _apply(
    library: Any, fn: Any, arrays: Sequence[Any], tensors: Sequence[Any], once: bool = False
) -> Any:
    """Return fn(*arrays) in tensors, differentiable in those from which the arrays were made.

    Args:
        library: the module `torch`.
        fn: `Flat` or `Pullback`.
        arrays: its arguments.
        tensors: the tensor of each argument; `None` for constants.
        once: whether second derivatives are refused.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    needed = library.is_grad_enabled() and any(tensor.requires_grad for tensor in present)
    if not needed:
        out, _ = evaluate(fn, arrays, (False,) * len(arrays))
        return jax.tree.map(lambda x: library.from_dlpack(x) if is_array(x) else x, out)
    call = _Call(library, fn, arrays, tensors, once)
    found = iter(_node().apply(call, *present))
    leaves, structure = jax.tree.flatten(call.evaluation.like)
    leaves = [next(found) if is_array(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)


class _Call:
    """One call of a function, as PyTorch's graph keeps it."""

    def __init__(
        self, library: Any, fn: Any, arrays: Sequence[Any], tensors: Sequence[Any], once: bool
    ):
        self.library, self.fn, self.arrays, self.once = library, fn, arrays, once
        self.given = [tensor is not None for tensor in tensors]
        self.moving = tuple(t is not None and t.requires_grad for t in tensors)

    def run(self) -> list[Any]:
        """Return the tensors of the value."""
        out, self.evaluation = evaluate(self.fn, self.arrays, self.moving, conjugate=True)
        # each has memory of its own, into which its owner may write
        return [self.library.from_dlpack(x) for x in jax.tree.leaves(out) if is_array(x)]

    def pull(self, bars: Sequence[Any]) -> list[Any]:
        """Return the gradients of the tensors that were given, for those of the value."""
        shared = [None if bar is None else _shared(bar) for bar in self.inexact(bars)]
        return self.in_place(map(self.library.from_dlpack, self.evaluation.pull(shared)))

    def pull_again(self, saved: Sequence[Any], bars: Sequence[Any]) -> list[Any]:
        """Return the same, differentiable in the tensors and in the gradients of the value."""
        if self.once:
            # PyTorch omits from second derivatives what passes through the entries of a tensor
            raise InputError(
                f"`{NAME}(fn)(...)`: dense tensors for second derivatives; got a sparse tensor and "
                "`create_graph=True`. Give the vector of its entries, and make the "
                "`SparseOperator` in `fn`."
            )
        given, bars = iter(saved), self.inexact(bars)
        tensors = [next(given) if present else None for present in self.given]
        pairs = zip(self.evaluation.bars_like, bars, strict=True)
        filled = [jnp.zeros(x.shape, x.dtype) if bar is None else _shared(bar) for x, bar in pairs]
        pullback = Pullback(self.fn, self.moving, conjugate=True)
        found = _apply(self.library, pullback, [*self.arrays, *filled], [*tensors, *bars])
        return self.in_place(found)

    def inexact(self, bars: Sequence[Any]) -> list[Any]:
        """Return the gradients of those tensors of the value that can have one."""
        described = filter(is_array, jax.tree.leaves(self.evaluation.like))
        return [bar for leaf, bar in zip(described, bars, strict=True) if moves(leaf)]

    def in_place(self, found: Iterable[Any]) -> list[Any]:
        """Return the gradients at the places of their tensors, `None` for the others."""
        left = iter(found)
        pairs = zip(self.given, self.moving, strict=True)
        return [next(left) if moving else None for given, moving in pairs if given]


@functools.cache
def _node() -> Any:
    library = optional("torch", NAME, extra("torch"))

    class Node(library.autograd.Function):
        """The evaluation of a JAX function in PyTorch's graph."""

        @staticmethod
        def forward(ctx: Any, call: _Call, *tensors: Any) -> tuple:
            """Return the value, and keep what `backward` needs."""
            found = tuple(call.run())
            ctx.call = call
            ctx.save_for_backward(*tensors)
            ctx.set_materialize_grads(False)
            return found

        @staticmethod
        def backward(ctx: Any, *bars: Any) -> tuple:
            """Return the gradients."""
            # read in any case: raises if a tensor was changed, whose memory JAX may share
            saved = ctx.saved_tensors
            if library.is_grad_enabled():
                return None, *ctx.call.pull_again(saved, bars)
            return None, *ctx.call.pull(bars)

    return Node
