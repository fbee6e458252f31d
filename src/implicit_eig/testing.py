"""Check derivatives of eigenproblems, in users' tests as well as the package's own.

Examples:
    >>> import jax.numpy as jnp, numpy as np
    >>> import implicit_eig as ie
    >>> solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(k=1))
    >>> A, A_dot = jnp.diag(jnp.array([1.0, 2.0])), jnp.eye(2)
    >>> difference = ie.testing.finite_difference(solve.values, (A,), (A_dot,), step=0.125)
    >>> difference.round(4).tolist()
    [1.0]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, PyTree

from ._errors import ImplicitEigError
from .operators import apply, as_operator, scale_columns


class DerivativeError(ImplicitEigError, AssertionError):
    """Raised where a derivative or an eigenvector differs from what it is compared with.

    Examples:
        >>> import jax.numpy as jnp
        >>> try:
        ...     assert_vectors_close(jnp.eye(2), jnp.eye(2)[:, ::-1], atol=1e-6)
        ... except DerivativeError as error:
        ...     print(str(error).split(";")[0])
        `assert_vectors_close(atol=1.0e-06)`: equal columns up to a phase
    """


def align_vectors(
    vectors: Inexact[Array, "n k"] | np.ndarray,
    reference: Inexact[Array, "n k"] | np.ndarray,
    B: Any = None,
) -> Inexact[Array, "n k"]:
    """Return `vectors` with each column turned to the sign or phase of `reference`.

    Args:
        vectors: shape (n, k).
        reference: shape (n, k); column i belongs to column i of `vectors`.
        B: the metric, in any form that `eigensolver` takes; default the identity.

    Returns:
        Column i times the unit number that makes refᵢᴴ B xᵢ real and positive; shape (n, k).

    Examples:
        >>> import jax.numpy as jnp
        >>> align_vectors(jnp.array([[-1.0], [0.0]]), jnp.array([[1.0], [0.0]])).tolist()
        [[1.0], [-0.0]]
    """
    X, R = jnp.asarray(vectors), jnp.asarray(reference)
    BX = X if B is None else apply(as_operator("B", B), X)
    overlap = jnp.sum(R.conj() * BX, axis=0)
    size = jnp.abs(overlap)
    size = size.astype(X.dtype)
    turn = jnp.where(size != 0, overlap.conj() / jnp.where(size != 0, size, 1), 1)
    return scale_columns(X, turn)


def assert_vectors_close(
    vectors: Inexact[Array, "n k"] | np.ndarray,
    reference: Inexact[Array, "n k"] | np.ndarray,
    *,
    atol: float,
    B: Any = None,
) -> None:
    """Raise unless the columns agree to `atol`, each up to its sign or phase.

    Args:
        vectors: shape (n, k).
        reference: shape (n, k).
        atol: largest allowed 2-norm of the difference of two columns.
        B: the metric in which they are aligned.

    Raises:
        DerivativeError: a column differs by more; the message names it and the distance.

    Examples:
        >>> import jax.numpy as jnp
        >>> assert_vectors_close(-jnp.eye(2), jnp.eye(2), atol=1e-6)  # the sign does not matter
    """
    difference = align_vectors(vectors, reference, B) - jnp.asarray(reference)
    distance = np.asarray(jnp.linalg.norm(difference, axis=0))
    worst = int(np.argmax(np.where(np.isnan(distance), np.inf, distance)))
    if not distance[worst] <= atol:
        raise DerivativeError(
            f"`assert_vectors_close(atol={atol:.1e})`: equal columns up to a phase; got a distance "
            f"of {distance[worst]:.1e} for pair {worst}. Check the order of the pairs first."
        )


def dot_test(
    fn: Callable[..., PyTree], *args: PyTree, seed: int = 0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the two sides of ⟨ū, J v⟩ = ⟨Jᵀū, v⟩ for random v and ū.

    Args:
        fn: a JAX function of pytrees of floating-point arrays.
        *args: where its Jacobian J is taken.
        seed: that of the random directions.

    Returns:
        (⟨ū, J v⟩ by forward mode, ⟨Jᵀū, v⟩ by reverse mode); equal to rounding when the two
        modes are transposes of each other.

    Examples:
        >>> import jax.numpy as jnp
        >>> forward, reverse = dot_test(jnp.sin, jnp.array([0.3, 0.4]))
        >>> bool(abs(forward - reverse) < 1e-6)
        True
    """
    v = random_like(args, seed)
    out, out_dot = jax.jvp(fn, args, v)
    u = random_like(out, seed + 1)
    _, pullback = jax.vjp(fn, *args)
    return _pair(u, out_dot), _pair(pullback(u), v)


def assert_adjoint(fn: Callable[..., PyTree], *args: PyTree, rtol: float, seed: int = 0) -> None:
    """Raise unless forward and reverse mode of `fn` are transposes of each other to `rtol`.

    Raises:
        DerivativeError: |⟨ū, J v⟩ − ⟨Jᵀū, v⟩| > rtol · max of the two.

    Examples:
        >>> import jax.numpy as jnp
        >>> assert_adjoint(lambda x: jnp.sin(x) * x[0], jnp.array([0.3, 0.4]), rtol=1e-4)
    """
    forward, reverse = dot_test(fn, *args, seed=seed)
    size = max(abs(float(forward)), abs(float(reverse)))
    if not abs(float(forward - reverse)) <= rtol * size:
        raise DerivativeError(
            f"`assert_adjoint(rtol={rtol:.1e})`: one Jacobian in both modes; got ⟨ū, J v⟩ = "
            f"{float(forward):.15g} and ⟨Jᵀū, v⟩ = {float(reverse):.15g}. One of the two modes is "
            "wrong, or a linear solve is inexact."
        )


def finite_difference(
    fn: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    direction: tuple[PyTree, ...],
    *,
    step: float,
    order: int = 2,
) -> PyTree:
    """Return the directional derivative of `fn` by central differences.

    Args:
        fn: a function of pytrees of arrays, on the host or in JAX.
        args: where the derivative is taken.
        direction: the tangents, shaped like `args`.
        step: h in fn(args ± h · direction).
        order: order of the error in the step, 2 or 4. The error is about C h^order + eps |fn| / h.

    Raises:
        ValueError: `order` is neither 2 nor 4.

    Examples:
        >>> import jax.numpy as jnp
        >>> square = lambda x: float(x) ** 2
        >>> round(finite_difference(square, (3.0,), (1.0,), step=0.5), 6)
        6.0
    """
    weights = {2: ((1, 0.5),), 4: ((1, 2 / 3), (2, -1 / 12))}
    if order not in weights:
        raise ValueError(
            f"`finite_difference(order=...)`: 2 or 4; got {order}. Order 2 is the usual choice."
        )

    def shifted(h: float) -> PyTree:
        return fn(*jax.tree.map(lambda x, v: x + h * v, args, direction))

    total: PyTree = None
    for offset, weight in weights[order]:
        plus, minus = shifted(offset * step), shifted(-offset * step)
        scale = weight / step
        part = jax.tree.map(lambda p, m, c=scale: c * (p - m), plus, minus)
        total = part if total is None else jax.tree.map(lambda t, p: t + p, total, part)
    return total


def random_like(tree: PyTree, seed: int = 0) -> PyTree:
    """Return standard normal arrays in the shapes of `tree`, complex where its leaves are.

    Integer leaves receive the zero tangents of JAX's dtype `float0`.

    Examples:
        >>> import jax.numpy as jnp
        >>> random_like({"a": jnp.zeros(3), "b": jnp.zeros((2, 2))})["b"].shape
        (2, 2)
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return np.zeros(shape, jax.dtypes.float0)
        x = rng.standard_normal(shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.standard_normal(shape)
        return jnp.asarray(x, dtype)

    return jax.tree.map(draw, tree)


def _pair(cotangent: PyTree, tangent: PyTree) -> Float[Array, ""]:
    """Return Σ Re(x̄ ẋ), JAX's pairing of cotangents and tangents."""
    leaves = zip(jax.tree.leaves(cotangent), jax.tree.leaves(tangent), strict=True)
    terms = [jnp.sum(c * t).real for c, t in leaves if c.dtype != jax.dtypes.float0]
    return sum(terms[1:], terms[0])
