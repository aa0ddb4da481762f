"""Section G of the faults: every way of starting, in one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini import environment
from detr_mini.cli import main
from detr_mini.config.changed_settings import refuse_changes
from detr_mini.data.samplers import TrainBatches
from detr_mini.errors import ConfigError, UserError
from detr_mini.optim.schedule import scaled
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training import processes, resume, watch
from detr_mini.training.build import build
from detr_mini.training.launch import Launch, find_launch
from detr_mini.training.options import TrainerOptions
from detr_mini.training.resume import same_last
from detr_mini.training.run import train
from detr_mini.training.task import DetectionTask
from detr_mini.training.watch import Watch
from process_parts import free_port, launcher
from training_parts import overrides, small_config, weights

# G-04


@pytest.mark.parametrize("kind", ["torchrun", "SLURM"])
def test_g04_a_world_that_does_not_fit_the_settings_is_refused_with_the_setting_to_use(kind: str) -> None:
    env = launcher(kind, 4, 1)[3]
    assert find_launch(4, 1, env) == Launch(kind, 3, 4, 3, 4, 0)
    for devices, nodes in ((1, 1), (2, 1), (2, 2)):
        with pytest.raises(ConfigError, match=rf"{kind} has started 4 processes.*devices=4 trainer.num_nodes=1"):
            find_launch(devices, nodes, env)


def test_g04_several_machines_count() -> None:
    env = launcher("torchrun", 8, 1)[5] | {"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "1"}
    assert find_launch(4, 2, env) == Launch("torchrun", 5, 8, 1, 4, 1)
    with pytest.raises(ConfigError, match=r"8 processes, 4 on each of 2 machines.*trainer.devices=4 trainer.num_nodes"):
        find_launch(8, 1, env)
    with pytest.raises(ConfigError, match=r"which of the machines this is.*torchrun or srun, or set NODE_RANK"):
        find_launch(4, 2, {})
    node = {"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert find_launch(4, 2, node) == Launch(None, 4, 8, 0, 4, 1)


def test_g04_a_launcher_that_does_not_count_the_processes_of_a_machine_may_start_one_on_each() -> None:
    env = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    found = find_launch(1, 2, env)
    assert (found.rank, found.world, found.local_rank, found.local_world, found.node) == (1, 2, 0, 1, 1)
    assert find_launch(2, 1, env).local_world == 2


@pytest.mark.parametrize(("by", "reached"), [("SLURM", True), ("torchrun", True), (None, False)])
def test_g04_processes_of_a_launcher_reach_the_first_one_by_any_address_of_the_machine(
    by: str | None, reached: bool
) -> None:
    first = Watch(Launch(by, 0, 2, 0, 2, 0))
    port = first.serve("secret")
    try:
        with socket.create_connection(("127.0.0.2", port), timeout=5):
            assert reached
    except ConnectionRefusedError:
        assert not reached, "the name of a machine is seldom that of 127.0.0.1"
    finally:
        first._over.set()


@pytest.mark.parametrize(("pinned", "own"), [(None, 4), ("16", 16), ("8", 4), ("nonsense", 4)])
def test_g04_cores_that_slurm_has_divided_are_not_divided_again(
    pinned: str | None, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "usable_cores", lambda: 16)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if pinned is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", pinned)
    assert environment.own_cores(4) == own
    assert environment.own_cores(1) == 16


@pytest.mark.parametrize("there", [True, False])
def test_g04_an_accelerator_that_is_auto_is_the_gpu_everywhere_where_there_is_one(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert TrainerOptions(accelerator="auto").device_type == ("cuda" if there else "cpu")


def test_g04_tasks_that_srun_has_not_started_are_refused() -> None:
    env = launcher("SLURM", 4, 1)[0]
    del env["SLURM_STEP_ID"]
    with pytest.raises(ConfigError, match="put srun before detr-mini"):
        find_launch(4, 1, env)
    assert find_launch(4, 1, env | {"SLURM_JOB_NAME": "interactive"}).by is None


def test_g04_a_world_that_does_not_fit_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in launcher("torchrun", 2, 1)[1].items():
        monkeypatch.setenv(name, value)
    words = overrides(tmp_path / "scenes", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert "torchrun has started 2 processes, but trainer.devices=1" in error and "Traceback" not in error
    assert os.listdir(tmp_path) == []


def test_g04_a_process_that_never_comes_is_named(
    tmp_path: Path, scenes_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in launcher("torchrun", 2, free_port())[0].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "JOIN", 1.0)
    more = ("trainer=ddp", "trainer.devices=2", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    assert main(["train", *overrides(scenes_root, *more)]) == 2
    assert "process 1 of 2 has not come within 1 seconds; see whether all were started" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


# G-10


def test_g10_the_first_process_ends_with_the_sentence_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = Watch(Launch("torchrun", 0, 2, 0, 2)), Watch(Launch("torchrun", 1, 2, 1, 2))
    said, left = [], []
    monkeypatch.setattr(watch, "GRACE", 0.05)
    monkeypatch.setattr(first, "_say", said.append)
    monkeypatch.setattr(first, "_leave", left.append)
    port = first.serve("secret")
    stranger = Watch(Launch("torchrun", 1, 2, 1, 2))
    stranger.done()
    stranger.connect("127.0.0.1", port, "a guess")
    stranger.report("end, all of you", 2)
    other.connect("127.0.0.1", port, "secret")
    assert other.report("images/7.jpg is not there", 2)
    deadline = time.monotonic() + 10
    while not left and time.monotonic() < deadline:
        time.sleep(0.02)
    for each in (first, other):
        each.done()
    assert left == [2]
    assert said == [f"process 1 of this training (pid {os.getpid()} on {socket.gethostname()}) failed: "
                    "images/7.jpg is not there"]  # fmt: skip


# G-05


@pytest.mark.slow
def test_g05_one_command_starts_and_goes_on_after_sigusr1_to_the_same_bits(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(folder: str, *more: str) -> list[str]:
        settings = ("trainer.max_steps=6", "optim.warmup_steps=auto", "resume=auto", "data.test=null", *more)
        return ["train", *overrides(scenes_root, *settings, f"run_folder={tmp_path / folder}")]

    assert main(words("whole")) == 0
    step = DetectionTask.training_step

    def until_three(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(DetectionTask, "training_step", until_three)
        assert main(words("run")) == 130
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3
    assert main(words("run")) == 0
    one, other = (read_checkpoint(tmp_path / folder / "last.ckpt") for folder in ("whole", "run"))
    assert one["global_step"] == other["global_step"] == 6
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "whole"], "no second folder was made"
    # what the command changes counts, what cannot change any more is refused
    assert main(words("run", "trainer.max_steps=8")) == 0
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 8
    capsys.readouterr()
    assert main(words("run", "trainer.max_steps=9", "model.queries=9")) == 2
    assert "model.queries is 8 in this run and cannot become 9" in capsys.readouterr().err


def test_g05_resume_auto_needs_a_folder_that_is_new_or_a_run(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = overrides(scenes_root, "trainer.max_steps=1", "resume=auto")
    assert main(["train", *words]) == 2
    assert "resume=auto needs the folder in which the run starts or goes on; add run_folder=" in capsys.readouterr().err
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to.txt").write_text("you")
    assert main(["train", *words, f"run_folder={tmp_path / 'letters'}"]) == 2
    assert "takes the folder of a run" in capsys.readouterr().err
    assert os.listdir(tmp_path / "letters") == ["to.txt"]


def test_g05_lightning_has_no_handlers_of_its_own(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in launcher("SLURM", 1, 1)[0].items():
        monkeypatch.setenv(name, value)
    seen = {}
    step = DetectionTask.training_step

    def look(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            seen[number.name] = signal.getsignal(number).__qualname__  # type: ignore[union-attr]
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionTask, "training_step", look)
    train(small_config(scenes_root, "trainer.max_steps=1", "data.test=null", f"run_folder={tmp_path / 'run'}"))
    assert seen == {"SIGTERM": "Checkpoints._ask", "SIGUSR1": "Checkpoints._ask"}
    assert not list(tmp_path.glob("**/hpc_ckpt*"))


def test_g05_a_checkpoint_that_a_shared_folder_shows_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [{"global_step": 4}, {"global_step": 4}, {"global_step": 8}]
    monkeypatch.setattr(resume, "read_last", lambda folder: shown.pop(0))
    assert same_last(tmp_path, 8) == {"global_step": 8}
    monkeypatch.setattr(resume, "read_last", lambda folder: {"global_step": 4})
    monkeypatch.setattr(resume, "LATE", 0.1)
    with pytest.raises(UserError, match=r"of step 8.*the run folder must be shared by all machines"):
        same_last(tmp_path, 8)


# G-08


def shape(batch_size: int, devices: int, nodes: int = 1, accumulate: int = 1) -> dict[str, Any]:
    strategy = "ddp" if devices * nodes > 1 else "auto"
    trainer = {"devices": devices, "num_nodes": nodes, "strategy": strategy, "accumulate": accumulate}
    return {"data": {"batch_size": batch_size}, "trainer": trainer}


def test_g08_another_shape_is_refused_unless_a_batch_of_all_processes_stays_the_same() -> None:
    run = Path("run")
    assert refuse_changes(run, shape(4, 4), shape(8, 2)) == {
        "data.batch_size": (4, 8), "trainer.devices": (4, 2),
    }  # fmt: skip
    refuse_changes(run, shape(4, 4), shape(16, 1))
    refuse_changes(run, shape(4, 4), shape(4, 2, nodes=2))
    with pytest.raises(ConfigError, match=r"would have 8 images in place of 16.* at 2, set data.batch_size=8; or"):
        refuse_changes(run, shape(4, 4), shape(4, 2))
    with pytest.raises(ConfigError, match=r"use a number of processes that divides 16; or leave it out"):
        refuse_changes(run, shape(4, 4), shape(4, 3))
    with pytest.raises(ConfigError, match=r"data.batch_size is 4 in this run and cannot become 8: .* would have 32"):
        refuse_changes(run, shape(4, 4), shape(8, 4))
    with pytest.raises(ConfigError, match=r"trainer.accumulate is 1 in this run and cannot become 2"):
        refuse_changes(run, shape(4, 4), shape(4, 4, accumulate=2))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 50), st.integers(0, 3))
def test_g08_a_batch_of_all_processes_holds_the_same_images_however_many_share_it(
    world: int, batch_size: int, more: int, epoch: int
) -> None:
    total = world * batch_size
    images = total + more

    def batches(processes: int) -> list[set[int]]:
        found = []
        for rank in range(processes):
            sampler = TrainBatches(images, total // processes, seed=3, rank=rank, world=processes)
            sampler.set_epoch(epoch)
            found.append([[key.index for key in batch] for batch in sampler])
        return [{index for share in shares for index in share} for shares in zip(*found, strict=True)]

    assert batches(world) == batches(1)


# G-22


def test_g22_the_warm_up_has_as_many_images_with_any_number_of_processes() -> None:
    assert scaled("warmup", 1, 1000) == (1.0, 1000)
    assert scaled("warmup", 32, 1000) == (1.0, 32)
    assert scaled("none", 32, 1000) == (1.0, 1000)
    assert scaled("sqrt", 4, 1000) == (2.0, 250)
    assert scaled("linear", 4, 1000) == (4.0, 250)


def test_g22_rules_act_on_several_processes_only(scenes_root: Path) -> None:
    for rule in ("none", "warmup", "sqrt", "linear"):
        task = build(small_config(scenes_root, "trainer.max_steps=9", f"optim.scaling={rule}")).task
        assert (task.rate, task.warmup_steps) == (1.0, 100)
    more = ("trainer=ddp", "trainer.devices=4", "trainer.max_steps=9")
    task = build(small_config(scenes_root, *more, "optim.scaling=sqrt")).task
    assert (task.rate, task.warmup_steps) == (2.0, 25)
    rates = {group["lr"]: group["initial_lr"] for group in task.configure_optimizers().param_groups}
    assert rates == {lr: 2 * lr for lr in rates} and rates
    begun_with_one = build(small_config(scenes_root, *more, "optim.scaling=sqrt"), {"processes": 1}).task
    assert (begun_with_one.rate, begun_with_one.warmup_steps) == (1.0, 100)
    with pytest.raises(ConfigError, match=r"optim.scaling is 'cubic'; choose one of none, warmup, sqrt, linear"):
        build(small_config(scenes_root, *more, "optim.scaling=cubic"))


def test_g22_the_start_says_what_a_step_and_the_warm_up_hold(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("trainer.max_steps=1", "trainer.accumulate=2", "data.test=null", "data.val=null")
    train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))
    sentence = ("a step has 8 images (data.batch_size=4 x 1 process x trainer.accumulate=2); lr 0.02, adamw_lr 0.001, "
                "after a warm-up of 100 steps, 800 images")  # fmt: skip
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert sentence in (tmp_path / "run" / "run.log").read_text()


# G-20


def test_g20_a_job_of_slurm_has_a_task_for_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes_root: Path
) -> None:
    submitit = pytest.importorskip("submitit", reason="comes with the extra 'sweep'")
    tools, script = tmp_path / "bin", tmp_path / "script.sh"
    tools.mkdir()
    for name, text in (
        ("srun", "exit 0"),
        ("sbatch", f'cp "$1" {script}; echo "sbatch: error: no such queue" >&2; exit 1'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert submitit.AutoExecutor(tmp_path / "try").cluster == "slurm"
    words = ["sweep=submitit", f"sweep.folder={tmp_path / 's'}", "sweep.gpus=4", "trainer=ddp", "trainer.devices=4",
             "trainer.num_nodes=2", "trainer.max_steps=1", f"data.root={scenes_root}"]  # fmt: skip
    assert main(["train", "-m", *words]) == 2
    asked = script.read_text()
    assert "--ntasks-per-node=4" in asked and "--nodes=2" in asked and "--gpus-per-node=4" in asked
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]
