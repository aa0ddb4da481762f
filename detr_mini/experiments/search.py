"""Searches settings with Optuna: each trial trains with values that look promising after those before."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from detr_mini.config.path_settings import literal
from detr_mini.drawing.evaluation_plots import search_results
from detr_mini.errors import ConfigError
from detr_mini.experiments.launch import Attempt, Serial, check_jobs, side_by_side
from detr_mini.experiments.leaderboard import print_result
from detr_mini.experiments.process import Processes
from detr_mini.experiments.record import Record, key_of


@dataclass(frozen=True)
class Space:
    """A search space: settings that stay fixed, a distribution for each other one, and the seeds of each trial."""

    fixed: list[str]
    searched: dict[str, Any]
    seeds: list[str]

    def words(self, values: dict[str, Any], seed: str) -> list[str]:
        """The settings of one run."""
        drawn = [f"{key}={f'{value:.6g}' if isinstance(value, float) else value}" for key, value in values.items()]
        return [*self.fixed, *drawn, *([seed] if seed else [])]


def space(words: Sequence[str]) -> Space:
    """The search space in Hydra's syntax: interval(a,b), int(interval(a,b)), range(a,b,step), tag(log,...), choice(...)
    or a,b. Seeds are not searched: each trial trains with all of them. ConfigError if nothing is searched.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    fixed, searched, seeds = [], {}, [""]
    for word in words:
        try:
            override = OverridesParser.create().parse_override(literal(word, sweep=True))
        except HydraException as error:
            raise ConfigError(f"the sweep cannot be read: {str(error).splitlines()[0]}") from error
        if not override.is_sweep_override():
            fixed.append(word)
        elif override.get_key_element() == "seed" and not override.is_interval_sweep():
            seeds = [f"seed={value}" for value in override.sweep_string_iterator()]
        else:
            searched[override.get_key_element()] = _distribution(override)
    if not searched:
        raise ConfigError(
            "nothing is searched; give a range, for example 'optim.optimizer.lr=interval(0.005,0.05)', "
            "or a choice, for example optim=muon,adamw"
        )
    return Space(fixed, searched, seeds)


def _distribution(override: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
        ends, more = (value.start, value.end), {"log": log}
    elif override.is_range_sweep() and not log:
        whole = isinstance(value.start, int) and isinstance(value.step, int)
        kind = IntDistribution if whole else FloatDistribution
        steps = list(value.range())
        ends, more = (steps[0], steps[-1]), {"step": value.step}
    else:
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    try:
        return kind(*ends, **more)
    except ValueError as error:
        raise ConfigError(f"{override.input_line} cannot be searched: {error}") from error


@dataclass(frozen=True)
class Optuna(Serial):
    """`trials` trainings, `jobs` at a time, each a process; Optuna's TPE chooses values that improve `measure`.

    The first `random` trials are drawn at random, by `seed`. The sweep's folder keeps the study (study.db): the same
    words with the same folder continue it, also with more `trials`. `measure` None is AP on val, because a search must
    not choose by the test set.
    """

    jobs: int = 1
    trials: int = 20
    random: int = 5
    seed: int = 0

    def plan(self, words: Sequence[str]) -> list[list[str]]:
        """The settings of one run, as an example. ImportError without Optuna, ConfigError for bad settings."""
        import optuna  # noqa: F401

        check_jobs(self.jobs)
        searching = space(words)
        lowest = {key: getattr(d, "low", getattr(d, "choices", [0])[0]) for key, d in searching.searched.items()}
        return [searching.words(lowest, searching.seeds[0])]

    def launch(self, words: Sequence[str], record: Record, attempt: Attempt) -> None:
        """As `Serial.launch`; the settings of each run depend on the results before."""
        from optuna.trial import TrialState

        searching = space(words)
        record.measure = self.measure or "val/AP"
        study = self._study(words, record)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of an interrupted sweep: they are tried again
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        left = self.trials - len(study.get_trials(states=(TrialState.COMPLETE,)))
        total = len(record.runs) + max(left, 0) * len(searching.seeds)
        side_by_side(partial(_try, study, searching, record), range(left), self.jobs, record, total)

    def _study(self, words: Sequence[str], record: Record) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = record.folder / "study.db"
        if record.runs and not file.exists():
            raise ConfigError(f"{record.folder} holds a sweep that was not a search; choose another sweep.folder")
        storage = f"sqlite:///{file}"
        direction: Literal["minimize", "maximize"] = "minimize" if record.less_is_better() else "maximize"
        study = optuna.create_study(storage=storage, study_name="sweep", direction=direction, load_if_exists=True)
        for key, value in (("words", list(words)), ("measure", record.goes_by())):
            known = study.user_attrs.get(key, value)
            if known != value:
                what = f"other settings ({' '.join(known)})" if key == "words" else f"sweep.measure={known}"
                raise ConfigError(
                    f"the study in {record.folder} has {what}; "
                    "use the same ones to continue it, or choose another sweep.folder"
                )
            study.set_user_attr(key, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about constant_liar, which keeps parallel trials apart
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.random, constant_liar=True, seed=self.seed + len(study.trials)
            )
        return study

    def draw(self, record: Record, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Draw the measure over each searched setting."""
        measure = record.goes_by()
        done = [(run, run.metrics[measure]) for run in record.runs if run.metrics.get(measure) is not None]
        tried = [{key_of(word): word.partition("=")[2] for word in run.words} for run, _ in done]
        keys = [key for key in sorted(record.swept) if key != "seed" and all(key in settings for settings in tried)]
        values = {key: [settings[key] for settings in tried] for key in keys}
        if values:
            reached = [value for _, value in done]
            best = reached.index(max(reached, key=record.merit))
            search_results(values, reached, best, path, measure, record.about())


def _try(study: Any, searching: Space, record: Record, processes: Processes, console: Console, number: int) -> None:
    """One trial: a run for each seed. The study gets their mean."""
    from optuna.trial import TrialState

    trial = study.ask(searching.searched)
    reached: list[float] = []
    for seed in searching.seeds:
        run = record.run(searching.words(trial.params, seed))
        taken = record.take(run)
        while not taken and run.state == "running":  # another trial drew the same values
            time.sleep(0.2)
            taken = record.take(run)
        if taken:
            record.end(run, processes.train(record.begin(run), record.log(run)))
            print_result(record, run, console)
        if run.state == "stopped":
            return  # the trial stays open; the next call continues it
        if run.state != "done":
            study.tell(trial, state=TrialState.FAIL)
            return
        value = run.metrics.get(record.goes_by())
        if value is None:
            raise ConfigError(
                f"the search needs '{record.goes_by()}', but {record.path(run)}/metrics.json does not have it; "
                "set sweep.measure to one of its keys"
            )
        reached.append(float(value))
    study.tell(trial, statistics.fmean(reached))
