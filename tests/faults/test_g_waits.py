"""Section G of the faults: where the host waits for the device in a training step.

No GPU is needed: tensors that only pretend to be on one show every copy between host and device, and every operation
whose result the host has to know. The backward pass cannot pretend; its operations are counted on the CPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import detr_mini
from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.losses import criterion, set_criterion
from detr_mini.losses.matcher import Match
from detr_mini.structures import Batch, _each
from detr_mini.training.build import Parts, build
from detr_mini.training.processes import ALONE
from detr_mini.training.run import train
from detr_mini.training.skipping import SkippedSteps
from detr_mini.training.strategy import with_gradients
from detr_mini.training.task import DetectionTask
from detr_mini.training.trainer import QUESTION, make_trainer
from training_parts import SMALL, overrides, small_config

pytest.importorskip("torch", "2.12", "older versions of torch ask for a real device where tensors pretend to be on one")

PACKAGE = Path(detr_mini.__file__).parent
READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select", "aten::equal")
"""Operations whose result has to reach the host."""
PRETENDED = "cuda"


class HostWaits(TorchDispatchMode):
    """Counts the operations that the host waits for, by the file and line of this package that asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name()
        if name in READS:
            self._note(name)
        result = func(*args, **kwargs)
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[0] if name == "aten::_to_copy" else args[1]
            waits = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
            if waits and source.device.type != result.device.type:
                self._note(f"{source.device.type} to {result.device.type}")
        return result

    def _note(self, what: str) -> None:
        own = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
        place = f"{Path(own[-1].filename).name}: {own[-1].line}" if own else "a test"
        self.found[f"{what} at {place}"] += 1


def first_matches(cost: Tensor, counts: Any, sets: Sequence[tuple[int, int]]) -> Match:
    """In place of the matcher, whose solver needs numbers: query 0 for every truth."""
    b, _, n = cost.shape
    columns = sum(copies for _, copies in sets) * n
    query = torch.zeros(b, columns, dtype=torch.long, device=cost.device)
    return Match(query, torch.zeros_like(query), query >= 0, query[0] + 1)


def padded_batch(parts: Parts) -> Batch:
    """Two images of one size and two of others, with the truths of the first four."""
    dataset: Any = parts.data.dataset("train", training=True)  # type: ignore[attr-defined]
    targets = [parts.data.train_set.target(image_id) for image_id in parts.data.train_set.image_ids[:4]]
    sizes = ((64, 64), (64, 64), (40, 64), (64, 30))
    pixels = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    return collate(pixels, targets, parts.data.stride, dataset.normalise)


@contextmanager
def pretending(parts: Parts) -> Iterator[FakeTensorMode]:
    """Inside, the model's weights seem to lie on the device."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in parts.task.model.modules():
            for name, own in module._parameters.items():
                if own is not None:
                    moved = mode.from_tensor(own.detach()).to(PRETENDED)
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=own.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else mode.from_tensor(buffer).to(PRETENDED)
        parts.task.sums = mode.from_tensor(parts.task.sums).to(PRETENDED)
        yield mode


@pytest.fixture
def parts(request: pytest.FixtureRequest, scenes_root: Path) -> Parts:
    words = overrides(scenes_root, "trainer.max_steps=2", "data.uint8=true")
    if request.param == "detr":
        words = [word for word in words if word not in SMALL]
        words += ["model=detr", "backbone=resnet18", "backbone.weights=none", "model.dim=32", "model.heads=2",
                  "model.feedforward=32", "model.queries=8"]  # fmt: skip
    if request.param == "published backbone":
        words = [word for word in words if not word.startswith("backbone.")]
        words += ["backbone=resnet18", "backbone.weights=none"]
    return build(compose("train", words))


@pytest.mark.parametrize("parts", ["own backbone", "published backbone", "detr"], indirect=True)
def test_g13_no_part_of_a_step_but_the_matcher_waits_for_the_device(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = padded_batch(parts)
    for module in (criterion, set_criterion):
        monkeypatch.setattr(module, "assign", first_matches)
    task = parts.task
    task.model.train()
    with pretending(parts) as mode, HostWaits() as waits:
        moved = _each(batch, mode.from_tensor).to(PRETENDED, non_blocking=True)
        with torch.autocast("cpu", enabled=False):
            noised = task.model.noised_truths(moved.packed, moved.image_ids, seed=0, step=0)
            output = task.model(moved.images, moved.mask(), denoising=noised, **moved.with_captions)
            losses = task.criterion(output, moved.packed, 0.5, **moved.with_captions)
        assert losses.total.device.type == PRETENDED
        task._count(moved, losses)
    assert not waits.found


def test_g13_neither_backward_nor_optimizer_read_what_the_device_has(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, step = HostWaits(), DetectionTask.optimizer_step

    def watched(self: DetectionTask, *args: Any, **kwargs: Any) -> None:
        self.skipped = self.skipped or SkippedSteps(self.device)  # as on a GPU
        with waits:
            step(self, *args, **kwargs)

    monkeypatch.setattr(DetectionTask, "optimizer_step", watched)
    words = ("trainer.max_steps=3", "data.val=null", "data.test=null", f"run_folder={tmp_path / 'run'}")
    train(small_config(scenes_root, *words))
    assert all("one_hot" in place for place in waits.found), "which looks at its input on a CPU alone"


def test_g13_numbers_that_processes_share_in_a_step_stay_on_the_host(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build(small_config(scenes_root, "trainer.max_steps=2")).task
    devices: list[str] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda shared: devices.append(shared.device.type))
    task.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    monkeypatch.setattr(DetectionTask, "device", torch.device("meta"))
    task._boxes_of_all_processes()
    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert set_criterion._over_processes(3) == (3, 2)
    assert devices == ["cpu", "cpu"]


def test_g13_waits_are_seen() -> None:
    with FakeTensorMode() as mode, HostWaits() as waits:
        there = mode.from_tensor(torch.zeros(3)).to(PRETENDED)
        there.cpu()
        torch.tensor([1.0, 2.0], device=PRETENDED)
        there.new_tensor(1.0)
        there.new_full((2,), 1.0)
    assert waits.found == {"cpu to cuda at a test": 3, "cuda to cpu at a test": 1}


def test_g26_lightnings_question_before_each_batch_is_not_asked(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hasattr(_TrainingEpochLoop, QUESTION), "Lightning has another name for it now"
    config = small_config(scenes_root, "trainer.max_steps=1")
    trainer, _ = make_trainer(build(config), tmp_path, Console(), config, ALONE)
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sent.append(tensor))
    getattr(trainer.fit_loop.epoch_loop, QUESTION)()
    assert not sent
    monkeypatch.delattr(_TrainingEpochLoop, QUESTION)
    trainer, _ = make_trainer(build(config), tmp_path, Console(), config, ALONE)  # as in older versions
    assert not hasattr(trainer.fit_loop.epoch_loop, QUESTION)


def test_g24_parameters_that_a_batch_leaves_out_get_a_gradient_of_zero() -> None:
    used, unused = (nn.Parameter(torch.tensor([2.0, 3.0])) for _ in range(2))
    loss = used.square().sum()
    total = with_gradients(loss, [unused])
    assert total.equal(loss)
    total.backward()
    assert used.grad is not None and used.grad.tolist() == [4.0, 6.0]
    assert unused.grad is not None and unused.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("captions", [0.0, 3.0])
def test_g24_a_step_in_which_no_process_has_captions_leaves_their_parameters_alone(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch, captions: float
) -> None:
    task = build(small_config(scenes_root, "trainer.max_steps=2")).task
    (name, parameter), *_ = task.model.named_parameters()
    parameter.grad = torch.zeros_like(parameter)
    monkeypatch.setattr(type(task.model), "left_out", lambda self, given: [parameter])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda shared: shared[1].add_(captions))
    task.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    task._boxes_of_all_processes()
    assert (parameter.grad is None) == (captions == 0), name
