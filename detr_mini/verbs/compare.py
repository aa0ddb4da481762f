"""`detr-mini compare`: two runs number by number, or many runs in one table and one picture."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from detr_mini.config.run_folder import new_run_folder
from detr_mini.errors import ConfigError
from detr_mini.evaluation.comparison.runs import common_truth, read_runs
from detr_mini.experiments.compare_datasets import benchmarks, compare_sets
from detr_mini.experiments.compare_runs import compare_many, compare_two


def compare(config: DictConfig) -> Path:
    """Compare `config.runs`, print the table, write compare.json, compare.txt and compare.png; the new folder.

    Two runs are compared number by number, more by mean and spread of each recipe. Two folders of
    `benchmark datasets` are compared dataset by dataset and in the mean.
    """
    _check(config)
    given = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    test = {"rounds": config.rounds, "seed": config.seed, "level": config.level}
    if benchmarks(given):
        over_sets = compare_sets(given, **test)
        folder = new_run_folder("outputs", "compare", config.output, "output")
        shown = over_sets.write(folder)
    else:
        runs = read_runs(given)
        if len(runs) < 2:
            raise ConfigError(f"{runs[0].folder} is the only run; give two or more, or a folder that holds several")
        truth = common_truth(runs)
        folder = new_run_folder("outputs", "compare", config.output, "output")
        shown = (compare_two if len(runs) == 2 else compare_many)(runs, truth, folder, **test)
    Console().print(shown)
    with (folder / "compare.txt").open("w", encoding="utf-8") as stream:
        Console(file=stream, width=120).print(shown)
    print(f"written to {folder}")
    return folder


def _check(config: DictConfig) -> None:
    if not config.get("runs"):
        raise ConfigError("runs is not set; add runs=[outputs/a,outputs/b] (see 'detr-mini compare --help')")
    if config.rounds < 1:
        raise ConfigError(f"rounds is {config.rounds}; it must be at least 1")
    if not 0 < config.level < 1:
        raise ConfigError(f"level is {config.level}; it must be above 0 and below 1")
