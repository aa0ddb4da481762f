"""One split in memory: arrays that worker processes share, not lists of objects that each of them would copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from detr_mini.categories import Categories
from detr_mini.formats.load_report import SplitReport
from detr_mini.structures import Target


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set."""

    image_id: int
    file_name: str
    """As the annotations have it."""
    path: Path
    size: tuple[int, int]
    """(height, width) of the upright image."""


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

    @classmethod
    def of(
        cls, folder: Path, ids: Sequence[int], names: Sequence[str], sizes: Sequence[tuple[int, int]]
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
        )

    def __len__(self) -> int:
        return len(self.ids)

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
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        begin, end = self.ends[index : index + 2].tolist()
        name = self.names[begin:end].numpy().tobytes().decode("utf-8", "surrogateescape")
        height, width = self.sizes[index].tolist()
        return ImageRecord(int(self.ids[index]), name, self.folder / name, (height, width))

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
