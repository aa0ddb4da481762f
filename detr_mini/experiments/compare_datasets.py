"""Compares two folders of `benchmark datasets`: is a new recipe better on datasets in general, not only on one?

Runs are paired by dataset and seed. Within a dataset the images are resampled for both recipes at once, and the seeds'
own spread is added. Over the datasets the table answers two questions: whether the mean over these datasets is more
than chance, and whether other datasets of this kind, of which these are a sample, would gain, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from scipy.special import stdtr, stdtrit

from detr_mini.config.run_folder import write_text
from detr_mini.drawing.evaluation_plots import differences
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.comparison.intervals import AT_ONCE, draws
from detr_mini.evaluation.comparison.paired_test import holm, paired_test
from detr_mini.evaluation.comparison.runs import Run, common_truth, read_runs, short_names
from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches, side_by_side
from detr_mini.evaluation.report.table import number
from detr_mini.progress import track

FILE = "datasets.json"
MEASURES = ("AP", "AP50")
RECIPE = ("experiment", "minutes", "split", "overrides")
"""Settings of a benchmark that its results depend on."""
UPPER = 0.975
"""Intervals are of 95 %, whatever the level of the test."""
HERE, ELSEWHERE = "mean of these datasets", "mean of datasets like these"


@dataclass(frozen=True)
class Row:
    """One measure's difference, on one dataset or in the mean."""

    name: str
    measure: str
    first: float
    second: float
    spread: float
    """Standard deviation of the difference over images and seeds (for `ELSEWHERE` also over datasets)."""
    half: float
    """Half of the 95 % interval's width."""
    p: float
    adjusted: float
    """`p` adjusted for the number of datasets."""
    real: bool

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """How two benchmarks differ on their common datasets. `left_out` has a reason for each dataset without a result."""

    folders: tuple[Path, Path]
    rows: tuple[Row, ...]
    left_out: dict[str, str]
    seeds: dict[str, int]

    def write(self, folder: Path) -> Group:
        """Write compare.json and compare.png; the table."""
        content = {"runs": [str(path) for path in self.folders], "seeds": self.seeds, "left_out": self.left_out,
                   "rows": [{**asdict(row), "difference": row.difference} for row in self.rows]}  # fmt: skip
        write_text(folder / "compare.json", json.dumps(content, indent=1))
        means_first = sorted(self.rows, key=lambda row: row.name not in (HERE, ELSEWHERE))
        drawn = [(f"{row.measure}, {row.name}", row.difference, row.half, row.real) for row in means_first]
        first, second = short_names(self.folders)
        differences(drawn, folder / "compare.png", f"B {second} minus A {first}")
        return Group(self._table(), *map(Text, self._notes()))

    def _table(self) -> Table:
        title = escape(f"A: {self.folders[0]}\nB: {self.folders[1]}")
        table = Table("", "A", "B", "B - A", "95 %", "p", "p of all", "", title=title, title_justify="left",
                      title_style="bold")  # fmt: skip
        for column in table.columns[1:7]:
            column.justify = "right"
        for measure in MEASURES:
            for row in (row for row in self.rows if row.measure == measure):
                cells = (f"{measure}, {escape(row.name)}", number(row.first), number(row.second),
                         f"{row.difference:+.3f}", f"±{row.half:.3f}", f"{row.p:.4f}",
                         f"{row.adjusted:.4f}")  # fmt: skip
                table.add_row(*cells, "real" if row.real else "", style="bold" if row.real else None)
            table.add_section()
        return table

    def _notes(self) -> list[str]:
        settings = [json.loads((path / FILE).read_bytes()) for path in self.folders]
        changed = [f"{key} {a.get(key)} in A, {b.get(key)} in B" for a, b in [settings] for key in RECIPE
                   if a.get(key) != b.get(key)]  # fmt: skip
        notes = [f"They differ in {'; '.join(changed)}."] if changed else ["Their settings are the same."]
        for measure in MEASURES:
            signs = [row.difference for row in self.rows if row.measure == measure and row.name in self.seeds]
            notes.append(f"{measure}: better on {sum(d > 0 for d in signs)} of {len(signs)} datasets.")
        if 1 in self.seeds.values():
            notes.append("The intervals of datasets with one seed do not include what another seed would change.")
        return notes + [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]


def benchmarks(folders: Sequence[str | Path]) -> bool:
    """Whether these are two folders of `benchmark datasets`. ConfigError if only one is, or there are more."""
    paths = [Path(folder).expanduser() for folder in folders]
    there = [path for path in paths if (path / FILE).is_file()]
    if there and len(there) == len(paths) == 2:
        return True
    if there:
        raise ConfigError(f"{there[0]} was written by 'benchmark datasets'; compare it with one other such folder, "
                          f"runs=[A,B], or the runs of one of its datasets, runs={there[0]}/SET")  # fmt: skip
    return False


def compare_sets(folders: Sequence[str | Path], rounds: int, seed: int, level: float) -> Comparison:
    """Compare every dataset of which both folders have runs with a common seed, and the means over these.

    `rounds` is the number of swaps and of resamples. A dataset whose images or annotations differ is left out.
    DataError if no dataset is left.
    """
    first, second = paths = [Path(folder).expanduser() for folder in folders]
    runs = [_runs(path) for path in paths]
    names = sorted({name for own in runs for name, _ in own})
    rows: list[Row] = []
    seeds, left_out = {}, {}
    for name in track(names, "resampling"):
        common = sorted(key for key in runs[0].keys() & runs[1].keys() if key[0] == name)
        try:
            if not common:
                raise DataError("no seed is finished in both")
            pairs = _matches([[_read(own[key]) for key in common] for own in runs])
        except UserError as error:
            left_out[name] = str(error)
            continue
        seeds[name] = len(common)
        rows += _on_one(name, *pairs, rounds, seed, level)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"{first} and {second} have no dataset in common that can be compared ({reasons})")
    tested = [row for measure in MEASURES for row in _together([r for r in rows if r.measure == measure], level)]
    return Comparison((first, second), tuple(tested), left_out, seeds)


def _runs(folder: Path) -> dict[tuple[str, str], Path]:
    """The finished runs of a benchmark, by dataset and seed."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        done = [run["folder"] for run in content["runs"] if run["state"] == "done"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FILE} was not written by 'benchmark datasets' ({error}); run it again with "
                        f"folder={folder}") from error  # fmt: skip
    return {(name, seed): folder / name / seed for name, _, seed in (run.rpartition("/") for run in done)}


def _read(folder: Path) -> Run:
    (run,) = read_runs([folder])
    return run


def _matches(runs: Sequence[Sequence[Run]]) -> tuple[list[tuple[Matches, Matches]], Sequence[str]]:
    """The matches of each pair of runs, and the names of the categories."""
    truth = common_truth([run for own in runs for run in own])
    first, second = ([run.matches(truth, areas=1) for run in own] for own in runs)
    return list(zip(first, second, strict=True)), truth.subset.categories.names


def _on_one(
    name: str, pairs: Sequence[tuple[Matches, Matches]], names: Sequence[str], rounds: int, seed: int, level: float
) -> list[Row]:
    """A row for each measure that is defined."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    tested = {row.name: row for row in paired_test(first, second, names, rounds, seed, level)}
    spreads = _spreads(pairs, names, rounds, seed)
    wide = NormalDist().inv_cdf(UPPER)
    return [
        Row(name, measure, row.first, row.second, spreads[measure], wide * spreads[measure], row.p, row.p, False)
        for measure in MEASURES
        if (row := tested.get(measure)) is not None
    ]


def _spreads(
    pairs: Sequence[tuple[Matches, Matches]], names: Sequence[str], rounds: int, seed: int
) -> dict[str, float]:
    """Standard deviation of each measure's difference (mean over the pairs) over other images and other seeds."""
    images = len(pairs[0][0].image_ids)
    judges = [WeightedAP(side_by_side(*pair)) for pair in pairs]
    rng = np.random.default_rng(seed)
    seen = _differences(judges, np.ones((1, images), np.int64), names)
    parts = [_differences(judges, draws(rng, min(AT_ONCE, rounds - at), images), names)
             for at in range(0, rounds, AT_ONCE)]  # fmt: skip
    spreads = {}
    for measure in MEASURES:
        drawn = np.concatenate([part[measure].mean(0) for part in parts])
        by_images = float(np.nanstd(drawn)) * (1 + 1 / math.sqrt(images))  # as in `intervals.interval`
        by_seeds = float(seen[measure].std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
        spreads[measure] = math.hypot(by_images, by_seeds)
    return spreads


def _differences(judges: Sequence[WeightedAP], weights: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Second minus first of each measure: (pair, weighting)."""
    nothing = np.zeros_like(weights)
    first, second = np.concatenate([weights, nothing], 1), np.concatenate([nothing, weights], 1)
    sides = [
        (headline_metrics(judge.unbiased(first), names), headline_metrics(judge.unbiased(second), names))
        for judge in judges
    ]
    return {measure: np.stack([b[measure] - a[measure] for a, b in sides]) for measure in MEASURES}


def _together(rows: Sequence[Row], level: float) -> list[Row]:
    """The two means over the datasets, then the datasets' rows, adjusted for the number of datasets."""
    if not rows:
        return []
    adjusted = holm([row.p for row in rows])
    counted = [Row(**{**asdict(row), "adjusted": p, "real": p <= level}) for row, p in zip(rows, adjusted, strict=True)]
    first, second = (fmean(getattr(row, side) for row in rows) for side in ("first", "second"))
    difference = second - first
    count, measure = len(rows), rows[0].measure

    def mean(name: str, spread: float, p: float, reach: float) -> Row:
        return Row(name, measure, first, second, spread, reach * spread, p, p, p <= level)

    here = math.sqrt(sum(row.spread**2 for row in rows)) / count
    normal = NormalDist()
    p_here = 2 * normal.cdf(-abs(difference) / here) if here else float(difference == 0)
    means = [mean(HERE, here, p_here, normal.inv_cdf(UPPER))]
    if count > 1:  # Student's t over the datasets; their differences include the noise of images and seeds
        wide = stdev(row.difference for row in rows) / math.sqrt(count)
        p_wide = float(2 * stdtr(count - 1, -abs(difference) / wide)) if wide else float(difference == 0)
        means.append(mean(ELSEWHERE, wide, p_wide, float(stdtrit(count - 1, UPPER))))
    return means + counted
