"""Detection in windows of a large image, for every kind of detector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from detr_mini.errors import UserError
from detr_mini.images.tiling import BoxSizes, Window, check_tiles, windows_of
from detr_mini.images.windows import InMemory, Windowed, open_windows, reduced
from detr_mini.inference.detections import Detections
from detr_mini.inference.pixels import as_tensor
from detr_mini.inference.requests import DetectorLike, checked_counts, each_of, in_batches
from detr_mini.inference.tiles import join_windows
from detr_mini.models.heads import suppress
from detr_mini.structures import Detections as PlainDetections

IN_WINDOW = 300
"""Detections of one window, at most, where the detector sets no limit of its own."""


@runtime_checkable
class KnowsBoxSizes(Protocol):
    """A detector that knows how large its training images and their boxes were."""

    @property
    def box_sizes(self) -> BoxSizes | None: ...


def tile_side(detector: DetectorLike, tiles: int | str) -> int:
    """Pixels of a window's side. "auto": see `BoxSizes.tile_side`.

    The size of the model's images, so that no detail is lost by resizing, where the detector does not know its data.
    """
    if tiles != "auto":
        return int(tiles)
    size = int(detector.image["size"])
    known = detector.box_sizes if isinstance(detector, KnowsBoxSizes) else None
    return size if known is None else known.tile_side(size)


def tile_shape(detector: DetectorLike, tiles: int | str) -> float:
    """Height divided by width of windows: with "auto" those of the training images, because a model has learned how
    large objects are beside their image; 1 for windows of a given side."""
    known = detector.box_sizes if isinstance(detector, KnowsBoxSizes) else None
    return 1.0 if tiles != "auto" or known is None else known.shape


def detect_tiled(
    detector: DetectorLike,
    images: Any,
    tiles: int | str,
    overlap: float | int,
    caption: str | Sequence[str] | None = None,
    threshold: float | int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    channels: str = "rgb",
    in_window: int = IN_WINDOW,
    watch: Callable[[str], object] | None = None,
) -> Any:
    """`Detector.detect` by windows: of an image, or a list. `in_window`: detections of one window, at most; a warning
    where a window has as many, and so may have more.

    `watch` is called with "window" for each window that is done.
    """
    check_tiles(tiles, overlap)
    checked_counts(limit, batch_size)
    if isinstance(caption, str) and detector.categories_of(caption) is detector.categories:
        raise UserError("a sentence speaks of the whole image, and tiles=... shows parts of it; leave tiles out, or "
                        "ask for names (caption=\"person. dog.\")")  # fmt: skip
    given, one = each_of(images)
    found = []
    for image in given:
        with opened_windows(image, channels) as pixels:
            kept = _of_image(
                detector, pixels, tile_side(detector, tiles), tile_shape(detector, tiles), overlap, caption,
                detector.least_score(threshold, caption), limit, batch_size, in_window, watch,
            )  # fmt: skip
        found.append(Detections.of(kept, image, channels))
    return found[0] if one else found


def opened_windows(image: Any, channels: str = "rgb") -> AbstractContextManager[Windowed]:
    """Any kind of image, to be read by windows; a TIFF file without decoding it as a whole."""
    if isinstance(image, str | Path):
        return open_windows(Path(image).expanduser())
    return nullcontext(InMemory(as_tensor(image, channels)))


def _of_image(
    detector: DetectorLike,
    image: Windowed,
    side: int,
    shape: float,
    overlap: float | int,
    caption: str | Sequence[str] | None,
    least: float | int,
    limit: int | None,
    batch_size: int,
    in_window: int,
    watch: Callable[[str], object] | None,
) -> PlainDetections:
    windows = windows_of(image.size, side, overlap, shape)
    found: list[tuple[Window, PlainDetections]] = []
    request: dict[str, Any] = {"caption": caption, "threshold": least, "limit": in_window, "batch_size": batch_size}
    for batch in in_batches(windows, batch_size):
        pixels: list[UInt8[Tensor, "3 _ _"]] = [image.window(w.top, w.left, w.height, w.width) for w in batch]
        found += zip(batch, detector.detect(pixels, **request), strict=True)
        if watch is not None:
            watch("window")
    if (limit is None or limit > in_window) and any(len(one) >= in_window for _, one in found):
        exported = "" if detector.most is None else ", or a file that is exported with a larger limit,"
        warnings.warn(f"a window has {in_window} detections with a score of at least {least:g}, the most that are "
                      f"given of one window; smaller tiles{exported} find more", stacklevel=4)  # fmt: skip
    categories = detector.categories_of(caption)
    if len(windows) > 1:
        small = reduced(image, int(detector.image["size"]))
        (seen,) = detector.detect([small], **request)
        found.append((Window(0, 0, *image.size, is_view=True), seen.resized(image.size)))
    joined = suppress(join_windows(found, image.size, categories), detector.operating_point.suppress_iou)
    return PlainDetections(joined.boxes, joined.scores, joined.labels, categories,
                           None if caption is None else joined.names, image.size)[:limit]  # fmt: skip
