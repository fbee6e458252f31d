"""Ready-made forward solvers: thin adapters to established libraries.

Examples:
    >>> import jax.numpy as jnp
    >>> from implicit_eig import Hermitian, eigensolver, solvers
    >>> solve = eigensolver(solvers.arpack(k=1, sigma=3.5), Hermitian(k=1))
    >>> solve(jnp.diag(jnp.array([1.0, 2.0, 4.0]))).values.round(4).tolist()
    [4.0]
"""

from ._abstract import AbstractForwardSolver
from .arpack import arpack
from .arpack_general import arpack_general
from .arpack_svd import arpack_svd
from .lanczos import lanczos
from .lapack import lapack
from .lobpcg import lobpcg
from .newton import newton
from .on_device import jax_eig, jax_eigh, jax_svd
from .primme import primme
from .primme_svd import primme_svd
from .slepc import slepc

__all__ = [
    "AbstractForwardSolver",
    "arpack",
    "arpack_general",
    "arpack_svd",
    "jax_eig",
    "jax_eigh",
    "jax_svd",
    "lanczos",
    "lapack",
    "lobpcg",
    "newton",
    "primme",
    "primme_svd",
    "slepc",
]
