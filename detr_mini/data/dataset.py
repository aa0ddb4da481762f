"""One image of a set, decoded (or from the cache), augmented and ready for the model; and the loader around it."""

from __future__ import annotations

import mmap
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Real, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision.transforms.v2 import functional as F

from detr_mini.data.augment import Augment
from detr_mini.data.collate import AS_BYTES, collate
from detr_mini.data.samplers import Key
from detr_mini.data.workers import check_shared_memory, into_shared_memory, lost_worker
from detr_mini.errors import DataError
from detr_mini.formats.split import CocoSet, ImageRecord, ImageRecords
from detr_mini.images.model_input import normalised, resized, target_size, to_model_input
from detr_mini.images.windows import open_windows
from detr_mini.structures import Batch, Target


class ImageCache:
    """Decoded images (uint8) of a set, as many as fit into `megabytes`, filled as they are met.

    They are the images from place `first` on; behind the last comes the first. The memory is anonymous and shared, so
    forked workers have one copy. A process that was not forked has none.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]] | Int[np.ndarray, "n 2"], megabytes: int | float, first: int = 0
    ) -> None:
        self.total, self.first = len(sizes), first
        self._sizes = np.roll(np.asarray(sizes, np.int64).reshape(-1, 2), -first, axis=0)
        ends = np.cumsum(3 * self._sizes.prod(1))
        self.images = int(np.searchsorted(ends, megabytes * 2**20, side="right"))
        self.bytes = int(ends[self.images - 1]) if self.images else 0
        self._sizes, self._starts = self._sizes[: self.images], np.concatenate([[0], ends[: self.images]])
        self._pixels = torch.from_numpy(np.frombuffer(mmap.mmap(-1, max(self.bytes, 1)), np.uint8))
        self._filled = np.frombuffer(mmap.mmap(-1, max(self.images, 1)), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"images": 0, "bytes": 0, "total": self.total, "first": self.first}

    def holds(self, index: int) -> bool:
        """Whether there is room for this image."""
        return self.images > 0 and self._place(index) < self.images

    def _place(self, index: int) -> int:
        return (index - self.first) % self.total

    def get(self, index: int) -> UInt8[Tensor, "3 h w"] | None:
        """The decoded image, to be read only, or None where it is not there yet."""
        if not self.holds(index) or not self._filled[self._place(index)]:
            return None
        height, width = self._sizes[self._place(index)].tolist()
        return self._own(index).view(3, height, width)

    def put(self, index: int, image: UInt8[Tensor, "3 h w"]) -> None:
        """Keep an image, where there is room for it. Two workers that do so at once write the same bytes."""
        if self.holds(index):
            self._own(index)[:] = image.reshape(-1)
            self._filled[self._place(index)] = 1

    def _own(self, index: int) -> UInt8[Tensor, " bytes"]:
        begin, end = self._starts[self._place(index) : self._place(index) + 2].tolist()
        return self._pixels[begin:end]


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Images and targets of a `CocoSet` for keys (index, epoch, strong, scale), see `Key`.

    `oversampling`: images more than this many times as large as the model's are reduced to that when they are
    decoded: augmentation is then as quick for photographs of 12 megapixels as for small ones, and the cache holds all
    of them. None: they stay as they are.
    `cache_megabytes`, `cache_first`: see `ImageCache`.
    `on_bad_image`: "refuse" with a DataError, or "skip": what cannot be decoded is a grey picture without boxes.
    `uint8`: images stay pixels, where the resize gives whole numbers; `normalise` makes of them what the model takes.
    """

    def __init__(
        self,
        coco: CocoSet,
        *,
        size: int,
        oversampling: float | int | None = None,
        shorter_side: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        exact: Sequence[int] | None = None,
        multiple: int = 1,
        antialias: bool = True,
        augment: Augment | None = None,
        cache_megabytes: int | float = 0,
        cache_first: int = 0,
        on_bad_image: str = "refuse",
        uint8: bool = False,
    ) -> None:
        self.coco = coco
        self.on_bad_image = on_bad_image
        self.augment = augment
        self._most = None if oversampling is None else round(oversampling * max(size, shorter_side or 0))
        self.cache = ImageCache(self._kept_sizes() if cache_megabytes else [], cache_megabytes, cache_first)
        self._sides: dict[str, Any] = {"size": size, "shorter_side": shorter_side, "exact": exact}
        self._input: Callable[..., Tensor] = partial(resized, multiple=multiple, antialias=antialias)
        self.normalise: Callable[[Tensor], Tensor] | None = None
        statistics: dict[str, Any] = {"mean": tuple(mean), "std": tuple(std)}
        if uint8:
            self.normalise = partial(normalised, **statistics)
        else:
            self._input = partial(to_model_input, multiple=multiple, antialias=antialias, **statistics)
        # one counter a process, in shared memory: the main process, then the workers
        self._lost = np.frombuffer(mmap.mmap(-1, 8 * 129), np.int64)

    def __len__(self) -> int:
        return len(self.coco)

    @property
    def boxes_cropped_away(self) -> int:
        """Boxes that augmentation has moved out of their image so far."""
        return int(self._lost.sum())

    def __getitem__(self, key: Key | tuple[int, int]) -> tuple[Real[Tensor, "3 h w"], Target]:
        index, epoch, strong, scale = Key(*key)
        image, target = self.sample(index, scale)
        augment = self.augment_of(index)
        if augment is not None:
            before = image.shape
            image, target, lost = augment(image, target, epoch, strong=strong, draw=partial(self._draw, scale))
            target = _of_shape(target, before, image.shape)
            if lost:
                worker = get_worker_info()
                self._lost[0 if worker is None else 1 + worker.id % 128] += lost
        return self._to_input(image, scale), target

    @property
    def value_bytes(self) -> int:
        """Bytes of each value of an image in a batch."""
        return 4 if self.normalise is None else 1

    def augment_of(self, index: int) -> Augment | None:
        """What is done to an image in training."""
        return self.augment

    def sample(self, index: int, scale: float = 1.0) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """An image, at most `oversampling` times as large as the model sees it at `scale`, and its truth."""
        record = self.coco.records[index]
        target = self.coco.target(record.image_id)
        try:
            image = self.decoded(index)
            return self._reduced(image, self._kept_size((image.shape[1], image.shape[2]), scale)), target
        except DataError as error:
            if self.on_bad_image == "refuse":
                raise
            warnings.warn(f"{error}; it counts as an empty picture", stacklevel=2)
            return torch.full((3, *record.size), 128, dtype=torch.uint8), _without_boxes(target)

    def _draw(self, scale: float) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """Any image of the set, by torch's generator: for a transform that lays several images together."""
        return self.sample(int(torch.randint(len(self), ())), scale)

    def _to_input(self, image: Real[Tensor, "3 h w"], scale: float) -> Real[Tensor, "3 h2 w2"]:
        sides = self._sides if scale == 1 else {name: _scaled(side, scale) for name, side in self._sides.items()}
        return self._input(image, **sides)

    def _reduced(self, image: UInt8[Tensor, "3 h w"], kept: tuple[int, int]) -> UInt8[Tensor, "3 h2 w2"]:
        return image if tuple(image.shape[1:]) == kept else F.resize(image, list(kept), antialias=True)

    def decoded(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The upright image of a record, at most `oversampling` times the model's size.

        DataError where the file is broken or has changed.
        """
        image = self.cache.get(index)
        if image is None:
            record = self.coco.records[index]
            if record.window is not None and self.cache.holds(index):
                return self._cache_windows(index, record)
            image = self._kept(record, *record.reduced_pixels(self._most))
            self.cache.put(index, image)
        return image

    def _kept(
        self, record: ImageRecord, image: UInt8[Tensor, "3 h w"], whole: tuple[int, ...]
    ) -> UInt8[Tensor, "3 h2 w2"]:
        """`image`, which may be a reduced form of one of `whole` (height, width), as it is augmented and cached."""
        if tuple(whole) != record.size:
            raise DataError(f"{record.path} is {whole[1]} x {whole[0]} pixels when decoded, but its "
                            f"header says {record.size[1]} x {record.size[0]}, or did when the set was checked; save "
                            "the image again, or, if the file is another one now, its annotations")  # fmt: skip
        return self._reduced(image, self._kept_size(record.size))

    def _cache_windows(self, index: int, record: ImageRecord) -> UInt8[Tensor, "3 h w"]:
        """An image that is a window of a file. The file's others go to the cache too: it is decoded once."""
        wanted: Tensor | None = None
        with open_windows(record.source) as whole:
            for place in _same_file(self.coco.records, index, self.cache.holds):
                one = self.coco.records[place]
                if place == index or self.cache.get(place) is None:
                    cut = one.cut_from(whole)
                    image = self._kept(one, cut, cut.shape[1:])
                    self.cache.put(place, image)
                    wanted = image if place == index else wanted
        assert wanted is not None
        return wanted

    def _kept_size(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """(height, width) of an image as it is augmented where the model sees it at `scale` times its size.

        It is decoded and cached as for a `scale` of 1.
        """
        if self._most is None or max(size) <= (most := round(self._most * scale)):
            return size
        return target_size(size, most)

    def _kept_sizes(self) -> Int[np.ndarray, "n 2"]:
        """Of all images. Most sets have few sizes."""
        height, width = self.coco.records.sizes.unbind(1)
        sizes, places = torch.unique(height << 32 | width, return_inverse=True)
        kept = [self._kept_size((size >> 32, size & 0xFFFFFFFF)) for size in sizes.tolist()]
        return np.array(kept, np.int64).reshape(-1, 2)[places.numpy()]

    def __getitems__(self, keys: list[Key]) -> list[Any] | DataError:
        """A batch's samples; a broken file as the value, so that its one sentence survives the way out of a worker."""
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error


def _same_file(records: ImageRecords, index: int, wanted: Callable[[int], bool]) -> range:
    """The `wanted` places around `index` whose images are windows of the same file."""
    path, first, last = records[index].path, index, index + 1
    while first > 0 and wanted(first - 1) and records[first - 1].path == path:
        first -= 1
    while last < len(records) and wanted(last) and records[last].path == path:
        last += 1
    return range(first, last)


def _scaled(side: int | Sequence[int] | None, scale: float) -> Any:
    if side is None:
        return None
    return max(1, round(side * scale)) if isinstance(side, int) else [max(1, round(each * scale)) for each in side]


def _of_shape(target: Target, before: Sequence[int], after: Sequence[int]) -> Target:
    """The target of an image (3, h, w) that augmentation has turned, cut or enlarged: `original_size` is so, too."""
    if before == after:
        return target
    height, width = (max(1, round(a * new / old)) for a, old, new in
                     zip(target.original_size, before[1:], after[1:], strict=True))  # fmt: skip
    return replace(target, original_size=(height, width))


def _without_boxes(target: Target) -> Target:
    none = slice(0, 0)
    return replace(
        target,
        boxes=target.boxes[none],
        labels=target.labels[none],
        is_crowd=target.is_crowd[none],
        area=target.area[none],
    )


def collate_pairs(
    samples: Sequence[tuple[Tensor, Target]], stride: int, normalise: Callable[[Tensor], Tensor] | None = None
) -> Batch:
    """Samples of a `DetectionDataset` as a batch."""
    images, targets = zip(*samples, strict=True)
    return collate(images, targets, stride, normalise)


def _unless_broken(samples: Any, collate_samples: Callable[[Any], Batch]) -> Batch | DataError:
    if isinstance(samples, DataError):
        return samples
    batch = collate_samples(samples)
    if get_worker_info() is None:
        return batch
    try:
        into_shared_memory(batch, AS_BYTES)
    except DataError as error:
        return error
    return batch


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` of `Batch`es that leaves torch's random state alone and raises a broken file's own sentence.

    Its iteration starts with the first batch, not with `iter()`: Lightning tells the epoch in between.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batches: Sampler[list[Key]],
        *,
        collate_samples: Callable[[Any], Batch],
        workers: int,
        pin_memory: bool,
        largest: tuple[int, int] = (0, 0),
    ) -> None:
        """`largest`: the most images in a batch, and the most pixels in an image."""
        self.largest, self.value_bytes = largest, dataset.value_bytes
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_unless_broken, collate_samples=collate_samples),
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers > 0 and sys.platform == "linux" else None,
            generator=torch.Generator(),  # else each epoch draws a seed from the stream that dropout draws from
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names a private class
        if self.num_workers and self._iterator is None:
            check_shared_memory(self.num_workers, *self.largest, self.value_bytes)
        try:
            for batch in super().__iter__():
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if sentence := lost_worker(error):
                raise DataError(sentence) from error
            raise
