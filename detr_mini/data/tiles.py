"""Training on tiles: a split whose images are overlapping windows of large ones, read as `inference.tiles` looks.

A box that a border cuts keeps its part inside, as in a crop of the augmentation. Where too little is inside
(`LEAST_VISIBLE`), there is no object to learn in training, and a region that is ignored in evaluation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detr_mini.boxes import xywh_to_xyxy, xyxy_to_xywh
from detr_mini.data.auto_settings import STEP, sizes_of
from detr_mini.data.mosaic import LEAST_VISIBLE, within
from detr_mini.errors import DataError
from detr_mini.formats.load_report import Chosen
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.images import header
from detr_mini.images.tiling import SMALL_SIDE, Window, windows_of

OVERLAP = 0.2
"""The share of a tile's side that neighbours have in common."""
EMPTY = 1.0
"""Tiles without objects that training keeps, for each one with objects."""


@dataclass(frozen=True)
class _Tile:
    """One window of an image, with the boxes of which something is inside."""

    image: int
    window: Window
    rows: Bool[Tensor, " n"]
    """Of the image's boxes."""
    boxes: Float[Tensor, "k 4"]
    """xyxy in its pixels, cut at its borders."""
    visible: Float[Tensor, " k"]
    """The share of each box's area that is inside."""


def cut_into_tiles(coco: CocoSet, side: int, overlap: float | int = OVERLAP, *, training: bool) -> CocoSet:
    """The windows of `side` pixels of all images as a split, with a sentence about it in its report.

    Images that are no larger stay as they are. In `training`, of the tiles without objects only as many stay as there
    are others, the same ones every time. The images are numbered from 1: they are not those of the annotations.
    """
    tiles = [tile for index in range(len(coco)) for tile in _tiles_of(coco, index, side, overlap)]
    full = torch.tensor([_has_objects(coco, tile) for tile in tiles], dtype=torch.bool)
    empty = (~full).nonzero()[:, 0]
    most = math.ceil(EMPTY * int(full.sum())) if training else len(empty)
    if most < len(empty):
        full[empty[_drawn(len(empty), most)]] = True
        tiles = [tile for tile, stays in zip(tiles, full.tolist(), strict=True) if stays]
    return _as_split(coco, tiles, side, training, max(0, len(empty) - most))


def _tiles_of(coco: CocoSet, index: int, side: int, overlap: float | int) -> Iterator[_Tile]:
    begin, end = coco.first[index : index + 2].tolist()
    boxes = xywh_to_xyxy(coco.boxes_xywh[begin:end])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    height, width = coco.records.sizes[index].tolist()
    for window in windows_of((height, width), side, overlap):
        inside = within(boxes, window.left, window.top, window.width, window.height, 0.0)
        visible = (inside[:, 2:] - inside[:, :2]).prod(1) / area.clamp(min=1e-9)
        rows = visible > 0
        yield _Tile(index, window, rows, inside[rows], visible[rows])


def _has_objects(coco: CocoSet, tile: _Tile) -> bool:
    begin, end = coco.first[tile.image : tile.image + 2].tolist()
    return bool((~coco.is_crowd[begin:end][tile.rows] & (tile.visible >= LEAST_VISIBLE)).any())


def _as_split(coco: CocoSet, tiles: list[_Tile], side: int, training: bool, left_out: int) -> CocoSet:
    rows = torch.cat([torch.zeros(0, dtype=torch.long), *(_rows(coco, tile) for tile in tiles)])
    boxes = torch.cat([torch.zeros(0, 4, dtype=torch.float64), *(tile.boxes for tile in tiles)])
    visible = torch.cat([torch.zeros(0, dtype=torch.float64), *(tile.visible for tile in tiles)])
    owner = torch.repeat_interleave(torch.arange(len(tiles)), torch.tensor([len(t.boxes) for t in tiles]).long())
    crowd, labels = coco.is_crowd[rows], coco.labels[rows]
    slivers = (visible < LEAST_VISIBLE) & ~crowd
    stays = ~slivers if training else torch.ones_like(slivers)
    crowd = (crowd | slivers)[stays]
    objects = ~crowd
    counts = Counter(labels[stays][objects].tolist())
    owned = torch.bincount(owner[stays][objects], minlength=len(tiles))
    cut = int((objects & (visible[stays] < 1 - 1e-6)).sum())
    report = replace(
        coco.report,
        images=len(tiles),
        background=int((owned == 0).sum()),
        boxes=int(objects.sum()),
        crowd=int(crowd.sum()),
        per_category={name: counts[label] for label, name in enumerate(coco.categories.names)},
        notices=[*coco.report.notices, _notice(coco, len(tiles), side, int(objects.sum()), cut, int(slivers.sum()),
                                               training, left_out)],
    )  # fmt: skip
    return CocoSet(
        records=_records(coco.records, tiles),
        categories=coco.categories,
        report=report,
        first=torch.cat(
            [torch.zeros(1, dtype=torch.int64), torch.bincount(owner[stays], minlength=len(tiles)).cumsum(0)]
        ),
        boxes_xywh=xyxy_to_xywh(boxes[stays]),
        labels=labels[stays],
        is_crowd=crowd,
        area=(coco.area[rows] * visible)[stays],
    )


def _rows(coco: CocoSet, tile: _Tile) -> Tensor:
    return int(coco.first[tile.image]) + tile.rows.nonzero()[:, 0]


def _records(images: ImageRecords, tiles: list[_Tile]) -> ImageRecords:
    names, sizes, corners = [], [], []
    for tile in tiles:
        record, window = images[tile.image], tile.window
        whole = record.size == (window.height, window.width)
        names.append(record.file_name)
        sizes.append((window.height, window.width))
        corners.append((-1, -1) if whole else (window.top, window.left))
    places = torch.tensor([tile.image for tile in tiles], dtype=torch.long)
    in_shards = None if images.in_shards is None else images.in_shards.at(places)
    return ImageRecords.of(images.folder, list(range(1, len(tiles) + 1)), names, sizes, corners, in_shards)


def _notice(
    coco: CocoSet, tiles: int, side: int, boxes: int, cut: int, slivers: int, training: bool, left_out: int
) -> str:
    name, before = coco.report.split, int((~coco.is_crowd).sum())
    said = f"{name}: {len(coco)} images are {tiles} tiles of {side} pixels, their {before} boxes {boxes} (a box in "
    said += f"several tiles counts in each), {cut} of them cut by a border"
    if slivers:
        what = "are left out" if training else "are ignored"
        said += f"; {slivers} parts with less than {100 * LEAST_VISIBLE:.0f} % of their box {what}"
    if left_out:
        said += f"; {left_out} tiles without objects are left out"
    return said


def files_in_windows(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], side: int | None, overlap: float | int, most: int | None
) -> ImageRecords:
    """Image files of these sizes (height, width) in the windows that `cut_into_tiles` makes; `side` None: whole.

    Of more windows than `most`, as many stay, the same ones every time.
    """
    found = []
    for path, size in zip(paths, sizes, strict=True):
        for window in windows_of(size, side or max(size), overlap):
            part = window.height, window.width
            found.append((str(path.absolute()), part, (-1, -1) if part == size else (window.top, window.left)))
    if most is not None and most < len(found):
        found = [found[place] for place in _drawn(len(found), most).tolist()]
    names, parts = [name for name, _, _ in found], [part for _, part, _ in found]
    corners = None if side is None else [corner for *_, corner in found]
    return ImageRecords.of(Path("/"), range(1, len(names) + 1), names, parts, corners)


def _drawn(count: int, most: int) -> Int[Tensor, " most"]:
    """As many places out of `count`, ascending; the same ones every time."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


def refuse_undecodable(coco: CocoSet) -> None:
    """DataError where an image is too large to be decoded at once: a TIFF, of which windows can be read."""
    for index in (coco.records.sizes.prod(1) > header.MAX_PIXELS).nonzero()[:1, 0].tolist():
        height, width = coco.records.sizes[index].tolist()
        raise DataError(
            f"{coco.records[index].path} has {width} x {height} pixels, too many to be decoded at once; use tiles: "
            "data.tiles=640 for training, tiles=640 for predict and evaluate"
        )


def choose_tiles(coco: CocoSet, size: int) -> Chosen:
    """The side of tiles for images of `size` in the model, from the boxes of the training set; None: no tiles.

    The largest multiple of STEP at which all but a tenth of the boxes have a shorter side of SMALL_SIDE pixels in the
    model (every category counting the same), at least twice as large as nine of ten boxes are long, and at least half
    of `size`: nothing is enlarged more than twice.
    """
    seen = sizes_of(coco)
    if seen is None:
        return Chosen(None, "there is no box to go by")
    fits = max(seen.small * size / SMALL_SIDE, 2 * seen.large, size / 2)
    side = max(STEP, int(fits) // STEP * STEP)
    if side >= seen.image:
        enough = seen.small * size / seen.image >= SMALL_SIDE
        why = "are large enough" if enough else "are too large for smaller windows"
        return Chosen(None, f"in whole images of {seen.image:.0f} pixels, nine of ten boxes {why}")
    small = seen.small * size / side
    return Chosen(side, f"nine of ten boxes (each category counting the same) are then at least {small:.0f} pixels "
                        "wide and high in the model")  # fmt: skip
