"""Finished runs compared: two number by number, or many in one table, each with a JSON file and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from detr_mini.config.run_folder import write_text
from detr_mini.drawing.evaluation_plots import differences, spreads
from detr_mini.evaluation.comparison.paired_test import Difference, holm, paired_test
from detr_mini.evaluation.comparison.runs import Run, Truth, labels, short_names
from detr_mini.evaluation.report.table import number
from detr_mini.experiments.aggregate import recipe, recipe_table
from detr_mini.progress import track

MOST = 12
"""Runs that are tested pair by pair, at most."""
CAVEAT = (
    "The test is about these trained detectors on images like these. "
    "Whether one recipe is better than another takes several seeds of each."
)


def compare_two(runs: Sequence[Run], truth: Truth, folder: Path, *, rounds: int, seed: int, level: float) -> Group:
    """Every number of two runs, and which differences are real; the table.

    `rounds` permutations with `seed` make the paired test; `level` is its error rate over all numbers together
    (step-down minP, see `paired_test`).
    """
    first, second = (run.matches(truth) for run in runs)
    rows = paired_test(first, second, truth.subset.categories.names, rounds, seed, level)
    about = {"runs": [str(run.folder) for run in runs], "images": len(truth.subset.image_ids), "rounds": rounds,
             "level": level, "comparisons": len(rows)}  # fmt: skip
    numbers = [{**row.__dict__, "difference": row.difference} for row in rows]
    write_text(folder / "compare.json", json.dumps({**about, "numbers": numbers}, indent=1))
    a, b = short_names([run.folder for run in runs])
    title = f"B {b} minus A {a}"
    differences([(row.name, row.difference, 1.96 * row.noise, row.real) for row in rows], folder / "compare.png", title)
    return Group(_difference_table(rows, runs), Text(_verdict(rows, level, len(truth.subset.image_ids))), Text(CAVEAT))


def _difference_table(rows: Sequence[Difference], runs: Sequence[Run]) -> Table:
    table = Table("", "A", "B", "B - A", "by chance", "p", "corrected p", "", title_justify="left", title_style="bold")
    table.title = escape(f"A: {runs[0].folder}\nB: {runs[1].folder}")
    for column in table.columns[1:7]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            escape(row.name), number(row.first), number(row.second), f"{row.difference:+.3f}",
            f"±{1.96 * row.noise:.3f}", f"{row.p:.4f}", f"{row.adjusted:.4f}",
            "real" if row.real else "", style="bold" if row.real else None,
        )  # fmt: skip
    return table


def _verdict(rows: Sequence[Difference], level: float, images: int) -> str:
    real = [row for row in rows if row.real]
    text = (
        f"{images} images, {len(rows)} numbers compared. A difference is real where its p, corrected for the number of "
        f"comparisons, is at most {level:g}."
    )
    if not real:
        return f"{text} None is real: these images do not separate the two."
    better = [f"{row.name} {row.difference:+.3f}" for row in real]
    return f"{text} Real: {', '.join(better[:8])}{', ...' if len(better) > 8 else ''}."


def compare_many(runs: Sequence[Run], truth: Truth, folder: Path, *, rounds: int, seed: int, level: float) -> Group:
    """Mean and spread of each recipe (runs that differ in their seed only), and which pairs of runs differ in AP."""
    named = labels(runs)
    groups = {name: [run for run, own in zip(runs, named, strict=True) if own == name] for name in dict.fromkeys(named)}
    recipes = [
        {**recipe(name, [run.metrics for run in own]), "runs": [str(run.folder) for run in own]}
        for name, own in groups.items()
    ]
    recipes.sort(key=lambda row: -(row["AP"] or 0.0))
    pairs = _pairs(runs, truth, rounds, seed, level) if len(runs) <= MOST else []
    content = {
        "images": len(truth.subset.image_ids),
        "recipes": recipes,
        "pairs": pairs,
    }
    write_text(folder / "compare.json", json.dumps(content, indent=1))
    values = {
        key: {row["recipe"]: [float(run.metrics[key] or 0.0) for run in groups[row["recipe"]]] for row in recipes}
        for key in ("AP", "AP50")
    }
    spreads(values, folder / "compare.png", f"{len(runs)} runs on {len(truth.subset.image_ids)} images")
    counts = [str(len(row["runs"])) for row in recipes]
    shown: list[Any] = [recipe_table(recipes, counts, ("AP", "AP50", "train_seconds"))]
    if len(runs) > MOST:
        shown.append(Text(f"No pairs of more than {MOST} runs are tested; compare two of them."))
    else:
        shown += [_pair_table(pairs, runs, level), Text(CAVEAT)]
    return Group(*shown)


def _pairs(runs: Sequence[Run], truth: Truth, rounds: int, seed: int, level: float) -> list[dict[str, Any]]:
    """The test of AP for every pair of runs, corrected for their number (Holm 1979)."""
    matches = [run.matches(truth, areas=1) for run in runs]
    names = truth.subset.categories.names
    tested: list[dict[str, Any]] = []
    for a, b in track(list(combinations(range(len(runs)), 2)), "swapping"):
        rows = paired_test(matches[a], matches[b], names, rounds, seed, level)
        whole = next((row for row in rows if row.name == "AP"), None)
        if whole is not None:
            tested.append({"first": str(runs[a].folder), "second": str(runs[b].folder), "difference": whole.difference,
                           "noise": whole.noise, "p": whole.p})  # fmt: skip
    for pair, adjusted in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
        pair |= {"adjusted": adjusted, "real": adjusted <= level}
    return tested


def _pair_table(pairs: Sequence[dict[str, Any]], runs: Sequence[Run], level: float) -> Table:
    title = f"AP of every pair of runs; real where the corrected p is at most {level:g}"
    sides = (Column(side, overflow="fold") for side in "AB")
    table = Table(*sides, "B - A", "by chance", "corrected p", "", title=title, title_justify="left")
    names = dict(zip((str(run.folder) for run in runs), short_names([run.folder for run in runs]), strict=True))
    for pair in sorted(pairs, key=lambda pair: pair["adjusted"]):
        numbers = (f"{pair['difference']:+.3f}", f"±{1.96 * pair['noise']:.3f}", f"{pair['adjusted']:.4f}")
        cells = (escape(names[pair["first"]]), escape(names[pair["second"]]), *numbers, "real" if pair["real"] else "")
        table.add_row(*cells, style="bold" if pair["real"] else None)
    return table
