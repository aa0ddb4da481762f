"""experiment=finetune init=PUBLISHED: the weights say the settings, and `train` and `evaluate` run on such files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
pytest.importorskip("timm", reason="the extra 'timm' is not installed")

from pycocotools.coco import COCO as CocoTruth
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file

from data_parts import write_coco
from detr_mini import load
from detr_mini.config.compose import compose
from detr_mini.errors import CheckpointError
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.pretrained.coco_categories import COCO
from detr_mini.pretrained.detr_keys import from_library, to_published
from detr_mini.training.build import build
from detr_mini.training.run import train
from detr_mini.verbs.evaluate import evaluate
from detr_mini.verbs.predict import predict
from published_parts import library_detr, library_peer, pipeline, publish

SHORT = ("trainer.max_minutes=null", "trainer.max_steps=12", "data.workers=0", "trainer.progress=false", "logger=csv",
         "data.limit_train=4", "data.limit_val=4", "data.batch_size=4", "data.augment=[]", "data.augment_strong=[]",
         "trainer.log_every_steps=1")  # fmt: skip  # the same four images at each step, so that the loss falls


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published folders with random weights for COCO's 80 categories."""
    root = tmp_path_factory.mktemp("published")
    names = dict(enumerate(COCO.values()))
    publish(library_peer("rt_detr_v2", names), root / "rt_detr_v2", "RTDetrImageProcessor", height=128, width=128)
    publish(library_peer("yolos", names), root / "yolos", "YolosImageProcessor", shortest_edge=100, longest_edge=140)
    publish(library_detr(names=names), root / "detr")
    return {path.name: path for path in root.iterdir()}


def losses(run: Path) -> list[float]:
    with (run / "history.csv").open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream) if row.get("train/loss")]


def finetuned(init: Path, data: Path, folder: Path, *more: str) -> dict[str, Any]:
    words = ("experiment=finetune", f"init={init}", f"data.root={data}", f"run_folder={folder}", *SHORT, *more)
    run = train(compose("train", words))
    seen = losses(run)
    assert len(seen) >= 2 and torch.tensor(seen).isfinite().all()
    assert min(seen[-3:]) < seen[0]
    report = json.loads((run / "data_report.json").read_text())
    return {**read_checkpoint(run), "said": "\n".join(report["notices"])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "image", "rate"),
    [
        ("rt_detr_v2", "detr_mini.peers.HFDetector", {"size": 128, "exact": [128, 128], "mean": [0.0] * 3}, 1e-4),
        ("yolos", "detr_mini.peers.HFDetector", {"size": 140, "shorter_side": 100, "multiple": 16}, 2.5e-5),
        ("detr", "detr_mini.models.DETR", {"size": 140, "shorter_side": 100}, 1e-4),
    ],
)
def test_a_published_folder_is_trained_on_with_the_settings_of_its_weights(
    name: str, target: str, image: dict[str, Any], rate: float,
    folders: dict[str, Path], shared_data: Callable[[str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    checkpoint = finetuned(folders[name], shared_data("coco_mini"), tmp_path / "run")
    config = checkpoint["config"]
    assert config["model"]["_target_"] == target
    assert {key: checkpoint["image"].get(key) for key in image} == image
    assert config["optim"]["optimizer"]["lr"] == rate
    assert config["trainer"]["coarse_scale"] == 1.0
    assert f"set as the weights of {folders[name]} say: data.size={image['size']}" in checkpoint["said"]
    assert "80 of 80 categories go on with its rows" in checkpoint["said"]
    assert len(load(tmp_path / "run").detect(Image.new("RGB", (90, 60)), threshold=0.0)) > 0


@pytest.mark.parametrize("name", ["rt_detr_v2", "yolos", "detr"])
def test_a_training_from_published_weights_pads_images_as_evaluation_does(
    name: str, folders: dict[str, Path], scenes_root: Path
) -> None:
    words = ("experiment=finetune", f"init={folders[name]}", f"data.root={scenes_root}", *SHORT)
    parts = build(compose("train", words))
    assert parts.data.stride == parts.task.model.stride == 1


@pytest.mark.slow
def test_what_the_command_line_says_wins_and_a_run_goes_on_with_its_own_settings(
    folders: dict[str, Path], shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ("data.size=96", "optim.optimizer.lr=3e-4", "trainer.coarse_scale=0.9")
    checkpoint = finetuned(folders["rt_detr_v2"], shared_data("coco_mini"), run, *more)
    assert checkpoint["image"]["exact"] == [96, 96]
    assert checkpoint["config"]["optim"]["optimizer"]["lr"] == 3e-4
    assert checkpoint["config"]["trainer"]["coarse_scale"] == 0.9
    assert "and not the weights: data.size, optim.optimizer.lr, trainer.coarse_scale" in checkpoint["said"]
    train(compose("train", [f"resume={run}", "trainer.max_steps=14"]))
    resumed = read_checkpoint(run / "last.ckpt")
    assert resumed["global_step"] == 14
    assert resumed["image"] == checkpoint["image"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rt_detr_v2", "detr"])
def test_a_published_detector_learns_one_more_category_and_keeps_its_own(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    gears = [{"bbox": [4, 6, 30, 24], "image_id": image} for image in (1, 2, 3, 4)]
    write_coco(tmp_path / "data", "train", categories=[{"id": 7, "name": "gear"}], annotations=gears,
               images=[{"id": image} for image in (1, 2, 3, 4)])  # fmt: skip
    more = ("keep_categories=true", "data.val=null", "data.hold_out=null")
    checkpoint = finetuned(folders[name], tmp_path / "data", tmp_path / "run", *more)
    names = checkpoint["categories"]["names"]
    assert names[0] == "gear" and set(names[1:]) == set(COCO.values())
    assert f"keep_categories: init={folders[name]} keeps 80 of its" in checkpoint["said"]
    found = load(tmp_path / "run").detect(Image.new("RGB", (90, 60)), threshold=0.0)
    assert len(found) > 0 and found.categories.names == tuple(names)


@pytest.mark.slow
def test_files_with_published_names_go_through_train_evaluate_and_predict(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    data = shared_data("coco_mini")
    model = library_detr(names=dict.fromkeys(range(91), "N/A"))  # without names: COCO's ids
    model.save_pretrained(tmp_path / "old")  # names of older versions
    old = load_file(tmp_path / "old" / "model.safetensors")
    torch.save({"model": to_published(from_library(old))}, tmp_path / "detr-r18.pth")
    checkpoint = finetuned(tmp_path / "detr-r18.pth", data, tmp_path / "run", "data.size=96")
    assert checkpoint["config"]["model"]["queries"] == 7
    picture = next((data).rglob("*.jpg"))
    for given in (tmp_path / "old", tmp_path / "detr-r18.pth"):
        words = (f"checkpoint={given}", f"data.root={data}", "split=val", "subset.share=0.1", "size=96",
                 "shorter_side=null", "resamples=0", f"output={tmp_path / given.stem}-measured")  # fmt: skip
        scores = json.loads((evaluate(compose("evaluate", words)) / "metrics.json").read_text())
        assert scores["AP"] is not None
        words = (f"checkpoint={given}", f"source={picture}", f"output={tmp_path / given.stem}-found")
        assert (predict(compose("predict", words)) / "predictions.json").is_file()


def found_in(detect: Any, data: Path, image: dict[str, Any]) -> list[dict[str, Any]]:
    """What the library's pipeline finds in an image, as COCO records."""
    with Image.open(data / "val" / image["file_name"]) as opened:
        found = detect(opened.convert("RGB"))
    edge, ids = torch.tensor([image["width"], image["height"]] * 2), list(COCO)
    corners = torch.minimum(found["boxes"].clamp(min=0), edge)
    return [{"image_id": image["id"], "category_id": ids[label], "score": score,
             "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            for box, score, label in zip(corners.tolist(), found["scores"].tolist(), found["labels"].tolist(),
                                         strict=True)]  # fmt: skip


def of_its_own_finds(detect: Any, photographs: Path, folder: Path) -> Path:
    """A dataset of photographs whose true boxes are near some that the pipeline finds: its AP is above zero there."""
    (folder / "val").mkdir(parents=True)
    images, boxes = [], []
    for number, path in enumerate(sorted(photographs.rglob("*.jpg"))[:20], 1):
        (folder / "val" / path.name).symlink_to(path)
        with Image.open(path) as opened:
            image = {"id": number, "file_name": path.name, "width": opened.width, "height": opened.height}
        images.append(image)
        found = [record for record in found_in(detect, folder, image) if min(record["bbox"][2:]) > 8]
        for rank, record in enumerate(found[:5]):
            x, y, width, height = record["bbox"]
            boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": record["category_id"], "iscrowd": 0,
                          "bbox": [x, y, width * (1 - 0.06 * rank), height], "area": width * height})  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in COCO.items()]
    (folder / "val.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return folder


@pytest.mark.parametrize("name", ["rt_detr_v2", "detr"])
@pytest.mark.parametrize("subset", [("subset.share=0.2",), ("ids",), ("categories",)])
def test_evaluate_equals_pycocotools_on_the_librarys_own_pipeline(
    name: str, subset: tuple[str, ...], folders: dict[str, Path], shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    detect = pipeline(folders[name])
    data = of_its_own_finds(detect, shared_data("coco_mini"), tmp_path / "data")
    truth = CocoTruth(str(data / "val.json"))
    numbers = sorted(truth.getImgIds())
    if subset == ("ids",):
        subset = (f"subset.ids=[{','.join(map(str, numbers[:9]))}]",)
    frequent = Counter(box["category_id"] for box in truth.anns.values()).most_common(2)
    chosen = [number for number, _ in frequent] if subset == ("categories",) else truth.getCatIds()
    if subset == ("categories",):
        subset = (f"subset.categories=[{','.join(COCO[number] for number in chosen)}]",)
    words = (f"checkpoint={folders[name]}", f"data.root={data}", "split=val", *subset, "resamples=0",
             f"output={tmp_path / 'measured'}")  # fmt: skip
    measured = evaluate(compose("evaluate", words))
    scores = json.loads((measured / "metrics.json").read_text())
    seen = sorted({record["image_id"] for record in json.loads((measured / "predictions.json").read_text())})
    records = [record for number in seen for record in found_in(detect, data, truth.imgs[number])]
    judged = COCOeval(truth, truth.loadRes(records), "bbox")
    judged.params.imgIds = seen
    judged.params.catIds = chosen
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    for key, place in {"AP": 0, "AP50": 1, "AP75": 2}.items():
        assert scores[key] == pytest.approx(judged.stats[place], abs=1e-3)
    assert judged.stats[1] > 0


def test_weights_whose_categories_have_no_names_are_used_by_number_and_said(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    names = {k: f"LABEL_{k}" for k in range(4)}
    publish(library_peer("rt_detr_v2", names), tmp_path / "unnamed", "RTDetrImageProcessor", height=96, width=96)
    found = load(tmp_path / "unnamed").detect(Image.new("RGB", (64, 48)), threshold=0.0)
    assert set(found.names) <= set(names.values())
    checkpoint = finetuned(tmp_path / "unnamed", shared_data("coco_mini"), tmp_path / "run")
    assert "its 4 categories have no names, so none can be matched" in checkpoint["said"]
    write_coco(tmp_path / "own", "val", categories=[{"id": 70, "name": "gear"}],
               annotations=[{"bbox": [1, 2, 3, 4], "category_id": 70}])  # fmt: skip
    words = (f"checkpoint={tmp_path / 'unnamed'}", f"data.root={tmp_path / 'own'}", "split=val")
    with pytest.raises(CheckpointError, match=r"its 4 categories have no names, and no id of the data's is one"):
        evaluate(compose("evaluate", words))
