"""Progress on the terminal: bars that disappear when they are done. Imports `rich` only where a bar is shown."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

BAR_FROM = 2000
"""The number of images from which work on each takes so long that a bar is shown."""
LINE_SECONDS = 60.0
"""Time between two lines of `ShareBar` on an output that is not a terminal."""
Item = TypeVar("Item")


def track(items: Iterable[Item], title: str, total: int | None = None, at_least: int = 0) -> Iterable[Item]:
    """`items`, with a bar while they are iterated over; no bar for fewer than `at_least`, which take no time.

    `total` is their number, for items without a length. No two bars may be active at once.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if total is not None and total < at_least:
        return items
    from rich.progress import track as tracked

    return tracked(items, title, total=total, transient=True)


class ShareBar:
    """A bar for work that is measured as a share in [0, 1], with a line of text beside it.

    On an output that is not a terminal (a file, a pipe, a notebook's cell) it prints a line every `LINE_SECONDS`.
    """

    def __init__(self, title: str, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.console, self._printed = console, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self._progress = Progress(*columns, console=console, refresh_per_second=4, transient=True)
        self._bar = self._progress.add_task(title, total=1.0, state="")
        self._progress.start()

    def rename(self, title: str) -> None:
        """Show another title from now on."""
        self._progress.update(self._bar, description=title)

    def show(self, share: float, state: str) -> None:
        """The share that is done, and the text beside the bar."""
        self._progress.update(self._bar, completed=share, state=state)
        if not self.console.is_terminal and time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            self.console.print(f"{share:4.0%}  {state}", markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()
