"""The verb `compare`: two runs number by number, or many runs in one table and one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console, Group
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from detr_mini.config.compose import new_run_folder
from detr_mini.drawing.evaluation_plots import differences, spreads
from detr_mini.errors import ConfigError
from detr_mini.evaluation.paired_test import Difference, holm, paired_test
from detr_mini.evaluation.runs import Run, Truth, common_truth, labels, read_runs
from detr_mini.evaluation.table import number
from detr_mini.experiments.aggregate import recipe, recipe_table
from detr_mini.experiments.compare_datasets import benchmarks, compare_sets

MOST = 12
"""So many runs at most are tested pair by pair."""
CAVEAT = (
    "The test speaks of these trained detectors on images like these. "
    "Whether a recipe is better takes several seeds of each."
)


def compare(config: DictConfig) -> Path:
    """Compare `config.runs`, print the table, write compare.json, compare.txt and compare.png into a new folder.

    Two runs: every number, and which differences are real. More: mean and spread of each recipe (runs that differ in
    their seed only are one), and which pairs of runs differ in AP. Two folders of `benchmark datasets`: the difference
    on each dataset and in the mean.
    """
    _check(config)
    given = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    if benchmarks(given):
        over_sets = compare_sets(given, config.rounds, config.seed, config.level)
        folder = new_run_folder("outputs", "compare", config.output, "output")
        shown = over_sets.write(folder)
    else:
        runs = read_runs(given)
        if len(runs) < 2:
            raise ConfigError(
                f"{runs[0].folder} is the only run; compare takes two or more, or a folder that holds some"
            )
        truth = common_truth(runs)
        folder = new_run_folder("outputs", "compare", config.output, "output")
        shown = _two(runs, truth, config, folder) if len(runs) == 2 else _many(runs, truth, config, folder)
    Console().print(shown)
    with (folder / "compare.txt").open("w", encoding="utf-8") as stream:
        Console(file=stream, width=120).print(shown)
    print(f"written to {folder}")
    return folder


def _check(config: DictConfig) -> None:
    if not config.get("runs"):
        raise ConfigError("runs is not set; say runs=[outputs/a,outputs/b] (see 'detr-mini compare --help')")
    if config.rounds < 1:
        raise ConfigError(f"rounds is {config.rounds}; it must be at least 1")
    if not 0 < config.level < 1:
        raise ConfigError(f"level is {config.level}; it must be above 0 and below 1")


def _two(runs: Sequence[Run], truth: Truth, config: DictConfig, folder: Path) -> Group:
    first, second = (run.matches(truth) for run in runs)
    rows = paired_test(first, second, truth.part.categories.names, config.rounds, config.seed, config.level)
    about = {"runs": [str(run.folder) for run in runs], "images": len(truth.part.image_ids), "rounds": config.rounds,
             "level": config.level, "comparisons": len(rows)}  # fmt: skip
    numbers = [{**row.__dict__, "difference": row.difference} for row in rows]
    _write(folder, {**about, "numbers": numbers})
    title = f"B {runs[1].folder.name} minus A {runs[0].folder.name}"
    differences([(row.name, row.difference, 1.96 * row.noise, row.real) for row in rows], folder / "compare.png", title)
    return Group(
        _difference_table(rows, runs), Text(_verdict(rows, config.level, len(truth.part.image_ids))), Text(CAVEAT)
    )


def _difference_table(rows: Sequence[Difference], runs: Sequence[Run]) -> Table:
    table = Table("", "A", "B", "B - A", "by chance", "p", "p of all", "", title_justify="left", title_style="bold")
    table.title = f"A: {runs[0].folder}\nB: {runs[1].folder}"
    for column in table.columns[1:7]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name, number(row.first), number(row.second), f"{row.difference:+.3f}", f"±{1.96 * row.noise:.3f}",
            f"{row.p:.4f}", f"{row.adjusted:.4f}", "real" if row.real else "", style="bold" if row.real else None,
        )  # fmt: skip
    return table


def _verdict(rows: Sequence[Difference], level: float, images: int) -> str:
    real = [row for row in rows if row.real]
    text = (
        f"{images} images, {len(rows)} numbers compared; a difference is real where its p of all is at most {level:g}, "
        f"which takes their number into account."
    )
    if not real:
        return f"{text} None is: these images do not tell the two apart."
    better = [f"{row.name} {row.difference:+.3f}" for row in real]
    return f"{text} Real: {', '.join(better[:8])}{', ...' if len(better) > 8 else ''}."


def _many(runs: Sequence[Run], truth: Truth, config: DictConfig, folder: Path) -> Group:
    named = labels(runs)
    groups = {name: [run for run, own in zip(runs, named, strict=True) if own == name] for name in dict.fromkeys(named)}
    recipes = [
        {**recipe(name, [run.metrics for run in own]), "runs": [str(run.folder) for run in own]}
        for name, own in groups.items()
    ]
    recipes.sort(key=lambda row: -(row["AP"] or 0.0))
    pairs = _pairs(runs, truth, config) if len(runs) <= MOST else []
    content = {
        "images": len(truth.part.image_ids),
        "recipes": recipes,
        "pairs": pairs,
    }
    _write(folder, content)
    values = {
        key: {row["recipe"]: [float(run.metrics[key] or 0.0) for run in groups[row["recipe"]]] for row in recipes}
        for key in ("AP", "AP50")
    }
    spreads(values, folder / "compare.png", f"{len(runs)} runs on {len(truth.part.image_ids)} images")
    counts = [str(len(row["runs"])) for row in recipes]
    shown: list[Any] = [recipe_table(recipes, counts, ("AP", "AP50", "train_seconds"))]
    if len(runs) > MOST:
        shown.append(Text(f"More than {MOST} runs: no pairs were tested; compare two of them."))
    else:
        shown += [_pair_table(pairs, config.level), Text(CAVEAT)]
    return Group(*shown)


def _pairs(runs: Sequence[Run], truth: Truth, config: DictConfig) -> list[dict[str, Any]]:
    """Every two runs' AP, tested; their number is taken into account (Holm 1979)."""
    matches = [run.matches(truth, areas=1) for run in runs]
    names = truth.part.categories.names
    tested: list[dict[str, Any]] = []
    for a, b in track(list(combinations(range(len(runs)), 2)), "swapping", transient=True):
        rows = paired_test(matches[a], matches[b], names, config.rounds, config.seed, config.level)
        whole = next((row for row in rows if row.name == "AP"), None)
        if whole is not None:
            tested.append({"first": str(runs[a].folder), "second": str(runs[b].folder), "difference": whole.difference,
                           "noise": whole.noise, "p": whole.p})  # fmt: skip
    for pair, adjusted in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
        pair |= {"adjusted": adjusted, "real": adjusted <= config.level}
    return tested


def _pair_table(pairs: Sequence[dict[str, Any]], level: float) -> Table:
    title = f"AP of every two runs; real where p of all pairs is at most {level:g}"
    sides = (Column(side, overflow="fold") for side in "AB")
    table = Table(*sides, "B - A", "by chance", "p of all", "", title=title, title_justify="left")
    for pair in sorted(pairs, key=lambda pair: pair["adjusted"]):
        a, b = (Path(pair[side]) for side in ("first", "second"))
        numbers = (f"{pair['difference']:+.3f}", f"±{1.96 * pair['noise']:.3f}", f"{pair['adjusted']:.4f}")
        names = ("/".join(path.parts[-2:]) for path in (a, b))
        table.add_row(*names, *numbers, "real" if pair["real"] else "", style="bold" if pair["real"] else None)
    return table


def _write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
