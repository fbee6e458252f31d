"""Functions of NumPy arrays and SciPy matrices, with a pullback."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from .._errors import InputError
from ._evaluation import Flat, evaluate, moves
from ._leaves import as_jax, as_numpy, check_callable, like_given

NAME = "bridges.numpy"


def numpy(fn: Any) -> Callable[..., tuple[Any, Callable[[Any], tuple]]]:
    r"""Return a JAX function as one of NumPy arrays, which returns its value and a pullback.

    The pullback computes x̄ⱼ = Σᵢ v̄ᵢ ∂vᵢ/∂xⱼ from the cotangent v̄ of the value v. As in JAX nothing
    is conjugated: with v̄ = 1 the cotangent of a complex argument x + iy is ∂f/∂x − i ∂f/∂y, and
    its conjugate is the direction in which a real f rises fastest.

    Args:
        fn: JAX function of arrays, `SparseOperator`\ s and pytrees of these, which returns a pytree
            of arrays. It is traced by JAX, and must be pure.

    Returns:
        A function of the same arguments: NumPy arrays, numbers, and a `scipy.sparse` matrix of any
        format where `fn` takes a `SparseOperator`. It returns `(value, pullback)`. `value` is what
        `fn` returns, with NumPy arrays. `pullback(value_bar)` takes a cotangent for each array of
        the value, `None` for zero, and returns a tuple with one for each argument: an array; for a
        sparse matrix a sparse matrix of the same format with the same stored entries; `None` for
        integers.

    Raises:
        InputError: `fn` is not a function, or, from a call, an argument or cotangent does not fit,
            or is in double precision while JAX is set to single precision. A call also raises
            what `fn` raises: `EigensolverError` and the like keep their type.

    Cost: `fn` is compiled once for all arguments of the same shapes and patterns, and its pullback
        too. A call copies its arguments and results; a pullback makes no forward solve.

    Examples:
        >>> import jax, numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, eigensolver, solvers
        >>> jax.config.update("jax_enable_x64", True)
        >>> solve = eigensolver(solvers.arpack(2, sigma=0.0), Hermitian(k=2))
        >>> K = sp.diags_array([2.0, 3.0, 5.0, 7.0, 9.0], format="csr")
        >>> values, pullback = numpy(lambda K: solve(K).values)(K)
        >>> (K_bar,) = pullback(np.array([1.0, 10.0]))
        >>> values.round(6).tolist(), K_bar.format, K_bar.data.round(6).tolist()
        ([2.0, 3.0], 'csr', [1.0, 10.0, 0.0, 0.0, 0.0])
    """
    check_callable(NAME, fn)

    def with_pullback(*args: Any) -> tuple[Any, Callable[[Any], tuple]]:
        given, arguments = jax.tree.flatten(args, is_leaf=sp.issparse)
        converted = [as_jax(NAME, leaf) for leaf in given]
        arrays, structure = jax.tree.flatten(jax.tree.unflatten(arguments, converted))
        moving = tuple(map(moves, arrays))
        out, evaluation = evaluate(Flat(fn, structure), arrays, moving)
        restore = list(map(like_given, given))

        def pullback(value_bar: Any) -> tuple:
            found = iter(evaluation.pull(_bars(evaluation.like, value_bar)))
            bars = [
                form(next(found)) if m else None for m, form in zip(moving, restore, strict=True)
            ]
            return jax.tree.unflatten(arguments, bars)

        return jax.tree.map(as_numpy, out), pullback

    return with_pullback


def _bars(like: Any, value_bar: Any) -> list[Any]:
    """Return the cotangents of the inexact arrays of a value, checked."""
    shapes, structure = jax.tree.flatten(like)
    try:
        bars = structure.flatten_up_to(value_bar)
    except ValueError as error:
        raise InputError(
            "`pullback(value_bar)`: a cotangent for each array of the value, in its structure "
            f"{structure}; got {jax.tree.structure(value_bar)}. Give `None` for what the loss does "
            "not depend on."
        ) from error
    pairs = [(x, bar) for x, bar in zip(shapes, bars, strict=True) if moves(x)]
    return [None if bar is None else _bar(x, bar) for x, bar in pairs]


def _bar(like: jax.ShapeDtypeStruct, bar: Any) -> np.ndarray:
    array = np.asarray(bar)
    too_complex = np.iscomplexobj(array) and not np.issubdtype(like.dtype, np.complexfloating)
    if array.shape != like.shape or array.dtype.kind not in "biufc" or too_complex:
        raise InputError(
            f"`pullback(value_bar)`: a cotangent of shape {like.shape} and dtype {like.dtype}, "
            f"those of the value; got {array.shape} and {array.dtype}. Give the derivative of the "
            "loss with respect to the value."
        )
    return array.astype(like.dtype)
