"""Derivatives from all n eigenpairs: each tangent is a combination of the eigenvectors.

No direction lies outside their span, so there is no system to solve: Ẋ = XC, with the couplings C
of `problems.hermitian`.

Source: Giles (2008) An extended collection of matrix derivative results, section 3.1.
"""

from ._abstract import AbstractFormulation


class FullSpectrum(AbstractFormulation):
    """Solve no system at all, because all n eigenpairs are known; the default where k = n.

    Raises:
        InputError: k < n.

    Cost: products of k×k and n×k arrays, for all eigenpairs at once.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2), system=FullSpectrum())
        >>> vector_at = lambda t: solve(jnp.array([[1.0, t], [t, 3.0]])).vectors[:, 0]
        >>> round(float(jax.grad(lambda t: jnp.prod(vector_at(t)))(0.0)), 4)  # x₁x₂ = −t/2 + …
        -0.5
    """
