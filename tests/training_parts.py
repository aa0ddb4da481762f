"""A model small enough to be trained in a test, on the made scenes of `scenes_root`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
from omegaconf import DictConfig

from detr_mini.config.compose import compose

SMALL = (
    "backbone.channels=[4,8,16,32]",
    "backbone.blocks=[0,1,1,1]",
    "model.dim=32",
    "model.heads=2",
    "model.feedforward=32",
    "model.queries=8",
    "model.sample_channels=8",
)


def overrides(root: Path, *more: str) -> list[str]:
    """A run in float32 on the scenes in `root` (16 train, 8 val, 6 test of 64 px); `more` comes last."""
    return [
        f"data.root={root}",
        "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}",
        "data.size=64",
        "data.batch_size=4",
        *SMALL,
        "trainer.precision=32-true",
        "trainer.progress=false",
        "logger=csv",
        *more,
    ]


def small_config(root: Path, *more: str) -> DictConfig:
    """The composed config of `overrides`."""
    return compose("train", overrides(root, *more))


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside, shapes in signatures are not checked.

    In hundreds of steps that takes longer than the steps themselves, and while torch traces, sizes are symbols, where
    the checker asks for numbers.
    """
    before = jaxtyping.config.jaxtyping_disable  # true inside another of these, or where the environment asks for it
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def weights(checkpoint: dict, names: Sequence[str] = ("state_dict", "averaged")) -> dict:
    """Every tensor of a checkpoint's plain and averaged weights."""
    found = dict(checkpoint["state_dict"]) if "state_dict" in names else {}
    if "averaged" in names:
        found |= {f"averaged.{name}": value for name, value in checkpoint["averaged"]["weights"].items()}
    return found
