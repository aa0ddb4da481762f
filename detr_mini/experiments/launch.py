"""Trains the runs of a sweep on this machine, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from detr_mini.config.compose import compose, sweep
from detr_mini.drawing.evaluation_plots import spreads
from detr_mini.errors import ConfigError
from detr_mini.experiments.leaderboard import board, print_result
from detr_mini.experiments.process import Processes, shared_threads
from detr_mini.experiments.record import Outcome, Record, Run
from detr_mini.training.launch import find_launch

Attempt = Callable[[Sequence[str]], Outcome]
"""Trains with some words in this process, and gives how that ended."""


@dataclass(frozen=True)
class Serial:
    """One run after the other, in this process; a run of several processes begins in one of its own.

    `folder` is the sweep's; None makes a new one. `measure` is the key of metrics.json that orders the choices; None is
    AP on val if there is a val, else AP. All launchers have both.
    """

    folder: str | None = None
    measure: str | None = None

    def plan(self, words: Sequence[str]) -> list[list[str]]:
        """The settings of each run: all combinations of the values."""
        return sweep(words)

    def launch(self, words: Sequence[str], record: Record, attempt: Attempt) -> None:
        """Train what is not done yet, and record how each run ended. KeyboardInterrupt after Ctrl-C."""
        runs = left(self.plan(words), record)
        for number, run in enumerate(runs, 1):
            print(f"[{number}/{len(runs)}] {record.title(run)}", flush=True)
            outcome = _train_alone(record, run) if _has_processes(run.words) else attempt(record.begin(run))
            record.end(run, outcome)
            if outcome[0] == 130:
                raise KeyboardInterrupt

    def draw(self, record: Record, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Draw the metrics of the choices; `rows` gives their order."""
        choices = record.choices()
        values = {key: {} for key in ("AP", "AP50")}  # type: dict[str, dict[str, list[float]]]
        for key, groups in values.items():
            for name in [row["recipe"] for row in rows[:DRAWN]]:
                found = [run.metrics[key] for run in choices[name] if run.metrics.get(key) is not None]
                groups |= {name: found} if found else {}
        spreads(values, path, record.about())


DRAWN = 30
"""How many of the best choices are drawn."""


@dataclass(frozen=True)
class Joblib(Serial):
    """`jobs` runs at a time on this machine, each a process with its share of the cores."""

    jobs: int = 2

    def plan(self, words: Sequence[str]) -> list[list[str]]:
        """As `Serial.plan`. ImportError without joblib, ConfigError for bad settings."""
        check_jobs(self.jobs)
        return super().plan(words)

    def launch(self, words: Sequence[str], record: Record, attempt: Attempt) -> None:
        """As `Serial.launch`. joblib keeps `jobs` threads going, which wait for the processes."""
        plan = self.plan(words)
        side_by_side(partial(_train, record), left(plan, record), self.jobs, record, len(plan))


def side_by_side(
    work: Callable[[Processes, Console, Any], None], items: Sequence[Any], jobs: int, record: Record, total: int
) -> None:
    """Call `work` for each of `items`, `jobs` at a time, and show their progress on the terminal."""
    from joblib import Parallel, delayed

    console = Console()
    with Processes(shared_threads(jobs)) as processes, board(record, total, console):
        pool = Parallel(n_jobs=jobs, backend="threading", return_as="generator_unordered", batch_size=1)
        for _ in pool(delayed(work)(processes, console, item) for item in items):
            pass


def check_jobs(jobs: int) -> None:
    """ConfigError unless `jobs` is at least 1; ImportError without joblib."""
    import joblib  # noqa: F401

    if jobs < 1:
        raise ConfigError(f"sweep.jobs is {jobs}; it must be at least 1")


def _has_processes(words: Sequence[str]) -> bool:
    """Whether a run starts further processes: if one of them is lost, the first one ends at once."""
    try:
        trainer = compose("train", words).trainer
        place = find_launch(trainer.devices, trainer.num_nodes)
    except ConfigError:
        return False  # the run reports it
    return place.by is None and place.world > 1


def _train_alone(record: Record, run: Run) -> Outcome:
    words, log = record.begin(run), record.log(run)
    print(f"several processes; their output is in {log}", flush=True)
    with Processes(None) as processes:
        return processes.train(words, log)


def _train(record: Record, processes: Processes, console: Console, run: Run) -> None:
    record.end(run, processes.train(record.begin(run), record.log(run)))
    print_result(record, run, console)


def left(plan: Sequence[Sequence[str]], record: Record) -> list[Run]:
    """The runs of `plan` that are not done yet, each once."""
    runs = {run.folder: run for run in [record.run(words) for words in plan]}
    return [run for run in runs.values() if run.state != "done"]
