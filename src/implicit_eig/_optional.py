"""Packages that are optional."""

import importlib
from typing import Any

from ._errors import InputError


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
