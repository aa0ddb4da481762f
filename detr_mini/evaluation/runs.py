"""Run folders read back: what was found, and the truth it was measured by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from detr_mini.config.changed_settings import settings_of
from detr_mini.config.run_config import read_config
from detr_mini.data.module import OF_TRAINING, STAGES
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.matching import Matches, match
from detr_mini.evaluation.subset import Part, chosen
from detr_mini.models.build import build_part
from detr_mini.structures import Categories

NEEDED = ("config.yaml", "metrics.json", "predictions.json")
NOT_A_CHOICE = {"seed", "name", "run_folder", "resume", "output", "categories", "modules"}
"""Settings that tell runs of one recipe apart."""
SHOWN = 4
"""So many choices at most stand in a run's label."""


@dataclass(frozen=True)
class Truth:
    """What a run was measured by: a COCO file's content, and the part of it that counted."""

    content: dict[str, Any]
    part: Part

    def differs(self, other: Truth) -> str | None:
        """How `other` is another one, in words; None where it is the same."""
        if self.part.categories != other.part.categories:
            return f"{len(self.part.categories)} and {len(other.part.categories)} categories, or others"
        if list(self.part.image_ids) != list(other.part.image_ids):
            return f"{len(self.part.image_ids)} and {len(other.part.image_ids)} images, or others"
        return None if self._boxes() == other._boxes() else "other boxes in the same images"

    def _boxes(self) -> list[tuple[Any, ...]]:
        content, _ = self.part.of(self.content, [])
        return sorted(
            (a["image_id"], a["category_id"], *a["bbox"], a.get("iscrowd", 0)) for a in content["annotations"]
        )


@dataclass(frozen=True)
class Run:
    """A run's or an evaluation's folder. `config` is plain."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """COCO results records of everything it found."""
        return _json(self.folder / "predictions.json")

    @property
    def limit(self) -> int:
        """Detections an image and category that counted."""
        return int(self.metrics.get("detection_limit", 100))

    def matches(self, truth: Truth, areas: int = 4) -> Matches:
        """Its detections matched to the truth, for so many ranges of area."""
        there, found = truth.part.of(truth.content, self.records)
        return match(there, found, truth.part.categories.ids, truth.part.image_ids, self.limit, areas)

    def truth(self) -> Truth:
        """Read through its config: images' headers are read, their pixels are not. DataError where it is not there."""
        split = self.metrics.get("split")
        if split not in STAGES:
            raise DataError(f"{self.folder} does not say what it was measured on (split in metrics.json is {split!r})")
        data = data_of(self.config["data"])
        if self.config.get("categories"):
            data.categories = Categories.from_dict(self.config["categories"])
        data.setup(STAGES[split])
        read = data.sets[split]
        return Truth(read.truth, chosen(read.image_ids, data.categories, self.config.get("subset")))


def data_of(settings: Mapping[str, Any]) -> Any:
    """The data module of a config's data section, to find and read annotations; nothing is read yet."""
    kept = {key: value for key, value in settings.items() if key not in OF_TRAINING}
    known = {"mean": [0.0] * 3, "std": [1.0] * 3, "stride": 1, "seed": 0}
    return build_part("data", {**kept, **known})


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in `folders`: each is a run's folder, or has some in it (a sweep). UserError where one has none."""
    return [_read(folder) for given in folders for folder in _found(Path(given).expanduser())]


def _found(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; runs=[...] takes folders of runs, such as outputs/quickstart/..."
        )
    if (folder / "metrics.json").is_file():
        yield folder
        return
    inside = sorted({file.parent for file in folder.rglob("metrics.json")})
    if not inside:
        raise UserError(f"{folder} holds no run that was measured (no metrics.json in it or below); give finished runs")
    yield from inside


def _read(folder: Path) -> Run:
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}, so it cannot be compared; give the folder of a finished run")
    try:
        config = OmegaConf.to_container(read_config(folder / "config.yaml"))
    except ConfigError as error:
        raise UserError(str(error)) from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise UserError(f"{folder / 'config.yaml'} has no data section; give the folder of a finished run")
    return Run(folder, config, _json(folder / "metrics.json"))  # type: ignore[arg-type]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not whole JSON ({error}); it may be cut off: measure the run again") from error


def common_truth(runs: Sequence[Run]) -> Truth:
    """The truth of all runs, which must be one; DataError that names two that differ."""
    first = runs[0].truth()
    for run in runs[1:]:
        alike = (run.config["data"], run.config.get("subset"), run.metrics.get("split"))
        if alike == (runs[0].config["data"], runs[0].config.get("subset"), runs[0].metrics.get("split")):
            continue
        how = first.differs(run.truth())
        if how:
            raise DataError(
                f"{runs[0].folder} and {run.folder} were measured on different data ({how}); "
                "measure both on one: detr-mini evaluate checkpoint=... data.root=..."
            )
    return first


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run's recipe: the settings in which these runs differ, the seed aside; in one sweep its words."""
    words = _as_swept(runs)
    if words is not None:
        return words
    flat = [dict(settings_of(run.config)) for run in runs]
    keys = {key for settings in flat for key in settings if key.split(".")[0] not in NOT_A_CHOICE}
    differing = sorted(key for key in keys if len({json.dumps(settings.get(key)) for settings in flat}) > 1)
    # where a section builds another thing, its other settings are not the choice
    sections = {key.removesuffix("_target_") for key in differing if key.endswith("_target_")}
    kept = [key for key in differing if key.endswith("_target_") or not key.startswith(tuple(sections) or ("\0",))]
    return [
        _label(settings, kept) or run.config.get("name", run.folder.name)
        for settings, run in zip(flat, runs, strict=True)
    ]


def _as_swept(runs: Sequence[Run]) -> list[str] | None:
    """The words in which the sweep that made all these runs varied them; None where there was no such sweep."""
    file = runs[0].folder.parent / "sweep.json"
    if {run.folder.parent for run in runs} != {file.parent} or not file.is_file():
        return None
    choices = {row["folder"]: row["choice"] for row in _json(file)["runs"]}
    found = [choices.get(run.folder.name) for run in runs]
    return None if None in found else [str(choice) for choice in found]


def _label(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    parts = []
    for key in keys:
        value = settings.get(key)
        if key.endswith("._target_"):
            parts.append(f"{key.split('.')[-2]}={str(value).rpartition('.')[2]}")
        else:
            parts.append(f"{'.'.join(key.split('.')[-2:])}={value}")
    return ", ".join(parts[:SHOWN]) + (", ..." if len(parts) > SHOWN else "")
