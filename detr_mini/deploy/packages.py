"""The optional packages of this room, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from detr_mini.errors import UserError, install


def package(name: str) -> Any:
    """The package `name`. UserError with the command that installs it where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"the package {name} is not installed; install it with: {install('export')}") from error
