"""Run folders read back: their detections, and the ground truth they were measured against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detr_mini.config.changed_settings import settings_of
from detr_mini.config.plain import plain_dict
from detr_mini.config.run_config import read_config
from detr_mini.data.module import OF_TRAINING, STAGES
from detr_mini.data.stored_settings import data_settings
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.metrics.matching import Matches, match
from detr_mini.evaluation.metrics.subset import Subset, choose_subset
from detr_mini.models.build import build_part
from detr_mini.structures import Categories

NEEDED = ("config.yaml", "metrics.json", "predictions.json")
NOT_A_CHOICE = {"seed", "name", "run_folder", "resume", "output", "categories", "modules", "logger", "explicit"}
"""Settings in which runs of one recipe may differ."""
SHOWN = 4
"""The most settings in a run's label."""
NO_SIZE = 64
"""The image size where none counts: only annotations are read."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of a run: a COCO file's content, and the subset that was evaluated."""

    content: dict[str, Any]
    subset: Subset
    ids: dict[Path, dict[int, int]] = field(default_factory=dict)
    """Of runs (by folder) that give the same categories other ids: each of theirs, and the id here."""

    def differs(self, other: Truth) -> str | None:
        """How `other` differs, in words; None where it is the same. Categories are compared by name."""
        mine, theirs = (set(truth.subset.categories.names) for truth in (self, other))
        if mine != theirs:
            return f"other categories: {len(mine)} and {len(theirs)}, {len(mine & theirs)} in common"
        if list(self.subset.image_ids) != list(other.subset.image_ids):
            return f"other images: {len(self.subset.image_ids)} and {len(other.subset.image_ids)}"
        return None if self._boxes() == other._boxes() else "other boxes in the same images"

    def _boxes(self) -> list[tuple[Any, ...]]:
        categories = self.subset.categories
        name = dict(zip(categories.ids, categories.names, strict=True))
        annotations = self.subset.select(self.content, [])[0]["annotations"]
        return sorted((a["image_id"], name[a["category_id"]], *a["bbox"], a.get("iscrowd", 0)) for a in annotations)


@dataclass(frozen=True)
class Run:
    """The folder of a run or an evaluation. `config` holds plain dicts and lists."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """All its detections, as COCO results records."""
        return _json(self.folder / "predictions.json")

    @property
    def limit(self) -> int:
        """The number of detections per image and category that counted."""
        return int(self.metrics.get("detection_limit", 100))

    def matches(self, truth: Truth, areas: int = 4) -> Matches:
        """Its detections matched to the ground truth, for the first `areas` area ranges."""
        records, ids = self.records, truth.ids.get(self.folder)
        if ids is not None:
            records = [{**r, "category_id": ids[r["category_id"]]} for r in records if r["category_id"] in ids]
        selected, found = truth.subset.select(truth.content, records)
        return match(selected, found, truth.subset.categories.ids, truth.subset.image_ids, self.limit, areas)

    def truth(self) -> Truth:
        """The ground truth that its config names; no pixels are read. DataError where it cannot be found."""
        split = self.metrics.get("split")
        if split not in STAGES:
            raise DataError(f"{self.folder / 'metrics.json'} has no valid split ({split!r}); evaluate the run again")
        stored = self.config["data"]
        data = data_of({**data_settings(None, stored), "size": stored.get("size", NO_SIZE)})
        if self.config.get("categories"):
            data.evaluate_as(Categories.from_dict(self.config["categories"]))
        data.setup(STAGES[split])
        read = data.sets[split]
        return Truth(read.truth, choose_subset(read.image_ids, data.categories, self.config.get("subset")))


def data_of(settings: Mapping[str, Any]) -> Any:
    """The data module of a config's data section, for its annotations only. Nothing is read yet."""
    kept = {key: value for key, value in settings.items() if key not in OF_TRAINING}
    if "captions" in kept:  # they are not read, and none are made
        kept |= {"captions": {}, "refer": None}
    if kept.get("check") == "stop":  # the run has decoded every image; here only records can change what is read
        kept["check"] = "headers"
    known = {"mean": [0.0] * 3, "std": [1.0] * 3, "stride": 1, "seed": 0}
    return build_part("data", {**kept, **known})


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in `folders`. A folder is a run, or contains runs (a sweep). UserError where one contains none."""
    return [read_run(folder) for given in folders for folder in _found(Path(given).expanduser())]


def _found(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; runs=[...] takes folders of runs, for example outputs/quickstart/..."
        )
    if (folder / "metrics.json").is_file():
        yield folder
        return
    inside = sorted({file.parent for file in folder.rglob("metrics.json")})
    if not inside:
        raise UserError(f"{folder} contains no finished run (no metrics.json in it or below it); give finished runs")
    yield from inside


def read_run(folder: Path) -> Run:
    """The run in this very folder. UserError where it holds no finished run."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}, so it cannot be compared; give the folder of a finished run")
    try:
        config = plain_dict(read_config(folder / "config.yaml"))
    except ConfigError as error:
        raise UserError(str(error)) from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise UserError(f"{folder / 'config.yaml'} has no data section; give the folder of a finished run")
    return Run(folder, config, _json(folder / "metrics.json"))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}) and may be cut off; evaluate the run again") from error


def common_truth(runs: Sequence[Run]) -> Truth:
    """The ground truth that all runs share. DataError that names two runs that were measured otherwise."""

    def source(run: Run) -> tuple[Any, ...]:
        return run.config["data"], run.config.get("categories"), run.config.get("subset"), run.metrics.get("split")

    for run in runs[1:]:
        if run.limit != runs[0].limit:
            raise DataError(
                f"{runs[0].folder} and {run.folder} were measured with {runs[0].limit} and {run.limit} detections of "
                "each image and category; measure both with the same: detr-mini evaluate checkpoint=... "
                f"detection_limit={max(run.limit, runs[0].limit)}"
            )
    first, renumbered = runs[0].truth(), dict[Path, dict[int, int]]()
    ours = first.subset.categories
    ids = dict(zip(ours.names, ours.ids, strict=True))
    for run in (run for run in runs[1:] if source(run) != source(runs[0])):
        own = run.truth()
        if how := first.differs(own):
            raise DataError(
                f"{runs[0].folder} and {run.folder} were measured on different data ({how}); measure both on the same: "
                "detr-mini evaluate checkpoint=... data.root=... 'subset.categories=[...]'"
            )
        theirs = own.subset.categories
        if theirs != ours:
            renumbered[run.folder] = {i: ids[name] for i, name in zip(theirs.ids, theirs.names, strict=True)}
    return replace(first, ids=renumbered)


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path: as many as make different folders different names."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = [str(Path(*own[-count:])) for own in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return []


def labels(runs: Sequence[Run]) -> list[str]:
    """A label for each run's recipe: the settings in which these runs differ, except the seed.

    Runs have the same label only where they have the same settings. Runs of one sweep have the settings that the sweep
    varied.
    """
    swept = _as_swept(runs)
    if swept is not None:
        return swept
    flat = [dict(settings_of(run.config)) for run in runs]
    keys = {key for settings in flat for key in settings if key.split(".")[0] not in NOT_A_CHOICE}
    differing = sorted(key for key in keys if len({json.dumps(settings.get(key)) for settings in flat}) > 1)
    kept = [key for key in differing if not _follows_from_class(key, flat)]
    shown = [
        _label(settings, kept) or run.config.get("name", run.folder.name)
        for settings, run in zip(flat, runs, strict=True)
    ]
    return _numbered(shown, [json.dumps([settings.get(key) for key in differing]) for settings in flat])


def _follows_from_class(key: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs differ in a setting only where they build different classes from one of its sections."""
    parts = key.split(".")[:-1]
    for target in (".".join([*parts[:count], "_target_"]) for count in range(1, len(parts) + 1)):
        values: dict[str, set[str]] = {}
        for settings in flat:
            values.setdefault(json.dumps(settings.get(target)), set()).add(json.dumps(settings.get(key)))
        if key != target and len(values) > 1 and all(len(own) == 1 for own in values.values()):
            return True
    return False


def _numbered(shown: Sequence[str], recipes: Sequence[str]) -> list[str]:
    """Labels with a number behind them where other recipes have the same one."""
    places: dict[str, dict[str, int]] = {}
    for label, recipe in zip(shown, recipes, strict=True):
        places.setdefault(label, {}).setdefault(recipe, len(places.get(label, ())) + 1)
    return [
        label if len(places[label]) == 1 else f"{label} ({places[label][recipe]})"
        for label, recipe in zip(shown, recipes, strict=True)
    ]


def _as_swept(runs: Sequence[Run]) -> list[str] | None:
    """The settings that the sweep of all these runs varied, as typed; None where they are not of one sweep."""
    file = runs[0].folder.parent / "sweep.json"
    if {run.folder.parent for run in runs} != {file.parent} or not file.is_file():
        return None
    try:
        choices = {row["folder"]: row["choice"] for row in _json(file)["runs"]}
    except (KeyError, TypeError):
        raise UserError(f"{file} was not written by a sweep; move it out of {file.parent}") from None
    found = [choices.get(run.folder.name) for run in runs]
    return None if None in found else [str(choice) for choice in found]


def _label(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    parts = []
    for key in [key for key in keys if key in settings]:
        value = settings[key]
        if key.endswith("._target_"):
            parts.append(f"{key.split('.')[-2]}={str(value).rpartition('.')[2]}")
        else:
            parts.append(f"{'.'.join(key.split('.')[-2:])}={value}")
    return ", ".join(parts[:SHOWN]) + (", ..." if len(parts) > SHOWN else "")
