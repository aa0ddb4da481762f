"""Errors that a user can fix. The command line prints their message without a traceback and exits with 2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """Something the user gave cannot be used. The message says what is wrong, where, and how to fix it."""


class DataError(UserError):
    """A dataset, an image or an annotation cannot be used. Text quoted from a file is made printable."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(UserError):
    """A setting does not exist or has an impossible value."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit its use."""


class NonFiniteError(UserError):
    """A loss or gradient is not finite; the message names step, images and layer."""


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_MESSAGE = 20_000
_LONGEST_NAME = 100


def printable(text: str) -> str:
    """`text` on one line, cut to a limit, with control characters and lone surrogates escaped."""
    shorter = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), shorter)


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` with the known name nearest to `name`, or an empty string where none is near."""
    if len(name) > _LONGEST_NAME:  # the comparison takes quadratic time
        return ""
    known = list(known)
    swapped = [word for word in known if sorted(word) == sorted(name)]  # the same letters in another order
    matches = swapped or get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not blank, else the error's class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def some_of(words: Sequence[str], most: int) -> str:
    """The first `most` of `words`, joined by commas, and the number of the others."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def install(extra: str) -> str:
    """The command that installs the packages of an extra.

    In a checkout it names the extra. From a wheel it names the packages, since detr-mini is on no package index.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"pip install -e '{checkout}[{extra}]'"
    from importlib.metadata import PackageNotFoundError, requires

    try:
        parts = [(need.partition(";")) for need in requires("detr-mini") or ()]
    except PackageNotFoundError:
        parts = []
    mark = re.compile(rf"extra\s*==\s*['\"]{extra}['\"]")
    packages = [f"'{need.strip()}'" for need, _, condition in parts if mark.search(condition)]
    return f"pip install {' '.join(packages) or f'<the wheel of detr-mini>[{extra}]'}"
