"""`evaluate` from end to end: an untrained model on made scenes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from detector_parts import BACKBONE, MODEL, checkpoint_of
from detr_mini.data.stored_settings import data_settings
from detr_mini.errors import CheckpointError, ConfigError, DataError, UserError
from detr_mini.evaluation.metrics.coco import evaluate as coco_metric
from detr_mini.formats.coco import read_coco
from detr_mini.inference.detector import load
from detr_mini.models.build import build_model
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.structures import Categories
from detr_mini.verbs.compare import compare
from detr_mini.verbs.evaluate import evaluate

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate.yaml"
Config = Callable[..., DictConfig]


def data_of(root: Path) -> dict[str, Any]:
    return {
        "_target_": "detr_mini.data.DetectionData",
        "_convert_": "all",
        "root": str(root),
        "make": {"train": 16, "val": 8, "test": 6, "seed": 0, "size": 64},
        **{s: {"images": s, "annotations": f"annotations/{s}.json"} for s in ("train", "val", "test")},
        "size": 64,
        "eval_batch_size": 3,
        "augment": [{"_target_": "torchvision.transforms.v2.RandomGrayscale"}],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, scenes_root: Path) -> Path:
    """A run folder with an untrained model for the made scenes."""
    content = json.loads((scenes_root / "annotations" / "train.json").read_text())["categories"]
    categories = Categories(tuple(c["id"] for c in content), tuple(c["name"] for c in content))
    torch.manual_seed(0)
    model = build_model(MODEL, BACKBONE, len(categories))
    folder = tmp_path_factory.mktemp("outputs") / "some-run"
    folder.mkdir()
    torch.save(checkpoint_of(model, categories, data=data_of(scenes_root), seed=7), folder / "best.ckpt")
    return folder


@pytest.fixture
def config(run: Path, tmp_path: Path) -> Config:
    def make(**said: Any) -> DictConfig:
        defaults = OmegaConf.load(CONFIG)
        for key in ("defaults", "hydra"):
            defaults.pop(key)
        merged = OmegaConf.merge(defaults, {"checkpoint": str(run), "output": str(tmp_path / "out"), **said})
        assert isinstance(merged, DictConfig)
        return merged

    return make


@pytest.mark.parametrize(("split", "images"), [("val", 8), ("test", 6)])
def test_numbers_records_and_gallery_are_written(
    config: Config, run: Path, scenes_root: Path, split: str, images: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluate(config(split=split))
    metrics = json.loads((output / "metrics.json").read_text())
    records = json.loads((output / "predictions.json").read_text())
    assert metrics["images"] == images
    assert metrics["seed"] == 7
    assert metrics["images_per_second"] > 0
    detector = load(run)
    truth = read_coco(scenes_root / f"annotations/{split}.json", scenes_root / split, split=split)
    again = coco_metric(truth.truth, records, detector.categories)
    assert {key: metrics[key] for key in again} == again
    for record in truth.records[:3]:
        alone = detector.detect(record.path, threshold=0)
        mine = [r["score"] for r in records if r["image_id"] == record.image_id]
        assert mine == pytest.approx(alone.scores.tolist(), abs=1e-4)
    with Image.open(output / "gallery.png") as picture:
        assert picture.width > 500
    shown = capsys.readouterr().out
    assert f"{images} images" in shown
    assert "AP50" in shown


def test_settings_choose_a_part_of_the_data_and_a_report(config: Config, tmp_path: Path) -> None:
    output = evaluate(config(subset={"categories": ["star", "circle"], "share": 0.5}, report=True, resamples=50))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert len({record["image_id"] for record in json.loads((output / "predictions.json").read_text())}) <= 4
    assert {key for key in metrics if key.startswith("AP/")} == {"AP/star", "AP/circle"}
    for name in ("report.json", "precision_recall.png", "confusion.png", "errors.png", "worst.png"):
        assert (output / name).stat().st_size > 0
    folder = compare(OmegaConf.create(
        {"runs": [str(output)] * 2, "rounds": 20, "level": 0.05, "seed": 0, "output": str(tmp_path / "compared")}
    ))  # fmt: skip
    assert json.loads((folder / "compare.json").read_text())["images"] == 4  # its config.yaml says which part it was


def test_tiles_measure_windows_and_say_the_limit(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluate(config(tiles=40, detection_limit=300, gallery=0, resamples=0))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["detection_limit"] == 300 and metrics["images"] == 8
    assert "the 300 best detections of each image and category count" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match=r"tiles=\.\.\. works with by=classes"):
        evaluate(config(tiles=40, by="names", output=str(tmp_path / "b")))


def test_every_ap_has_an_interval_unless_resamples_is_0(config: Config, tmp_path: Path) -> None:
    metrics = json.loads((evaluate(config(resamples=60)) / "metrics.json").read_text())
    defined = [
        key for key, value in metrics.items() if re.fullmatch(r"AP(50|75|s|m|l)?(/.*)?", key) and value is not None
    ]
    assert {"AP", "AP50", "AP/star"} <= set(defined)
    for key in defined:
        head, slash, name = key.partition("/")
        assert metrics[f"{head}_low{slash}{name}"] <= metrics[key] <= metrics[f"{head}_high{slash}{name}"]
    without = json.loads((evaluate(config(resamples=0, output=str(tmp_path / "b"))) / "metrics.json").read_text())
    assert not any("_low" in key or "_high" in key for key in without)


def test_no_metric_depends_on_the_threshold_of_the_gallery(config: Config, tmp_path: Path) -> None:
    numbers = []
    for threshold in (0.0, 0.99):
        output = evaluate(config(threshold=threshold, output=str(tmp_path / f"at-{threshold}")))
        metrics = json.loads((output / "metrics.json").read_text())
        numbers.append({k: v for k, v in metrics.items() if k != "images_per_second"})
    assert numbers[0] == numbers[1]


def test_an_output_that_exists_is_not_written_into(config: Config, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        evaluate(config())
    assert not list((tmp_path / "out").iterdir())


def test_without_an_output_every_evaluation_gets_a_new_folder(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [evaluate(config(output=None, gallery=0)).name for _ in range(2)]
    assert folders == ["some-run-val", "some-run-val-2"]


def test_other_data_of_the_same_categories_can_be_given(config: Config, scenes_root: Path, tmp_path: Path) -> None:
    content = json.loads((scenes_root / "annotations/test.json").read_text())
    for category in content["categories"]:
        category["id"] += 100
    for annotation in content["annotations"]:
        annotation["category_id"] += 100
    (tmp_path / "mine.json").write_text(json.dumps(content))
    data = {"root": str(tmp_path), "val": {"images": str(scenes_root / "test"), "annotations": "mine.json"}}
    there, here = evaluate(config(data=data)), evaluate(config(split="test", output=str(tmp_path / "test")))
    assert (there / "predictions.json").read_bytes() == (here / "predictions.json").read_bytes()


def test_a_checkpoint_of_other_classes_is_refused(config: Config, scenes_root: Path, tmp_path: Path) -> None:
    content = json.loads((scenes_root / "annotations/val.json").read_text())
    used = content["annotations"][0]["category_id"]
    next(c for c in content["categories"] if c["id"] == used)["name"] = "teapot"
    (tmp_path / "mine.json").write_text(json.dumps(content))
    data = {"root": str(tmp_path), "val": {"images": str(scenes_root / "val"), "annotations": "mine.json"}}
    with pytest.raises(CheckpointError, match="objects of 'teapot'"):
        evaluate(config(data=data))
    assert not (tmp_path / "out").exists()


def test_code_in_a_data_config_is_not_run(run: Path, config: Config, tmp_path: Path) -> None:
    content = read_checkpoint(run)
    content["config"]["data"]["val"] = {"_target_": "os.mkdir", "path": str(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match=r"os\.mkdir"):
        evaluate(config(checkpoint=str(tmp_path / "x.ckpt")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"split": "train"}, {"detection_limit": 0}, {"resamples": -1}, {"subset": {"share": 2.0}},
     {"subset": {"ids": [-5]}}, {"subset": {"categories": ["teapot"]}}, {"data": {"test": None}, "split": "test"}],
)  # fmt: skip
def test_impossible_settings_are_refused(config: Config, tmp_path: Path, wrong: dict) -> None:
    if "data" in wrong:
        wrong = {**wrong, "data": {"_target_": "detr_mini.data.DetectionData", "root": ".", "test": None}}
    with pytest.raises(ConfigError):
        evaluate(config(**wrong))
    assert not (tmp_path / "out").exists()


def test_single_settings_replace_those_of_training_and_nothing_is_made_elsewhere() -> None:
    trained = {"_target_": "x", "root": "a", "make": {"train": 1}, "val": {"images": "v", "annotations": "v.json"},
               "size": 128, "augment": [1], "workers": 0}  # fmt: skip
    nothing = {"root": None, "val": {"images": None, "annotations": None}, "workers": None}
    kept = {key: trained[key] for key in ("_target_", "root", "make", "val", "workers")}
    assert data_settings(nothing, trained) == kept
    given = {"root": "b", "val": {"images": None, "annotations": "w.json"}, "workers": 2}
    assert data_settings(given, trained) == {
        "_target_": "x", "root": "b", "make": None, "val": {"images": "v", "annotations": "w.json"}, "workers": 2,
    }  # fmt: skip


@pytest.mark.parametrize("root", ["/elsewhere", "../elsewhere", "~/elsewhere", "~someone/elsewhere"])
def test_stored_settings_write_nowhere_else(root: str) -> None:
    trained = {"_target_": "x", "root": root, "make": {"train": 1}, "annotation_cache": "/a", "shard_cache": "/b"}
    assert data_settings(None, trained) == {"_target_": "x", "root": root, "make": None}
    given = {"annotation_cache": "/mine"}
    assert data_settings(given, trained)["annotation_cache"] == "/mine"
    assert data_settings(None, {**trained, "annotation_cache": None})["annotation_cache"] is None


@pytest.mark.parametrize(
    ("root", "folder", "file"),
    [
        ("here", "/elsewhere", "val.json"), ("here", "../elsewhere", "val.json"), ("here", "~/elsewhere", "val.json"),
        ("here", "there", "/elsewhere/val.json"), ("here", "there", "../../val.json"), ("here", None, "../../val.json"),
        ("/elsewhere", None, "val.json"),
    ],
)  # fmt: skip
def test_stored_settings_make_captions_nowhere_else(root: str, folder: str | None, file: str) -> None:
    trained = {"_target_": "x", "root": root, "captions": {"val": file}}

    def read_only(given: Any, **refer: Any) -> list[str]:
        settings = data_settings(given, {**trained, "refer": {"complete": "all", "folder": folder, **refer}})
        return list(settings["refer"]["read_only"])

    assert read_only(None) == ["val"]
    assert read_only(None, read_only=[]) == ["val"]
    assert read_only({"captions": {"val": None}}) == ["val"]
    assert read_only({"captions": {"val": "/mine/val.json"}}) == []
    mine = {"refer": {"folder": "/mine"}} if folder or root == "here" else {"root": "/mine"}
    assert read_only(mine) == ([] if file == "val.json" else ["val"])
    assert read_only({**mine, "captions": {"val": "mine.json"}}) == []


def test_stored_captions_below_this_folder_may_be_made() -> None:
    trained = {"_target_": "x", "root": "data", "captions": {"train": "made", "val": "val.json", "test": None}}
    for folder in (None, "captions"):
        refer = {"complete": "all", "folder": folder, "read_only": 5}
        assert data_settings(None, {**trained, "refer": refer})["refer"] == {**refer, "read_only": []}
    assert data_settings(None, {**trained, "refer": None})["refer"] is None


def test_a_stored_address_counts_only_where_the_command_names_it() -> None:
    trained = {"_target_": "x", "root": "s3://bucket/a", "make": None}
    with pytest.raises(DataError, match=r"data at s3://bucket/a, and nothing is fetched"):
        data_settings({"root": None}, trained)
    assert data_settings({"root": "s3://bucket/a"}, trained)["root"] == "s3://bucket/a"


def test_a_chosen_kind_of_data_ignores_the_settings_of_training() -> None:
    chosen = {"_target_": "y", "root": "b", "test": None, "val": {"images": "v", "annotations": "v.json"}, "size": 320}
    assert data_settings(chosen, {"_target_": "x", "test": {"images": "t"}}) == {
        "_target_": "y", "root": "b", "train": None, "val": {"images": "v", "annotations": "v.json"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "root", "images"),
    [([], None, None), (["data.root=here"], "here", None), (["data=coco_mini", "data.root=there"], "there", "val2017")],
)
def test_the_config_takes_single_settings_and_whole_groups(
    overrides: list[str], root: str | None, images: str | None
) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIG.parent), version_base="1.3"):
        composed = compose("evaluate", ["checkpoint=x", *overrides])
    assert composed.data.root == root
    assert composed.data.val.images == images
