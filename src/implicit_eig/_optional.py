"""Packages that are optional."""

import importlib
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

from ._errors import InputError

Item = TypeVar("Item")

# What ends sooner shows no progress, in seconds.
DELAY = 2.0


def optional(module: str, caller: str, install: str) -> Any:
    """Import an optional module, or raise an `InputError` that names the command to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"`{caller}`: the package {module.partition('.')[0]}; got {error}. Run {install}."
        ) from error


def extra(name: str) -> str:
    """Return the command that installs an extra of this package."""
    return f'`pip install "implicit_eig[{name}]"`'


def progress(items: Iterable[Item], total: int, description: str) -> Iterable[Item]:
    """Return `items`, with a progress bar of tqdm while they are iterated over, where that is seen.

    It is seen in a terminal and in a notebook with ipywidgets, after `DELAY`. Where standard error
    is a file or a pipe, or tqdm is not installed, nothing is written.
    """
    try:
        # in a notebook without ipywidgets, tqdm advises to install it
        with warnings.catch_warnings(action="ignore"):
            bars = importlib.import_module("tqdm.auto")
    except ImportError:
        return items
    return bars.tqdm(items, total=total, desc=description, delay=DELAY, leave=False, disable=None)
