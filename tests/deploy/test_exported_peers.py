"""Detectors of `transformers` as exported files: published ones on their own images, and those trained on ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
pytest.importorskip("onnxscript", reason="the package onnxscript of the extra 'export' is not installed")
pytest.importorskip("openvino", reason="the package openvino of the extra 'export' is not installed")

from deploy_parts import assert_needs_no_padding, traced_once
from detector_parts import checkpoint_of
from detr_mini import load
from detr_mini.cli import main
from detr_mini.deploy.agreement import TOLERANCES, compare, made_pictures
from detr_mini.deploy.network import Network
from detr_mini.deploy.peer_network import OF_ONE_SIZE
from detr_mini.errors import UserError
from detr_mini.peers.detector import HFDetector
from peer_parts import BACKBONE, SMALL, config_of, peer
from published_parts import library_peer, publish
from training_parts import unchecked

SQUARE = {"height": 128, "width": 128}
PROCESSORS: dict[str, tuple[str, dict[str, int]]] = {
    "rt_detr_v2": ("RTDetrImageProcessor", SQUARE),
    "d_fine": ("RTDetrImageProcessor", SQUARE),
    "rf_detr": ("RfDetrImageProcessor", {"height": 112, "width": 112}),
    "yolos": ("YolosImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
    "conditional_detr": ("ConditionalDetrImageProcessor", {"shortest_edge": 100, "longest_edge": 140}),
}
"""The image processor of each published kind, and its size."""


def loud(library: nn.Module) -> nn.Module:
    """The library's model with features that differ from place to place, as those of trained weights do."""
    torch.manual_seed(1)
    for module in library.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return library


def agree(checkpoint: Path, output: Path, *words: str) -> None:
    """An export finds the same, on pictures that it was not compared on when it was written, too."""
    with unchecked():
        assert main(["export", f"checkpoint={checkpoint}", f"output={output}", *words]) == 0
    noise = np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8)
    agreement = compare(load(checkpoint), load(output), [noise, made_pictures()[2]], TOLERANCES["fp32"], 20)
    assert agreement.detections > 10
    assert agreement.unpaired == 0, str(agreement)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_published_detector_leaves_as_a_file(kind: str, tmp_path: Path) -> None:
    processor, size = PROCESSORS[kind]
    publish(loud(library_peer(kind)), tmp_path / kind, processor, **size)
    with traced_once():
        agree(tmp_path / kind, tmp_path / "a.onnx")
        if kind in ("rt_detr_v2", "rf_detr"):
            agree(tmp_path / kind, tmp_path / "a_openvino", "format=openvino")
            agree(tmp_path / kind, tmp_path / "a.pt2")
            agree(tmp_path / kind, tmp_path / "b.onnx", "input=tensor")


@pytest.mark.parametrize("kind", sorted({*SMALL} - {*OF_ONE_SIZE}))
def test_a_network_without_padding_finds_what_the_detector_finds(kind: str) -> None:
    model = peer(kind)
    loud(model.library)
    model.eval()
    side = 4 * model.grid
    network = Network(model, 5, {"size": side, "shorter_side": None}).eval()
    assert_needs_no_padding(model, network, ((side, side), (side, side * 2 // 3), (side // 2 + 1, side)))


@pytest.mark.slow
def test_one_that_was_trained_here_leaves_as_a_file(tmp_path: Path) -> None:
    model: HFDetector = peer("rt_detr_v2")
    loud(model.library)
    settings = {"model": config_of("rt_detr_v2"), "backbone": {**BACKBONE, "name": "rt_detr_v2"}}
    torch.save({**checkpoint_of(model), "config": settings}, tmp_path / "best.ckpt")
    agree(tmp_path / "best.ckpt", tmp_path / "a.onnx")


def test_what_no_file_can_hold_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="deformable_detr in transformers can only be exported for images of one size"):
        Network(peer("deformable_detr"), 5, {"size": 128, "shorter_side": None})
    with pytest.raises(UserError, match="squares of different sizes"):
        Network(peer("rt_detr_v2"), 5, {"size": 128, "shorter_side": 64})
