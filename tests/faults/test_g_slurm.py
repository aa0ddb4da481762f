"""The batch script of docs/scale.md, with programs on the path that do what SLURM's `srun` and `scontrol` do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_mini.pretrained.checkpoints import read_checkpoint
from process_parts import HERE, environment, free_port
from training_parts import overrides, weights

pytestmark = pytest.mark.slow

PAGE = HERE.parents[1] / "docs" / "scale.md"

SRUN = """#!{python}
# Starts a task on each machine of the job. After two steps SLURM's signal comes to all tasks, or a machine is lost.
import json, os, signal, subprocess, sys, time
from pathlib import Path

tasks = int(os.environ["SLURM_NTASKS"])
started, command = [], [word for word in sys.argv[1:] if not word.startswith("--cpus-per-task=")]
for task in range(tasks):
    place = {{"SLURM_PROCID": task, "SLURM_NODEID": task, "SLURM_LOCALID": 0, "SLURM_STEP_ID": 0}}
    own = {{**os.environ, **{{name: str(value) for name, value in place.items()}}}}
    started.append(subprocess.Popen(command, env=own))
event = json.loads(os.environ["EVENTS"])[int(os.environ["SLURM_RESTART_COUNT"])]
history = Path(os.environ["RUN"]) / "history.csv"
while event and (not history.is_file() or len(history.read_text().splitlines()) < 3):
    time.sleep(0.02)
if event == "time":
    for task in started:
        task.send_signal(signal.SIGUSR1)
if event == "machine":
    started[-1].kill()
sys.exit(max(abs(task.wait()) for task in started))
"""
SCONTROL = """#!/bin/sh
[ "$1 $2" = "requeue $SLURM_JOB_ID" ] && echo again >> "$QUEUE"
"""
TASK = """#!/bin/sh
exec {python} {parts} "$@"
"""


def job(folder: Path, words: list[str], events: list[str | None]) -> Iterator[str]:
    """The output of each start of the page's job. `events`: what happens to each start, "time" or "machine".

    The job is started again where the script has asked for it, and after a lost machine, as SLURM does of itself.
    """
    tools, run, queue = folder / "bin", folder / "run", folder / "queue"
    tools.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("detr-mini", TASK)):
        (tools / name).write_text(text.format(python=sys.executable, parts=HERE) if "{" in text else text)
        (tools / name).chmod(0o755)
    script = page_script(run, words)
    (folder / "job.sh").write_text(script)
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, re.M))
    assert (given["nodes"], given["ntasks-per-node"]) == ("2", "1")
    assert "#SBATCH --requeue" in script and given["signal"].startswith("USR1@")
    env = environment(
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}", RUN=str(run), QUEUE=str(queue), EVENTS=json.dumps(events),
        FAULTS=json.dumps({"all": {"sleep": 0.2}}), SLURM_JOB_ID="4711", SLURM_JOB_NAME="job.sh", SLURM_NNODES="2",
        SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="1", SLURM_NODELIST="127.0.0.1,127.0.0.2",
    )  # fmt: skip
    for count, event in enumerate(events):
        queue.unlink(missing_ok=True)
        restart = {"SLURM_RESTART_COUNT": str(count), "MASTER_PORT": str(free_port())}
        done = subprocess.run(
            ["bash", str(folder / "job.sh")], env=env | restart, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=200, cwd=folder,
        )  # fmt: skip
        yield done.stdout
        if not queue.is_file() and event != "machine":
            return


def page_script(run: Path, words: list[str]) -> str:
    """The page's job, with a task on each of two machines, settings for a CPU and small scenes."""
    script = PAGE.read_text().split("## SLURM", 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
    for old, new in (
        ("experiment=coco data.root=coco trainer=gpu", shlex.join(words)),
        ("=8", "=1"),
        ("/shared/coco", shlex.quote(str(run))),
    ):
        assert old in script, f"docs/scale.md no longer has {old}"
        script = script.replace(old, new)
    return script


def words_of(scenes_root: Path) -> list[str]:
    return overrides(scenes_root, "trainer=ddp", "trainer.threads=1", "trainer.log_every_steps=1",
                     "trainer.max_steps=10", "trainer.save_every_minutes=1e-9", "data.batch_size=2", "data.val=null",
                     "data.test=null")  # fmt: skip


@pytest.fixture(scope="module")
def whole(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of a job to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    (output,) = job(folder, words_of(scenes_root), [None])
    checkpoint = read_checkpoint(folder / "run" / "last.ckpt")
    assert checkpoint["global_step"] == 10, output
    return checkpoint


@pytest.mark.parametrize("event", ["time", "machine"])
def test_g05_the_job_of_the_page_goes_on_to_the_same_bits_when_its_time_is_over_or_a_machine_is_lost(
    scenes_root: Path, tmp_path: Path, whole: dict[str, Any], event: str
) -> None:
    starts = job(tmp_path / "broken", words_of(scenes_root), [event, None])
    output, last = next(starts), tmp_path / "broken" / "run" / "last.ckpt"
    assert ("detr-mini: stopped" if event == "time" else "process 1 of this training") in output
    assert "Traceback" not in output
    assert 1 <= read_checkpoint(last)["global_step"] < 10, output
    output = next(starts, "the job was not queued again")
    found = read_checkpoint(last)
    assert found["global_step"] == 10, output
    assert all(torch.equal(value, weights(found)[name]) for name, value in weights(whole).items())
