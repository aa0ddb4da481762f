"""Section L of the faults: nothing that was trained is lost, mixed up with another run, or recorded and not done."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from detr_mini.cli import main
from detr_mini.config import run_folder
from detr_mini.config.changed_settings import refuse_changes
from detr_mini.config.compose import compose
from detr_mini.config.run_folder import in_use, locked, new_run_folder, to_go_on, whole
from detr_mini.data import workers
from detr_mini.data.dataset import DetectionDataset
from detr_mini.errors import ConfigError, UserError
from detr_mini.evaluation.metrics.coco import Scores
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.scenes.shapes import ensure_scenes
from detr_mini.structures import OperatingPoint
from detr_mini.training.build import build
from detr_mini.training.callbacks import Checkpoints
from detr_mini.training.history import History
from detr_mini.training.run import train
from detr_mini.training.task import DetectionTask
from detr_mini.training.validation import Validation
from detr_mini.training.watch import Watch, lost_peer
from training_parts import overrides, small_config

HERE = Path(__file__).parents[2]
WORDS = ("data.make=null", "data.test=null", "data.batch_size=8", "trainer.max_steps=4", "trainer.log_every_steps=1")
MAKE = "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}"


@pytest.fixture(scope="module")
def finished(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, two steps each. Read only."""
    run = tmp_path_factory.mktemp("finished") / "run"
    words = [word for word in overrides(scenes_root, *WORDS) if word != MAKE]
    assert main(["train", *words, f"run_folder={run}"]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence with which `detr-mini train` refuses these words."""
    capsys.readouterr()
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


def step_of(run: Path, name: str) -> int:
    return int(read_checkpoint(run / f"{name}.ckpt")["global_step"])


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """`holder(folder)` starts a process that holds the folder's lock until it is killed."""
    started = []

    def hold(folder: Path, *, child: bool = False) -> subprocess.Popen[str]:
        script = (
            "import os, sys, time; from pathlib import Path; from detr_mini.config.run_folder import FolderLock\n"
            "lock = FolderLock(Path(sys.argv[1])).acquire()\n"
            f"if {child} and os.fork() == 0: time.sleep(30); os._exit(0)\n"
            "print('locked', flush=True); time.sleep(60)"
        )
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        command = [sys.executable, "-c", script, str(folder)]
        started.append(
            subprocess.Popen(command, text=True, stdout=subprocess.PIPE, start_new_session=True, env=environment)
        )
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "locked\n"
        return started[-1]

    yield hold
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# L-01


@pytest.mark.parametrize("left", ["nothing", "an older file", "half a file"])
def test_l01_best_is_made_again_from_last_where_the_process_died_between_them(run: Path, left: str) -> None:
    last = read_checkpoint(run / "last.ckpt")
    last["best"]["step"] = last["global_step"]
    torch.save(last, run / "last.ckpt")
    measured = {"step": 2, **{k: v for k, v in last.items() if k != "step"}, "global_step": 2}
    if left == "nothing":
        (run / "best.ckpt").unlink()
    elif left == "an older file":
        torch.save(measured, run / "best.ckpt")
    else:
        (run / "best.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:1000])
    (run / ".best.tmp").write_bytes(b"half")
    (run / "metrics.json").unlink()
    assert main(["train", f"resume={run}"]) == 0
    assert (run / "best.ckpt").read_bytes() == (run / "last.ckpt").read_bytes()
    assert json.loads((run / "metrics.json").read_text())["weights"] == "best on val"
    assert not list(run.glob(".*"))


def test_l01_a_best_that_is_gone_for_good_is_reported_and_chosen_again(run: Path) -> None:
    last = read_checkpoint(run / "last.ckpt")
    last["best"] = {"score": 0.9, "epoch": 0, "step": 2}
    torch.save(last, run / "last.ckpt")
    (run / "best.ckpt").unlink()
    assert main(["train", f"resume={run}"]) == 0
    assert "best.ckpt of step 2 is missing and cannot be restored" in (run / "data_report.json").read_text()
    assert json.loads((run / "metrics.json").read_text())["weights"] == "last"
    assert main(["train", f"resume={run}", "trainer.max_steps=6"]) == 0
    assert read_checkpoint(run / "best.ckpt")["best"]["step"] == step_of(run, "best") == 6


def test_l01_a_run_that_saved_nothing_starts_again_in_its_own_folder(run: Path) -> None:
    for name in ("last.ckpt", "best.ckpt", "metrics.json"):
        (run / name).unlink()
    assert main(["train", f"resume={run}"]) == 0
    assert step_of(run, "last") == 4
    assert [row["step"] for row in History(run / "history.csv").rows() if row["train/loss"]] == ["1", "2", "3", "4"]


def test_l01_metrics_are_of_the_best_checkpoint_or_not_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detr_mini.training.run.fit", stop)
    assert main(["train", f"resume={run}", "trainer.max_steps=6"]) == 130
    assert not (run / "metrics.json").exists()


def test_l01_a_file_is_whole_or_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def break_off() -> None:
        with whole(file) as temporary:
            temporary.write_text("ha")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        break_off()
    assert (file.read_text(), os.listdir(tmp_path)) == ("before", ["file"])
    with whole(file) as temporary:
        temporary.write_text("after")
        assert file.read_text() == "before"
    assert (file.read_text(), os.listdir(tmp_path)) == ("after", ["file"])


# L-02


@pytest.mark.slow
def test_l02_two_processes_write_into_the_folder_that_the_first_has_chosen(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "trainer=ddp", "trainer.devices=2", "trainer.max_steps=2")
    done = subprocess.run(
        [sys.executable, "-m", "detr_mini", "train", *words], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "outputs" / "train").iterdir()
    assert step_of(run, "last") == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["split"], metrics["images"]) == ("test", 6), "the first measures every image at the end"


def test_l02_a_process_that_is_not_the_first_makes_no_folder_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    folder = new_run_folder(tmp_path, "x")
    with locked(folder):
        assert not folder.exists()
    assert os.listdir(tmp_path) == []


# L-03


def test_l03_a_second_resume_is_refused_and_says_who_has_the_run(
    run: Path, holder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    process = holder(run)
    before = content(run)
    error = complaint(capsys, f"resume={run}", "trainer.max_steps=6")
    assert f"{run} is in use by process {process.pid} on {socket.gethostname()}, since 20" in error
    assert content(run) == before
    process.kill()
    process.wait()
    assert main(["train", f"resume={run}"]) == 0, "the lock of a killed process holds nobody up"
    assert not (run / ".lock").exists()


def test_l03_a_forked_child_that_outlives_its_parent_does_not_hold_the_lock(tmp_path: Path, holder: Any) -> None:
    process = holder(tmp_path, child=True)
    assert in_use(tmp_path)
    process.kill()
    process.wait()
    assert not in_use(tmp_path)


def test_l03_a_second_sweep_in_the_folder_is_refused_and_deletes_nothing(
    tmp_path: Path, holder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    training = sweep / "0_seed-0"
    training.mkdir(parents=True)
    (training / "run.log").write_text("step 3")
    (sweep / "sweep.json").write_text(json.dumps({"name": "x", "swept": ["seed"], "runs": []}))
    process = holder(sweep)
    error = complaint(capsys, "-m", f"sweep.folder={sweep}", "seed=0,1", "trainer.max_steps=3")
    assert f"{sweep} is in use by process {process.pid}" in error
    process.kill()
    process.wait()
    orphan = holder(training)  # a run of a sweep that was killed itself
    assert to_go_on(training)
    assert (training / "run.log").read_text() == "step 3"
    orphan.kill()
    orphan.wait()
    assert not to_go_on(training) and not training.exists()


def test_l03_one_process_cannot_lock_a_folder_twice(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"), locked(tmp_path):
            pass
        assert in_use(tmp_path)
    assert not in_use(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("alive", [True, False])
def test_l03_a_lock_of_another_machine_counts_as_long_as_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 1.0)
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": 12, "host": "far-away", "since": "2026-01-01 00:00:00"}))
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.2):
            os.utime(lock)

    if alive:
        threading.Thread(target=touch, daemon=True).start()
        with pytest.raises(UserError, match="process 12 on far-away, since 2026-01-01"), locked(tmp_path):
            pass
    else:
        with locked(tmp_path):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
    ended.set()


def test_l03_a_folder_in_which_a_process_died_before_it_wrote_counts_as_new(tmp_path: Path, holder: Any) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    process = holder(folder)
    assert new_run_folder(tmp_path, "x", folder) == tmp_path / "run-2"
    process.kill()
    process.wait()
    assert new_run_folder(tmp_path, "x", folder) == folder


# L-04


def test_l04_a_rate_given_at_resume_is_trained_with_and_recorded(run: Path) -> None:
    words = ("trainer.max_steps=6", "optim.optimizer.lr=0.0005", "optim.optimizer.weight_decay=0.01", "optim.clip=1")
    assert main(["train", f"resume={run}", *words]) == 0
    config = OmegaConf.load(run / "config.yaml")
    assert (config.optim.optimizer.lr, config.trainer.max_steps, config.optim.clip) == (0.0005, 6, 1)
    groups = read_checkpoint(run / "last.ckpt")["optimizer_states"][0]["param_groups"]
    (matrices,) = [group for group in groups if group["rule"] == "matrix"]
    assert (matrices["initial_lr"], matrices["weight_decay"]) == (0.0005, 0.01)
    assert matrices["lr"] <= 0.0005
    log = (run / "run.log").read_text()
    assert "resumed with optim.optimizer.lr=0.0005 (it was 0.02)" in log
    assert "resumed with trainer.max_steps=6 (it was 4)" in log


def test_l04_a_resumed_run_chooses_its_operating_point_again(run: Path) -> None:
    assert main(["train", f"resume={run}", "trainer.max_steps=6"]) == 0
    last = read_checkpoint(run / "last.ckpt")
    assert last["config"]["operating_point"] == {"threshold": "auto", "suppress_iou": "auto"}
    assert main(["train", f"resume={run}", "trainer.max_steps=8", "operating_point.threshold=0.25"]) == 0
    last = read_checkpoint(run / "last.ckpt")
    assert last["config"]["operating_point"] == {"threshold": 0.25, "suppress_iou": "auto"}
    assert last["operating_point"]["threshold"] == 0.25


def test_l04_a_resumed_run_keeps_what_its_last_validation_chose_until_the_next(run: Path, scenes_root: Path) -> None:
    last = {**read_checkpoint(run / "last.ckpt"), "operating_point": {"threshold": 0.31, "suppress_iou": 0.6}}
    last |= {"threshold": 0.7, "progress": {**last["progress"], "scores": {"AP": 0.125}}}
    for setting, iou in (("auto", 0.6), ("null", None), ("0.9", 0.9)):
        words = ("trainer.max_steps=9", f"operating_point.suppress_iou={setting}")
        task = build(small_config(scenes_root, *words)).task
        task.trainer = SimpleNamespace(world_size=1, is_global_zero=True)  # type: ignore[assignment]
        task.on_load_checkpoint(last)
        written: dict[str, Any] = {}
        task.on_save_checkpoint(written)
        assert written["operating_point"] == {"threshold": 0.31, "suppress_iou": iou}
        assert written["threshold"] == 0.7 and written["progress"]["scores"] == {"AP": 0.125}
    task.validation = Validation(Scores({"AP": 0.5}, ()), 1.0, OperatingPoint(0.4), None)
    task.on_save_checkpoint(written)
    assert written["operating_point"]["threshold"] == 0.4 and written["threshold"] is None
    assert written["progress"]["scores"] == {"AP": 0.5}


@pytest.mark.parametrize("setting", ["optim.optimizer.lr=0.0005", "trainer.max_steps=3", "criterion.weight_giou=3.5"])
def test_l04_what_a_finished_run_cannot_apply_is_refused(
    run: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    error = complaint(capsys, f"resume={run}", setting)
    assert f"trained to its end, step 4, so {setting} would change nothing" in error
    assert content(run) == before


# L-05


@pytest.mark.parametrize(
    "setting",
    [
        "model.dim=64", "model.queries=9", "backbone.channels=[4,8,16,64]", "data.batch_size=4", "seed=3",
        "trainer.accumulate=2", "trainer.devices=2", "data.size=96", "data.limit_train=8", "run_folder=elsewhere",
        "optim.optimizer._target_=detr_mini.optim.adamw", "init=nowhere", "recipe=mini-7",
    ],
)  # fmt: skip
def test_l05_a_setting_that_does_not_fit_is_refused_and_the_run_is_as_it_was(
    run: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    error = complaint(capsys, f"resume={run}", setting, "trainer.max_steps=6")
    key = setting.partition("=")[0]
    assert f"resume={run}: {key} is " in error
    assert "leave it out, or start another run" in error
    assert content(run) == before


def test_l05_groups_of_the_optimizer_that_do_not_fit_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(run)
    error = complaint(capsys, f"resume={run}", "optim.optimizer.backbone_scale=0.5", "trainer.max_steps=6")
    assert "divides the parameters into" in error
    assert content(run) == before


def test_l05_a_config_changed_by_hand_is_held_against_the_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.load(run / "config.yaml")
    config.model.dim = 64
    OmegaConf.save(config, run / "config.yaml")
    before = content(run)
    assert "model.dim is 32 in this run and cannot become 64" in complaint(capsys, f"resume={run}")
    assert content(run) == before


def test_l05_other_data_in_the_same_place_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_scenes(tmp_path / "other", train=12, val=8, test=0, seed=0, size=64, processes=1)
    before = content(run)
    error = complaint(capsys, f"resume={run}", f"data.root={tmp_path / 'other'}", "trainer.max_steps=6")
    assert "was trained on 16 images, but train has 12 now" in error
    assert content(run) == before


def test_l05_a_trainer_that_cannot_be_used_leaves_no_folder(
    scenes_root: Path, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = content(run)
    assert "cannot be used on this machine" in complaint(
        capsys, f"resume={run}", "trainer.accelerator=gpu", "trainer.max_steps=6"
    )
    assert content(run) == before
    for length in ("trainer.max_steps=1", "trainer.max_minutes=1"):  # by minutes, its speed is measured first
        words = overrides(scenes_root, "trainer.accelerator=gpu", length, f"run_folder={tmp_path / 'new'}")
        words += ["data.size=auto", "optim.warmup_steps=auto"] if "minutes" in length else []
        assert "cannot be used on this machine" in complaint(capsys, *words)
        assert not (tmp_path / "new").exists()


def test_l05_a_setting_that_another_version_has_is_no_change() -> None:
    before = {"model": {"dim": 32}, "data": {"train": "auto", "subset": None}}
    assert refuse_changes(Path("r"), before, {**before, "nms": {"iou": 0.5}}) == {}
    assert refuse_changes(Path("r"), {**before, "old": 1}, before) == {}
    for other in ({"train": {"images": "x"}, "subset": None}, {"train": "auto", "subset": {"share": 0.5}}):
        with pytest.raises(ConfigError, match=r"cannot become"):
            refuse_changes(Path("r"), before, {**before, "data": other})


# L-06


def little_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(workers.os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))


def test_l06_too_little_shared_memory_is_a_sentence_before_a_worker_starts(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little_memory(monkeypatch, 300_000)  # a batch is 4 x 3 x 64 x 64 float32: 197 kB
    words = overrides(scenes_root, "data.workers=2", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    error = complaint(capsys, *words)
    for part in ("/dev/shm has 0.3 MB", "data.workers=2 needs at least 0.4 MB", "set data.workers=0", "--shm-size"):
        assert part in error
    assert multiprocessing.active_children() == []
    little_memory(monkeypatch, 900_000)  # the 8 images of val are one batch
    assert main(["train", *words]) == 0


def test_l06_shared_memory_that_fills_up_later_is_a_sentence(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    words = overrides(scenes_root, "data.workers=2", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    error = complaint(capsys, *words)
    assert "/dev/shm is full: a worker could not hand its batch over" in error and "set data.workers=0" in error


def test_l06_a_killed_worker_is_a_sentence(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = os.getpid()

    def killed(*_: Any) -> None:
        assert os.getpid() != training
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(DetectionDataset, "__getitem__", killed)
    words = overrides(scenes_root, "data.workers=1", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    error = complaint(capsys, *words)
    assert "a process that loads images (pid " in error and "was killed" in error and "data.workers" in error


def test_l06_a_lost_process_of_the_training_is_a_sentence() -> None:
    watch = Watch()
    error = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:6021: Connection reset by peer")
    assert "another process of this training has ended" in str(lost_peer(error, watch))
    dead = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    dead.wait()
    watch.processes = [dead]
    assert f"process 1 of this training (pid {dead.pid}) was ended by SIGKILL" in str(lost_peer(error, watch))
    assert lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), watch) is None


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the first", "the second"])
def test_l06_a_training_of_two_processes_ends_with_a_sentence_when_one_is_killed(
    scenes_root: Path, tmp_path: Path, victim: str
) -> None:
    run = tmp_path / "run"
    more = ("trainer=ddp", "trainer.devices=2", "trainer.max_steps=5000", "trainer.validate_every_epochs=1000",
            "trainer.log_every_steps=1", f"run_folder={run}")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "detr_mini", "train", *overrides(scenes_root, *more)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while len(History(run / "history.csv").rows()) < 4:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(process.pid if victim == "the first" else int(found.stdout.split()[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output
    assert f"the training was interrupted; continue with resume={run}" in output
    if victim == "the second":
        assert process.returncode == 2
        assert "process 1 of this training (pid " in output and "was ended by SIGKILL" in output


@pytest.mark.slow
def test_l06_a_real_shared_memory_that_is_too_small_does_not_hang(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "data.workers=2", "trainer.max_steps=1", f"run_folder={tmp_path / 'run'}")
    mount = "mount -t tmpfs -o size=100k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small /dev/shm")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-m", "detr_mini", "train",
         *words],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert "/dev/shm has 0.1 MB" in done.stderr


# L-07


def test_l07_a_child_that_is_forked_after_a_detection_with_threads_detects(finished: Path, tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(
        "import os, sys, torch\n"
        "from detr_mini import load\n"
        "torch.set_num_threads(2)\n"
        "detector, image = load(sys.argv[1]), torch.zeros(3, 256, 256, dtype=torch.uint8)\n"
        "before = detector.detect([image] * 4, threshold=0.0)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    after = load(sys.argv[1]).detect([image] * 4, threshold=0.0)\n"
        "    os._exit(0 if torch.allclose(before[0].boxes, after[0].boxes, atol=1e-2) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    process = subprocess.Popen(
        [sys.executable, str(script), str(finished)], env={**environment, "PYTHONPATH": str(HERE)},
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.wait(timeout=100) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_l01_the_last_step_is_saved_after_its_evaluation_alone(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed between a save at its last step and the evaluation that follows would never make it."""
    saves: list[tuple[int, int | None]] = []
    save = Checkpoints.save

    def watched(self: Checkpoints, trainer: pl.Trainer) -> None:
        task = trainer.lightning_module
        assert isinstance(task, DetectionTask)
        saves.append((trainer.global_step, task.best.get("step")))
        save(self, trainer)

    monkeypatch.setattr(Checkpoints, "save", watched)
    often = ("data.test=null", "data.batch_size=2", "trainer.save_every_minutes=1e-9", f"run_folder={tmp_path / 'run'}")
    train(compose("train", overrides(scenes_root, *often, "trainer.max_steps=3")))
    assert saves == [(1, None), (2, None), (3, 3)]
