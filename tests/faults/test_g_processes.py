"""Section G of the faults: two processes (gloo, CPU) that decide as one, however they are started, and never hang."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training.history import History
from process_parts import environment, free_port, launcher, results, start
from training_parts import overrides, weights

pytestmark = pytest.mark.slow

TWO = ("trainer=ddp", "trainer.devices=2", "trainer.threads=1", "data.test=null", "trainer.log_every_steps=1")
LONG = ("trainer.max_steps=5000", "trainer.validate_every_epochs=1000")
ENDS = 60.0
"""Seconds within which all processes end after one has failed."""


def test_g01_g21_clocks_that_differ_neither_hang_a_training_nor_part_its_weights(
    scenes_root: Path, tmp_path: Path
) -> None:
    # one process is slow and its clock runs a thousand times too fast; time decides on rate, saving and the end
    words = overrides(scenes_root, *TWO, "trainer.devices=3", "trainer.max_minutes=0.3",
                      "trainer.save_every_minutes=0.02", "optim.warmup_steps=2", "data.batch_size=2",
                      f"run_folder={tmp_path / 'run'}", "data.val=null")  # fmt: skip
    odd = {"all": {"weights": str(tmp_path)}, "1": {"clock": 1000, "sleep": 0.05}}
    ((status, output),) = results([start(words, odd)])
    assert status == 0, output
    first, *others = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3))
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())
    rates = [row["lr"] for row in History(tmp_path / "run" / "history.csv").rows()]
    assert len(rates) >= 25
    assert len(set(rates)) > 2, "the rate went by the time"


@pytest.mark.parametrize(("name", "rank"), [("SIGUSR1", 1), ("SIGTERM", 0), ("SIGINT", 1)])
def test_g01_g05_a_signal_to_one_process_stops_all_at_one_step_and_the_same_command_goes_on(
    scenes_root: Path, tmp_path: Path, name: str, rank: int
) -> None:
    def words(folder: str) -> list[str]:
        return overrides(scenes_root, *TWO, "trainer.max_steps=6", "data.batch_size=2", "resume=auto",
                         "trainer.max_steps=5", f"run_folder={tmp_path / folder}")  # fmt: skip

    ((status, output),) = results([start(words("run"), {rank: {"at": 3, "signal": name}})])
    assert status == 130, output
    assert "Traceback" not in output and output.count("detr-mini: stopped") == 1
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3
    if name != "SIGUSR1":
        return
    for folder in ("run", "whole"):
        ((status, output),) = results([start(words(folder))])
        assert status == 0, output
    one, other = (read_checkpoint(tmp_path / folder / "last.ckpt") for folder in ("run", "whole"))
    assert one["global_step"] == other["global_step"] == 5
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("kind", ["torchrun", "SLURM"])
def test_g03_all_write_into_the_folder_that_the_first_has_chosen(scenes_root: Path, tmp_path: Path, kind: str) -> None:
    run, port = tmp_path / "run", free_port()
    run.mkdir()
    (run / "notes.txt").write_text("taken")  # so the first process has to choose another name
    words = overrides(scenes_root, *TWO, "trainer.max_steps=2", f"run_folder={run}")
    for status, output in results([start(words, None, **env) for env in launcher(kind, 2, port)]):
        assert status == 0, output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    log = (tmp_path / "run-2" / "run.log").read_text()
    assert log.count("run folder") == 1 and (tmp_path / "run-2" / "metrics.json").is_file()


def test_g03_torchrun_itself_starts_a_training(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, *TWO, "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}", "data.val=null")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "detr_mini",
         "train", *words],
        env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 1


def test_g20_the_tasks_of_a_submitit_job_train_together_and_a_job_queued_again_goes_on(
    scenes_root: Path, tmp_path: Path
) -> None:
    folder, script = tmp_path / "run", tmp_path / "job.py"
    words = overrides(scenes_root, *TWO, "trainer.max_steps=4", "data.val=null")
    script.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\n"
        "from process_parts import prepare\nimport os, json\n"
        "prepare(json.loads(os.environ['FAULTS']).get(os.environ['SLURM_PROCID'], {}))\n"
        "from detr_mini import cli\nfrom detr_mini.experiments.cluster import Job\n"
        f"job = Job({words!r}, Path({str(folder)!r}), 1, partial(cli._attempt, 'train'))\n"
        "sys.exit(job()[0])\n"
    )

    def tasks(faults: dict) -> list[tuple[int, str]]:
        own = [environment(FAULTS=json.dumps(faults), **env) for env in launcher("SLURM", 2, free_port())]
        return results([
            subprocess.Popen([sys.executable, str(script)], env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
            for env in own
        ])  # fmt: skip

    assert [status for status, _ in tasks({0: {"at": 2, "signal": "SIGUSR1"}})] == [130, 130]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 2
    for status, output in tasks({}):
        assert status == 0, output
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize(
    ("rank", "fault", "status", "sentence"),
    [
        (1, {"error": "images/7.jpg is not there"}, 2, "process 1 of this training (pid "),
        (1, {"bug": "a mistake of ours"}, 1, "failed: ZeroDivisionError: a mistake of ours"),
        (1, {"signal": "SIGKILL"}, 2, "was ended by SIGKILL, usually because memory ran out"),
        (0, {"error": "images/7.jpg is not there"}, 2, "images/7.jpg is not there"),
    ],
)
def test_g10_a_process_that_fails_ends_all_with_one_sentence_and_the_last_checkpoint_whole(
    scenes_root: Path, tmp_path: Path, rank: int, fault: dict, status: int, sentence: str
) -> None:
    run = tmp_path / "run"
    words = overrides(scenes_root, *TWO, *LONG, "trainer.save_every_minutes=1e-9", f"run_folder={run}")
    found, output = one_fault(words, run, {rank: {"at": 4, **fault}})
    assert found == status, output
    assert sentence in output
    assert output.count("detr-mini: ") == 1, "one sentence"
    assert ("Traceback" in output) == ("bug" in fault)
    assert read_checkpoint(run / "last.ckpt")["global_step"] in (2, 3)
    if rank == 1:
        assert f"the training was interrupted; continue with resume={run}" in output


def test_g10_a_first_process_that_is_killed_while_the_others_start_leaves_none_of_them_behind(
    scenes_root: Path, tmp_path: Path
) -> None:
    process = start(overrides(scenes_root, *TWO, *LONG, f"run_folder={tmp_path / 'run'}"))
    found = ""
    while not found:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    ((status, output),) = results([process], ENDS)  # the others write to the same pipe until they end
    assert status == -signal.SIGKILL
    assert "process 0 of this training ended before the others had joined it" in output


def one_fault(words: list[str], run: Path, faults: dict) -> tuple[int, str]:
    """The end of a training with a fault, which comes within `ENDS` of its last step."""
    process = start(words, faults)
    while process.poll() is None and len(History(run / "history.csv").rows()) < 2:
        time.sleep(0.2)
    ((status, output),) = results([process], ENDS)
    return status, output


@pytest.mark.parametrize("victim", [0, 1])
def test_g10_a_process_of_torchrun_or_slurm_that_is_killed_ends_the_other(
    scenes_root: Path, tmp_path: Path, victim: int
) -> None:
    run = tmp_path / "run"
    words = overrides(scenes_root, *TWO, *LONG, f"run_folder={run}")
    processes = [start(words, {victim: {"at": 3, "signal": "SIGKILL"}}, **env)
                 for env in launcher("torchrun", 2, free_port())]  # fmt: skip
    found = results(processes, 120)
    assert found[victim][0] == -signal.SIGKILL
    status, output = found[1 - victim]
    assert status == 2, output
    assert f"process {victim} of this training" in output and "ended without a message" in output
    assert f"continue with resume={run}" in output and "Traceback" not in output


def test_g04_processes_with_other_settings_are_refused(scenes_root: Path, tmp_path: Path) -> None:
    envs = launcher("torchrun", 2, free_port())
    common = overrides(scenes_root, *TWO, *LONG, f"run_folder={tmp_path / 'run'}")
    found = results([start([*common, f"seed={rank}"], None, **env) for rank, env in enumerate(envs)])
    assert [status for status, _ in found] == [2, 2]
    assert "process 0 has seed=0 and process 1 has seed=1; start all processes" in found[0][1]
    assert not (tmp_path / "run").exists()


def test_g08_a_run_of_two_processes_goes_on_with_one_where_it_stood(scenes_root: Path, tmp_path: Path) -> None:
    def words(folder: str, *more: str) -> list[str]:
        return [*overrides(scenes_root, *TWO, "data.val=null", "trainer.max_epochs=2"), "data.batch_size=2",
                f"run_folder={tmp_path / folder}", "resume=auto", *more]  # fmt: skip

    assert results([start(words("run"), {1: {"at": 2, "signal": "SIGUSR1"}})])[0][0] == 130
    ((status, output),) = results([start(words("run", "trainer.devices=1"))])
    assert status == 2 and "would have 2 images in place of 4" in output and "set data.batch_size=4" in output
    ((status, output),) = results([start(words("run", "trainer.devices=1", "data.batch_size=4"))])
    assert status == 0, output
    last = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert (last["global_step"], last["progress"]["images_seen"]) == (8, 32), "two epochs of 16 images, none twice"
    assert "resumed with data.batch_size=4 (it was 2)" in (tmp_path / "run" / "run.log").read_text()


def test_g24_g26_images_without_captions_stop_no_process_and_none_asks_for_signals_before_a_batch(
    scenes_root: Path, tmp_path: Path
) -> None:
    # the processes have batches of two images, and half of the images have no caption: some batches of one have none
    content = json.loads((scenes_root / "annotations" / "train.json").read_text())
    images = [{**image, "original_id": image["id"], "id": number, "caption": "a circle"}
              for number, image in enumerate(content["images"][::4], start=1)]  # fmt: skip
    boxes = {box["image_id"]: box for box in content["annotations"]}  # each image has one at least
    annotations = [
        {**boxes[image["original_id"]], "id": image["id"], "image_id": image["id"], "tokens_positive": [[2, 8]]}
        for image in images
    ]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    words = [
        *overrides(scenes_root, "experiment=shapes_captions", *TWO), "data.make=null", "trainer.max_minutes=null",
        f"data.captions={{train: {file}, val: null}}", "data.val=null", "trainer.max_epochs=3", "data.batch_size=2",
        "data.augment=[]", "model.joint={layers: 1, width: 8, heads: 2, pair_dim: 4}", "model.text.layers=1",
        f"run_folder={tmp_path / 'run'}",
    ]  # fmt: skip
    ((status, output),) = results([start(words, {"all": {"weights": str(tmp_path), "sigterm": True}})])
    assert status == 0, output
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 12
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_g25_processes_that_have_read_other_images_are_refused_with_their_host(
    scenes_root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "copy"
    shutil.copytree(scenes_root, other)
    min((other / "train").iterdir()).unlink()
    words = overrides(scenes_root, *TWO, *LONG, "data.make=null", "data.on_missing=skip", "data.val=null",
                      f"run_folder={tmp_path / 'run'}")  # fmt: skip
    roots = (words, [*words, f"data.root={other}"])
    envs = launcher("torchrun", 2, free_port())
    found = results([start(own, None, **env) for own, env in zip(roots, envs, strict=True)])
    assert [status for status, _ in found] == [2, 2], found
    said = " ".join(found[0][1].split())
    assert f"(on {socket.gethostname()}) has read another train split (15 images, not 16) from {other}" in said
    assert not (tmp_path / "run").exists()
