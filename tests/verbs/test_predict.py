"""`predict` reads images, writes records and drawn images, and leaves all other files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from detector_parts import CATEGORIES
from detr_mini.errors import CheckpointError, ConfigError, DataError, UserError
from detr_mini.inference import prediction_folder
from detr_mini.inference.detector import load
from detr_mini.inference.sources import find_pictures
from detr_mini.inference.video_source import VideoWriter
from detr_mini.verbs.predict import predict

CONFIG = Path(__file__).parents[2] / "configs" / "predict.yaml"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i, name in enumerate(["a.jpg", "deep/er/b.png", "deep/50% off #2 +a.bmp", "deep/er/c.tif"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_bytes(b"")
    return folder


def config(checkpoint: Path, source: object, output: Path, **other: Any) -> DictConfig:
    defaults = OmegaConf.load(CONFIG)
    for key in ("defaults", "hydra"):
        defaults.pop(key)
    said = {"checkpoint": str(checkpoint), "source": source, "output": str(output), "threshold": 0.0, **other}
    merged = OmegaConf.merge(defaults, said)
    assert isinstance(merged, DictConfig)
    return merged


def names(source: str | list[str], *written: Path) -> list[str]:
    return [found.name for found in find_pictures(source, written)]


def test_subfolders_are_searched_and_names_keep_their_folders(photos: Path) -> None:
    assert names(str(photos)) == ["a.jpg", "deep/50% off #2 +a.bmp", "deep/er/b.png", "deep/er/c.tif"]


def test_files_patterns_and_lists_work(photos: Path) -> None:
    assert names(str(photos / "a.jpg")) == ["a.jpg"]
    assert names(f"{photos}/**/*.png") == ["deep/er/b.png"]
    assert names([str(photos / "a.jpg"), str(photos / "deep"), str(photos / "deep/er")]) == names(str(photos))


def test_a_missing_source_is_refused(photos: Path) -> None:
    for nothing in (photos / "x", photos / "*.webp"):
        with pytest.raises(DataError, match="check the path"):
            find_pictures(str(nothing))
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="no picture"):
        find_pictures(str(photos / "empty"))


def test_records_agree_with_detect(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    index = json.loads((output / "images.json").read_text())
    records = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in index["images"]] == names(str(photos))
    assert index["categories"] == CATEGORIES.records()
    detector = load(checkpoint)
    for image in index["images"]:
        assert (image["width"], image["height"]) == (60, 40)
        mine = [r for r in records if r["image_id"] == image["id"]]
        found = detector.detect(photos / image["file_name"], threshold=0)
        assert [r["score"] for r in mine] == pytest.approx(found.scores.tolist(), abs=1e-4)
        alone = json.loads((output / "results" / f"{image['file_name']}.json").read_text())
        assert [r["bbox"] for r in alone["detections"]] == [r["bbox"] for r in mine]
        assert {r["name"] for r in alone["detections"]} <= set(CATEGORIES.names)


def test_images_are_drawn_on_request(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    drawn = sorted(p.relative_to(output / "drawn").as_posix() for p in (output / "drawn").rglob("*.*"))
    assert drawn == ["a.jpg", "deep/50% off #2 +a.bmp.drawn.png", "deep/er/b.png", "deep/er/c.tif.drawn.png"]
    assert not (predict(config(checkpoint, str(photos), tmp_path / "plain", draw=False)) / "drawn").exists()


def test_attention_is_drawn_on_request(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out", explain=True))
    explained = sorted(p.relative_to(output / "explained").as_posix() for p in (output / "explained").rglob("*.*"))
    assert explained == sorted(p.relative_to(output / "drawn").as_posix() for p in (output / "drawn").rglob("*.*"))
    predict(config(checkpoint, str(photos), output))
    assert not (output / "explained").exists()  # written by the earlier run


def test_a_second_run_replaces_the_first_and_leaves_other_files_alone(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    (output / "mine.txt").write_text("mine")
    predict(config(checkpoint, str(photos / "a.jpg"), output))
    assert sorted(p.name for p in output.iterdir()) == [
        "drawn",
        "images.json",
        "mine.txt",
        "predictions.json",
        "results",
    ]
    assert [p.name for p in (output / "results").iterdir()] == ["a.jpg.json"]


def test_results_among_the_images_are_not_read_as_images(checkpoint: Path, photos: Path) -> None:
    for _ in range(2):
        output = predict(config(checkpoint, str(photos), photos))
        assert len(json.loads((output / "images.json").read_text())["images"]) == 4


def test_a_folder_that_predict_did_not_write_is_not_overwritten(checkpoint: Path, photos: Path) -> None:
    (photos / "results").mkdir()
    for stray in (None, "{}", "not json"):
        if stray is not None:
            (photos / "images.json").write_text(stray)
        with pytest.raises(UserError, match="did not write"):
            predict(config(checkpoint, str(photos / "deep"), photos))


def test_images_inside_the_results_are_refused(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    before = sorted(output.rglob("*"))
    with pytest.raises(UserError, match="choose another output"):
        predict(config(checkpoint, str(output / "drawn"), output))
    assert sorted(output.rglob("*")) == before


def test_a_broken_image_is_named_and_the_others_are_read(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    index = json.loads((output / "images.json").read_text())
    assert [entry["file_name"] for entry in index["unreadable"]] == ["broken.jpg"]
    assert len(index["images"]) == 4
    assert "broken.jpg" in capsys.readouterr().out.replace("\n", "")


def test_nothing_is_left_behind_where_nothing_can_be_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.jpg"):
        predict(config(checkpoint, str(tmp_path / "x.jpg"), tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_run_leaves_the_earlier_results(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = predict(config(checkpoint, str(photos), tmp_path / "out"))
    before = (output / "predictions.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction_folder, "_write", full)
    with pytest.raises(UserError, match="No space left"):
        predict(config(checkpoint, str(photos / "a.jpg"), output))
    assert (output / "predictions.json").read_bytes() == before
    assert not [p for p in output.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"threshold": 1.5}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"checkpoint": "no/such.ckpt"}, CheckpointError),
        ({"device": "toaster"}, UserError),
        ({"track": True}, ConfigError),
        ({"every": 2}, ConfigError),
        ({"start": 1.0}, ConfigError),
        ({"end": 2.0}, ConfigError),
        ({"source": ["a", "b"], "video": True}, ConfigError),
        ({"source": 0, "explain": True}, ConfigError),
    ],
)
def test_impossible_settings_are_refused(
    checkpoint: Path, photos: Path, tmp_path: Path, wrong: dict, error: type[UserError]
) -> None:
    with pytest.raises(error):
        predict(OmegaConf.merge(config(checkpoint, str(photos), tmp_path / "out"), wrong))
    assert not (tmp_path / "out").exists()


def test_u11_where_nothing_is_found_the_best_score_and_a_threshold_to_try_are_printed(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(config(checkpoint, str(photos), tmp_path / "none", threshold=1.0))
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 images, 0 detections with a score of at least 1" in printed
    hint = re.search(r"the best score is ([\d.]+); threshold=([\d.]+) would show that detection", printed)
    assert hint is not None
    best, lower = map(float, hint.groups())
    assert 0 < lower < best < 1
    predict(config(checkpoint, str(photos), tmp_path / "some", threshold=lower))
    assert json.loads((tmp_path / "some" / "predictions.json").read_text())


def test_where_tiles_hold_nothing_the_least_score_that_was_looked_at_is_printed(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_folder, "FAINT", 0.99)
    predict(config(checkpoint, str(photos), tmp_path / "out", threshold=1.0, tiles=64))
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing has a score of at least 0.99, the least that is looked at in tiles" in printed
    assert "the best score is" not in printed


def test_u11_the_checkpoints_own_threshold_and_suppression_hold_unless_others_are_given(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["operating_point"] = {"threshold": 0.0, "suppress_iou": 0.3}
    own = tmp_path / "own.ckpt"
    torch.save(content, own)

    def found(**settings: Any) -> list[tuple[int, str, float]]:
        predict(config(own, str(photos), tmp_path / "out", **settings))
        records = json.loads((tmp_path / "out" / "predictions.json").read_text())
        return [(r["image_id"], str(r["bbox"]), r["score"]) for r in records]

    everything = found(threshold=0.0, suppress_iou=None)
    assert set(found(threshold=None)) < set(everything)
    assert found(threshold=None) == found(threshold=0.0, suppress_iou=0.3)
    assert load(own).operating_point.suppress_iou == 0.3


def test_u11_an_impossible_suppression_is_refused(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suppress_iou is 7; it must be auto, null or an IoU above 0 and at most 1"):
        predict(config(checkpoint, str(photos), tmp_path / "out", suppress_iou=7))


def test_tiles_find_in_large_images_and_draw_them(checkpoint: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.tif", compression="tiff_lzw")
    (tmp_path / "broken.tif").write_bytes((tmp_path / "large.tif").read_bytes()[:3000])
    output = predict(config(checkpoint, str(tmp_path / "*.tif"), tmp_path / "out", threshold=0.01, tiles=128))
    index = json.loads((output / "images.json").read_text())
    assert [(image["width"], image["height"]) for image in index["images"]] == [(500, 300)]
    assert [entry["file_name"] for entry in index["unreadable"]] == ["broken.tif"]
    records = json.loads((output / "predictions.json").read_text())
    found = load(checkpoint).detect(tmp_path / "large.tif", threshold=0.01, tiles=128)
    assert len(found) > 0
    assert [r["score"] for r in records] == pytest.approx(found.scores.tolist(), abs=1e-4)
    assert (output / "drawn" / "large.tif.drawn.png").is_file()


def test_a_video_is_predicted_in(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    writer = VideoWriter(tmp_path / "clip.mp4", 10)
    for shade in range(10):
        writer.write(np.full((48, 64, 3), 20 * shade, np.uint8))
    writer.close()
    settings = {"every": 2, "track": True, "draw": True}
    with pytest.raises(ConfigError, match="track=true is for videos, and source is none; leave it out, or add video"):
        predict(config(checkpoint, str(tmp_path), tmp_path / "out", track=True))
    output = predict(config(checkpoint, str(tmp_path / "clip.mp4"), tmp_path / "out", **settings))
    lines = [json.loads(line) for line in (output / "frames.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4, 6, 8]
    assert "5 frames" in capsys.readouterr().out and (output / "drawn.mp4").is_file()
    predict(config(checkpoint, str(tmp_path / "clip.mp4"), output, draw=False))  # an earlier run's results go
    assert not (output / "drawn.mp4").exists()


@pytest.mark.parametrize("wrong", [{"tiles": "many"}, {"tiles": 64, "overlap": 2.0}, {"tiles": 64, "explain": True},
                                   {"limit": 0}])  # fmt: skip
def test_impossible_tiles_are_refused(checkpoint: Path, photos: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        predict(config(checkpoint, str(photos), tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()
