"""The verb `benchmark learning_curve`: the same training on growing shares of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from detr_mini.config.changed_settings import changes
from detr_mini.config.compose import compose
from detr_mini.config.plain import plain_dict
from detr_mini.config.run_config import read_config
from detr_mini.config.run_folder import locked, to_go_on, write_text
from detr_mini.drawing.evaluation_plots import learning_curve as draw
from detr_mini.environment import command_line
from detr_mini.errors import ConfigError
from detr_mini.evaluation.report.table import with_interval
from detr_mini.training.build import build
from detr_mini.training.run import train
from detr_mini.training.run_files import write_given_settings

DRAWN = ("AP", "AP50")
HARMLESS = ("name", "output", "shares", "run_folder", "resume", "modules", "explicit", "logger", "trainer.progress",
            "trainer.log_every_steps", "trainer.save_every_minutes", "data.workers", "data.cache_megabytes",
            "data.annotation_cache", "data.pin_memory", "data.uint8")  # fmt: skip
"""Settings that no result depends on."""


def learning_curve(config: DictConfig) -> Path:
    """Train on each of `config.shares` of the training images, one after the other; the folder with picture and runs.

    Each run is a `train` with the same settings and data.limit_train: the first images by id, so a smaller share is
    part of a larger one. All runs are measured on the same images. Called again with the same output, it continues:
    finished runs stay, an interrupted one is resumed.
    """
    shares = sorted(set(config.shares))
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"shares is {list(config.shares)}; give one or more numbers above 0 and at most 1")
    if config.resume is not None:
        raise ConfigError("resume is for one training; to continue a learning curve, run the same command again")
    folder = Path(config.output).expanduser()
    whole = plain_dict(config, resolve=True)
    settings = {key: value for key, value in whole.items() if key not in ("shares", "output")}
    check_same(folder / "config.yaml", settings)
    data = build(OmegaConf.create(settings)).data
    total = data.train_images
    if not (data.splits["val"] or data.splits["test"]):
        raise ConfigError("the data have neither val nor test, so nothing can be measured; data.hold_out=0.2 "
                          "holds out a share of train, and 'detr-mini data split' makes splits")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        rows = _trained(folder, settings, shares, total)
        kept = ("images", "AP", "AP_low", "AP_high", "AP50", "AP50_low", "AP50_high", "train_seconds", "split")
        content = [{key: row.get(key) for key in kept} for row in rows]
        _draw(rows, folder / "learning_curve.png", f"{config.name}: learning curve on {rows[0]['split']}")
        write_text(folder / "learning_curve.json", json.dumps(content, indent=1))
    _print(rows)
    print(f"written to {folder}")
    return folder


def _trained(folder: Path, settings: Mapping[str, Any], shares: Sequence[float], total: int) -> list[dict[str, Any]]:
    """Train what is missing; the metrics of every run."""
    rows: list[dict[str, Any]] = []
    for images in dict.fromkeys(max(1, round(share * total)) for share in shares):
        run = folder / f"{images}-images"
        if not (run / "metrics.json").is_file():
            print(f"{images} of {total} training images")
            if to_go_on(run):  # with its own config, which has the numbers that were chosen for it
                own = compose("train", [f"resume={run}", f"modules=[{','.join(settings.get('modules') or ())}]"])
            else:
                own = OmegaConf.create({**settings, "run_folder": str(run)})
                if images < total:
                    own.data.limit_train = images
            if own.trainer.devices * own.trainer.num_nodes > 1:
                _train_with_others(own, run)
            else:
                train(own)
        rows.append({**json.loads((run / "metrics.json").read_bytes()), "images": images})
    return rows


def _train_with_others(config: DictConfig, run: Path) -> None:
    """Train with several processes. Each repeats the command line, so that must describe this run alone."""
    if config.resume is None:
        run.mkdir(parents=True, exist_ok=True)
        write_given_settings(run, config)
    words = ["train", f"resume={run}", f"modules=[{','.join(config.modules or ())}]"]
    with command_line(words):
        train(compose("train", words[1:]))


def check_same(
    path: Path, wanted: Mapping[str, Any], harmless: tuple[str, ...] = HARMLESS, key_of_folder: str = "output"
) -> None:
    """ConfigError if the folder's runs had other settings, so that their results are of another training.

    `path` is the config.yaml of the folder, which the setting `key_of_folder` names. Settings that begin with one of
    `harmless` may differ.
    """
    if not path.is_file():
        return
    for key, (there, here) in changes(plain_dict(read_config(path)), wanted).items():
        if not key.startswith(harmless):
            raise ConfigError(f"the runs in {path.parent} were trained with {key}={there}, not "
                              f"{here}; give another {key_of_folder}=FOLDER, or remove it")  # fmt: skip


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
