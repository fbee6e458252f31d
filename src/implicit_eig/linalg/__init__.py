"""Drop-ins for functions of NumPy, JAX and SciPy, with the derivatives of this package.

They have the names, arguments, defaults and return values of the originals, so that a user changes
one import. `eigh`, `eigvalsh`, `eig`, `eigvals`, `svd` and `svdvals` take dense arrays and stay on
the device; `eigsh`, `eigs`, `svds` and `lobpcg` take what SciPy's take, and sparse operators whose
entries JAX traces.

Examples:
    >>> import jax, jax.numpy as jnp
    >>> from implicit_eig import linalg
    >>> A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))  # a repeated eigenvalue
    >>> jax.grad(lambda A: linalg.eigh(A).eigenvalues[:2].sum())(A).round(4).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
"""

from ._dense import EighResult, EigResult, SVDResult, eig, eigh, eigvals, eigvalsh, svd, svdvals
from ._sparse import eigs, eigsh, lobpcg, svds

__all__ = [
    "EigResult",
    "EighResult",
    "SVDResult",
    "eig",
    "eigh",
    "eigs",
    "eigsh",
    "eigvals",
    "eigvalsh",
    "lobpcg",
    "svd",
    "svds",
    "svdvals",
]
