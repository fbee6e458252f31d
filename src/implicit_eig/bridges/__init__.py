"""The derivatives of the package for programs that JAX does not run.

A bridge takes a JAX function, which may call an eigensolver of this package, and makes it a
function of NumPy arrays with a pullback, of PyTorch tensors, or of the arrays of HIPS autograd.

Examples:
    >>> import jax, numpy as np
    >>> from implicit_eig import Hermitian, bridges, eigensolver
    >>> jax.config.update("jax_enable_x64", True)
    >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1))
    >>> lowest = bridges.numpy(lambda A: solve(A).values[0])
    >>> value, pullback = lowest(np.diag([1.0, 2.0]))
    >>> float(value), pullback(1.0)[0].tolist()
    (1.0, [[1.0, 0.0], [0.0, 0.0]])
"""

from ._autograd import autograd
from ._numpy import numpy
from ._torch import torch

__all__ = ["autograd", "numpy", "torch"]
