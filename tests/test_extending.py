"""The parts that docs/extending.md writes work where the page says that they do."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detr_mini.config.compose import compose
from detr_mini.formats.discover import FORMATS
from detr_mini.losses.criterion import DetectionCriterion
from detr_mini.losses.matcher import matching_cost
from detr_mini.models.build import build_part
from detr_mini.structures import PackedTargets, Prediction

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def my_parts() -> Any:
    """The page's Python, as the module `my_parts`."""
    module, formats = ModuleType("my_parts"), dict(FORMATS)
    text = PAGE.read_text(encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_parts", module)
        for block in BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[1], str(PAGE), "exec", dont_inherit=True), module.__dict__)
        yield module
    FORMATS.clear()
    FORMATS.update(formats)


def test_no_block_of_the_page_has_more_than_twenty_lines_of_code() -> None:
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if line.strip() and not re.match(r"(from|import) ", line)]
        assert len(lines) <= 20, block


def test_a_backbone_and_a_model_of_ones_own_are_built_from_a_config(my_parts: Any) -> None:
    settings = {"_target_": "my_parts.regnet", "strides": [8, 16], "frozen_stride": 4}
    backbone = build_part("backbone", settings, modules=["my_parts"])
    assert backbone.channels == (104, 208)
    config = {"_target_": "my_parts.sigmoid_detector", "dim": 32, "queries": 5}
    model = build_part("model", config, modules=["my_parts"], backbone=backbone, num_classes=2)
    model(torch.rand(2, 3, 64, 64)).final.logits.sum().backward()
    assert isinstance(model.encoder[0].attention.attention, my_parts.SigmoidAttention)


def test_a_cost_of_ones_own_is_what_the_matcher_adds(my_parts: Any) -> None:
    cost = {"_target_": "my_parts.probability_cost"}
    loss = {"_target_": "detr_mini.losses.matchability_loss"}
    weights = {"cost_class": 2.0, "weight_giou": 4.0}
    config = {"_target_": "detr_mini.losses.DetectionCriterion", "class_cost": cost, "class_loss": loss, **weights}
    criterion = build_part("criterion", config, modules=["my_parts"])
    assert isinstance(criterion, DetectionCriterion)
    prediction = Prediction(torch.randn(1, 4, 3), torch.rand(1, 4, 4))
    labels = torch.tensor([[2, 0]])
    targets = PackedTargets(torch.rand(1, 2, 4), labels, torch.ones(1, 2, dtype=torch.bool), (2,))
    found = matching_cost(
        prediction, targets, my_parts.probability_cost, weight_class=1.0, weight_l1=0.0, weight_giou=0.0
    )
    torch.testing.assert_close(found, -prediction.logits.sigmoid()[:, :, labels[0]])


def test_a_box_cost_of_ones_own_replaces_giou(my_parts: Any) -> None:
    config = {"_target_": "detr_mini.losses.DetectionCriterion",
              "class_cost": {"_target_": "my_parts.probability_cost"},
              "box_cost": {"_target_": "my_parts.distance_iou_cost"}, "cost_class": 2.0, "weight_giou": 4.0,
              "class_loss": {"_target_": "detr_mini.losses.matchability_loss"}}  # fmt: skip
    criterion = build_part("criterion", config, modules=["my_parts"])
    boxes, truths = torch.rand(1, 4, 4) / 2 + 0.1, torch.rand(1, 2, 4) / 2 + 0.1
    targets = PackedTargets(truths, torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool), (2,))
    found = matching_cost(
        Prediction(torch.zeros(1, 4, 3), boxes), targets, criterion.class_cost, criterion.box_cost,
        weight_class=0.0, weight_l1=0.0, weight_giou=2.0,
    )  # fmt: skip
    a, b = (torchvision.ops.box_convert(x[0], "cxcywh", "xyxy") for x in (boxes, truths))
    torch.testing.assert_close(found[0], -2 * torchvision.ops.distance_box_iou(a, b), rtol=1e-4, atol=1e-5)


def test_the_commands_of_the_page_compose(my_parts: Any) -> None:
    lines = [line for block in COMMANDS.findall(PAGE.read_text(encoding="utf-8"))
             for line in block.replace("\\\n", " ").splitlines() if "modules=[my_parts]" in line]  # fmt: skip
    assert lines
    for line in lines:
        compose("train", shlex.split(line)[2:])


def test_a_format_of_ones_own_is_recognised_read_and_counted(my_parts: Any, tmp_path: Path, capsys: Any) -> None:
    for split, count in {"train": 2, "val": 1}.items():
        (tmp_path / split).mkdir()
        records = [{"image": f"{n}.png", "boxes": [["cat", 1, 2, 10, 8]] * (n + 1)} for n in range(count)]
        for record in records:
            Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / split / record["image"])
        (tmp_path / split / "boxes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {"data": {"root": str(tmp_path), "format": "auto", "train": "auto", "val": "auto"}}
    assert my_parts.data_count(config) == {"cat": 4}
    assert "4  cat" in capsys.readouterr().out
