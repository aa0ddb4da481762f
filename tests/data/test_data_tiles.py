"""Training on tiles: what is cut stays true, nothing is lost without a line, and large files are read by windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_parts import write_plates
from detr_mini.boxes import box_iou, xywh_to_xyxy
from detr_mini.captions.datamodule import CaptionData
from detr_mini.data import dataset
from detr_mini.data.auto_settings import sizes_of
from detr_mini.data.module import DetectionData
from detr_mini.data.mosaic import LEAST_VISIBLE
from detr_mini.data.tiles import choose_tiles, cut_into_tiles
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.load_report import SplitReport
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.images import header
from detr_mini.images.tiling import SMALL_SIDE, BoxSizes, windows_of
from detr_mini.images.windows import open_windows
from detr_mini.structures import Categories

Box = tuple[float, float, float, float]
"""Left, top, width, height."""
HOW: dict[str, Any] = {"size": 64, "mean": [0.5] * 3, "std": [0.25] * 3, "stride": 32, "seed": 0}


def one_image(boxes: Sequence[Box], size: tuple[int, int], folder: Path = Path("none"), crowd: bool = False) -> CocoSet:
    """A set of one image with boxes of a single category."""
    table = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return CocoSet(
        records=ImageRecords.of(folder, [7], ["a.png"], [size]),
        categories=Categories((3,), ("bolt",)),
        report=SplitReport("train", images=1, boxes=len(boxes)),
        first=torch.tensor([0, len(boxes)]),
        boxes_xywh=table,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        is_crowd=torch.full((len(boxes),), crowd),
        area=table[:, 2:].prod(1),
    )


def in_image(tiles: CocoSet) -> torch.Tensor:
    """The boxes of tiles as xyxy in pixels of their image."""
    corners = tiles.records.corners
    assert corners is not None
    moved = corners.clamp(min=0)[tiles.owner].flip(1).double()
    return xywh_to_xyxy(tiles.boxes_xywh) + moved.repeat(1, 2)


places = st.tuples(st.integers(0, 200), st.integers(0, 140), st.integers(2, 90), st.integers(2, 90))


@settings(deadline=None, max_examples=40)
@given(st.lists(places, max_size=6), st.sampled_from([64, 100, 300]), st.sampled_from([0.1, 0.3]))
def test_a_part_lies_in_its_box_and_what_fits_the_overlap_is_whole_somewhere(
    given_boxes: list[tuple[int, int, int, int]], side: int, overlap: float
) -> None:
    size = (240, 300)
    boxes = [(float(x), float(y), float(min(w, size[1] - x)), float(min(h, size[0] - y))) for x, y, w, h in given_boxes]
    whole = one_image(boxes, size)
    tiles = cut_into_tiles(whole, side, overlap, training=False)
    assert len(tiles) == len(windows_of(size, side, overlap))
    parts, truth = in_image(tiles), xywh_to_xyxy(whole.boxes_xywh)
    sizes = tiles.records.sizes[tiles.owner].double()
    assert (tiles.boxes_xywh[:, :2] >= 0).all()
    assert (tiles.boxes_xywh[:, :2] + tiles.boxes_xywh[:, 2:] <= sizes.flip(1) + 1e-9).all()
    for part in parts:
        inside = (truth[:, :2] <= part[:2] + 1e-9) & (truth[:, 2:] >= part[2:] - 1e-9)
        assert bool(inside.all(1).any())
    for box, (_, _, w, h) in zip(truth, boxes, strict=True):
        found = bool((parts == box).all(1).any())
        assert found or max(w, h) > int(side * overlap) - 1
    covered = box_iou(truth.float(), parts.float()).amax(1) if len(parts) else torch.zeros(len(truth))
    assert (covered > 0).all(), "something of each box is in a tile"


def test_slivers_are_not_learned_and_are_ignored_in_evaluation() -> None:
    whole = one_image([(90, 10, 40, 20)], (100, 200))  # the first tile has a quarter of it, the second three
    training, evaluation = (cut_into_tiles(whole, 100, 0.05, training=t) for t in (True, False))
    windows = windows_of((100, 200), 100, 0.05)
    shares = [max(0, min(w.left + 100, 130) - max(w.left, 90)) / 40 for w in windows]
    assert any(0 < share < LEAST_VISIBLE for share in shares)
    assert len(training.boxes_xywh) == sum(share >= LEAST_VISIBLE for share in shares)
    assert not training.is_crowd.any()
    assert len(evaluation.boxes_xywh) == sum(share > 0 for share in shares)
    assert int(evaluation.is_crowd.sum()) == sum(0 < share < LEAST_VISIBLE for share in shares)
    assert evaluation.area.sum() == pytest.approx(sum(shares) * 800)
    assert "are left out" in training.report.notices[-1] and "are ignored" in evaluation.report.notices[-1]


def test_training_keeps_as_many_empty_tiles_as_others_and_says_so() -> None:
    whole = one_image([(10, 10, 20, 20)], (1000, 1000))
    training, evaluation = (cut_into_tiles(whole, 100, 0.2, training=t) for t in (True, False))
    assert len(training) == 2 * int((evaluation.objects > 0).sum())
    assert (training.objects > 0).sum() == (evaluation.objects > 0).sum()
    assert f"{len(evaluation) - len(training)} tiles without objects are left out" in training.report.notices[-1]
    again = cut_into_tiles(whole, 100, 0.2, training=True)
    assert torch.equal(again.records.corners, training.records.corners)  # type: ignore[arg-type]


def test_crowd_regions_stay_crowd_regions() -> None:
    tiles = cut_into_tiles(one_image([(0, 0, 300, 300)], (300, 300), crowd=True), 100, 0.2, training=False)
    assert tiles.is_crowd.all() and len(tiles.boxes_xywh) == len(tiles)


def test_tiles_show_their_part_of_the_file_which_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tiles = cut_into_tiles(one_image([(10, 10, 20, 20)], (150, 210), tmp_path), 64, 0.2, training=False)
    how = {"size": 64, "shorter_side": None, "mean": [0.5] * 3, "std": [0.25] * 3}
    plain, cached = (dataset.DetectionDataset(tiles, cache_megabytes=mb, **how) for mb in (0, 100))
    opened: list[Path] = []
    monkeypatch.setattr(dataset, "open_windows", lambda path: opened.append(path) or open_windows(path))
    for index, record in enumerate(tiles.records):
        assert record.window is not None
        top, left, height, width = record.window
        expected = torch.from_numpy(picture[top : top + height, left : left + width]).permute(2, 0, 1)
        assert torch.equal(plain.decoded(index), expected)
        assert torch.equal(cached.decoded(index), expected)
    assert len(opened) == 1


@settings(deadline=None)
@given(st.integers(3, 300), st.integers(3, 300), st.integers(224, 640), st.integers(300, 8000))
def test_chosen_tiles_show_small_boxes_and_hold_large_ones(width: int, height: int, size: int, side: int) -> None:
    coco = one_image([(0, 0, width, height)], (side, side))
    chosen = choose_tiles(coco, size).value
    if chosen is None:
        return
    assert chosen < side
    assert chosen >= min(size / 2, 2 * max(width, height)) - 32
    if min(width, height) * size / chosen < SMALL_SIDE:  # a larger box, or too much enlarging, does not allow more
        assert chosen <= max(2 * max(width, height), size / 2)


@settings(deadline=None)
@given(st.floats(3, 500), st.floats(3, 500), st.floats(16, 8000), st.integers(64, 1000))
def test_windows_have_at_most_the_side_of_the_training_images(
    small: float, large: float, image: float, size: int
) -> None:
    side = BoxSizes(image, small, large).tile_side(size)
    assert round(min(image, max(16, image / 2))) <= side <= round(image)


@pytest.mark.parametrize(
    ("image", "small", "large", "side"),
    [
        (2000, 30, 100, 1200),  # small boxes have SMALL_SIDE pixels in the model
        (6000, 30, 100, 3000),  # half the side of the training images: small boxes have 6.4 pixels
        (2000, 30, 900, 1800),  # twice as long as large boxes
        (1000, 60, 100, 1000),  # the training images
    ],
)
def test_bounds_of_the_side_of_windows_count_for_more_than_the_pixels_of_small_boxes(
    image: float, small: float, large: float, side: int
) -> None:
    assert BoxSizes(float(image), float(small), float(large)).tile_side(640) == side


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(686, 1024)] * 10, 0.67),
        ([(1024, 768)] * 9 + [(500, 500)], 1.333),
        ([(1024, 768)] * 7 + [(768, 1024)] * 3, 1.0),  # upright and lying ones
        ([(100, 1000)] * 5, 0.5),  # a thinner window would show too little
    ],
)
def test_windows_have_the_shape_of_the_training_images_where_most_are_alike(
    sizes: list[tuple[int, int]], shape: float
) -> None:
    coco = one_image([(0, 0, 20, 30)], sizes[0])
    ids = range(1, len(sizes) + 1)
    records = ImageRecords.of(Path("none"), ids, [f"{i}.png" for i in ids], sizes)
    first = torch.tensor([0, *[1] * len(sizes)])
    found = sizes_of(replace(coco, records=records, first=first))
    assert found is not None
    assert found.shape == pytest.approx(shape, abs=0.001)


@settings(deadline=None)
@given(st.integers(20, 900), st.integers(20, 900), st.integers(32, 300), st.floats(0.5, 2))
def test_windows_of_a_shape_cover_the_image(height: int, width: int, side: int, shape: float) -> None:
    covered = torch.zeros(height, width, dtype=torch.bool)
    sides = round(side * min(1, shape)), round(side * min(1, 1 / shape))
    for window in windows_of((height, width), side, 0.2, shape):
        assert (window.height, window.width) == (min(sides[0], height), min(sides[1], width))
        assert max(window.height, window.width) <= side
        covered[window.top : window.top + window.height, window.left : window.left + window.width] = True
    assert covered.all()


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    return write_plates(tmp_path)


def data_of(root: Path, **how: Any) -> DetectionData:
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    return DetectionData(**{**HOW, "root": root, **splits, "batch_size": 4, **how})


def test_a_file_too_large_to_decode_is_trained_on_by_tiles(plates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_PIXELS", 50_000)
    data = data_of(plates, tiles=100)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape[-1] <= 64
    assert len(data.val_set) == len(windows_of((300, 400), 100, 0.2))
    assert data.report.splits["train"].notices[-1].startswith("train: 1 images are ")
    whole = data_of(plates)
    whole.setup("fit")
    with pytest.raises(DataError, match=r"400 x 300 pixels, too many to be decoded at once; use tiles: data\.tiles="):
        whole.train_dataloader()


def test_auto_goes_by_the_boxes_and_says_so(plates: Path) -> None:
    data = data_of(plates, tiles="auto")
    data.setup("fit")
    assert data.tiles == 32 and data.report.chosen["data.tiles"] == 32
    assert data_of(plates, tiles=None).tiles is None
    whole, large = (data_of(plates, tiles="auto", size=size) for size in (640, 320))
    for each in (whole, large):
        each.setup("fit")
    assert whole.tiles is None and "data.tiles=null is chosen: in whole images of 400" in str(whole.report.notices)
    assert large.tiles == 224 and data.report.splits["val"].images > len(large.val_set)


def test_impossible_tiles_are_refused(plates: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.tiles is 3; it must be auto, null or the side"):
        data_of(plates, tiles=3)
    with pytest.raises(ConfigError, match=r"data\.tile_overlap is 2; it must be a share"):
        data_of(plates, tiles=100, tile_overlap=2)
    with pytest.raises(ConfigError, match=r"data\.tiles=100 does not work with captions"):
        CaptionData(root=plates, train=None, val=None, captions={}, tokenizer={"kind": "words"}, tiles=100, **HOW)
