"""What a check found: the table, the JSON report, and the fixed copy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detr_mini.errors import DataError, printable
from detr_mini.formats.convert import write_set
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import FATAL, Fault, Kind
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import new_folder

SHOWN = 3
_ORDER = {kind: place for place, kind in enumerate(Kind)}


@dataclass
class Checked:
    """What a check found, and the set as its fixed copy would have it."""

    source: Source
    faults: list[Fault] = field(default_factory=list)
    trees: dict[str, Tree] = field(default_factory=dict)
    """Fixed; every image has its size."""
    unsure: set[str] = field(default_factory=set)
    """Splits with unreadable parts: what is missing in them is unknown."""
    listed: set[Path] = field(default_factory=set)
    """Every image file that a split lists."""
    images: int = 0
    boxes: int = 0
    annotations: Counter[str] = field(default_factory=Counter)
    """Of each split, rows that no box could be made of included."""

    def add(self, faults: Iterable[Fault]) -> None:
        """More faults; all stand in the order of the table."""
        self.faults = sorted([*self.faults, *faults], key=lambda fault: _ORDER[fault.kind])

    @property
    def counts(self) -> Counter[str]:
        """How many faults of each kind, by its name, in the order of the table."""
        found = Counter(fault.kind for fault in self.faults)
        return Counter({str(kind): found[kind] for kind in Kind if found[kind]})

    @property
    def fixes(self) -> dict[str, tuple[int, int]]:
        """Of each kind of fix how many there are, and how many boxes the fixed copy lacks because of them."""
        found: dict[str, tuple[int, int]] = {}
        for fault in self.faults:
            if fault.fix:
                count, boxes = found.get(f"{fault.kind}: {fault.fix}", (0, 0))
                found[f"{fault.kind}: {fault.fix}"] = count + 1, boxes + fault.boxes
        return found

    def fixed(self) -> dict[str, Tree]:
        """The splits of a fixed copy. DataError where the intended meaning is unknown, or nothing usable is left."""
        refused = [f for f in self.faults if f.refused or (f.kind in FATAL and not f.fix)]
        if refused:
            more = f" ({len(refused)} faults like this)" if len(refused) > 1 else ""
            raise DataError(f"{refused[0].kind}: {refused[0].sentence}{more}. Any fix would be a guess, so no "
                            f"fixed copy of {self.source.root} is made; correct this by hand")  # fmt: skip
        for name, tree in self.trees.items():
            what = "usable image" if not tree.content["images"] else "box" if self.had_boxes(name) else ""
            if what:
                raise DataError(f"no {what} is left in {name} of {self.source.root}; nothing is written. "
                                "'detr-mini data check' lists what is wrong with each")  # fmt: skip
        return self.trees

    def had_boxes(self, split: str) -> bool:
        """Whether a split had annotations, of which its fixed copy has none."""
        return self.annotations[split] > 0 and not self.trees[split].content["annotations"]

    def table(self) -> Any:
        """For rich: a row a kind with its count, first examples and what to do about it."""
        from rich.markup import escape
        from rich.table import Table

        view = Table(title=f"{len(self.faults)} faults in {self.source.root}", title_justify="left", show_lines=True)
        view.add_column("fault")
        view.add_column("count", justify="right")
        view.add_column("examples", overflow="fold")
        for kind in Kind:
            texts = [fault.sentence for fault in self.faults if fault.kind is kind]
            if texts:
                more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
                examples = escape("\n".join([*texts[:SHOWN], *more]))
                view.add_row(f"{kind}\n[dim]{escape(kind.advice)}[/dim]", f"{len(texts):,}", examples)
        return view

    def print(self) -> None:
        """The table on the terminal, or one line where nothing is wrong."""
        from rich.console import Console

        whole = f"{self.images:,} images, {self.boxes:,} boxes in {', '.join(self.source.splits)}"
        Console().print(
            self.table() if self.faults else f"{self.source.root}: {whole}, no fault found", highlight=False
        )
        if self.faults:
            print(whole)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        faults = [
            {
                "kind": str(f.kind),
                "text": f.sentence,
                "image": printable(f.image),
                "fix": f.now,
                "boxes": f.boxes,
                "mend": f.now,
            }
            for f in self.faults
        ]
        return {"images": self.images, "boxes": self.boxes, "counts": dict(self.counts), "faults": faults}


def write_fixed_copy(done: Checked, output: str | Path) -> Counter[str]:
    """Write the fixed copy, in the source's format, and `changes.json`; returns how many fixes of each kind there are.

    DataError where it is not certain what is meant, and where nothing would be left of a split.
    """
    trees = done.fixed()
    with new_folder(output) as folder:
        write_set(folder, done.source.format, trees)
        lines = [
            {"kind": str(f.kind), "what": f.sentence, "now": f.now, "image": printable(f.image), "boxes": f.boxes}
            for f in done.faults
            if f.fix
        ]
        (folder / "changes.json").write_text(
            json.dumps(lines, indent=1, ensure_ascii=False), encoding="utf-8", errors="backslashreplace"
        )
    return Counter({kind: count for kind, (count, _) in done.fixes.items()})
