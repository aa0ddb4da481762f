"""Section G of the faults: what a training uses of its device, and how batches and buffers travel."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from detr_mini.config.compose import compose
from detr_mini.data.augment import Augment
from detr_mini.data.collate import collate
from detr_mini.data.dataset import collate_pairs
from detr_mini.data.mosaic import Mixup, Mosaic
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError, NonFiniteError
from detr_mini.images.model_input import normalised
from detr_mini.training.build import Parts, build
from detr_mini.training.device import Choices, Device, choices, chosen_for
from detr_mini.training.options import TrainerOptions
from detr_mini.training.run import train
from detr_mini.training.skipping import HALVINGS, MOST, SkippedSteps
from detr_mini.training.strategy import changes_buffers, chosen_strategy
from detr_mini.training.task import DetectionTask
from process_parts import results, start
from training_parts import overrides, small_config

CPU = Device("cpu", None, bfloat16=False, cores=8)
T4 = Device("cuda", (7, 5), bfloat16=False, cores=4, name="Tesla T4")
A100 = Device("cuda", (8, 0), bfloat16=True, cores=8, name="NVIDIA A100")
H100 = Device("cuda", (9, 0), bfloat16=True, cores=16, name="NVIDIA H100")
P100 = Device("cuda", (6, 0), bfloat16=False, cores=4, name="Tesla P100")


# G-16, G-23


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CPU, Choices("32-true", tf32=False, channels_last=True, pin_memory=False, uint8=False)),
        (Device("cpu", bfloat16=True), Choices("bf16-mixed", False, True, False, False)),
        (P100, Choices("32-true", tf32=False, channels_last=False, pin_memory=True, uint8=True)),
        (T4, Choices("16-mixed", tf32=False, channels_last=False, pin_memory=True, uint8=True)),
        (A100, Choices("bf16-mixed", tf32=True, channels_last=False, pin_memory=True, uint8=True)),
        (H100, Choices("bf16-mixed", tf32=True, channels_last=False, pin_memory=True, uint8=True)),
        (Device("mps"), Choices("32-true", tf32=False, channels_last=False, pin_memory=False, uint8=True)),
    ],
)
def test_g16_g23_settings_that_are_auto_go_by_what_the_device_has(device: Device, expected: Choices) -> None:
    assert chosen_for(device) == expected
    assert choices(TrainerOptions(max_steps=1), {"pin_memory": "auto"}, device) == expected


def test_g23_the_config_of_a_gpu_fixes_nothing_and_what_the_command_says_is_kept() -> None:
    config = compose("train", ["trainer=gpu", "trainer.max_steps=1", "experiment=coco"])
    options = TrainerOptions.of(config.trainer)
    assert choices(options, config.data, T4) == chosen_for(T4)
    config = compose("train", ["trainer=gpu", "trainer.max_steps=1", "trainer.precision=32-true", "trainer.tf32=false",
                               "trainer.channels_last=true", "data.pin_memory=false", "data.uint8=false"])  # fmt: skip
    assert choices(TrainerOptions.of(config.trainer), config.data, H100) == Choices(
        "32-true", tf32=False, channels_last=True, pin_memory=False, uint8=False
    )
    for wrong in ("data.pin_memory=maybe", "trainer.tf32=1", "data.uint8=2"):
        with pytest.raises(ConfigError, match="it must be true, false or auto"):
            compose("train", [wrong])


def test_g23_tf32_is_on_in_training_steps_and_off_in_validation(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[bool, bool]]] = {"training_step": set(), "validation_step": set()}

    def state() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def watched(name: str) -> Any:
        step = getattr(DetectionTask, name)

        def run(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
            seen[name].add(state())
            return step(self, batch, batch_idx)

        return run

    for name in seen:
        monkeypatch.setattr(DetectionTask, name, watched(name))
    before = state()
    words = ("trainer.max_epochs=2", "trainer.tf32=true", "data.test=null", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *words))
    assert seen == {"training_step": {(True, True)}, "validation_step": {(False, False)}}
    assert state() == before
    assert "computes on CPU" in (tmp_path / "run" / "run.log").read_text()


def test_g23_a_float16_training_may_skip_steps_while_its_scale_is_found(scenes_root: Path) -> None:
    task = build(small_config(scenes_root, "trainer.max_steps=2")).task
    task.skipped = SkippedSteps(torch.device("cpu"))
    task.trainer = SimpleNamespace(precision="16-mixed", global_step=0)  # type: ignore[assignment]
    task._batch = None  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("detr_mini.training.task.explain", lambda *words: NonFiniteError(str(words[-1])))
        for _ in range(MOST + HALVINGS - 1):
            task.skipped.skip([], torch.tensor(float("inf")))
        task.report_skipped()
        task.skipped.skip([], torch.tensor(float("inf")))
        with pytest.raises(NonFiniteError):
            task.report_skipped()


# G-15


def built_on(monkeypatch: pytest.MonkeyPatch, device: Device, root: Path, *words: str) -> Parts:
    """The parts of a training whose machine has `device`."""
    for place in ("detr_mini.training.build", "detr_mini.training.device"):
        monkeypatch.setattr(f"{place}.find_device", lambda options: device)
    return build(small_config(root, "trainer.max_steps=2", "trainer.precision=auto", *words))


@pytest.mark.parametrize("words", [("trainer=ddp", "trainer.accelerator=gpu"), ("trainer=gpu", "trainer.devices=8")])
def test_g15_memory_is_pinned_for_a_gpu_however_it_is_asked_for(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    parts = built_on(monkeypatch, A100, scenes_root, *words)
    loader = parts.data.train_dataloader()
    assert loader.pin_memory and loader.dataset.normalise is not None  # type: ignore[attr-defined]
    assert parts.used == chosen_for(A100)
    sentence = "computes on NVIDIA A100 (8 cores for each process): precision bf16-mixed, tf32, pin_memory, uint8"
    assert parts.used.sentence(parts.device) == sentence
    weight = next(p for p in parts.task.model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert weight.is_contiguous() and not weight.is_contiguous(memory_format=torch.channels_last)


def test_g15_on_a_cpu_nothing_is_pinned(scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = built_on(monkeypatch, CPU, scenes_root).data.train_dataloader()
    assert not loader.pin_memory and loader.dataset.normalise is None  # type: ignore[attr-defined]


# G-14


def test_g14_images_travel_as_bytes_and_become_the_same_floats(scenes_root: Path) -> None:
    found = {}
    for uint8 in ("false", "true"):
        data = build(small_config(scenes_root, "trainer.max_steps=2", f"data.uint8={uint8}", "data.size=48")).data
        found[uint8] = next(iter(data.train_dataloader()))
        moved = data.transfer_batch_to_device(found[uint8], torch.device("cpu"), 0)  # type: ignore[attr-defined]
        assert moved.images.dtype == torch.float32 and moved.normalise is None
        found[f"moved {uint8}"] = moved
    assert found["true"].images.nbytes * 4 == found["false"].images.nbytes
    assert found["true"].images.dtype == torch.uint8
    assert torch.equal(found["moved true"].images, found["moved false"].images)


def test_g14_padding_of_bytes_is_zero_once_it_is_normalised(scenes_root: Path) -> None:
    make = partial(normalised, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = [torch.randint(256, (3, height, width), dtype=torch.uint8) for height, width in ((40, 64), (64, 30))]
    data = build(small_config(scenes_root, "trainer.max_steps=2")).data
    targets = [data.train_set.target(image_id) for image_id in data.train_set.image_ids[:2]]
    bytes_, floats = collate(pixels, targets, 32, make), collate([make(image) for image in pixels], targets, 32)
    assert bytes_.images.dtype == torch.uint8 and bytes_.has_padding
    assert torch.equal(bytes_.to("cpu").images, floats.images)
    assert bytes_.to("cpu").to("cpu").normalise is None, "they are normalised once"


def test_g14_images_that_are_floats_before_the_model_stay_floats(scenes_root: Path) -> None:
    data = build(small_config(scenes_root, "trainer.max_steps=2", "data.uint8=true")).data
    dataset = data.dataset("train", training=True)  # type: ignore[attr-defined]
    collated = partial(collate_pairs, stride=data.stride, normalise=dataset.normalise)
    dataset.augment = Augment([], 0, [Mosaic(p=1), Mixup(p=1)])  # these round, whatever travels
    assert collated([dataset[Key(index, 0, True)] for index in range(2)]).images.dtype == torch.uint8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Augment, "__call__", lambda self, image, target, *_, **__: (image.float() + 0.5, target, 0))
        batch = collated([dataset[Key(index, 0, False)] for index in range(2)])
    assert batch.images.dtype == torch.float32 and batch.normalise is None
    plain = dataset.decoded(0).float() + 0.5
    assert torch.equal(batch.images[0], dataset.normalise(plain))


# G-11


def test_g11_buffers_are_broadcast_only_where_a_step_changes_them(scenes_root: Path) -> None:
    model = build(small_config(scenes_root, "trainer.max_steps=2")).task
    assert not changes_buffers(model)
    assert changes_buffers(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    assert not changes_buffers(nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False)))

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

    assert changes_buffers(nn.Sequential(Foreign())), "who knows what another package's module does"


@pytest.mark.parametrize("weights", ["frozen", "learned"])
def test_g11_a_frozen_backbone_broadcasts_nothing(weights: str) -> None:
    pytest.importorskip("torchvision")
    from detr_mini.vision.backbone import resnet

    options = TrainerOptions(max_steps=1, devices=2, strategy="ddp", timeout_minutes=2.5)
    body = resnet(depth=18, weights="none", strides=[8, 16, 32], frozen_norm=weights == "frozen")
    strategy = chosen_strategy(options, body)
    assert not isinstance(strategy, str)
    assert strategy._timeout.total_seconds() == 150  # type: ignore[union-attr]
    assert strategy._ddp_kwargs["gradient_as_bucket_view"]
    off = {"forward_sync_buffers", "broadcast_buffers"} & set(strategy._ddp_kwargs)
    assert bool(off) == (weights == "frozen") and not any(strategy._ddp_kwargs[name] for name in off)


def test_g11_one_process_keeps_the_word_of_the_config() -> None:
    assert chosen_strategy(TrainerOptions(max_steps=1), nn.Linear(1, 1)) == "auto"
    assert chosen_strategy(TrainerOptions(max_steps=1, devices=2, strategy="fsdp"), nn.Linear(1, 1)) == "fsdp"


@pytest.mark.slow
def test_g11_two_processes_send_no_buffer_and_keep_the_same_weights(scenes_root: Path, tmp_path: Path) -> None:
    words = overrides(scenes_root, "trainer=ddp", "trainer.devices=2", "trainer.threads=1", "trainer.max_steps=4",
                      "data.batch_size=2", "data.val=null", "data.test=null", f"run_folder={tmp_path / 'run'}",
                      "backbone=resnet18", "backbone.weights=none", "model.sample_channels=8")  # fmt: skip
    words = [word for word in words if not word.startswith(("backbone.channels", "backbone.blocks"))]
    ((status, output),) = results([start(words, {"all": {"weights": str(tmp_path), "sent": str(tmp_path)}})])
    assert status == 0, output
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for rank in (0, 1):
        found = json.loads((tmp_path / f"sent_{rank}.json").read_text())
        assert found == {"buffers": 82, "broadcasts": 0, "bucket_view": True}
