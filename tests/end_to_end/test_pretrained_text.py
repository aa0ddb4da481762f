"""A training whose sentences are read by a published encoder: one word on the command line, no package afterwards."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from detr_mini import load
from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError
from detr_mini.models.build import build_part
from detr_mini.text import minilm
from detr_mini.text.bert import Bert
from detr_mini.training.build import build
from detr_mini.training.run import train

SMALL = [
    "experiment=shapes_captions", "model=mini_grounded_minilm",
    "data.make={train: 12, val: 4, test: 4, size: 64, seed: 0}",
    "data.size=64", "data.batch_size=4", "data.captions_per_image=3", "model.dim=32", "model.feedforward=32",
    "model.queries=14", "model.joint={layers: 2, width: 8, heads: 2, pair_dim: 4}", "backbone.channels=[8,16,16,32]",
    "backbone.blocks=[0,1,1,1]", "trainer.max_minutes=null", "trainer.max_steps=3", "trainer.progress=false",
    "logger=csv",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(find_spec(minilm.PACKAGE) is None, reason="needs the extra 'text'")
def test_a_frozen_encoder_is_trained_with_kept_once_and_needs_no_package_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(compose("train", [*SMALL, f"data.root={tmp_path / 'made'}", f"run_folder={tmp_path / 'run'}"]))
    original = minilm.minilm_weights("packaged")
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    detector = load(run)
    for name, tensor in detector.model.text.pretrained.state_dict().items():
        assert torch.equal(tensor, original[name])
    found = detector.detect(tmp_path / "made" / "test" / "000000.png", "the Crimson café", threshold=0)
    assert found.phrases is not None
    assert set(" ".join(found.phrases).split()) <= {"the", "Crimson", "café"}
    kept = sum(tensor.numel() * 4 for tensor in original.values())
    assert kept < (run / "last.ckpt").stat().st_size < 1.2 * kept


@pytest.mark.slow
@pytest.mark.skipif(find_spec(minilm.PACKAGE) is None, reason="needs the extra 'text'")
def test_an_encoder_that_learns_does_so_slowly_and_is_averaged(tmp_path: Path) -> None:
    said = [*SMALL, "model.pretrained_text.frozen=false", f"data.root={tmp_path / 'made'}"]
    parts = build(compose("train", said))
    optimizer = parts.task.make_optimizer(parts.task.model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    learned = {rates[id(p)] for p in parts.task.model.text.pretrained.parameters()}
    assert sorted(learned) == pytest.approx([0.02 * 1e-3, 0.02 * 0.02])
    run = train(compose("train", [*said, f"run_folder={tmp_path / 'run'}"]))
    weights = load(run).model.text.pretrained.state_dict()
    original = minilm.minilm_weights("packaged")
    moved = {name: float((weights[name] - original[name]).abs().max()) for name in original}
    assert all(0 < distance < 0.05 for distance in moved.values()), moved


def test_words_that_the_tokeniser_and_the_encoder_do_not_share_are_refused() -> None:
    config = compose(
        "train", ["model=mini_grounded_minilm", "data=shapes_captions", "model.pretrained_text.weights=none"]
    )
    backbone = build_part("backbone", config.backbone)
    how = {"backbone": backbone, "num_classes": 3}
    with pytest.raises(ConfigError, match=r"set data\.tokenizer\.kind=pretrained"):
        build_part("model", config.model, vocabulary=99, **how)
    both = {**config.model, "text": {"layers": 1}}
    with pytest.raises(ConfigError, match=r"either model\.text or model\.pretrained_text"):
        build_part("model", both, vocabulary=Bert().word_embedding.num_embeddings, **how)
