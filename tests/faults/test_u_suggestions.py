"""Names that other tools give to our settings are answered with ours."""

from __future__ import annotations

import pytest

from detr_mini.config.check import dotted_keys
from detr_mini.config.compose import compose
from detr_mini.config.files import groups
from detr_mini.config.suggestions import suggest
from detr_mini.errors import ConfigError

TRAIN = {
    "batch": "data.batch_size", "data.batch": "data.batch_size", "batch_size": "data.batch_size",
    "optim.lr": "optim.optimizer.lr", "lr": "optim.optimizer.lr", "learning_rate": "optim.optimizer.lr",
    "epochs": "trainer.max_epochs", "trainer.epochs": "trainer.max_epochs", "max_epochs": "trainer.max_epochs",
    "size": "data.size", "imgsz": "data.size", "minutes": "trainer.max_minutes", "steps": "trainer.max_steps",
    "workers": "data.workers", "num_workers": "data.workers", "root": "data.root", "weights": "init",
    "output": "run_folder", "optimizer": "optim", "queries": "model.queries", "optim.weight_decay":
    "optim.optimizer.weight_decay", "device": "trainer.accelerator", "precision": "trainer.precision",
    "data.sise": "data.size", "modle": "model", "experimnet": "experiment", "model.dimm": "model.dim",
    "dim": "model.dim",
    "weight_giou": "criterion.weight_giou", "momentum": "optim.optimizer.momentum", "warmup": "optim.warmup_steps",
}  # fmt: skip
PREDICT = {
    "conf": "threshold", "iou": "suppress_iou", "images": "source", "model": "checkpoint", "out": "output",
    "tresh": "threshold", "batch": "batch_size", "prompt": "caption",
}  # fmt: skip


def test_u12_a_setting_by_another_tools_name_is_answered_with_ours() -> None:
    for verb, names in (("train", TRAIN), ("predict", PREDICT)):
        known = [*dotted_keys(compose(verb, [])), *(groups() if verb == "train" else ())]
        answers = {key: suggest(key, known) for key in names}
        assert answers == {key: f"; did you mean '{meant}'?" for key, meant in names.items()}


@pytest.mark.parametrize(
    ("word", "said"), [("batch=16", "batch does not exist; did you mean 'data.batch_size'?"),
                       ("optim.lr=1e-3", "optim.lr does not exist; did you mean 'optim.optimizer.lr'?")]
)  # fmt: skip
def test_u12_the_command_line_says_so(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", [word])
    assert str(caught.value) == said
