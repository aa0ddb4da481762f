"""What a benchmark leaves: its numbers, its table and its picture, in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from detr_mini.config.run_folder import write_text


def show(output: str, name: str, result: Mapping[str, Any], table: str, plot: Callable[[Path], None]) -> Path:
    """Write `name`.json, `name`.md (`table`, Markdown) and `name`.png, and print the table; the folder."""
    folder = Path(output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(result, indent=1))
    write_text(folder / f"{name}.md", table)
    plot(folder / f"{name}.png")
    console = Console(highlight=False)
    console.print(Markdown(table))
    console.print(f"written to {folder}", markup=False)
    return folder
