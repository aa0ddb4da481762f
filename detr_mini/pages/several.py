"""What a report of several runs says: how they differ in settings and numbers, and which differences are real."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from detr_mini.config.changed_settings import settings_of
from detr_mini.drawing.curves import read_history
from detr_mini.errors import UserError
from detr_mini.evaluation.comparison.paired_test import holm, paired_test
from detr_mini.evaluation.comparison.runs import NOT_A_CHOICE, common_truth, labels, read_run, short_names
from detr_mini.pages.charts import Chart, line_chart
from detr_mini.pages.run_reader import RunFolder, part
from detr_mini.progress import track

MOST_TESTED, MOST_LINES = 12, 10
ROUNDS, LEVEL = 1000, 0.05


def several(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """The sections of a report of several runs; each that cannot be made says why."""
    folders = [run.folder for run in runs]
    names = short_names(folders)
    named = part(lambda: labels([read_run(folder) for folder in folders]))
    rows = [
        {"label": label, "name": name, "metrics": run.measured}
        for label, name, run in zip(named.content or names, names, runs, strict=True)
    ]
    rows.sort(key=lambda row: -_ap(row))
    return {
        "rows": rows,
        "names": names,
        "differing": part(lambda: _differing(runs)),
        "curves": part(lambda: _curves(runs, names)),
        "tests": part(lambda: _tests(folders, names)),
        "categories": part(lambda: _categories(runs)),
    }


def _ap(row: dict[str, Any]) -> float:
    return float((row["metrics"].content or {}).get("AP") or -1.0)


def _differing(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs differ, with each run's value."""
    flat = [dict(settings_of(run.config)) for run in runs]
    keys = sorted({key for settings in flat for key in settings if key.split(".")[0] not in NOT_A_CHOICE - {"seed"}})
    values = [(key, [str(settings.get(key, "")) for settings in flat]) for key in keys]
    return [(key, each) for key, each in values if len(set(each)) > 1]


def _curves(runs: Sequence[RunFolder], names: Sequence[str]) -> list[Chart]:
    series: dict[str, Any] = {}
    for run, name in [*zip(runs, names, strict=True)][:MOST_LINES]:
        file = run.folder / "history.csv"
        if file.is_file():
            line = read_history(file).get("val/AP")
            series |= {name: line} if line else {}
    chart = line_chart("AP on val", series, "step", top=1.0)
    if chart is None:
        raise UserError("none of the runs has a history.csv with AP on val")
    return [chart]


def _tests(folders: Sequence[Path], run_names: Sequence[str]) -> list[dict[str, Any]]:
    """The paired test of AP for every pair, corrected for their number (Holm 1979)."""
    if len(folders) > MOST_TESTED:
        raise UserError(f"pairs of more than {MOST_TESTED} runs are not tested; report on two of them")
    runs = [read_run(folder) for folder in folders]
    truth = common_truth(runs)
    names = truth.subset.categories.names
    matches = [run.matches(truth, areas=1) for run in runs]
    rows: list[dict[str, Any]] = []
    for a, b in track(list(combinations(range(len(runs)), 2)), "comparing"):
        found = paired_test(matches[a], matches[b], names, ROUNDS, 0, LEVEL)
        whole = next((row for row in found if row.name == "AP"), None)
        if whole is not None:
            rows.append({"a": run_names[a], "b": run_names[b], "difference": whole.difference,
                         "chance": 1.96 * whole.noise, "p": whole.p})  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"adjusted": adjusted, "real": adjusted <= LEVEL}
    return sorted(rows, key=lambda row: row["adjusted"])


def _categories(runs: Sequence[RunFolder]) -> list[tuple[str, list[Any]]]:
    """AP of each category in each run."""
    metrics = [run.measured.content or {} for run in runs]
    keys = dict.fromkeys(key for own in metrics for key in own if key.startswith("AP/"))
    if not keys:
        raise UserError("none of the runs has AP by category")
    return [(key.removeprefix("AP/"), [own.get(key) for own in metrics]) for key in keys]
