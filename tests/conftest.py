"""Run every test in double precision, strictly promoted, with run-time type checks."""

import os
import pathlib

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# nearly all of the time here is compilation of what is run once
FAST_COMPILATION = "--xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # in processes that tests start, too

with install_import_hook("implicit_eig", "beartype.beartype"):
    import implicit_eig as ie  # noqa: F401

MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def _bounded_memory_maps():
    """Drop compiled programs before they use up the 65,530 memory maps that Linux allows.

    Each takes a few, and XLA crashes at the limit: https://github.com/jax-ml/jax/issues/28384
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 50_000:
        jax.clear_caches()
