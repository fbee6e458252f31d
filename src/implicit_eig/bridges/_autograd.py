"""Functions of the arrays of HIPS autograd, differentiable to any order."""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import scipy.sparse as sp

from .._errors import InputError
from .._optional import extra, optional
from ._evaluation import Flat, Pullback, evaluate, moves
from ._leaves import as_jax, as_numpy, check_callable

NAME = "bridges.autograd"


def autograd(fn: Any) -> Callable[..., Any]:
    r"""Return a JAX function as one of arrays of HIPS autograd, which `grad` differentiates.

    Gradients follow autograd, whose convention is that of JAX: the gradient of a real function f of
    z = x + iy is ∂f/∂x − i ∂f/∂y. `autograd.jacobian`, `hessian` and other second derivatives work
    as well; they solve once more.

    Args:
        fn: JAX function of arrays, `SparseOperator`\ s and pytrees of these, which returns a pytree
            of arrays. It is traced by JAX, and must be pure.

    Returns:
        A function of the same arguments, which returns what `fn` does, with arrays of autograd. Its
        arguments are autograd's and NumPy's arrays, numbers, and tuples, lists and dictionaries of
        these. A `scipy.sparse` matrix is a constant; to differentiate in its entries make the
        `SparseOperator` in `fn`, from an array of entries.

    Raises:
        InputError: autograd is not installed; `fn` is not a function; or, from a call, an argument
            does not fit, or is in double precision while JAX is set to single precision. A call
            also raises what `fn` raises: `EigensolverError` and the like keep their type.

    Cost: `fn` is compiled once for all arguments of the same shapes and patterns, and its pullback
        too. A call copies its arguments and results. Without autograd's boxes among the arguments
        the value alone is computed.

    Examples:
        >>> import jax, numpy as np
        >>> from autograd import grad
        >>> from implicit_eig import Hermitian, eigensolver
        >>> jax.config.update("jax_enable_x64", True)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1))
        >>> lowest = autograd(lambda A: solve(A).values[0])
        >>> grad(lambda t: lowest(np.diag([1.0, 2.0]) * t) ** 2)(3.0).tolist()
        6.0
    """
    check_callable(NAME, fn)
    optional("autograd", f"{NAME}(fn)", extra("autograd"))

    def of_boxes(*args: Any) -> Any:
        leaves, arguments = jax.tree.flatten(_opened(args), is_leaf=sp.issparse)
        boxes = [leaf if _is_box(leaf) else None for leaf in leaves]
        forms = jax.tree.unflatten(arguments, [as_jax(NAME, _inside(leaf)) for leaf in leaves])
        arrays, structure = jax.tree.flatten(forms)
        for array, box in zip(arrays, boxes, strict=True):
            if box is not None and not moves(array):
                raise InputError(
                    f"`{NAME}(fn)(...)`: floating-point numbers to differentiate in; got "
                    f"{array.dtype}. Convert them, `x.astype(float)`."
                )
        return _apply(Flat(fn, structure), arrays, boxes)

    return of_boxes


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, importlib.import_module("autograd.extend").Box)


def _inside(leaf: Any) -> Any:
    return importlib.import_module("autograd.tracer").getval(leaf)


def _opened(tree: Any) -> Any:
    """Return a pytree in which the boxes of containers are containers of boxes."""
    builtins: Any = importlib.import_module("autograd.builtins")

    def opened(leaf: Any) -> Any:
        if isinstance(leaf, builtins.SequenceBox):
            return _opened(type(_inside(leaf))(leaf[i] for i in range(len(leaf))))
        if isinstance(leaf, builtins.DictBox):
            return _opened({key: leaf[key] for key in leaf})
        return leaf

    return jax.tree.map(opened, tree, is_leaf=sp.issparse)


def _apply(fn: Any, arrays: Sequence[Any], boxes: Sequence[Any]) -> Any:
    """Return fn(*arrays) in boxes that remember the boxes of which the arrays are the contents.

    Args:
        fn: `Flat` or `Pullback`.
        arrays: its arguments.
        boxes: the box of each argument; `None` for constants.
    """
    present = [box for box in boxes if box is not None]
    call = _Call(fn, arrays, tuple(box is not None for box in boxes))
    answer = _primitive()(call, *present)
    found = iter([answer[i] for i in range(len(call.evaluation.bars_like))])
    like, structure = jax.tree.flatten(call.evaluation.like)
    pairs = zip(like, call.leaves, strict=True)
    return jax.tree.unflatten(structure, [next(found) if moves(x) else leaf for x, leaf in pairs])


class _Call:
    """One call of a function, as autograd's graph keeps it."""

    def __init__(self, fn: Any, arrays: Sequence[Any], moving: tuple[bool, ...]):
        self.fn, self.arrays, self.moving = fn, arrays, moving

    def run(self) -> tuple:
        """Return those arrays of the value that have a gradient."""
        out, self.evaluation = evaluate(self.fn, self.arrays, self.moving)
        self.leaves = [as_numpy(leaf) for leaf in jax.tree.leaves(out)]
        like = jax.tree.leaves(self.evaluation.like)
        return tuple(leaf for x, leaf in zip(like, self.leaves, strict=True) if moves(x))

    def pull(self, boxes: Sequence[Any], bars: Sequence[Any]) -> list[Any]:
        """Return the gradients of what moves, differentiable where boxes are among the arguments.

        Args:
            boxes: of what moves, or arrays.
            bars: the gradients of the value, in boxes or arrays.
        """
        given = [as_jax(NAME, _inside(bar)) for bar in bars]
        if not any(map(_is_box, [*boxes, *bars])):
            return list(map(as_numpy, self.evaluation.pull(given)))
        left = iter(boxes)
        all_boxes = [*(next(left) if moving else None for moving in self.moving), *bars]
        pullback = Pullback(self.fn, self.moving, conjugate=False)
        only_boxes = [box if _is_box(box) else None for box in all_boxes]
        return _apply(pullback, [*self.arrays, *given], only_boxes)


@functools.cache
def _primitive() -> Any:
    extend = optional("autograd.extend", NAME, extra("autograd"))

    @extend.primitive
    def evaluation(call: _Call, *arrays: Any) -> tuple:
        return call.run()

    def vjp(argnums: Sequence[int], answer: Any, args: Sequence[Any], kwargs: dict) -> Any:
        call, *boxes = args

        def pull(answer_bar: Any) -> list[Any]:
            bars = [answer_bar[i] for i in range(len(answer_bar))]
            found = call.pull(boxes, bars)
            return [found[i - 1] for i in argnums]

        return pull

    extend.defvjp_argnums(evaluation, vjp)
    return evaluation
