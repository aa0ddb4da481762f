"""What reads and writes annotations starts without torch, which takes seconds and half a gigabyte to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_parts import CATEGORIES, write_coco
from detr_mini.captions.mdetr_format import write_json

BOXES = [{"image_id": k, "bbox": [2, 3, 30, 20], "category_id": 1, "area": 600} for k in range(1, 5)]
WITHOUT_TORCH = """
import json, sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "pytorch_lightning")))  # each import of these fails
from detr_mini.cli import main
for words in json.loads(sys.argv[1]):
    print(*words)
    if main(["data", *words]):
        sys.exit(f"{words} needs torch")
"""


def run_without_torch(*commands: list[str]) -> str:
    """What several verbs about data print, in a process that cannot import torch or torchvision."""
    words = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    images = [{"id": k} for k in range(1, 5)]
    write_coco(tmp_path / "set", images=images, annotations=BOXES, categories=CATEGORIES[:1])
    return tmp_path / "set"


def test_a_dataset_is_checked_fixed_converted_cut_and_counted_without_torch(coco: Path, tmp_path: Path) -> None:
    root = f"data.root={coco}"
    copies = [("convert", ["to=yolo"]), ("convert", ["to=voc"]), ("subset", ["count=2"])]
    shown = run_without_torch(
        ["check", root, "pixels=false"],
        ["check", root, "pixels=false", "fix=true", f"output={tmp_path / 'fixed'}"],
        *([verb, root, *how, "images=link", f"output={tmp_path / how[0]}"] for verb, how in copies),
        ["check", f"data.root={tmp_path / 'to=yolo'}", "pixels=false"],
        ["convert", f"data.root={tmp_path / 'to=yolo'}", "to=coco", f"output={tmp_path / 'back'}"],
        ["check", f"data.root={tmp_path / 'to=voc'}", "pixels=false"],
        ["stats", root, f"output={tmp_path / 'stats'}"],
        ["shard", root, f"output={tmp_path / 'shards'}"],
        ["check", f"data.root={tmp_path / 'shards'}"],
        ["stats", f"data.root={tmp_path / 'shards'}", f"output={tmp_path / 'stats'}"],
    )
    assert shown.count("4 images, 4 boxes in train, no fault found") == 4
    assert "train: 4 images in 1 shard," in shown and "all 4 files are as they were written" in shown
    assert "train 2 images, 2 boxes" in shown
    assert (tmp_path / "stats" / "stats.png").is_file()
    assert len(json.loads((tmp_path / "back" / "annotations" / "train.json").read_text())["annotations"]) == 4


def test_captions_are_checked_and_scenes_are_made_without_torch(coco: Path, tmp_path: Path) -> None:
    record = {"id": 1, "file_name": "1.png", "caption": "a bolt"}
    phrase = {"id": 1, "image_id": 1, "bbox": [2, 3, 30, 20], "category_id": 1, "tokens_positive": [[2, 5]]}
    write_json(coco / "said.json", {"images": [record], "annotations": [phrase], "categories": []})
    train = "data.train={images: train, annotations: annotations/train.json}"
    captions = [train, "data.val=null", "data.test=null", "data.captions={train: said.json}"]
    shown = run_without_torch(
        ["check", "data=shapes_captions", f"data.root={coco}", *captions, "pixels=false"],
        ["shapes", f"root={tmp_path / 'shapes'}", "train=2", "val=1", "test=1", "processes=1"],
        ["scene", f"output={tmp_path / 'scene.png'}"],
    )
    assert "1 faults in" in shown
    assert "correct the sentence or its spans" in shown
    assert (tmp_path / "scene.png").is_file()
