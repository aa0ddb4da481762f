"""The scripts that measure labelling: planted faults and how many are shown first, and the loop at toy size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from data_parts import source, write_coco
from detr_mini.boxes import xywh_to_xyxy
from detr_mini.labelling.doubt_task import doubted, write_doubts
from detr_mini.labelling.doubts import Boxes
from detr_mini.labelling.folds import folds_of
from training_parts import SMALL

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, words)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_set(root: Path, images: int = 40) -> Path:
    """Images of noise with six boxes each that do not touch, of two categories."""
    places = [[10 + 60 * column, 10 + 60 * row, 30, 40] for row in range(2) for column in range(3)]
    write_coco(
        root,
        images=[{"id": k} for k in range(1, images + 1)],
        annotations=[
            {"bbox": box, "image_id": k, "category_id": 1 + (k + n) % 2}
            for k in range(1, images + 1)
            for n, box in enumerate(places)
        ],
        size=(120, 200),
    )
    return root


def seen_by_somebody(root: Path, noise: float) -> dict[str, Boxes]:
    """The right boxes of each image, by file name, each edge off by `noise` of the side; scores about 0.8."""
    tree = source(root).trees()["train"]
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    rng = np.random.default_rng(0)
    found = {}
    for image in tree.content["images"]:
        own = [a for a in tree.content["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32)
        boxes = xywh_to_xyxy(
            boxes + torch.from_numpy(rng.normal(0, noise, boxes.shape)).float() * boxes[:, 2:].repeat(1, 2)
        )
        scores = torch.from_numpy(rng.uniform(0.6, 1, len(own))).float()
        found[image["file_name"]] = Boxes(boxes, tuple(names[a["category_id"]] for a in own), scores)
    return found


def test_planted_faults_are_listed_and_a_good_detector_finds_them_first(tmp_path: Path) -> None:
    root = a_set(tmp_path / "a")
    said = run("plant_label_faults.py", "plant", root, tmp_path / "b", "--seed", 3)
    assert "12 faults" in said
    record = json.loads((tmp_path / "b.faults.json").read_text())
    assert record["labels"] == 240
    assert [f["kind"] for f in record["faults"]].count("misnamed") == 4
    tree = source(tmp_path / "b").trees()["train"]
    assert len(tree.content["annotations"]) == 236
    seen = seen_by_somebody(root, 0.03)
    detections = {image["id"]: seen[Path(image["file_name"]).name] for image in tree.content["images"]}
    found = doubted(tree, detections)
    list(write_doubts(found, tmp_path / "d", "coco", "none", 10_000))
    result = json.loads(run("plant_label_faults.py", "precision", tmp_path / "b", tmp_path / "d"))
    assert result["shown"] == 12 and result["precision"] >= 0.9
    for kind in ("missing", "displaced", "misnamed"):
        assert result["faults_found"][kind] == {"planted": 4, "found": 4}
        assert result["first_of_each_kind"][kind]["right"] >= 3


def test_a_set_of_one_category_has_no_misnamed_labels(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", annotations=[{"bbox": [5, 5, 9, 9]}] * 20)
    run("plant_label_faults.py", "plant", tmp_path / "a", tmp_path / "b", "--share", 0.2)
    kinds = [fault["kind"] for fault in json.loads((tmp_path / "b.faults.json").read_text())["faults"]]
    assert kinds == ["missing", "displaced"] * 2


def test_folds_hold_each_image_once_keep_copies_together_and_stay_the_same(tmp_path: Path) -> None:
    root = a_set(tmp_path / "a", images=12)
    for copy in (11, 12):
        Image.open(root / "train" / "1.png").save(root / "train" / f"{copy}.png")
    tree = source(root).trees()["train"]
    folds = folds_of(tree, 3)
    assert sorted(i for fold in folds for i in fold) == list(range(1, 13))
    assert sum({1, 11, 12} <= set(fold) for fold in folds) == 1
    assert all(3 <= len(fold) <= 5 for fold in folds)
    assert folds == folds_of(tree, 3)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script labelling_loop.py."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("labelling_loop")


def test_the_loop_trains_on_the_pictures_with_the_names_that_they_have(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["käse.jpg", "7", 'it\'s, [a] {b}: \\ "c".png', "日本/1.jpg"]
    given: list[list[str]] = []

    def train(config: DictConfig) -> None:
        given.append(list(config.data.subset.ids))
        Path(config.run_folder).mkdir()
        (Path(config.run_folder) / "metrics.json").write_text("{}")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(loop, "load", lambda run: None)
    loop.Loop(tmp_path, tmp_path, None, (), 1).detector(names, tmp_path / "run", 0)
    assert given == [sorted(names)]


def test_the_loop_refuses_a_set_that_is_too_small_before_it_trains(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "simulate", lambda *given: [])
    monkeypatch.setattr(loop, "write", lambda *given: None)
    words = [str(a_set(tmp_path / "set", images=10)), str(tmp_path / "out"), "--first", "4", "--add", "3"]
    loop.main([*words, "--rounds", "2"])
    with pytest.raises(SystemExit):
        loop.main([*words, "--rounds", "3"])
    assert "has 10 pictures, and the loop needs 13" in capsys.readouterr().err


@pytest.mark.slow
def test_the_loop_runs_at_toy_size_and_goes_on_where_it_stopped(scenes_root: Path, tmp_path: Path) -> None:
    words = [
        scenes_root, tmp_path / "loop", "--first", 6, "--add", 4, "--rounds", 1, "--seeds", 0, *SMALL,
        "backbone=convnet", "data.size=64", "data.batch_size=4", "model.queries=8", "data.strong_until=1.0",
        "optim.average=0.9", "optim.warmup_steps=2", "trainer.coarse_grow=false", "trainer.max_minutes=null",
        "trainer.max_steps=3", "trainer.precision=32-true", "trainer.progress=false", "logger=csv",
    ]  # fmt: skip
    said = run("labelling_loop.py", *words)
    assert "next      10 pictures: AP" in said and "to draw without" in said
    rows = json.loads((tmp_path / "loop" / "loop.json").read_text())
    assert [(row["strategy"], row["pictures"]) for row in rows] == [
        ("next", 6), ("next", 10), ("random", 6), ("random", 10)]  # fmt: skip
    assert (tmp_path / "loop" / "loop.png").is_file()
    chosen = json.loads((tmp_path / "loop" / "seed-0" / "random-10.json").read_text())
    assert len(chosen) == 4
    (tmp_path / "loop" / "seed-0" / "random-10-pictures" / "metrics.json").unlink()
    run("labelling_loop.py", *words)
    assert json.loads((tmp_path / "loop" / "loop.json").read_text()) == rows
