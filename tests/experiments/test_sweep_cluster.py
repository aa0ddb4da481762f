"""Runs as jobs, on submitit's own stand-ins for a cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from detr_mini import cli
from detr_mini.experiments.cluster import Job
from detr_mini.experiments.cluster import _outcome as outcome_of
from sweep_parts import pretend, settings, sweep_json

submitit = pytest.importorskip("submitit", reason="comes with the extra 'sweep'")


def test_jobs_in_this_process_fill_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "_call", lambda name, words: pretend(words))
    words = ["sweep=submitit", "sweep.cluster=debug", f"sweep.folder={tmp_path / 's'}", "seed=0,1"]
    assert cli.main(["train", "-m", *words]) == 0
    (choice,) = sweep_json(tmp_path / "s")["choices"]
    assert choice["AP_spread"] > 0


def test_a_mistake_comes_back_from_a_job_of_its_own_process(tmp_path: Path) -> None:
    words = ["sweep=submitit", "sweep.cluster=local", f"sweep.folder={tmp_path / 's'}", "trainer.threads=1"]
    assert cli.main(["train", "-m", *words]) == 2
    (run,) = sweep_json(tmp_path / "s")["runs"]
    assert run["state"] == "failed"
    assert "the training has no end" in run["sentence"]


def test_a_cluster_that_refuses_is_reported_and_nothing_counts_as_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise submitit.core.utils.FailedJobError("sbatch failed\nsbatch: error: invalid partition specified: gppu")

    monkeypatch.setattr("submitit.AutoExecutor.submit", refuse)
    words = ["sweep=submitit", "sweep.cluster=debug", f"sweep.folder={tmp_path / 's'}", "seed=0,1"]
    assert cli.main(["train", "-m", *words]) == 2
    assert "refuses the jobs: sbatch: error: invalid partition specified: gppu" in capsys.readouterr().err
    assert [run["state"] for run in sweep_json(tmp_path / "s")["runs"]] == ["stopped", "stopped"]


def test_a_job_that_is_queued_again_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    seen = []

    def attempt(words: list[str]) -> tuple[int, str]:
        seen.append(settings(words))
        return 0, ""

    job = Job(["seed=1"], tmp_path / "run", 1, attempt)
    job()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_text("")
    again = job.checkpoint().function
    again()
    # the same words: resume=auto goes on where the folder holds a checkpoint
    assert seen == [{"seed": "1", "run_folder": str(tmp_path / "run"), "resume": "auto"}] * 2


def test_what_a_job_runs_can_be_sent_as_a_file(tmp_path: Path) -> None:
    import cloudpickle

    job = cloudpickle.loads(cloudpickle.dumps(Job(["seed=1"], tmp_path, 1, partial(cli._attempt, "train"))))
    assert job.words == ["seed=1"]


@pytest.mark.parametrize(
    ("ends", "state"),
    [([(0, ""), (0, "")], (0, "")), ([(0, ""), (2, "a mistake"), (1, "another")], (2, "a mistake"))],
)
def test_a_job_of_several_tasks_ends_like_the_first_that_failed(
    tmp_path: Path, ends: list[tuple[int, str]], state: tuple[int, str]
) -> None:
    def own_end() -> tuple[int, str]:
        import submitit

        return ends[submitit.JobEnvironment().local_rank]

    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(tasks_per_node=len(ends), timeout_min=5)
    assert outcome_of(executor.submit(own_end)) == state


def test_a_job_of_several_tasks_is_broken_where_one_of_them_is_lost(tmp_path: Path) -> None:
    def lost() -> None:
        import submitit

        if submitit.JobEnvironment().local_rank == 1:
            raise RuntimeError("the node is gone")

    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    status, sentence = outcome_of(executor.submit(lost))
    assert status == 1 and sentence
