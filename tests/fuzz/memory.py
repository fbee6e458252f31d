"""Keep a process below the memory maps that Linux allows, of which each program takes a few."""

import pathlib

import jax

MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = pathlib.Path("/proc/sys/vm/max_map_count")


def drop_programs():
    """Drop compiled programs before they use up the memory maps that Linux allows, 65,530 or so.

    XLA crashes at the limit: https://github.com/jax-ml/jax/issues/28384
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 0.75 * int(MOST_MAPS.read_text()):
        jax.clear_caches()
