"""`detect` takes images as people have them, and gives back what a notebook can show."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detr_mini
from detector_parts import CATEGORIES, IMAGE, untrained
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.pixels import as_tensor

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
WANTED = torch.from_numpy(RGB).permute(2, 0, 1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(untrained(), CATEGORIES, IMAGE)


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (RGB[:, :, ::-1], "bgr"), (np.ascontiguousarray(RGB[:, :, ::-1]), "bgr"), (RGB[::-1, ::-1][::-1, ::-1], "rgb"),
        (RGB / 255, "rgb"), ((RGB / 255).astype(np.float16).astype(np.float32), "rgb"), (RGB.astype(np.int64), "rgb"),
        (RGB.astype(np.uint16) * 257, "rgb"), (RGB.transpose(2, 0, 1), "rgb"), (np.asfortranarray(RGB), "rgb"),
        (np.dstack([RGB, np.full((20, 30), 255, np.uint8)]), "rgb"),
        (np.dstack([RGB[:, :, ::-1], np.full((20, 30), 255, np.uint8)]), "bgr"),
        (torch.from_numpy(RGB), "rgb"), (WANTED.flip(0), "bgr"), (WANTED.float() / 255, "rgb"), (WANTED, "rgb"),
        (WANTED.double().requires_grad_() / 255, "rgb"), (np.broadcast_to(RGB, RGB.shape), "rgb"),
    ],
    ids=range(17),
)  # fmt: skip
def test_u03_arrays_and_tensors_of_any_layout_are_the_same_picture(image: Any, channels: str) -> None:
    assert (as_tensor(image, channels).int() - WANTED.int()).abs().max() <= (image.dtype == np.float32)


def test_u03_grey_has_one_channel_or_none_and_opacity_lies_on_white() -> None:
    grey = torch.from_numpy(RGB[:, :, 0]).expand(3, -1, -1)
    for image in (RGB[:, :, 0], RGB[:, :, :1], RGB[None, :, :, 0], torch.from_numpy(RGB[:, :, 0]), RGB[:, :, 0] / 255):
        assert torch.equal(as_tensor(image), grey)
    assert torch.equal(as_tensor(RGB[:, :, 0] > 99), (grey > 99) * torch.tensor(255, dtype=torch.uint8))
    clear = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    assert (as_tensor(clear) == 255).all()
    assert torch.equal(as_tensor(clear), as_tensor(Image.fromarray(clear)))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (RGB.astype(np.float32), "from 0 to 1, this one from 0 to 255; divide it by 255"),
        (RGB / 100 - 1, "undo its normalisation"), (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (RGB.astype(np.int32) - 9, "from 0 to 255, but this one has -9"), (RGB[None], "several images go in a list"),
        (RGB[:, :, :2], "is no image; it must be (H, W, 3)"), (None, "cv2.imread"), (RGB.astype(str), "holds numbers"),
    ],
    ids=range(8),
)  # fmt: skip
def test_u03_what_is_no_picture_is_told_apart(image: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        as_tensor(image)
    assert said in str(caught.value)


def test_u03_a_path_may_begin_with_the_home_folder(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert torch.equal(as_tensor("~/a.png"), WANTED) and torch.equal(as_tensor(Path("~/a.png")), WANTED)
    found = detector.detect("~/a.png", threshold=0)
    assert torch.equal(found.boxes, detector.detect(RGB, threshold=0).boxes)
    assert found.draw().size == (30, 20)


def test_u03_detect_says_which_channel_is_red(detector: Detector) -> None:
    rgb, bgr = detector.detect(RGB, threshold=0), detector.detect(RGB[:, :, ::-1], threshold=0, channels="bgr")
    assert torch.equal(rgb.boxes, bgr.boxes)
    assert bgr.draw().getpixel((29, 0)) == rgb.draw().getpixel((29, 0)), "drawn in the right colours, too"
    with pytest.raises(ConfigError, match="'rgb' or 'bgr'"):
        detector.detect(RGB, channels="gbr")


def test_u17_a_threshold_that_is_no_score_is_refused(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=r"threshold is 50; .* from 0 to 1; for 50 % write 0\.5"):
        detector.detect(RGB, threshold=50)
    for threshold in (-0.1, float("nan"), True, 101):
        with pytest.raises(ConfigError, match="a score from 0 to 1"):
            detector.detect(RGB, threshold=threshold)


def test_u17_a_folder_and_a_pattern_give_a_list_in_the_order_of_names(detector: Detector, tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deep/c.png", "x[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    assert [d.source.name for d in detector.detect(tmp_path)] == ["a.jpg", "b.png", "c.png", "x[1].png"]
    assert [d.source.name for d in detector.detect(f"{tmp_path}/*.jpg")] == ["a.jpg"]
    assert len(detector.detect([tmp_path / "a.jpg", f"{tmp_path}/deep"])) == 2
    assert len(detector.detect(tmp_path / "x[1].png", threshold=0)) > 0, "a file whose name has brackets is one image"
    with pytest.raises(DataError, match="there is no picture in"):
        detector.detect(f"{tmp_path}/*.webp")


def test_u17_detections_show_themselves_and_turn_into_plain_records(detector: Detector) -> None:
    found = detector.detect(RGB, threshold=0)[:3]
    assert isinstance(found, detr_mini.Detections)
    html = found._repr_html_()
    assert html.count("<tr>") == 4
    assert '<img src="data:image/jpeg;base64,' in html
    assert "tensor" not in repr(found)
    assert repr(found).startswith("3 detections (30 x 20 pixels)\n")
    (record, *_) = found.records()
    x1, y1, x2, y2 = found.boxes[0].tolist()
    assert record["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-3)
    assert (record["name"], record["category_id"]) == (found.names[0], found.category_ids[0])
    drawn = found.draw()
    assert drawn.size == (30, 20)
    assert not np.array_equal(np.asarray(drawn), RGB)
    with pytest.raises(UserError, match="give the image that they were found in"):
        found.draw(RGB[:10])
    none = found[[]]
    assert (len(none), none.records()) == (0, [])
    assert "0 detections" in none._repr_html_()


def test_u17_a_table_for_pandas_where_it_is_installed(detector: Detector) -> None:
    found = detector.detect(RGB, threshold=0)[:3]
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(UserError, match="pip install pandas"):
            found.to_pandas()
    else:
        assert [*found.to_pandas()] == ["name", "score", "x1", "y1", "x2", "y2", "category_id"]
    if importlib.util.find_spec("supervision") is None:
        with pytest.raises(UserError, match="pip install supervision"):
            found.to_supervision()
    else:
        assert len(found.to_supervision()) == 3
