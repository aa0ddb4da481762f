"""Fonts for pictures, and text that fits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and many symbols. `size` is in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def wrapped(text: str, letters: ImageFont.FreeTypeFont, width: int | float) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at blanks; a word that is wider is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shortened(line, letters, width) for line in lines]


def shortened(text: str, letters: ImageFont.FreeTypeFont, width: int | float) -> str:
    """`text` on one line, cut with an ellipsis to fit into `width` pixels; empty where nothing fits."""
    text = " ".join(text.encode(errors="replace").decode().split())  # a lone surrogate has no glyph
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""
