"""`detect` by tiles: the same face for files, arrays and detectors of every kind; a large file is read by windows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from detector_parts import CATEGORIES
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.images import header
from detr_mini.inference.detect_tiles import detect_tiled
from detr_mini.inference.detector import Detector
from detr_mini.structures import Categories, Detections, OperatingPoint
from memory_parts import growth

LOW = 0.01
"""Below the scores of an untrained detector."""


class Squares:
    """Finds bright squares on a dark ground, in windows of any size: a detector without errors."""

    categories = CATEGORIES
    most = None
    operating_point = OperatingPoint(threshold=0.5)
    image: ClassVar[dict[str, Any]] = {"size": 128}
    most_pixels = 0

    def detect(self, images: Any, **_: Any) -> list[Detections]:
        return [self._of(pixels) for pixels in images]

    def _of(self, pixels: torch.Tensor) -> Detections:
        from scipy.ndimage import find_objects, label

        self.most_pixels = max(self.most_pixels, pixels[0].numel())
        slices = find_objects(label(pixels[0].numpy() > 128)[0])
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in slices if min(y.stop - y.start, x.stop - x.start) > 1]
        table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.zeros(len(table), dtype=torch.long)
        return Detections(table, torch.full((len(table),), 0.9), labels, CATEGORIES, image_size=tuple(pixels.shape[1:]))

    def least_score(self, threshold: float | None = None, caption: Any = None) -> float:
        return 0.5 if threshold is None else threshold

    def categories_of(self, caption: Any) -> Categories:
        return self.categories


def squares(side: int, spacing: int = 40) -> tuple[np.ndarray, list[list[int]]]:
    """A dark picture with bright squares of 5 to 24 pixels, and their boxes."""
    picture, boxes = np.zeros((side, side, 3), np.uint8), []
    rng = np.random.default_rng(0)
    for top in range(5, side - 30, spacing):
        for left in range(5, side - 30, spacing):
            size = int(rng.integers(5, 25))
            picture[top : top + size, left : left + size] = 255
            boxes.append([left, top, left + size, top + size])
    return picture, boxes


def test_every_object_of_a_large_file_is_found_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, boxes = squares(900)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", tile=(128, 128), compression="zlib")
    monkeypatch.setattr(header, "MAX_PIXELS", 100_000)
    detector = Squares()
    found = detect_tiled(detector, tmp_path / "a.tif", "auto", 0.25)
    assert sorted(found.boxes.int().tolist()) == sorted(boxes)
    assert len(boxes) > 400, "more than COCO's metric counts"
    assert found.image_size == (900, 900)
    assert detector.most_pixels < 900 * 900 / 4


def test_an_image_no_larger_than_a_tile_is_detected_in_as_a_whole(detector: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 64, 3), np.uint8)
    whole, tiled = detector.detect(image, threshold=0), detector.detect(image, threshold=0, tiles=64)
    assert torch.equal(whole.boxes, tiled.boxes) and torch.equal(whole.scores, tiled.scores)


def test_files_arrays_and_lists_give_the_same(detector: Detector, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(image).save(tmp_path / name)
    given = [image, tmp_path / "a.png", str(tmp_path / "a.tif"), torch.from_numpy(image).permute(2, 0, 1)]
    first, *others = detector.detect(given, threshold=LOW, tiles=64, overlap=0.3)
    assert len(first) > 0 and (first.boxes <= torch.tensor([170, 150, 170, 150])).all()
    for other in others:
        assert torch.equal(first.boxes, other.boxes) and torch.equal(first.scores, other.scores)
    assert len(detector.detect(image, threshold=LOW, tiles=64, overlap=0.3, limit=5)) == 5


def test_no_two_of_a_category_overlap_by_more_than_the_detector_allows(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detr_mini.boxes import box_iou

    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    monkeypatch.setattr(detector, "operating_point", OperatingPoint(LOW, 0.4))
    found = detector.detect(image, tiles=64)
    iou = box_iou(found.boxes, found.boxes).fill_diagonal_(0) * (found.labels[:, None] == found.labels[None])
    assert len(found) > 1 and float(iou.max()) <= 0.4


def test_wrong_requests_are_one_sentence(detector: Detector, tmp_path: Path) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(ConfigError, match="tiles is 3"):
        detector.detect(image, tiles=3)
    for key, count in (("limit", 0), ("limit", -1), ("batch_size", 0), ("batch_size", -2)):
        for tiles in (64, None):
            with pytest.raises(ConfigError, match=f"{key} is {count}; it must be at least 1"):
                detector.detect(image, tiles=tiles, **{key: count})
    with pytest.raises(UserError, match="trained without captions"):
        detector.detect(image, caption="the nut left of the bolt", tiles=64)
    with pytest.raises(DataError, match="there is no image file"):
        detector.detect(tmp_path / "none.tif", tiles=64)
    with pytest.raises(UserError, match="a sentence speaks of the whole image"):
        detect_tiled(Squares(), image, 64, 0.2, caption="the nut left of the bolt")


class Limited(Squares):
    """A file that was exported with `limit=4`."""

    most = 4

    def detect(self, images: Any, limit: int | None = None, **_: Any) -> list[Detections]:
        return [found[:limit] for found in super().detect(images)]


def test_a_window_with_as_many_detections_as_are_given_is_warned_of() -> None:
    picture, boxes = squares(300)
    usual = r"a window has 4 detections with a score of at least 0\.5, .*; smaller tiles"
    with pytest.warns(UserWarning, match=f"{usual}, or a file that is exported with a larger limit, find more"):
        assert len(detect_tiled(Limited(), picture, 128, 0.25, in_window=4)) < len(boxes)
    with pytest.warns(UserWarning, match=f"{usual} find more"):
        detect_tiled(Squares(), np.ascontiguousarray(picture[:70, :70]), 128, 0.25, in_window=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(detect_tiled(Limited(), picture, 128, 0.25, in_window=100)) >= len(boxes)
        assert len(detect_tiled(Limited(), picture, 128, 0.25, in_window=4, limit=4)) == 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    side, tile = 20_000, 512
    picture, boxes = squares(tile)
    data = (picture for _ in range((-(-side // tile)) ** 2))
    tifffile.imwrite(tmp_path / "a.tif", data, shape=(side, side, 3), dtype=np.uint8, tile=(tile, tile),
                     photometric="rgb", compression="zlib")  # fmt: skip
    grown = growth()
    found = detect_tiled(Squares(), tmp_path / "a.tif", 1024, 0.1)
    assert grown() < 1000, f"{grown():.0f} MB"
    assert len(found) >= len(boxes) * (side // tile) ** 2
