"""What was loaded, clipped and dropped, and why: nothing is lost without a line here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from detr_mini.formats.faults import Kind

EXAMPLES = 5
MUCH_BACKGROUND = 0.5


@dataclass
class SplitReport:
    """The counts of one split; only the reader adds to them."""

    split: str
    images: int = 0
    """Images that can be used, background among them."""
    background: int = 0
    """Images without a box (crowd regions do not count)."""
    boxes: int = 0
    """Boxes that are trained on or scored (without crowd regions)."""
    crowd: int = 0
    """Crowd regions: no targets in training, ignored in evaluation."""
    clipped: int = 0
    """Boxes that stuck out of their image and were cut at its edge."""
    turned: int = 0
    """Images stored sideways with an EXIF orientation, which is applied."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Left out, reason: count."""
    enclosed: int = 0
    """Turned boxes, of which the upright box around each is used."""
    by_image: dict[str, dict[str, int]] = field(default_factory=dict)
    """What happened to each image, and how often."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first few of each kind, by name."""
    per_category: dict[str, int] = field(default_factory=dict)
    """Boxes of each category that is known, zeros too."""
    missing: list[str] = field(default_factory=list)
    """Every image file that is listed and not there (where skipping is allowed)."""
    notices: list[str] = field(default_factory=list)

    def clip(self, example: str, image: str = "") -> None:
        """Count a clipped box."""
        self.clipped += 1
        self._remember("clipped", example, image)

    def turn(self, example: str, image: str = "") -> None:
        """Count a turned box whose upright enclosing box is used."""
        self.enclosed += 1
        self._remember("turned box, enclosed", example, image)

    def drop(self, kind: Kind | str, example: str, image: str = "") -> None:
        """Count something left out."""
        reason = str(kind)
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self._remember(reason, example, image)

    def finish(self) -> None:
        """Add the notices that follow from the counts; call once, when everything is counted."""
        if self.images and self.background / self.images > MUCH_BACKGROUND:
            self.notices.append(
                f"{self.background} of {self.images} images have no box and count as background; "
                "is an annotation file incomplete?"
            )
        if self.boxes == 0 and self.images:
            self.notices.append("there is no box at all in this split")

    def _remember(self, kind: str, example: str, image: str = "") -> None:
        if image:
            own = self.by_image.setdefault(image, {})
            own[kind] = own.get(kind, 0) + 1
        known = self.examples.setdefault(kind, [])
        if len(known) < EXAMPLES:
            known.append(example)


@dataclass(frozen=True)
class Chosen:
    """A number chosen from the data or the time available (None: the setting stays off), and why."""

    value: int | float | None
    because: str


def _shown(value: int | float | None) -> str:
    return "null" if value is None else str(value)


@dataclass
class LoadReport:
    """What was loaded, all splits."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    """About the whole dataset: scenes made or reused, the cache's size."""
    chosen: dict[str, int | float | None] = field(default_factory=dict)
    """Settings that the data have chosen (auto), by their names in the config."""

    def choose(self, setting: str, chosen: Chosen) -> None:
        """Keep a number that was chosen, and why, in place of an earlier choice."""
        begins = f"{setting}={_shown(self.chosen.get(setting))} is chosen: "
        self.notices = [notice for notice in self.notices if not notice.startswith(begins)]
        self.chosen[setting] = chosen.value
        self.notices.append(f"{setting}={_shown(chosen.value)} is chosen: {chosen.because}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for data_report.json."""
        splits = {name: asdict(split) for name, split in self.splits.items()}
        return {"splits": splits, "notices": list(self.notices), "chosen": dict(self.chosen)}

    def table(self) -> Any:
        """For rich: a row a count, a column a split; below it what was left out, by example, and the notices."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        view = Table(title="What was loaded", title_justify="left")
        view.add_column("")
        for name in self.splits:
            view.add_column(name, justify="right")
        for label, values in self._rows():
            view.add_row(escape(label), *(f"{value:,}" for value in values))
        remarks = [
            f"{name}: {kind}, for example {'; '.join(examples[:2])}"
            for name, split in self.splits.items()
            for kind, examples in split.examples.items()
        ]
        remarks += [f"{name}: {notice}" for name, split in self.splits.items() for notice in split.notices]
        return Group(view, *(escape(remark) for remark in [*remarks, *self.notices]))

    def print(self) -> None:
        """The table, on the terminal."""
        from rich.console import Console

        Console().print(self.table())

    def _rows(self) -> list[tuple[str, list[int]]]:
        splits = list(self.splits.values())
        counts = {
            "images": [s.images for s in splits],
            "  without a box": [s.background for s in splits],
            "  turned upright": [s.turned for s in splits],
            "boxes": [s.boxes for s in splits],
            "  clipped at the edge": [s.clipped for s in splits],
            "  turned, upright box around": [s.enclosed for s in splits],
            "crowd regions": [s.crowd for s in splits],
        }
        rows = [(name, values) for name, values in counts.items() if any(values) or name in ("images", "boxes")]
        reasons = dict.fromkeys(reason for s in splits for reason in s.dropped)
        rows += [(f"left out: {reason}", [s.dropped.get(reason, 0) for s in splits]) for reason in reasons]
        rows.append(("categories with boxes", [sum(v > 0 for v in s.per_category.values()) for s in splits]))
        categories = dict.fromkeys(name for s in splits for name in s.per_category)
        if len(categories) <= 20:
            rows += [(f"  {name}", [s.per_category.get(name, 0) for s in splits]) for name in categories]
        return rows
