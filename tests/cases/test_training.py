"""Public reports about training and resuming (T-04, C-02, C-03; T-01, T-02 and T-05 stand in tests/training)."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from detr_mini.data.collate import collate
from detr_mini.evaluation.metrics.coco import Scores
from detr_mini.images.model_input import to_model_input
from detr_mini.inference.batches import detect_batches
from detr_mini.structures import Target
from detr_mini.training import validation
from detr_mini.training.build import build
from detr_mini.training.callbacks import Checkpoints
from detr_mini.training.history import History
from detr_mini.training.run import train
from training_parts import small_config


def test_T_04_trained_with_batches_of_one_detects_the_same_in_batches_of_four(
    scenes_root: Path, tmp_path: Path
) -> None:
    config = small_config(scenes_root, "data.batch_size=1", "trainer.max_steps=12", f"run_folder={tmp_path / 'run'}")
    train(config)
    from detr_mini.inference.detector import load

    detector = load(tmp_path / "run")
    sizes = ((64, 64), (40, 64), (64, 24), (16, 48))
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    together = detector.detect(images, threshold=0.0, batch_size=4)
    alone = detector.detect(images, threshold=0.0, batch_size=1)
    for one, four in zip(alone, together, strict=True):
        torch.testing.assert_close(four.boxes, one.boxes, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(four.scores, one.scores, rtol=1e-4, atol=1e-5)


def test_C_02_the_learning_rate_after_resuming_is_that_of_the_unbroken_run(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(folder: str) -> Any:
        return small_config(
            scenes_root, "trainer.max_epochs=6", "trainer.validate_every_epochs=2", "trainer.log_every_steps=1",
            "optim.warmup_steps=3", f"run_folder={tmp_path / folder}",
        )  # fmt: skip

    def rates(folder: str) -> list[tuple[str, str]]:
        return [(r["step"], r["lr"]) for r in History(tmp_path / folder / "history.csv").rows() if r["lr"]]

    train(config("whole"))
    end = Checkpoints.on_train_epoch_end

    def stop_after_three(self: Checkpoints, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._requests.stop = trainer.current_epoch == 2
        end(self, trainer, pl_module)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            train(config("broken"))
    assert len(rates("broken")) == 12
    resumed = config("broken")
    resumed.resume = str(tmp_path / "broken")
    train(resumed)
    assert rates("broken") == rates("whole")
    assert len(rates("whole")) == 24


def test_a_training_that_breaks_off_gives_the_signals_back(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Checkpoints, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert signal.getsignal(signal.SIGTERM) == self._ask
        self._requests.stop = True
        self._stop_if_asked()

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", stop)
    former = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(small_config(scenes_root, "trainer.max_epochs=2", f"run_folder={tmp_path}"))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == former


def test_C_03_a_sanity_pass_never_counts_as_best(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter((1.0, 0.4, 0.5))

    def scored(*_: Any) -> Any:
        value = next(answers)
        return Scores({"AP": value, "AP50": value, "AP75": value}, ())

    monkeypatch.setattr(validation, "score", scored)
    parts = build(small_config(scenes_root, "trainer.max_epochs=2"))
    trainer = pl.Trainer(
        max_epochs=-1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Checkpoints(tmp_path, 10.0)],
        num_sanity_val_steps=2, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(parts.task, parts.data)
    assert parts.task.best == {"score": 0.5, "epoch": 1, "step": 8}
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["best"]["score"] == 0.5


def test_T_03_boxes_are_relative_to_each_image_without_its_padding() -> None:
    # 800 x 600 and 400 x 600 (width x height), each with one box over the whole picture
    sizes = ((600, 800), (600, 400))
    images, targets = [], []
    for k, (height, width) in enumerate(sizes):
        pixels = torch.zeros(3, height, width, dtype=torch.uint8)
        images.append(to_model_input(pixels, 800, None, (0.5,) * 3, (0.25,) * 3))
        box = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
        targets.append(
            Target(box, torch.zeros(1, dtype=torch.long), k, (height, width), torch.zeros(1).bool(), torch.ones(1))
        )
    batch = collate(images, targets, 32)
    for target, (height, width) in zip(batch.targets, sizes, strict=True):
        cx, cy, w, h = (target.boxes * torch.tensor([width, height, width, height]))[0].tolist()
        assert (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) == (0.0, 0.0, width, height)
    assert batch.padding_mask[1].any() and not batch.padding_mask[0, :600, :800].any()


def test_detections_are_found_for_every_image_of_a_loader(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=1", "data.eval_batch_size=3"))
    found = detect_batches(
        parts.task.model,
        parts.data.val_dataloader(),
        parts.task.categories,
        progress=False,  # type: ignore[arg-type]
    )
    assert sorted(found) == sorted(parts.data.val_set.image_ids)
