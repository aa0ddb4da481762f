"""Values of an annotation file: numbers written in several ways, text that can be printed."""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

from detr_mini.errors import printable

_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?\s*")


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number of 64 bits (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number (true and false are none)."""
    if isinstance(value, int):
        return is_whole(value)
    return isinstance(value, float) and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Whether it is text that can be printed and written: not blank, no control characters, no half of a character."""
    return isinstance(value, str) and bool(value.strip()) and printable(value) == value


def as_whole(value: Any) -> Any:
    """The whole number that 7.0, "7" and "7.0" stand for; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value)):
        return int(match[1])
    return value


def as_number(value: Any) -> Any:
    """The number that "7.5" stands for; anything else as it is."""
    if isinstance(value, str) and _NUMBER.fullmatch(value) and math.isfinite(number := float(value)):
        return number
    return value


def as_flag(value: Any) -> Any:
    """1 or 0 for true, false, "1", "0", 1.0 and null; anything else as it is. Never by the truth of a value."""
    return 0 if value is None else int(value) if isinstance(value, bool) else as_whole(value)
