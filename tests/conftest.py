"""Run every test in double precision, strictly promoted, with run-time type checks."""

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

with install_import_hook("implicit_eig", "beartype.beartype"):
    import implicit_eig  # noqa: F401
