"""keep_categories=true: a detector learns more categories and keeps the ones that the new data do not label."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from detector_parts import CATEGORIES, IMAGE, checkpoint_of, untrained
from detr_mini.config.compose import compose
from detr_mini.config.plain import plain_dict
from detr_mini.config.words import words_of
from detr_mini.errors import ConfigError
from detr_mini.formats.discover import Source
from detr_mini.formats.load import read_split
from detr_mini.formats.load_report import Chosen
from detr_mini.formats.split import CocoSet
from detr_mini.inference.detector import Detector
from detr_mini.losses.unjudged import UNLIKELY, without_unjudged
from detr_mini.models.build import build_model
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.scenes.rendering import SHAPES
from detr_mini.scenes.shapes import ensure_scenes
from detr_mini.structures import Categories, Detections, DetectorOutput, OperatingPoint, Prediction, Target
from detr_mini.training import build as build_module
from detr_mini.training.build import build
from detr_mini.training.keep_categories import _judged
from detr_mini.training.run import train
from detr_mini.verbs.evaluate import evaluate
from training_parts import SMALL, unchecked

OLD, NEW = SHAPES[:3], SHAPES[3:]
NARROW = ("model.dim=64", "model.feedforward=128", "backbone.channels=[16,24,48,64]")
"""About half of the usual width, which is enough for these scenes."""


def half(scenes: Path, folder: Path, labelled: tuple[str, ...], listed: tuple[str, ...] = SHAPES) -> Path:
    """A copy of the scenes whose train has only boxes of the `labelled` categories; val is train with all `listed`."""
    shutil.copytree(scenes, folder)
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    numbers = {c["id"]: c["name"] for c in content["categories"]}
    content["categories"] = [c for c in content["categories"] if c["name"] in listed]
    for path, names in ((file.with_name("val.json"), listed), (file, labelled)):
        kept = [a for a in content["annotations"] if numbers[a["category_id"]] in names]
        path.write_text(json.dumps({**content, "annotations": kept}))
    return folder


def words_for(data: Path, *more: str) -> list[str]:
    images = "data.val={images: train, annotations: annotations/val.json}"
    return [f"data.root={data}", "data.make=null", images, "data.test=null", "data.size=64", "data.batch_size=8",
            "data.augment=[]", "trainer.precision=32-true", "trainer.progress=false", "logger=csv",
            "trainer.max_epochs=null", "trainer.max_minutes=null", "trainer.max_steps=240", "optim.average=0.98",
            "trainer.validate_every_epochs=1000", *more]  # fmt: skip


def ap_of(run: Path, names: tuple[str, ...], output: Path) -> float:
    words = (f"checkpoint={run}", f"subset.categories=[{','.join(names)}]", "resamples=0", "gallery=0",
             f"output={output}")  # fmt: skip
    return float(json.loads((evaluate(compose("evaluate", words)) / "metrics.json").read_text())["AP"])


@pytest.mark.slow
def test_old_categories_are_kept_better_with_the_switch_and_new_ones_are_learned(tmp_path: Path) -> None:
    ensure_scenes(tmp_path / "scenes", train=16, val=2, test=2, seed=0, size=64, processes=1)
    old_data = half(tmp_path / "scenes", tmp_path / "old", OLD)
    new_data = half(tmp_path / "scenes", tmp_path / "new", NEW)
    with unchecked():
        old = train(compose("train", words_for(old_data, *NARROW, f"run_folder={tmp_path / 'run'}")))
    before = ap_of(old, OLD, tmp_path / "m0")
    assert before > 0.6
    scores = {}
    for keep in ("true", "false"):
        more = (*NARROW, f"init={old}", f"keep_categories={keep}", "trainer.max_steps=150")
        with unchecked():
            run = train(compose("train", words_for(new_data, *more, f"run_folder={tmp_path / keep}")))
        scores[keep] = [ap_of(run, names, tmp_path / f"m-{keep}-{names[0]}") for names in (OLD, NEW)]
    assert scores["true"][0] > 0.8 * before
    assert scores["true"][0] > scores["false"][0] + 0.3
    assert scores["true"][1] > 0.5


def test_the_script_that_measures_forgetting_makes_sets_of_some_labels_that_a_training_reads(
    scenes_root: Path, tmp_path: Path
) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "measure_forgetting.py"))
    trees = Source.found(scenes_root).trees()
    assert script["categories"](trees) == sorted(SHAPES)
    folder = script["annotated"](trees, tmp_path / "old", list(OLD))
    config = compose("train", words_of({"experiment": "finetune", "data": script["splits"](folder)}))
    for split, images in (("train", 16), ("val", 8), ("test", 6)):
        coco = read_split(folder, plain_dict(config.data[split]), split, format="coco")
        assert len(coco.records) == images
        assert sorted(coco.categories.names) == sorted(SHAPES)
        used = {coco.categories.names[label] for label in coco.labels.tolist()}
        assert used == set(OLD)


def detections(categories: Categories, *rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Detections(boxes.float(), scores, labels, categories)


def test_boxes_on_labels_and_found_twice_are_left_out_and_unsure_ones_marked(scenes_root: Path) -> None:
    split = {"images": "train", "annotations": "annotations/train.json"}
    coco = read_split(scenes_root, split, "train", format="coco")
    record = coco.records[0]
    x, y, w, h = coco.boxes_xywh[0].tolist()
    detector = Detector(untrained(), CATEGORIES, IMAGE, operating_point=OperatingPoint(0.5))
    far = [100.0, 100.0, 120.0, 130.0]
    found = detections(
        CATEGORIES,
        ([x, y, x + w, y + h], 0.9, 0),  # on a label
        (far, 0.8, 0),
        ([101.0, 100.0, 120.0, 130.0], 0.7, 0),  # the same again
        ([200.0, 200.0, 230.0, 230.0], 0.3, 1),  # unsure
        ([102.0, 101.0, 120.0, 130.0], 0.4, 1),  # unsure, on a sure one
        ([300.0, 300.0, 330.0, 330.0], 0.9, 2),  # a category that is not kept
    )
    boxes, labels, sure = _judged(found, record, coco, detector, {0: 6, 1: 7})
    assert labels.tolist() == [6, 7]
    assert sure.tolist() == [True, False]
    assert boxes[0].tolist() == [100.0, 100.0, 20.0, 30.0]


def test_a_guess_in_an_unjudged_region_costs_nothing_and_all_else_stays() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.21, 0.2]]] * 2)
    output = DetectorOutput(logits, boxes, auxiliary=(Prediction(logits, boxes),))
    none = torch.zeros(0)
    one, place = torch.ones(1), torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    crowd = Target(place, torch.tensor([2]), 1, (9, 9), one.bool(), one)
    plain = Target(none.view(0, 4), none.long(), 2, (9, 9), none.bool(), none)
    changed = without_unjudged(output, [crowd, plain])
    for layer in (changed.final, changed.auxiliary[0]):
        same = layer.logits == logits
        assert (~same).nonzero().tolist() == [[0, 0, 2], [0, 2, 2]]
        assert layer.logits[0, 0, 2] == UNLIKELY
    assert without_unjudged(output, [plain, plain]) is output


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run folder with an untrained detector of circles and bolts."""
    (tmp_path / "old").mkdir()
    words = [*SMALL, "trainer.max_steps=1"]
    config: Any = compose("train", words)
    checkpoint = checkpoint_of(untrained())
    torch.manual_seed(0)
    settings = OmegaConf.to_container(config)
    model = build_model(config.model, config.backbone, 2)
    checkpoint |= {
        "state_dict": {f"model.{name}": t for name, t in model.state_dict().items()}, "averaged": None,
        "categories": Categories((1, 9), ("circle", "bolt")).to_dict(), "config": settings,
        "operating_point": {"threshold": 0.0, "suppress_iou": None},
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "old" / "best.ckpt")
    return tmp_path / "old"


def test_rows_of_old_and_new_categories_are_in_one_detector_and_stay_after_resume(
    old: Path, scenes_root: Path, tmp_path: Path
) -> None:
    data = half(scenes_root, tmp_path / "new", NEW, NEW)
    more = (*SMALL, f"init={old}", "keep_categories=true", f"run_folder={tmp_path / 'run'}", "trainer.max_steps=2")
    run = train(compose("train", words_for(data, *more)))
    first = read_checkpoint(run / "last.ckpt")
    assert first["categories"]["names"] == [*NEW, "circle", "bolt"]
    assert first["categories"]["ids"] == [4, 5, 6, 7, 8]
    assert len(first["kept"]["labels"]) > 0
    notices = json.loads((run / "data_report.json").read_text())["notices"]
    said = next(n for n in notices if n.startswith("keep_categories"))
    assert f"{len(first['kept']['labels'])} boxes of them in the 16 training pictures" in said
    shutil.rmtree(old)
    train(compose("train", [f"resume={run}", "trainer.max_steps=3"]))
    again = read_checkpoint(run / "last.ckpt")
    assert again["global_step"] == 3
    assert torch.equal(again["kept"]["boxes_xywh"], first["kept"]["boxes_xywh"])
    assert again["categories"] == first["categories"]


def test_the_image_size_is_chosen_with_the_boxes_that_are_kept(
    old: Path, scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def choose(coco: CocoSet) -> Chosen:
        seen.append(len(coco.categories))
        return Chosen(96, "the kept objects are small")

    monkeypatch.setattr(build_module, "choose_size", choose)
    words = words_for(half(scenes_root, tmp_path / "new", NEW, NEW), *SMALL, f"init={old}", "keep_categories=true")
    made = build(compose("train", [*words, "data.size=auto"]))
    assert seen == [len(NEW) + 2] and made.data.image["size"] == 96
    assert any("96 is chosen: the kept objects are small" in notice for notice in made.data.report.notices)
    build(compose("train", words))
    assert len(seen) == 1, "a size that is set stays"


def test_nothing_to_keep_is_one_sentence(old: Path, scenes_root: Path, tmp_path: Path) -> None:
    words = words_for(half(scenes_root, tmp_path / "new", NEW, NEW), *SMALL, "keep_categories=true")
    with pytest.raises(ConfigError, match="keeps the categories of another detector; add init="):
        build(compose("train", words))
    checkpoint = read_checkpoint(old)
    for names, said in (
        (("star", "heart"), "the data label every category"),
        (("thing",), "finds objects without naming them"),
    ):
        checkpoint["categories"] = Categories(tuple(range(len(names))), names).to_dict()
        torch.save(checkpoint, old / "best.ckpt")
        with pytest.raises(ConfigError, match=said):
            build(compose("train", [*words, f"init={old}"]))
