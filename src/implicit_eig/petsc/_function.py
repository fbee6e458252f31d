"""A distributed solve as a JAX function, differentiable in reverse mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import host
from .._errors import InputError


def function_of(solve: Any) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """Return p -> the eigenvalues and this rank's rows of the eigenvectors, in JAX."""

    @jax.custom_vjp
    def pairs(p: Any) -> tuple[jax.Array, jax.Array]:
        return forward(p)[0]

    def forward(p: Any) -> tuple[tuple[jax.Array, jax.Array], Any]:
        if host.is_traced(p):
            raise InputError(
                "`petsc` functions: a call outside of `jax.jit` and `jax.vmap`, because ranks "
                "communicate in it; got traced parameters. Compile what comes before and after it."
            )
        found, pullback = solve(jax.tree.map(np.asarray, p))
        return (jnp.asarray(found.values), jnp.asarray(found.vectors)), jax.tree_util.Partial(
            pullback
        )

    def backward(pullback: Any, bars: tuple[jax.Array, jax.Array]) -> tuple[Any]:
        values_bar, vectors_bar = (np.asarray(bar).conj() for bar in bars)
        return (jax.tree.map(jnp.asarray, pullback(values_bar, vectors_bar)),)

    pairs.defvjp(forward, backward)
    return pairs
