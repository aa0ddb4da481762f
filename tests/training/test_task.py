"""One step of training: what it divides by, what it depends on, and what it says when numbers break."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detr_mini.config.compose import compose
from detr_mini.data.collate import collate
from detr_mini.errors import NonFiniteError
from detr_mini.structures import Batch
from detr_mini.torch_seeding import mix_numbers
from detr_mini.training.build import Parts, build
from detr_mini.training.diagnosis import explain
from training_parts import SMALL, overrides, small_config

DETR = ("model=detr", "backbone=resnet18", "backbone.weights=none", "model.dim=32", "model.heads=2",
        "model.feedforward=32", "model.queries=8")  # fmt: skip


class Gradients(pl.Callback):
    """Keeps the gradient of each step as the optimizer sees it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *_: object) -> None:
        if trainer.global_step > len(self.seen):  # a step was made: its gradient lies there until the next batch
            self.seen.append({n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None})
            matrices = next(g for g in trainer.optimizers[0].param_groups if g["rule"] == "matrix")
            self.rates.append(matrices["lr"])


def steps(parts: Parts, batches: list[Batch], count: int, **settings: object) -> Gradients:
    """Train `count` steps on `batches` and keep the gradients."""
    gradients = Gradients()
    trainer = pl.Trainer(
        max_steps=count, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[gradients], num_sanity_val_steps=0,
        use_distributed_sampler=False, **settings,
    )  # fmt: skip
    trainer.fit(parts.task, train_dataloaders=DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return gradients


def images_of(parts: Parts, indices: list[int]) -> Batch:
    dataset = parts.data.dataset("train")
    pairs = [dataset[(i, 0)] for i in indices]
    return collate([image for image, _ in pairs], [target for _, target in pairs], parts.data.stride)


@pytest.mark.parametrize(
    ("words", "stride", "side"),
    [(SMALL, 16, 64), ((*DETR, "model.padding=hidden"), 32, 64), ((*DETR, "model.padding=published"), 1, 50)],
)
def test_training_pads_images_to_the_stride_with_which_the_model_is_evaluated(
    words: tuple[str, ...], stride: int, side: int, scenes_root: Path
) -> None:
    given = [word for word in overrides(scenes_root, "trainer.max_steps=1") if word not in SMALL]
    parts = build(compose("train", [*given, *words, "data.size=50"]))
    assert parts.data.stride == parts.task.model.stride == stride
    for loader in (parts.data.train_dataloader(), parts.data.evaluation_loader("val")):
        assert next(iter(loader)).images.shape[-2:] == (side, side)


def test_T_01_accumulation_and_one_big_batch_give_the_same_gradient(scenes_root: Path) -> None:
    config = small_config(scenes_root, "trainer.max_steps=1", "optim.clip=1e9")
    parts = build(config)
    whole = steps(parts, [images_of(parts, [0, 1, 2, 3])], 1).seen[0]
    config.trainer.accumulate = 4
    parts = build(config)
    counts = {int(images_of(parts, [i]).packed.total) for i in range(4)}
    assert len(counts) > 1, "the images must differ in their number of boxes for this to mean anything"
    split = steps(parts, [images_of(parts, [i]) for i in range(4)], 1, accumulate_grad_batches=4).seen[0]
    assert whole.keys() == split.keys()
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-4, atol=1e-5)


def test_dropout_depends_on_seed_and_step_and_no_step_seeds_every_kind_of_device(
    scenes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=2"))
    drawn: list[float] = []
    parts.task.model.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
    batches = [images_of(parts, [0, 1])] * 2

    def slow(seed: int) -> None:
        raise AssertionError("torch.manual_seed formats the whole stack for each kind of device that is not used")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "manual_seed", slow)
        steps(parts, batches, 2)
    expected = []
    for step in range(2):
        torch.manual_seed(mix_numbers(parts.task.seed, step, step, 0))
        expected.append(float(torch.rand(())))
    assert drawn == expected


def test_gradient_is_clipped_to_the_norm_asked_for(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=1", "optim.clip=0.5"))
    grads = steps(parts, [images_of(parts, [0, 1])], 1).seen[0]
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.5), rtol=1e-3, atol=0.0)


def test_learning_rate_warms_up_and_ends_near_zero(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=12", "optim.warmup_steps=3"))
    rates = steps(parts, [images_of(parts, [0, 1])] * 12, 12).rates
    assert rates[0] == pytest.approx(0.02 / 3)
    assert max(rates) == rates[2] and rates[2] > 0.9 * 0.02
    assert all(a > b for a, b in pairwise(rates[2:])) and rates[-1] < 0.1 * 0.02


def test_T_05_a_batch_without_any_box_trains_and_harms_no_later_step(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=2"))
    full = images_of(parts, [0, 1])
    empty_targets = [
        type(t)(t.boxes[:0], t.labels[:0], t.image_id, t.original_size, t.is_crowd[:0], t.area[:0])
        for t in full.targets
    ]
    empty = collate(list(full.images), empty_targets, parts.data.stride)
    grads = steps(parts, [empty, full], 2).seen
    assert len(grads) == 2
    assert all(g.isfinite().all() for step in grads for g in step.values())
    assert all(p.isfinite().all() for p in parts.task.model.parameters())


def test_a_layer_that_breaks_is_named_with_step_and_images(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=2"))
    batch = images_of(parts, [2, 5])

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.zeros(())

    parts.task.model.content = nn.Sequential(parts.task.model.content, Broken())
    parts.task.averaged.model = parts.task.model
    with pytest.raises(NonFiniteError, match=r"step 0, images \[3, 6\].*'content\.1'") as caught:
        steps(parts, [batch], 1)
    assert "precision" not in str(caught.value)


def test_precision_is_blamed_where_float32_stays_finite(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=2"))

    class Fragile(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            answer = super().forward(x)
            return answer / (0.0 if answer.dtype != torch.float32 else 1.0)

    parts.task.model.content = Fragile(32, 32)
    with pytest.raises(NonFiniteError, match=r"'content'; in float32 it is finite.*trainer.precision=32-true"):
        steps(parts, [images_of(parts, [0, 1])], 1, precision="bf16-mixed")


def test_a_gradient_that_breaks_is_found_before_the_weights_are_touched(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=2"))
    before = {n: p.clone() for n, p in parts.task.model.named_parameters()}
    weight = parts.task.model.input_projection.weight
    weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 0.*input_projection\.weight"):
        steps(parts, [images_of(parts, [0, 1])], 1)
    assert all(torch.equal(before[n], p) for n, p in parts.task.model.named_parameters())


def test_T_02_validation_loss_does_not_depend_on_the_batch_size(scenes_root: Path) -> None:
    losses, aps = [], []
    for size in (1, 2, 3):
        parts = build(small_config(scenes_root, "trainer.max_steps=1", f"data.eval_batch_size={size}"))
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.validate(parts.task, parts.data, verbose=False)
        losses.append(parts.task.validation.loss)
        aps.append(parts.task.validation.scores.metrics["AR100"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert aps == pytest.approx([aps[0]] * 3, abs=1e-6)


def test_the_layer_that_spoils_sentences_is_named(tmp_path: Path) -> None:
    make = "data.make={train: 4, val: 2, test: 2, size: 64, seed: 0}"
    words = ["experiment=shapes_captions", make, f"data.root={tmp_path}", "data.size=64", "data.batch_size=2"]
    parts = build(compose("train", [*words, "trainer.max_minutes=null", "trainer.max_steps=1"]))
    parts.data.setup("fit")
    model = parts.task.model
    handle = model.joint[1].rivals.register_forward_hook(lambda module, inputs, output: output * math.nan)
    error = explain(model, next(iter(parts.data.train_dataloader())), 0, "32-true", "a matching cost")
    handle.remove()
    assert "the first non-finite value came from layer 'joint.1.rivals'" in str(error)


def test_only_images_at_fault_are_named(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=1"))
    parts.data.setup("fit")
    batch = next(iter(parts.data.train_dataloader()))
    story = str(explain(parts.task.model, batch, 7, "32-true", "a matching cost", [1]))
    assert story.startswith(f"a matching cost is not finite at step 7, images [{batch.image_ids[1]}], though")
