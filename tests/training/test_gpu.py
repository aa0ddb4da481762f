"""A step on a GPU: the CPU's numbers in float32; bfloat16 and compiled steps learn, too."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.training.build import Parts, build
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


def test_a_training_on_a_gpu_says_how_fast_it_was(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith("trainer.precision")]
    start = time.monotonic()
    folder = train(compose("train", ["trainer=gpu", *words, "trainer.max_steps=20", f"run_folder={tmp_path / 'run'}"]))
    with capsys.disabled():
        rate = 20 * 4 / (time.monotonic() - start)
        print(f"\n{rate:.0f} images a second on {torch.cuda.get_device_name()}, start and evaluation counted")
    assert (folder / "metrics.json").is_file()
