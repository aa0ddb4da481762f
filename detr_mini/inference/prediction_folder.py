"""The folder that `detr-mini predict` writes: COCO records, one result an image, and drawn images."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from detr_mini.drawing.attention import MAP_SIDE, MOST, draw_attention
from detr_mini.drawing.boxes import draw_detections
from detr_mini.drawing.contact_sheet import PNG_LEVEL
from detr_mini.errors import DataError, UserError
from detr_mini.images.load import load_image
from detr_mini.images.windows import open_windows, reduced
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.detector import Detector
from detr_mini.inference.explain import explain_all
from detr_mini.inference.requests import USUAL_LIMIT, DetectorLike, readable
from detr_mini.inference.sources import Source
from detr_mini.progress import track
from detr_mini.structures import Detections

WRITER = "detr-mini predict"
OURS = ("predictions.json", "images.json", "results", "drawn", "explained", "frames.jsonl", "drawn.mp4")
"""What an output folder holds; nothing else in it is ever touched."""
IMAGES = ("results", "drawn", "explained")
"""Its folders, in which no image is looked for when the output lies among the images."""
SHARPEST = 640
"""Pixels of the longer side to which smaller images are enlarged before they are drawn on."""
LARGEST = 4096
"""Pixels of the longer side to which larger images are reduced where they were looked at by tiles."""
FAINT = 0.05
"""The least score that is looked at in tiles, where nothing reaches the threshold."""


@dataclass
class Predictions:
    """What has been found so far."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """COCO results records."""
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """File name and reason of each image that could not be read."""
    best_score: float = 0.0
    """Of all detections, including those below the threshold; 0 where there is none."""
    looked_from: float = 0.0
    """The least score that a detection needs to be among those."""
    full: int = 0
    """Images with as many detections as are kept."""
    per_category: Counter[str] = field(default_factory=Counter)

    def leave_out(self, source: Source, error: DataError) -> None:
        """Note an image that cannot be read."""
        self.unreadable.append({"file_name": source.name, "reason": str(error)})

    def summary(self, threshold: float | int) -> Iterator[str]:
        """What was found, line by line; `threshold` is the score from which detections are kept."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.per_category.most_common(8))
        more = ", ..." if len(self.per_category) > 8 else ""
        total = sum(self.per_category.values())
        found = f"{len(self.images)} images, {total} detections with a score of at least {threshold:g}"
        yield f"{found}: {kinds}{more}" if total else found
        if not total and self.best_score > 0:
            lower = max(0.0, int(self.best_score * 90) / 100)
            yield f"the best score is {self.best_score:.3f}; threshold={lower:g} would show that detection"
        elif not total and self.looked_from > 0:
            yield (f"nothing has a score of at least {self.looked_from:g}, the least that is looked at in tiles; a "
                   "lower threshold=... looks further")  # fmt: skip
        if self.full:
            yield f"{self.full} images have as many detections as are kept; limit=... keeps more"

    def failures(self) -> Iterator[str]:
        """Which images could not be read, and why."""
        if self.unreadable:
            yield f"{len(self.unreadable)} image{'s' * (len(self.unreadable) > 1)} could not be read:"
            yield from (f"  {entry['reason']}" for entry in self.unreadable[:10])


@dataclass(frozen=True)
class Request:
    """What to detect and what to draw."""

    caption: str | list[str] | None = None
    """A sentence, or names of objects."""
    threshold: float | int | None = None
    """The least score; None: the detector's own."""
    limit: int | None = None
    """Detections of an image, at most; None: 100, and with `tiles` no limit."""
    batch_size: int = 8
    draw: bool = True
    explain: bool = False
    tiles: int | str | None = None
    """The side of windows in pixels, or "auto"; None: each image as a whole."""
    overlap: float | int = 0.2

    @property
    def most(self) -> int | None:
        """Detections of an image, at most; None: no limit."""
        return USUAL_LIMIT if self.limit is None and self.tiles is None else self.limit


def check_output(output: Path) -> None:
    """UserError where `output` is a file, or holds something under our names that predict did not write."""
    if output.exists() and not output.is_dir():
        raise UserError(f"the output {output} is a file; choose a folder")
    taken = [name for name in OURS if (output / name).exists()]
    if taken and not _is_ours(output / "images.json"):
        raise UserError(f"the folder {output} holds a '{taken[0]}' that predict did not write; choose another output")


def _is_ours(index: Path) -> bool:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("written_by") == WRITER


def write_predictions(
    detector: DetectorLike,
    images: Sequence[Source],
    output: Path,
    request: Request,
    watch: Callable[[Detections], object] | None = None,
) -> Predictions:
    """Detect in `images` and write the results into `output`, in the place of those of an earlier run.

    predictions.json holds COCO records of all images, images.json their ids and names, results/<name>.json one result
    an image, drawn/<name> the image with its boxes (`request.draw`), explained/<name> where each detection's query
    looked (`request.explain`). `watch` is called with all detections of each image, whatever their score.

    The results are written beside the old ones first, so a run that fails changes nothing. DataError where no image
    can be read, UserError where nothing can be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=output))
        try:
            found = _detect_all(detector, images, work, request, watch)
            if not found.images:
                raise DataError(f"none of {len(images)} images can be read: {found.unreadable[0]['reason']}")
            categories = detector.categories_of(request.caption)
            index = {"written_by": WRITER, "images": found.images, "categories": categories.records()}
            _write(work / "predictions.json", found.records)
            _write(work / "images.json", {**index, "unreadable": found.unreadable})
            _replace(work, output)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error.strerror or error}); nothing there was changed") from error
    return found


def _detect_all(
    detector: DetectorLike,
    images: Sequence[Source],
    work: Path,
    request: Request,
    watch: Callable[[Detections], object] | None,
) -> Predictions:
    found = Predictions()
    least = detector.least_score(request.threshold, request.caption)
    if request.tiles is not None:
        return _detect_tiled(detector, images, work, request, watch, least)
    for start in track(range(0, len(images), request.batch_size), "detecting"):
        batch = images[start : start + request.batch_size]
        read = list(readable(batch, lambda source: load_image(source.path), found.leave_out))
        detected = detector.detect(
            [pixels for _, pixels in read], caption=request.caption, threshold=0.0, limit=request.most,
            batch_size=max(1, len(read)),
        )  # fmt: skip
        for (source, pixels), everything in zip(read, detected, strict=True):
            if watch is not None:
                watch(everything)
            detections = _kept(everything, least, request, found)
            _write_one(source, detections, work, found)
            height, width = detections.image_size
            if request.draw:
                drawn = draw_detections(pixels, detections, max(SHARPEST, height, width))
                _save(drawn, work / "drawn" / _drawn_name(source.name))
            if request.explain and len(detections):
                assert isinstance(detector, Detector)  # others are refused before
                why = explain_all(detector, pixels, least, most=MOST, rows=MOST, longest=MAP_SIDE)
                sheet = draw_attention(pixels, why.detections, why.maps, samples=why.samples, influence=why.influence)
                _save(sheet, work / "explained" / _drawn_name(source.name))
    return found


def _detect_tiled(
    detector: DetectorLike,
    images: Sequence[Source],
    work: Path,
    request: Request,
    watch: Callable[[Detections], object] | None,
    least: float,
) -> Predictions:
    """Image by image, each read and drawn without ever being in memory as a whole where its format allows that."""
    found = Predictions(looked_from=min(least, FAINT))
    for source in track(images, "detecting"):
        try:
            everything = detector.detect(
                source.path, caption=request.caption, threshold=found.looked_from, limit=None,
                batch_size=request.batch_size, tiles=request.tiles, overlap=request.overlap,
            )  # fmt: skip
        except DataError as error:
            found.leave_out(source, error)
            continue
        if watch is not None:
            watch(everything)
        detections = _kept(everything, least, request, found)
        _write_one(source, detections, work, found)
        if request.draw:
            with open_windows(source.path) as image:
                pixels = reduced(image, LARGEST)
            height, width = pixels.shape[1:]
            drawn = detections.resized((height, width))
            picture = draw_detections(pixels, drawn, max(SHARPEST, min(LARGEST, max(height, width))))
            _save(picture, work / "drawn" / _drawn_name(source.name))
    return found


def _kept(everything: Detections, least: float, request: Request, found: Predictions) -> Detections:
    """The detections of an image that are reported; what is counted of them is noted."""
    found.best_score = max([found.best_score, *everything.scores[:1].tolist()])
    detections = everything.above(least)[: request.most]
    found.full += len(detections) == request.most
    return detections


def _write_one(source: Source, detections: Detections, work: Path, found: Predictions) -> None:
    image_id = len(found.images) + 1
    height, width = detections.image_size
    entry = {"id": image_id, "file_name": source.name, "width": width, "height": height}
    records = to_coco_records(detections, image_id)
    named = [{**record, "name": name} for record, name in zip(records, detections.names, strict=True)]
    for record, phrase in zip(named, detections.phrases or (), strict=False):
        record["phrase"] = phrase
    found.images.append(entry)
    found.records += records
    found.per_category.update(detections.names)
    _write(work / "results" / f"{source.name}.json", {"image": entry, "detections": named})


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92, compress_level=PNG_LEVEL)  # of a JPEG, of a PNG


def _drawn_name(name: str) -> str:
    """`name`, with a second suffix unless it is a JPEG or PNG file: a.png and a.tif stay apart."""
    return name if name.lower().endswith((".jpg", ".jpeg", ".png")) else f"{name}.drawn.png"


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _replace(work: Path, output: Path) -> None:
    """Move the results of an earlier run away and the new ones to their place."""
    old = work / "old"
    old.mkdir()
    for name in OURS:
        if (output / name).exists():
            os.replace(output / name, old / name)
    for name in OURS:
        if (work / name).exists():
            os.replace(work / name, output / name)
