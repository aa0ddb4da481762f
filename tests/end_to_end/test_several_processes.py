"""Two and three processes (gloo, CPU) compute what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys, json, torch, pytorch_lightning as pl
from pathlib import Path
from detr_mini.training.build import build
from training_parts import small_config

class Keep(pl.Callback):
    def on_train_batch_end(self, trainer, task, *_):
        if trainer.is_global_zero:
            torch.save({n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}, out)

out, root, devices, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = small_config(root, "trainer=ddp" if devices > 1 else "trainer=cpu", f"trainer.devices={devices}",
    f"data.batch_size={batch}", "trainer.max_steps=1", "optim.clip=1e9", "data.limit_val=7", "data.eval_batch_size=2",
    "data.augment=[]", "trainer.precision=32-true", "trainer.threads=1",
    "optim.scaling=none")  # the warm-up of several processes is otherwise longer
parts = build(config)
trainer = pl.Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=-1,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    num_sanity_val_steps=0, use_distributed_sampler=False, callbacks=[Keep()])
trainer.fit(parts.task, parts.data)
if trainer.is_global_zero:
    out.with_suffix(".json").write_text(json.dumps([parts.task.validation.scores.metrics, parts.task.validation.loss]))
"""


STEP = 12
"""Images of a step, of all processes."""


def run(tmp_path: Path, root: Path, devices: int) -> tuple[dict[str, torch.Tensor], list]:
    """The gradients of one step, and the metrics and the loss of a validation."""
    tests = Path(__file__).parents[1]
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    out = tmp_path / f"{devices}.pt"
    done = subprocess.run(
        [sys.executable, str(script), str(out), str(root), str(devices), str(STEP // devices)],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def alone(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list]:
    return run(tmp_path_factory.mktemp("alone"), scenes_root, 1)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_several_processes_give_the_gradient_and_the_numbers_of_one(
    scenes_root: Path, tmp_path: Path, alone: tuple[dict[str, torch.Tensor], list], devices: int
) -> None:
    gradients, (metrics, loss) = alone
    their_gradients, (their_metrics, their_loss) = run(tmp_path, scenes_root, devices)
    assert gradients.keys() == their_gradients.keys()
    for name in gradients:
        torch.testing.assert_close(their_gradients[name], gradients[name], rtol=1e-4, atol=1e-5)
    assert metrics["images"] == their_metrics["images"] == 7
    for name, value in metrics.items():
        assert their_metrics[name] == pytest.approx(value, abs=1e-9), name
    assert their_loss == pytest.approx(loss, rel=1e-6)
