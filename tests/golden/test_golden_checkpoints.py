"""Checkpoints that commit a5849b7 wrote load for ever, and give the same raw logits and boxes (see make.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_parts import FOLDER, filled, is_outside, raw_output

from detr_mini import load

NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_each_recipe_loads_and_answers_as_when_it_was_written(name: str, tmp_path: Path) -> None:
    if name.startswith("hf_"):
        pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
    file = FOLDER / f"{name}.safetensors"
    if not file.is_file():
        content = torch.load(FOLDER / f"{name}.ckpt", weights_only=True)
        file = tmp_path / f"{name}.ckpt"
        torch.save(filled(content), file)
    output = raw_output(load(file))
    with np.load(FOLDER / f"{name}.npz") as expected:
        assert set(expected) == set(output)
        for key, values in expected.items():
            assert values.std() > 1e-3  # an answer that never varies would hold nothing
            torch.testing.assert_close(output[key], torch.from_numpy(values), rtol=0, atol=TOLERANCE)


def test_every_golden_file_is_held_and_all_are_small() -> None:
    files = {path.stem for suffix in ("ckpt", "safetensors") for path in FOLDER.glob(f"*.{suffix}")}
    assert files == set(NAMES)
    assert len(NAMES) == 13
    assert all(path.stat().st_size < 1_000_000 for path in FOLDER.iterdir() if path.is_file())


def test_a_changed_weight_would_be_seen(tmp_path: Path) -> None:
    content = filled(torch.load(FOLDER / "quickstart.ckpt", weights_only=True))
    content["averaged"]["weights"]["decoder.0.feedforward.0.bias"] += 0.1
    torch.save(content, tmp_path / "changed.ckpt")
    with np.load(FOLDER / "quickstart.npz") as expected:
        moved = raw_output(load(tmp_path / "changed.ckpt"))["logits"] - torch.from_numpy(expected["logits"])
    assert moved.abs().max() > 10 * TOLERANCE


def test_only_published_networks_are_filled_in_by_rule() -> None:
    for name in set(NAMES) - {"exported"}:
        weights = torch.load(FOLDER / f"{name}.ckpt", weights_only=True)["state_dict"]
        outside = {key.split(".")[1] for key, tensor in weights.items() if is_outside(key, tensor)}
        published = {"finetune": {"backbone"}, "coco": {"backbone"}, "bccd_captions": {"backbone"}, "minilm": {"text"}}
        assert outside == published.get(name, set())
