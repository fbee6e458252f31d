"""How the package's own JAX code is compiled.

On accelerators JAX multiplies float32 matrices in fewer bits unless it is told otherwise: on GPUs
of NVIDIA in TF32, whose ten bits lose what derivatives here rest on, small residuals and vectors
orthogonal to those known.

Source: https://docs.jax.dev/en/latest/_autosummary/jax.default_matmul_precision.html
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


def full_precision(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, in which JAX multiplies matrices in full precision; its transpose does too."""

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return wrapped


def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as one compiled program, in full precision; what is no array is static."""
    return eqx.filter_jit(full_precision(fn))
