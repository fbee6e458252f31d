"""Checks of k and of the eigenvectors that several kinds of problem share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._compiled import constant_like, if_any
from .._errors import InputError
from ..checks.clusters import loose
from ..checks.policy import Objection
from ..checks.rounding import INNER
from ..operators import diagonal, scale_columns
from ..solution import Solution

# Unit vectors whose Gram matrix has an eigenvalue below this count as linearly dependent.
INDEPENDENCE = 1e-3


def whole(number: Any) -> Any:
    """Return a NumPy integer as a Python one; anything else unchanged."""
    return int(number) if isinstance(number, np.integer) else number


def check_k(name: str, k: Any, guard: Any = 0) -> None:
    """Raise `InputError` unless k is a positive integer and `guard` a nonnegative one."""
    for argument, value, least, wanted in (
        ("k", k, 1, "a positive number of pairs"),
        ("guard", guard, 0, "a number of pairs, 0 or more"),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"`{name}({argument}=...)`: {wanted}; got {value!r}. Give {argument} as an integer."
            )


def orthonormalize(
    gram: Inexact[Array, "k k"], *bases: Inexact[Array, "... k"]
) -> tuple[tuple[Inexact[Array, "... k"], ...], "Gram"]:
    """Return `bases` in the basis M with Mᴴ gram M = I, and the figures to be judged.

    The Cholesky factor also makes the vectors of a cluster orthogonal; other vectors it leaves
    unchanged, to rounding. Vectors that are orthogonal already are only scaled.
    """
    norms = jnp.sqrt(jnp.maximum(diagonal(gram).real, 0))
    inverse = 1 / jnp.where(norms > 0, norms, 1)
    gram = gram * (inverse[:, None] * inverse[None, :]).astype(gram.dtype)
    identity = constant_like(jnp.eye(len(gram), dtype=gram.dtype), gram)
    bases = tuple(scale_columns(X, inverse) for X in bases)
    eps = float(jnp.finfo(norms.dtype).eps)
    other = jnp.any(~(jnp.abs(gram - identity) <= INNER * eps))
    same = lambda other, gram, identity, bases: (~other, bases)  # noqa: E731
    independent, bases = if_any(other, _mixed, same, other, gram, identity, bases)
    return bases, Gram(gram, norms, independent)


def _mixed(
    _: Array, gram: Array, identity: Array, bases: tuple[Array, ...]
) -> tuple[Array, tuple[Array, ...]]:
    """Return whether the vectors are independent, and `bases` made orthonormal."""
    factor = jnp.linalg.cholesky(gram)
    mix = jax.scipy.linalg.solve_triangular(factor, identity, lower=True).conj().T
    independent = jnp.linalg.cholesky(gram - INDEPENDENCE * identity)
    return jnp.all(jnp.isfinite(independent)), tuple(X @ mix for X in bases)


class Gram(NamedTuple):
    """The Gram matrix of unit vectors, their norms before, and whether they are independent."""

    matrix: Any
    norms: Any
    independent: Any


def dependent(requirement: str, overlap: str, gram: Any, independent: Any) -> Objection:
    """Object to unit vectors that are not independent; the entries of `gram` are `overlap`."""

    def message(_: np.ndarray) -> str:
        spectrum, mixes = np.linalg.eigh(gram)
        i, j = np.sort(np.argsort(-np.abs(mixes[:, 0]))[:2])
        return (
            f"{requirement}independent vectors; got pairs {i} and {j} with {overlap} = "
            f"{np.abs(gram[i, j]):.6f} of 1 (smallest eigenvalue of the Gram matrix "
            f"{spectrum[0]:.1e}). The solver lost a member of a cluster: ask it for more "
            "pairs, a larger subspace, or use a block method."
        )

    return Objection(~independent, message)


def unseen(solution: Solution) -> Float[Array, ""]:
    """Return 0 where the eigenvalues beyond the k show that none of them is near, else 1."""
    real = jnp.finfo(solution.vectors.dtype).dtype
    known = solution._beyond is not None
    if solution._edge is None or (solution._rest is None and not known):
        return jnp.ones((), real)
    near = jnp.any(jnp.asarray(solution._edge) > loose(real))
    none = jnp.zeros((), bool) if known else jnp.all(jnp.isnan(jnp.asarray(solution._rest)))
    return (near | none).astype(real)


def membership(solution: Solution) -> Float[Array, "k k"]:
    """Return the `closeness` of the eigenvalues; an unchecked solution has no clusters."""
    real = jnp.finfo(solution.vectors.dtype).dtype
    if solution._near is None:
        return jnp.eye(solution.vectors.shape[1], dtype=real)
    return jnp.asarray(solution._near).astype(real)
