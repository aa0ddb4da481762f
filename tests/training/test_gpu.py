"""A step on a GPU: the CPU's numbers in float32; bfloat16 and compiled steps learn, too."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.training.build import Parts, build
from detr_mini.training.history import History
from detr_mini.training.run import train
from tests.training_parts import overrides, small_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def parts_of(root: Path, *words: str) -> Parts:
    return build(small_config(root, "trainer.max_steps=1", *words))


def loss_and_gradients(
    parts: Parts, device: str, dtype: torch.dtype = torch.float32
) -> tuple[float, dict[str, Tensor]]:
    """Of the same four images, whatever the device."""
    dataset = parts.data.dataset("train")
    pairs = [dataset[(i, 0)] for i in range(4)]
    batch = collate([image for image, _ in pairs], [target for _, target in pairs], parts.data.stride).to(device)
    task = parts.task.to(device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        losses = task.losses(batch, 0)
    losses.total.backward()
    return float(losses.total), {n: p.grad.cpu() for n, p in task.model.named_parameters() if p.grad is not None}


def test_a_step_in_float32_is_the_cpus(scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cpu_loss, cpu = loss_and_gradients(parts_of(scenes_root), "cpu")
    gpu_loss, gpu = loss_and_gradients(parts_of(scenes_root), "cuda")
    assert gpu_loss == pytest.approx(cpu_loss, rel=1e-3)
    assert gpu.keys() == cpu.keys()
    for name in cpu:
        assert (gpu[name] - cpu[name]).norm() <= 1e-3 * cpu[name].norm() + 1e-4, name


def test_a_step_in_bfloat16_is_near_the_cpus(scenes_root: Path) -> None:
    cpu_loss, _ = loss_and_gradients(parts_of(scenes_root), "cpu")
    gpu_loss, gradients = loss_and_gradients(parts_of(scenes_root), "cuda", torch.bfloat16)
    assert gpu_loss == pytest.approx(cpu_loss, rel=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_compiled_step_is_the_plain_one(scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain, _ = loss_and_gradients(parts_of(scenes_root), "cuda")
    compiled, gradients = loss_and_gradients(parts_of(scenes_root, "trainer.compile=true"), "cuda")
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert gradients


def test_a_training_on_a_gpu_records_finite_losses_and_its_speed(scenes_root: Path, tmp_path: Path) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith("trainer.precision")]
    words += ["trainer.max_steps=20", "trainer.log_every_steps=5", f"run_folder={tmp_path / 'run'}"]
    folder = train(compose("train", ["trainer=gpu", *words]))
    rows = [row for row in History(folder / "history.csv").rows() if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    assert all(0 < float(row["train/loss"]) < math.inf for row in rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["split"], metrics["images"]) == ("test", 6)
    assert metrics["images_per_second"] > 0
