"""Runs as processes: the cores are shared out, a killed one is told, Ctrl-C reaches each once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detr_mini import cli
from detr_mini.experiments import process as process_module
from detr_mini.experiments.process import Processes, shared_threads
from sweep_parts import sweep_json

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
said = {k: v.strip("'") for k, _, v in (word.partition("=") for word in sys.argv[1:])}
folder = Path(said["run_folder"])
folder.mkdir(parents=True)
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
(folder / "started").touch()
if said["seed"] == "7":
    os.kill(os.getpid(), signal.SIGKILL)
if said["seed"] == "8":
    print("detr-mini: the loss is not finite", file=sys.stderr); sys.exit(2)
if said["seed"] == "9":
    while not asked: time.sleep(0.01)
    time.sleep(0.3)
    (folder / "last.ckpt").write_text(str(len(asked))); sys.exit(130)
threads = int(os.environ["OMP_NUM_THREADS"])
(folder / "metrics.json").write_text(json.dumps({"AP": 0.5, "AP50": 0.7, "split": "val", "threads": threads}))
"""


@pytest.fixture(autouse=True)
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of no weight in the place of the training."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(process_module, "COMMAND", (sys.executable, "-S", str(script)))


def test_the_cores_are_shared_out_and_a_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    joblib = pytest.importorskip("joblib", reason="comes with the extra 'sweep'")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert [shared_threads(jobs) for jobs in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [shared_threads(jobs) for jobs in (1, 2, 4)] == [3, 3, 2]


def test_a_killed_run_and_one_with_a_bad_setting_are_reported_and_the_others_continue(tmp_path: Path) -> None:
    words = ["sweep=joblib", "sweep.jobs=2", f"sweep.folder={tmp_path / 's'}", "seed=7,8,1,2", "optim.clip=1"]
    assert cli.main(["train", "-m", *words]) == 1
    runs = {run["words"][0]: run for run in sweep_json(tmp_path / "s")["runs"]}
    assert runs["seed=7"]["state"] == "broken"
    assert "ended by SIGKILL" in runs["seed=7"]["sentence"]
    assert (runs["seed=8"]["state"], runs["seed=8"]["sentence"]) == ("failed", "the loss is not finite")
    assert runs["seed=1"]["state"] == runs["seed=2"]["state"] == "done"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a foreground shell: one in the background begins with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_reaches_each_run_once_and_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"

    def interrupt() -> None:
        while len(list(folder.glob("*/started"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    words = ["sweep=joblib", "sweep.jobs=2", f"sweep.folder={folder}", "seed=9", "optim.clip=1,2,3,4"]
    assert cli.main(["train", "-m", *words]) == 130
    assert sorted(run["state"] for run in sweep_json(folder)["runs"]) == ["stopped", "stopped", "waiting", "waiting"]
    assert [file.read_text() for file in folder.glob("*/last.ckpt")] == ["1", "1"]
    assert "stopping" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_starts_once_it_is_stopping(tmp_path: Path) -> None:
    processes = Processes(1)
    processes.stopping = True
    assert processes.train([f"run_folder={tmp_path / 'x'}"], tmp_path / "x.log")[0] == 130
    assert not (tmp_path / "x").exists()


def test_a_run_of_several_processes_that_is_lost_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RANK", raising=False)
    folder = tmp_path / "sweep"
    words = [f"sweep.folder={folder}", "seed=7,3", "trainer.devices=2", "trainer.max_steps=3"]
    assert cli.main(["train", "-m", *words]) == 1
    runs = {run["words"][0]: run for run in sweep_json(folder)["runs"]}
    assert runs["seed=3"]["state"] == "done" and "SIGKILL" in runs["seed=7"]["sentence"]
