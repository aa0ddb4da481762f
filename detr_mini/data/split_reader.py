"""Where train, val and test lie, and each as the images that are trained or measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detr_mini.checking.check import check
from detr_mini.config.run_folder import rank
from detr_mini.data.auto_settings import AUTO, LARGEST
from detr_mini.data.choice import Choice
from detr_mini.data.hold_out import first_images, held_out
from detr_mini.data.subset import subset_of
from detr_mini.data.tiles import choose_tiles, cut_into_tiles
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.discover import Source, Split, located
from detr_mini.formats.faults import FATAL, LOSSLESS
from detr_mini.formats.layout import Layout
from detr_mini.formats.load import read_fixed, read_split
from detr_mini.formats.load_report import LoadReport
from detr_mini.formats.path_words import SPLIT_WORDS
from detr_mini.formats.split import CocoSet
from detr_mini.formats.tree import Tree
from detr_mini.images.tiling import check_tiles
from detr_mini.structures import Categories

CHECKS = (None, "stop", "headers", "fix", "mend")
"""Of them, "headers" is no setting for people: `compare` and `report` give it for runs with "stop"."""


class SplitReader:
    """Reads the splits of a dataset: checked, held out, chosen, limited and cut into tiles as the settings say.

    The arguments are settings of `DetectionData`; `splits`: its `train`, `val` and `test`; `reading`: the arguments of
    `coco.Reading`; `voc`: those of `voc.read_voc`; `limits`: of each split. What is decided is added to `report`.
    """

    def __init__(
        self,
        root: Path,
        format: str,
        splits: Mapping[str, Mapping[str, Any] | str | None],
        report: LoadReport,
        *,
        reading: Mapping[str, Any],
        voc: Mapping[str, Any],
        annotation_cache: str | None,
        check: str | None,
        hold_out: float | None,
        limits: Mapping[str, int | None],
        subset: Mapping[str, Any] | None,
        tiles: int | str | None,
        tile_overlap: float | int,
    ) -> None:
        if not isinstance(annotation_cache, str | None):
            raise ConfigError(f"data.annotation_cache is {annotation_cache!r}; it must be auto, null or a folder")
        if check not in CHECKS:
            raise ConfigError(f"data.check is {check!r}; it must be null, 'stop' or 'fix'")
        check_tiles(tiles, tile_overlap, ("data.tiles", "data.tile_overlap"))
        self.root, self.report = root, report
        self.check = "fix" if check == "mend" else check  # its older word
        self.hold_out, self.limits = hold_out, limits
        self.subset = None if subset is None else Choice.of(subset)
        self.tiles, self.tile_overlap = tiles, tile_overlap
        self.without_test = False
        self.counted: dict[str, int] = {}
        """Images of each split, before they are cut into tiles."""
        self._said = format, splits
        self._reading, self._voc, self._annotation_cache = reading, voc, annotation_cache
        self._fixed: dict[str, Tree] = {}
        self._parts: dict[str, CocoSet] = {}

    @cached_property
    def _found(self) -> Layout:
        layout = located(self.root, *self._said)
        self.report.notices += layout.notes
        return layout

    @property
    def format(self) -> str:
        """A key of `discover.FORMATS`."""
        return self._found.format

    @property
    def splits(self) -> dict[str, Split | None]:
        """Where each split lies below `root`, or None; a val that is held out lies where train does."""
        found: dict[str, Split | None] = {name: self._found.splits.get(name) for name in SPLIT_WORDS}
        found |= {"test": None} if self.without_test else {}
        return {**found, "val": found["train"]} if self.holds_out else found

    @property
    def holds_out(self) -> bool:
        """Whether val is a share of train."""
        found = self._found.splits
        return self.hold_out is not None and not found.get("val") and bool(found.get("train"))

    def read(self, name: str, categories: Categories | None, size: int | str) -> CocoSet:
        """A split, its labels in the order of `categories` (None: its own); tiles fit a model of this `size`."""
        split = self.splits[name]
        if not split:
            raise DataError(f"there is no {name} split in {self.root}; say where it lies with data.{name}.images=... "
                            "or make one with 'detr-mini data split'")  # fmt: skip
        held, limit = self.holds_out and name in ("train", "val"), self.limits[name]
        subset = self.subset if name == "train" else None
        last = held or subset is not None  # a limit counts what they leave
        coco = (
            self._held_out(name, categories) if held else self._whole(name, split, categories, None if last else limit)
        )
        coco = coco if subset is None else subset_of(coco, subset)
        coco = first_images(coco, limit) if last and limit is not None and limit < len(coco) else coco
        self.counted[name] = len(coco)
        return coco if self.tiles is None else self._in_tiles(name, coco, size)

    def _in_tiles(self, name: str, coco: CocoSet, size: int | str) -> CocoSet:
        """The split as windows of its images. The training split decides where `tiles` is "auto", so it comes first."""
        if self.tiles == AUTO:
            chosen = choose_tiles(coco, LARGEST if isinstance(size, str) else size)
            self.tiles = None if chosen.value is None else int(chosen.value)
            self.report.choose("data.tiles", chosen)
        if self.tiles is None:
            return coco
        return cut_into_tiles(coco, int(self.tiles), self.tile_overlap, training=name == "train")

    def _held_out(self, name: str, categories: Categories | None) -> CocoSet:
        """Train or val, both from the training files."""
        if not self._parts:
            split = self.splits["train"]
            assert split is not None and self.hold_out is not None
            train, val, what = held_out(self._whole("train", split, categories, None), self.hold_out)
            self._parts = {"train": train, "val": val}
            self.report.notices.append(what)
        return self._parts[name]

    def _whole(self, name: str, split: Split, categories: Categories | None, limit: int | None) -> CocoSet:
        if name in self._fixed:
            return read_fixed(self._fixed[name], name, categories, limit, self._reading)
        try:
            return read_split(
                self.root,
                split,
                name,
                format=self.format,
                categories=categories,
                limit=limit,
                annotation_cache=self._annotation_cache,
                **self._voc,
                **self._reading,
            )
        except DataError:
            if rank() == 0 and self.root.is_dir():
                checked = check(self._source({name: split}), pixels=False)
                if len(checked.faults) > 1:  # one alone stands in the error
                    checked.print()
            raise

    def _source(self, splits: Mapping[str, Split]) -> Source:
        return Source(self.root, self.format, dict(splits), **self._voc, box_corners=self._reading["box_corners"])

    def look_at_all(self, names: Sequence[str]) -> None:
        """Where the settings ask for it, look at every file of these splits once, before one is read.

        Prints the table of faults, and stops, or keeps what a fixed copy would have. "headers" is "stop" for data that
        have passed it before: no image is decoded.
        """
        if self.check is None or self._fixed:
            return
        if self.format == "litdata":
            raise ConfigError(f"{self.root} holds shards, which were checked when they were written: set "
                              "data.check=null; 'detr-mini data check' compares their checksums")  # fmt: skip
        splits = {name: split for name, split in self._found.splits.items() if name in names}
        checked = check(self._source(splits), pixels=self.check != "headers")
        if checked.faults and rank() == 0:
            checked.print()
        left = [f for f in checked.faults if f.kind in FATAL or f.refused or (f.fix and f.kind not in LOSSLESS)]
        if left and self.check != "fix":
            raise DataError(f"{len(left)} faults of {len({f.kind for f in left})} kinds in {self.root} (the table); "
                            "data.check=fix goes on as a fixed copy would")  # fmt: skip
        self._fixed = checked.fixed()
        counts = ", ".join(f"{kind}: {count}" for kind, count in checked.counts.items())
        self.report.notices.append(f"every file was looked at; {counts or 'no fault found'}")
