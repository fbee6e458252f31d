"""Run every test in double precision, strictly promoted, with run-time type checks."""

import os
import pathlib
import shutil
import zlib

import jax
import pytest
from fuzz.memory import drop_programs
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# nearly all of the time here is compilation of what is run once
FAST_COMPILATION = "--xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"
# and kept, for the other workers, for programs that differ in their host code alone, and for the
# next run, which takes a third of the time; `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing
COMPILED = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
MOST_BYTES = 2**30
OPTIONS = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(COMPILED)),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for name, value in OPTIONS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # in processes that tests start, too

with install_import_hook("implicit_eig", "beartype.beartype"):
    import implicit_eig as ie  # noqa: F401


def pytest_configure(config):
    """Start anew once the programs that are kept, of which old ones are never dropped, are many."""
    if hasattr(config, "workerinput") or not COMPILED.exists():
        return
    if sum(file.stat().st_size for file in COMPILED.iterdir()) > MOST_BYTES:
        shutil.rmtree(COMPILED)


def pytest_collection_modifyitems(config, items):
    """Of the slow tests run a part, where `SLOW_PART` names it: `3/8` is one of 0/8 to 7/8."""
    named = os.environ.get("SLOW_PART")
    if named is None:
        return
    part, parts = map(int, named.split("/"))
    assert 0 <= part < parts, f"SLOW_PART={named}"
    kept, left_out = [], []
    for item in items:
        runs = zlib.crc32(item.nodeid.encode()) % parts == part
        (kept if runs or not item.get_closest_marker("slow") else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(autouse=True)
def _bounded_memory_maps():
    yield
    drop_programs()
