"""Trains the runs of a sweep as jobs of a cluster, with submitit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from detr_mini.config.compose import compose
from detr_mini.config.path_settings import quoted
from detr_mini.errors import ConfigError
from detr_mini.experiments.launch import Attempt, Serial, left
from detr_mini.experiments.leaderboard import board, print_result
from detr_mini.experiments.process import shared_threads
from detr_mini.experiments.record import Outcome, Record

DECIDES_TASKS = re.compile(r"(trainer|experiment|debug)[.=]")
"""Words that may set how many processes a training has."""


@dataclass(frozen=True)
class Submitit(Serial):
    """One job per run on SLURM if it is found, else one process per run on this machine, all at once.

    `cluster` is slurm, local, debug (in this process) or None. Each job gets `minutes`, `cpus`, `gpus` and `memory_gb`;
    one that is pre-empted or has used up its minutes is queued again and continues from its last.ckpt. `at_once` limits
    the jobs on SLURM. `more` has further parameters of submitit's AutoExecutor, for example {slurm_partition: gpu}.
    """

    cluster: str | None = None
    minutes: int = 240
    cpus: int = 4
    gpus: int = 0
    memory_gb: int | float = 16
    at_once: int = 16
    more: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, words: Sequence[str]) -> list[list[str]]:
        """As `Serial.plan`. ImportError without submitit, ConfigError for settings that it refuses."""
        with TemporaryDirectory() as folder:
            self._executor(Path(folder), "check")
        return super().plan(words)

    def launch(self, words: Sequence[str], record: Record, attempt: Attempt) -> None:
        """As `Serial.launch`; Ctrl-C cancels the jobs."""
        import submitit

        plan, executor = self.plan(words), self._executor(record.folder / "submitit", record.name)
        if executor.cluster == "slurm":
            executor.update_parameters(**{**_tasks(plan), **self.more})
        runs = left(plan, record)
        if not runs:
            return
        threads = self.cpus if executor.cluster == "slurm" else shared_threads(len(runs))
        for run in runs:
            record.begin(run)
        try:
            with executor.batch():
                jobs = [executor.submit(Job(run.words, record.path(run), threads, attempt)) for run in runs]
        except submitit.core.utils.FailedJobError as error:
            record.stop()
            raise ConfigError(f"the cluster refuses the jobs: {_last_line(error)}") from error
        waiting, console = dict(zip(jobs, runs, strict=True)), Console()
        console.print(f"{len(jobs)} jobs ({executor.cluster}), their logs in {record.folder / 'submitit'}")
        try:
            with board(record, len(plan), console):
                for job in submitit.helpers.as_completed(jobs, poll_frequency=2):
                    run = waiting.pop(job)
                    record.end(run, _outcome(job))
                    print_result(record, run, console)
        except KeyboardInterrupt:
            for job in waiting:
                job.cancel(check=False)
            raise

    def _executor(self, folder: Path, name: str) -> Any:
        import submitit

        try:
            executor = submitit.AutoExecutor(folder, self.cluster)
            executor.update_parameters(
                name=name, timeout_min=self.minutes, cpus_per_task=self.cpus, gpus_per_node=self.gpus,
                mem_gb=self.memory_gb, slurm_array_parallelism=self.at_once, **self.more,
            )  # fmt: skip
        except (ValueError, NameError, AssertionError, RuntimeError) as error:
            raise ConfigError(f"submitit refuses these settings: {str(error).splitlines()[0]}") from error
        return executor


class Job:
    """The work of one job, sent to the cluster as a file. Of a job with several tasks, each task calls it."""

    def __init__(self, words: Sequence[str], folder: Path, threads: int, attempt: Attempt) -> None:
        self.words, self.folder, self.threads, self.attempt = list(words), folder, threads, attempt

    def __call__(self) -> Outcome:
        """Train in the job's process, from the start or from last.ckpt."""
        import torch

        torch.set_num_threads(self.threads)
        # the first process of the training decides whether it starts or goes on: the tasks would hinder each other
        return self.attempt([*self.words, f"run_folder={quoted(str(self.folder))}", "resume=auto"])

    def checkpoint(self) -> Any:
        """Called by submitit before it queues the job again: the same job, which then resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _tasks(plan: Sequence[Sequence[str]]) -> dict[str, int]:
    """Machines and tasks of a SLURM job: a task for each process of a training. ConfigError where runs differ."""
    deciding = {tuple(word for word in words if DECIDES_TASKS.match(word)): words for words in plan}
    trainers = [compose("train", words).trainer for words in deciding.values()]
    found = {(trainer.num_nodes, trainer.devices) for trainer in trainers}
    if len(found) > 1:
        raise ConfigError("the runs of a sweep on a cluster need the same trainer.devices and trainer.num_nodes; start "
                          "one sweep for each combination")  # fmt: skip
    nodes, devices = found.pop()
    return {"nodes": nodes, "tasks_per_node": devices}


def _outcome(job: Any) -> Outcome:
    """The outcome of a job: of several tasks the first that failed; for a lost one, the end of its log."""
    try:
        outcomes = job.results()
    except Exception as error:  # submitit raises its own for anything that goes wrong on a cluster
        return 1, _last_line(error)
    return next((outcome for outcome in outcomes if outcome[0]), outcomes[0])


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
