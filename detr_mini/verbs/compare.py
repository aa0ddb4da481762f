"""`detr-mini compare`: two runs number by number, or many runs in one table and one picture."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from detr_mini.config.compose import compose
from detr_mini.config.run_folder import new_run_folder
from detr_mini.data.stored_settings import data_settings
from detr_mini.deploy.detector import is_exported
from detr_mini.errors import ConfigError
from detr_mini.evaluation.comparison.runs import Run, common_truth, read_runs
from detr_mini.experiments.compare_datasets import benchmarks, compare_sets
from detr_mini.experiments.compare_runs import compare_many, compare_two
from detr_mini.pretrained import published
from detr_mini.verbs.evaluate import evaluate


def compare(config: DictConfig) -> Path:
    """Compare `config.runs`, print the table, write compare.json, compare.txt and compare.png; the new folder.

    Two runs are compared number by number, more by mean and spread of each recipe; two folders of
    `benchmark datasets` dataset by dataset and in the mean. A detector beside a run is evaluated on its data first.
    """
    _check(config)
    given = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    test = {key: config[key] for key in ("rounds", "seed", "level")}
    if benchmarks(given):
        over_sets = compare_sets(given, **test)
        folder = new_run_folder("outputs", "compare", config.output, "output")
        shown = over_sets.write(folder)
    else:
        runs = read_runs(_measured(given))
        if len(runs) < 2:
            raise ConfigError(f"{runs[0].folder} is the only run; give two or more, or a folder that holds several")
        truth, folder = common_truth(runs), new_run_folder("outputs", "compare", config.output, "output")
        shown = (compare_two if len(runs) == 2 else compare_many)(runs, truth, folder, **test)
    Console().print(shown)
    with (folder / "compare.txt").open("w", encoding="utf-8") as stream:
        Console(file=stream, width=120).print(shown)
    print(f"written to {folder}")
    return folder


def _check(config: DictConfig) -> None:
    if not config.runs:
        raise ConfigError("runs is empty; add runs=[outputs/a,outputs/b] (see 'detr-mini compare --help')")
    if config.rounds < 1:
        raise ConfigError(f"rounds is {config.rounds}; it must be at least 1")
    if not 0 < config.level < 1:
        raise ConfigError(f"level is {config.level}; it must be above 0 and below 1")


def _measured(given: list[str]) -> list[str]:
    """`given` with each detector replaced by its evaluation, as `detr-mini evaluate` makes it."""
    folders = [each for each in given if not _is_detector(each)]
    if not folders:
        raise ConfigError(f"runs=[{','.join(given)}] names detectors only, and no data to measure them on; "
                          f"detr-mini evaluate checkpoint={given[0]} makes a folder to give in its place")  # fmt: skip
    run = read_runs(folders[:1])[0]
    return [_folder(each, run) if _is_detector(each) else each for each in given]


def _folder(given: str, run: Run) -> str:
    config = compose("evaluate", [f"checkpoint={given}", "gallery=0", f"detection_limit={run.limit}"])
    with open_dict(config):
        config.split = run.metrics.get("split")
        for key, value in (("data", data_settings(None, run.config["data"])), ("subset", run.config.get("subset"))):
            OmegaConf.update(config, key, value, merge=False)
    return str(evaluate(config))


def _is_detector(path: str) -> bool:
    place = Path(path).expanduser()
    return is_exported(place) or place.is_file() or published.is_folder(place)
