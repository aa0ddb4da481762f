"""The verb `benchmark datasets`: one recipe on many datasets, with one table and one picture of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from detr_mini.config.compose import compose
from detr_mini.config.path_settings import quoted
from detr_mini.config.plain import plain_dict
from detr_mini.config.run_folder import is_unused, locked, new_run_folder, write_text
from detr_mini.data.choice import several
from detr_mini.drawing.evaluation_plots import means_with_intervals
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.comparison.runs import STAGES, data_of, read_runs
from detr_mini.evaluation.metrics.duplicate_detections import nms_gain
from detr_mini.evaluation.report.table import markdown, with_interval
from detr_mini.experiments.aggregate import recipe
from detr_mini.experiments.compare_datasets import FILE, RECIPE
from detr_mini.experiments.leaderboard import result
from detr_mini.experiments.learning_curve import check_same
from detr_mini.experiments.process import Processes
from detr_mini.experiments.record import KEPT, STATES, Run, key_of, start_or_go_on
from detr_mini.formats.discover import find_layout
from detr_mini.training.history import History

OWN = ("data.root", "data.test", "experiment", "seed", "run_folder", "resume")
"""Settings of a training that this verb sets."""
MAY_GROW = ("sets", "seeds", "folder")
"""Settings that may differ when a folder of results is continued."""
AVERAGED = (
    "AP", "AP_low", "AP_high", "AP50", "AP50_low", "AP50_high", "nms_AP", "nms_AP50", "doubles", "threshold",
    "detections_at_threshold", "images", "size", "queries", "steps", "images_per_second", "train_seconds",
)  # fmt: skip
IN_THE_MEAN = ("AP", "AP50", "nms_AP", "nms_AP50", "doubles")
"""Figures that are averaged over the datasets, too."""


def benchmark_datasets(config: DictConfig) -> Path:
    """Train on every dataset below `config.root` with every seed, one after the other; the folder of the results.

    Each training is a process of its own with a run folder `<set>/seed<k>`. One that fails is reported and does not end
    the others. Called again with the same folder, it continues: finished runs stay, an interrupted one is resumed.
    UserError at the end if some failed. KeyboardInterrupt after Ctrl-C, once the table of the finished runs is printed.
    """
    _check(config)
    root = Path(config.root).expanduser().absolute()
    wanted = several(config.sets)
    names, left_out = data_sets(root, None if wanted is None else [*map(str, wanted)])
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")
    settings = {**plain_dict(config, resolve=True), "root": str(root)}
    words = {name: _words(root / name, config) for name in names}
    compose("train", next(iter(words.values())))  # a mistake in the settings leaves no folder behind
    folder = _folder(config.folder, settings)
    with locked(folder):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        runs = _all(folder, words, config, left_out)
    failed = [run.folder for run in runs if run.state != "done"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} trainings failed: {', '.join(failed)}; the reasons are below the table. "
            f"Repeat the command with folder={folder} to try them again"
        )
    return folder


def _all(folder: Path, words: Mapping[str, list[str]], config: DictConfig, left_out: Mapping[str, str]) -> list[Run]:
    """Train each dataset (with its `words`) with each seed unless that is finished; then, in any case, report."""
    seeds = dict.fromkeys(config.seeds)
    runs = [Run([*words[name], f"seed={seed}"], f"{name}/seed{seed}") for name in words for seed in seeds]
    finished = (file.parent.relative_to(folder).as_posix() for file in sorted(folder.rglob("seed*/metrics.json")))
    runs += [Run([], path) for path in finished if path not in {run.folder for run in runs}]  # of earlier calls
    try:
        with Processes(None) as processes:
            for place, run in enumerate(runs, 1):
                _train(run, folder, config.split, processes, f"[{place}/{len(runs)}] {run.folder}")
    finally:
        report(folder, runs, config, left_out)
    return runs


def data_sets(root: Path, wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Names of the folders below `root` to train on, and the reasons why others are left out.

    `wanted` has the names; None takes every folder that looks like a dataset. ConfigError if there is none.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; root=FOLDER takes a folder of datasets")
    if wanted is not None:
        for name in wanted:
            if Path(name).is_absolute() or ".." in Path(name).parts or not (root / name).is_dir():
                raise ConfigError(f"sets names '{name}', which is not a folder below {root}")
        if not wanted:
            raise ConfigError("sets is empty; name some folders below root, or leave it out to take them all")
        return list(dict.fromkeys(wanted)), {}
    names, left_out = [], {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            find_layout(folder)
            names.append(folder.name)
        except DataError as error:
            left_out[folder.name] = str(error)
    if not names:
        reasons = "".join(f" {reason}" for reason in list(left_out.values())[:1])
        raise DataError(f"{root} holds no folder with a dataset; give each dataset a folder of its own.{reasons}")
    return names, left_out


def _check(config: DictConfig) -> None:
    if config.split not in STAGES:
        raise ConfigError(f"split is '{config.split}'; choose one of {', '.join(STAGES)}")
    if not config.seeds or not all(type(seed) is int for seed in config.seeds):
        raise ConfigError(f"seeds is {list(config.seeds)}; it must be one or more whole numbers")
    for word in config.overrides or ():
        if key_of(str(word)) in OWN:
            raise ConfigError(f"overrides has {word}; {key_of(str(word))} is decided by root, sets, experiment, seeds, "
                              "split and folder")  # fmt: skip


def _words(root: Path, config: DictConfig) -> list[str]:
    """The settings of a training on one dataset, without its seed."""
    words = [f"data.root={quoted(str(root))}"]
    words += [] if config.experiment is None else [f"experiment={config.experiment}"]
    words += ["data.test=null"] if config.split == "val" else []  # choosing must not look at test
    words += [] if config.minutes is None else [f"trainer.max_minutes={config.minutes}"]
    return words + [str(word) for word in config.overrides or ()]


def _folder(wanted: str | None, settings: Mapping[str, Any]) -> Path:
    """The folder of the results: a new one, or one to continue."""
    there = None if wanted is None else Path(wanted).expanduser()
    if there is None or not there.is_dir() or is_unused(there):
        return new_run_folder("outputs", "datasets", there, "folder")
    if not (there / "config.yaml").is_file():
        raise ConfigError(f"folder={there} is not empty and not the folder of a benchmark (it has no config.yaml); "
                          "choose a new folder")  # fmt: skip
    check_same(there / "config.yaml", settings, MAY_GROW, "folder")
    return there


def _train(run: Run, folder: Path, split: str, processes: Processes, title: str) -> None:
    """Train `run` unless it is finished, and record how that ended. KeyboardInterrupt after Ctrl-C."""
    path = folder / run.folder
    if (path / "metrics.json").is_file():
        title += ", finished before"
    elif missing := _no_split(run.words, split):
        run.state, run.sentence = "failed", missing
    else:
        print(f"{title}: training", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        run.state = "stopped"
        status, run.sentence = processes.train(start_or_go_on(run.words, path), path.with_suffix(".log"))
        run.state = STATES.get(status, "broken")
        if run.state == "stopped":
            raise KeyboardInterrupt
    if run.state not in ("failed", "broken"):
        _measured(run, path, split)
    print(f"{title}: {result(run)}", flush=True)


def _measured(run: Run, path: Path, split: str) -> None:
    """Record the metrics of a finished run, or why they are not what was asked for."""
    try:
        run.metrics, run.state = _figures(path), "done"
    except UserError as error:
        run.state, run.sentence = "failed", str(error)
    if run.metrics and run.metrics["split"] != split:
        run.state, run.sentence = "failed", f"it was measured on {run.metrics['split']}: {split} has no images"


def _no_split(words: Sequence[str], split: str) -> str:
    """Why a training with these settings could not be measured on `split`; "" if it can."""
    data = compose("train", words).data
    try:
        if data_of(plain_dict(data, resolve=True)).splits[split]:
            return ""
    except UserError as error:
        return str(error)
    remedy = ", or hold some out with overrides=[data.hold_out=0.2]" if split == "val" else ", or report split=val"
    return f"there is no {split} split in {data.root}; make one with 'detr-mini data split'{remedy}"


def _figures(path: Path) -> dict[str, Any]:
    """Everything that the table and the picture show of a finished run."""
    (run,) = read_runs([path])
    truth = run.truth()
    rows = History(path / "history.csv").rows()
    return {
        **{key: run.metrics.get(key) for key in (*KEPT, *AVERAGED)},
        **nms_gain(truth.content, run.records, truth.subset, run.limit),
        "size": run.config["data"].get("size"),
        "queries": run.config.get("model", {}).get("queries"),
        "steps": int(rows[-1]["step"]) if rows else None,
    }


def report(folder: Path, runs: Sequence[Run], config: DictConfig, left_out: Mapping[str, str]) -> None:
    """Write datasets.json, datasets.md and datasets.png, and print the table."""
    given = plain_dict(config)
    settings = {key: given[key] for key in RECIPE}
    by_set: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.state == "done":
            by_set.setdefault(run.folder.rpartition("/")[0], []).append(run.metrics)
    sets = [
        {"set": name, "seeds": len(rows), **{key: averaged[key] for key in (*AVERAGED, "AP_spread", "AP50_spread")}}
        for name, rows in by_set.items()
        for averaged in [recipe(name, rows, AVERAGED)]
    ]
    over_sets = recipe("mean", sets, IN_THE_MEAN)
    mean = {key: over_sets[key] for key in IN_THE_MEAN}
    content = {
        **settings,
        "left_out": dict(left_out),
        "sets": sets,
        "mean": mean,
        "runs": [{"folder": run.folder, "state": run.state, "sentence": run.sentence, **run.metrics} for run in runs],
    }
    write_text(folder / FILE, json.dumps(content, indent=1))
    cells = [_cells(row) for row in [*sets, {"set": "mean", **mean}]]
    title = f"{settings['experiment'] or 'train'} on {len(sets)} datasets, measured on {settings['split']}"
    notes = [f"{run.folder}: {run.state}. {run.sentence}" for run in runs if run.state != "done"]
    table = Table(
        *HEADS, title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for row in cells:
        table.add_row(*(escape(cell.replace(" (", "\n(")) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(Group(table, *map(Text, [LEGEND, *notes])))
    lines = "".join(f"- {note}\n" for note in [LEGEND, *notes])
    write_text(folder / "datasets.md", f"{title}\n\n{markdown(HEADS, cells)}\n{lines}")
    drawn = [row for row in sets if row["AP"] is not None]
    if drawn:
        values = {key: {row["set"]: _dots(row, key, by_set[row["set"]]) for row in drawn} for key in ("AP", "AP50")}
        note = "dot: a training; line: 95 % interval over the images; dashed: mean over the datasets"
        means_with_intervals(values, folder / "datasets.png", title, note)
    print(f"written to {folder}", flush=True)


HEADS = ("set", "seeds", "AP", "AP50", "AP +NMS", "AP50 +NMS", "doubles", "images", "size", "queries", "steps",
         "images/s")  # fmt: skip
LEGEND = (
    "In brackets: 95 % intervals over the images; ±: standard deviation over the seeds. +NMS: what NMS would add. "
    "doubles: detections above the threshold that repeat a better one. images: measured on. images/s: trained on."
)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table: means over the seeds; in brackets the 95 % interval over the images."""

    def whole(key: str) -> str:
        return "" if row.get(key) is None else f"{row[key]:.0f}"

    reached = [_with_spread(row, key) for key in ("AP", "AP50")]
    gains = ["" if row.get(key) is None else f"{row[key]:+.3f}" for key in ("nms_AP", "nms_AP50")]
    speed = "" if row.get("images_per_second") is None else f"{row['images_per_second']:.1f}"
    doubled = "" if row.get("doubles") is None else f"{100 * row['doubles']:.1f} %"
    return [str(row["set"]), str(row.get("seeds", "")), *reached, *gains, doubled,
            *map(whole, ("images", "size", "queries", "steps")), speed]  # fmt: skip


def _with_spread(row: Mapping[str, Any], key: str) -> str:
    value, _, interval = with_interval(row, key).partition(" ")
    spread = row.get(f"{key}_spread")
    return " ".join(filter(None, [value, "" if spread is None else f"± {spread:.3f}", interval]))


def _dots(row: Mapping[str, Any], key: str, runs: Sequence[Mapping[str, Any]]) -> tuple[list[float], float, float]:
    values = [run[key] for run in runs if run[key] is not None]
    low, high = (row[key] if row[f"{key}_{end}"] is None else row[f"{key}_{end}"] for end in ("low", "high"))
    return values, low, high
