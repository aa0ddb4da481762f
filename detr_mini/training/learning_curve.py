"""The verb `benchmark learning_curve`: the same training on growing shares of the data, one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from detr_mini.drawing.judgement import learning_curve as draw
from detr_mini.errors import ConfigError
from detr_mini.evaluation.runs import settings_of
from detr_mini.evaluation.table import with_interval
from detr_mini.training.run import build, train

DRAWN = ("AP", "AP50")
DECISIVE = ("data.root", "data.train", "data.val", "data.test", "data.size", "data.augment", "data.limit",
            "data.subset", "model.", "backbone.", "criterion.", "optim.", "trainer.max_", "seed", "init")  # fmt: skip
"""Settings that a run's figure depends on."""


def learning_curve(config: DictConfig) -> Path:
    """Train on each of `config.shares` of the training images, one after the other; the folder with picture and runs.

    Each run is what `train` makes of the same words with data.limit_train: the first images by id, so a smaller share
    is a part of a larger one. Every run is measured on the same images. Called again with the same output, it goes
    on: runs that are finished stay.
    """
    shares = sorted(set(config.shares))
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"shares is {list(config.shares)}; they must be above 0 and at most 1")
    folder = Path(config.output).expanduser()
    plain = OmegaConf.to_container(config, resolve=True)
    settings = {key: value for key, value in plain.items() if key not in ("shares", "output")}  # type: ignore[union-attr]
    total = len(build(OmegaConf.create(settings)).data.train_set)
    rows: list[dict[str, Any]] = []
    for images in dict.fromkeys(max(1, round(share * total)) for share in shares):
        run = folder / f"{images}-images"
        own = OmegaConf.create({**settings, "run_folder": str(run)})
        own.data.limit_train = images
        if (run / "metrics.json").is_file():
            _check_same(run, own)
        else:
            print(f"{images} of {total} training images")
            train(own)
        rows.append({**json.loads((run / "metrics.json").read_bytes()), "images": images})
    kept = ("images", "AP", "AP_low", "AP_high", "AP50", "AP50_low", "AP50_high", "train_seconds", "split")
    content = [{key: row.get(key) for key in kept} for row in rows]
    (folder / "learning_curve.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    _draw(rows, folder / "learning_curve.png", f"{config.name}: learning curve")
    _print(rows)
    print(f"written to {folder}")
    return folder


def _check_same(run: Path, wanted: DictConfig) -> None:
    """ConfigError where the finished `run` had other settings: its figure would stand for another training."""
    configs = OmegaConf.load(run / "config.yaml"), wanted
    there, here = (dict(settings_of(OmegaConf.to_container(config, resolve=True))) for config in configs)
    for key, value in here.items():
        # what the data chose ("auto") stands in the run's config as a number
        if key.startswith(DECISIVE) and key in there and value != "auto" and there[key] != value:
            raise ConfigError(f"{run} was trained with {key}={there[key]}, not {value}; give another output=FOLDER, or "
                              "remove it")  # fmt: skip


def _draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    values = {name: [row.get(name) for row in rows] for name in DRAWN}
    bands = {name: [_band(row, name) for row in rows] for name in DRAWN}
    draw([row["images"] for row in rows], values, bands, path, title)


def _band(row: dict[str, Any], name: str) -> tuple[float, float] | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("training images", "AP", "AP50", "minutes")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        minutes = f"{(row.get('train_seconds') or 0) / 60:.1f}"
        table.add_row(str(row["images"]), *(with_interval(row, name) for name in DRAWN), minutes)
    Console().print(table)
