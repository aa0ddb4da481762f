"""One split in memory: arrays that worker processes share, not lists of objects that each of them would copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.load_report import SplitReport
from detr_mini.images.encoded import Encoded, ImageFile
from detr_mini.images.header import is_huge
from detr_mini.images.load import load_image, load_reduced
from detr_mini.images.windows import Windowed, open_windows, reduced
from detr_mini.shards.store import ShardStore
from detr_mini.structures import Target


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set."""

    image_id: int
    file_name: str
    """As the annotations have it."""
    path: Path
    size: tuple[int, int]
    """(height, width) of the upright image, or of its window."""
    window: tuple[int, int, int, int] | None = None
    """(top, left, height, width) of the part of the file that is the image; None: all of it."""
    encoded: Encoded | None = None
    """The file's bytes where they lie in a shard; `path` is then only a name."""

    @property
    def source(self) -> ImageFile:
        """The image file."""
        return self.path if self.encoded is None else self.encoded

    @property
    def for_detectors(self) -> Path | UInt8[Tensor, "3 h w"]:
        """What `detect` takes: the path, or the pixels of a window and of a file in a shard."""
        return self.path if self.window is None and self.encoded is None else self.pixels()

    def pixels(self) -> UInt8[Tensor, "3 h w"]:
        """The image, decoded. DataError where the file is broken, or the window not inside it."""
        if self.window is None:
            return load_image(self.source)
        with open_windows(self.source) as whole:
            return self.cut_from(whole)

    def reduced_pixels(self, most: int | None) -> tuple[UInt8[Tensor, "3 h w"], tuple[int, ...]]:
        """The image, decoded by `load_reduced`, and its whole (height, width); a window stays whole. See `pixels`."""
        if self.window is None:
            return load_reduced(self.source, most)
        pixels = self.pixels()
        return pixels, pixels.shape[1:]

    def cut_from(self, whole: Windowed) -> UInt8[Tensor, "3 h w"]:
        """The window, of the file's image. DataError where it is not inside."""
        assert self.window is not None
        top, left, height, width = self.window
        if top + height > whole.size[0] or left + width > whole.size[1]:
            raise DataError(
                f"{self.path} is {whole.size[1]} x {whole.size[0]} pixels when decoded, but its header says more; "
                "save the image again"
            )
        return whole.window(top, left, height, width)

    def reduced(self, longest: int) -> UInt8[Tensor, "3 h w"]:
        """To be shown: as `pixels`, a file of more than MAX_PIXELS with a longer side of about `longest` pixels."""
        if self.window is not None or not is_huge(self.size):
            return self.pixels()
        with open_windows(self.source) as whole:
            return reduced(whole, longest)


@dataclass(frozen=True)
class InShards:
    """Where the images of a set lie in shards."""

    store: ShardStore
    places: Int[Tensor, " n"]
    """Of each image its place in the store, -1 where it is a file of its own."""

    def at(self, indices: Int[Tensor, " m"]) -> InShards:
        """Of some of the images."""
        return InShards(self.store, self.places[indices])

    def and_files(self, count: int) -> InShards:
        """With images behind them that are files of their own."""
        return InShards(self.store, torch.cat([self.places, self.places.new_full((count,), -1)]))

    def encoded(self, index: int) -> Encoded | None:
        """An image's bytes."""
        place = int(self.places[index])
        return None if place < 0 else Encoded(partial(self.store.name_of, place), partial(self.store.content, place))


@dataclass(frozen=True)
class ImageRecords(Sequence[ImageRecord]):
    """The images of a set, a record made when it is asked for. Tensors: forked or spawned, workers share them."""

    folder: Path
    ids: Int[Tensor, " n"]
    """Ascending."""
    sizes: Int[Tensor, "n 2"]
    """(height, width) of the upright images."""
    names: UInt8[Tensor, " characters"]
    """All file names, one behind the other, UTF-8."""
    ends: Int[Tensor, " n_1"]
    """Name i is `names[ends[i]:ends[i + 1]]`."""
    corners: Int[Tensor, "n 2"] | None = None
    """(top, left) of the window that each image is of its file, -1 where it is all of it; None: all are whole files."""
    in_shards: InShards | None = None
    """None: all are files of their own."""

    @classmethod
    def of(
        cls,
        folder: Path,
        ids: Sequence[int],
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        corners: Sequence[tuple[int, int]] | None = None,
        in_shards: InShards | None = None,
    ) -> ImageRecords:
        """From lists, ids ascending."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        joined = bytearray(b"".join(encoded))
        return cls(
            folder,
            torch.tensor(ids, dtype=torch.int64),
            torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
            torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8),
            torch.tensor([0, *map(len, encoded)], dtype=torch.int64).cumsum(0),
            None if corners is None else torch.tensor(corners, dtype=torch.int64).reshape(-1, 2),
            in_shards,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def plus(self, more: ImageRecords) -> ImageRecords:
        """These, and others behind them, whose ids follow the largest. The others are files with absolute names."""
        start = int(self.ids.max()) + 1 if len(self) else 1
        corners = None
        if self.corners is not None or more.corners is not None:
            corners = torch.cat([each.sizes * 0 - 1 if each.corners is None else each.corners for each in (self, more)])
        return ImageRecords(
            self.folder,
            torch.cat([self.ids, torch.arange(start, start + len(more))]),
            torch.cat([self.sizes, more.sizes]),
            torch.cat([self.names, more.names]),
            torch.cat([self.ends, self.ends[-1] + more.ends[1:]]),
            corners,
            None if self.in_shards is None else self.in_shards.and_files(len(more)),
        )

    @property
    def paths(self) -> list[Path]:
        """The images' files. DataError where they lie in shards."""
        if self.in_shards is not None:
            raise DataError(self.in_shards.store.index.no_files(self.in_shards.store.root))
        return [record.path for record in self]

    def of_id(self, image_id: int) -> ImageRecord:
        """The record of an image by its id."""
        return self[self.index_of(image_id)]

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no image {index}: the split has {len(self)} images")
        index %= len(self)
        begin, end = self.ends[index : index + 2].tolist()
        name = self.names[begin:end].numpy().tobytes().decode("utf-8", "surrogateescape")
        height, width = self.sizes[index].tolist()
        top, left = (-1, -1) if self.corners is None else self.corners[index].tolist()
        window = None if top < 0 else (top, left, height, width)
        encoded = None if self.in_shards is None else self.in_shards.encoded(index)
        return ImageRecord(int(self.ids[index]), name, self.folder / name, (height, width), window, encoded)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[index] for index in range(len(self)))

    def index_of(self, image_id: int) -> int:
        """The place of an id; KeyError where there is none."""
        index = int(torch.searchsorted(self.ids, image_id))
        if index == len(self) or int(self.ids[index]) != image_id:
            raise KeyError(image_id)
        return index


@dataclass(frozen=True)
class CocoSet:
    """One split, read and checked. Images stand in the order of their ids."""

    records: ImageRecords
    categories: Categories
    report: SplitReport
    first: Int[Tensor, " images_1"]
    """Image i owns the boxes from first[i] to first[i + 1]."""
    boxes_xywh: Float[Tensor, "n 4"]
    """float64, pixels of the upright image."""
    labels: Int[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]
    area: Float[Tensor, " n"]
    """float64, as the annotations have it: COCO's limits between small, medium and large are exact."""

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def image_ids(self) -> tuple[int, ...]:
        """The data's ids, ascending."""
        return tuple(self.records.ids.tolist())

    @cached_property
    def owner(self) -> Int[Tensor, " n"]:
        """Of each box the place of its image."""
        return torch.arange(len(self)).repeat_interleave(self.first.diff())

    @property
    def objects(self) -> Int[Tensor, " images"]:
        """How many boxes each image has, crowd regions aside."""
        return torch.bincount(self.owner[~self.is_crowd], minlength=len(self))

    def with_images(self, more: ImageRecords) -> CocoSet:
        """With more images behind these (see `ImageRecords.plus`), which have no boxes yet."""
        first = torch.cat([self.first, self.first[-1:].expand(len(more))])
        return replace(self, records=self.records.plus(more), first=first)

    def plus(
        self,
        owner: Int[Tensor, " m"],
        boxes_xywh: Float[Tensor, "m 4"],
        labels: Int[Tensor, " m"],
        is_crowd: Bool[Tensor, " m"],
    ) -> CocoSet:
        """With more boxes, behind those that each image has. `owner`: see `self.owner`; an area is that of its box."""
        owners = torch.cat([self.owner, owner])
        order, counts = owners.argsort(stable=True), torch.bincount(owners, minlength=len(self))
        return replace(
            self,
            first=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            boxes_xywh=torch.cat([self.boxes_xywh, boxes_xywh])[order],
            labels=torch.cat([self.labels, labels])[order],
            is_crowd=torch.cat([self.is_crowd, is_crowd])[order],
            area=torch.cat([self.area, boxes_xywh[:, 2:].prod(1)])[order],
        )

    def target(self, image_id: int) -> Target:
        """The truth of an image, crowd regions included (and marked). KeyError for an unknown id."""
        index = self.records.index_of(image_id)
        begin, end = self.first[index : index + 2].tolist()
        own = slice(begin, end)
        height, width = self.records.sizes[index].tolist()
        x_y, w_h = self.boxes_xywh[own, :2], self.boxes_xywh[own, 2:]
        size = torch.tensor([width, height], dtype=torch.float64)
        return Target(
            boxes=torch.cat([(x_y + w_h / 2) / size, w_h / size], 1).float(),
            labels=self.labels[own],
            image_id=image_id,
            original_size=(height, width),
            is_crowd=self.is_crowd[own],
            area=self.area[own],
        )

    @cached_property
    def truth(self) -> dict[str, Any]:
        """COCO JSON content of what is kept: the category ids of `categories`, annotation ids counted from 1."""
        images = [
            {"id": r.image_id, "file_name": r.file_name, "height": r.size[0], "width": r.size[1]} for r in self.records
        ]
        owners = self.records.ids[self.owner].tolist()
        columns = zip(
            owners, self.labels.tolist(), self.boxes_xywh.tolist(), self.area.tolist(), self.is_crowd.tolist(),
            strict=True,
        )  # fmt: skip
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": self.categories.ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (image_id, label, box, area, crowd) in enumerate(columns, start=1)
        ]
        return {"info": {}, "images": images, "annotations": annotations, "categories": self.categories.records()}
