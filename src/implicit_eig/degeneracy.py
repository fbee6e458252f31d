"""Which values count as one."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from .policy import Policy, tolerance


def cluster_mask(lam: Shaped[Array, " k"], policy: Policy) -> Bool[Array, "k k"]:
    """Return whether λⱼ and λᵢ count as equal: |λᵢ − λⱼ| ≤ degeneracy_rtol · max |λ|.

    Args:
        lam: values; shape (k,).
        policy: supplies `degeneracy_rtol`.

    Returns:
        A symmetric mask, true on the diagonal; shape (k, k).
    """
    distance = jnp.abs(lam[:, None] - lam[None, :])
    rtol = tolerance(policy.degeneracy_rtol, lam.dtype)
    return distance <= rtol * jnp.max(jnp.abs(lam))
