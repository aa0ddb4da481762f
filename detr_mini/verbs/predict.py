"""The verb `predict`: from pictures to COCO records, one result a picture, and drawn pictures."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from detr_mini.convert import to_coco_records
from detr_mini.drawing.attention import draw_attention
from detr_mini.drawing.boxes import draw_detections
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.evaluation.operating_point import check_overlap, with_overlap
from detr_mini.evaluation.same_predictions import BEST, MOST, alike_notice
from detr_mini.images.load import load_image
from detr_mini.inference.detector import Detector, load
from detr_mini.inference.explain import explain_all
from detr_mini.inference.sources import Source, find_pictures
from detr_mini.structures import Detections

WRITER = "detr-mini predict"
OURS = ("predictions.json", "images.json", "results", "drawn", "explained")
"""What an output folder holds; nothing else in it is ever touched."""
SHARPEST = 640
"""Smaller pictures are enlarged to so many pixels before anything is drawn on them."""


@dataclass
class Written:
    """What has been found so far."""

    records: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    best_score: float = 0.0
    """Of all guesses, those below the threshold among them."""
    full: int = 0
    """Pictures with as many detections as are kept."""
    best: list[Detections] = field(default_factory=list)
    """The best few of each of the first pictures."""
    per_category: Counter[str] = field(default_factory=Counter)


def predict(config: DictConfig) -> Path:
    """Detect in the pictures of `config.source`, write into `config.output`, print a summary; the output folder.

    predictions.json holds COCO records of all pictures, images.json their image ids and names, results/<name>.json one
    result a picture, drawn/<name> the picture with its boxes, explained/<name> where each detection's query looked
    (`config.explain`). The same output asked for again is replaced.
    """
    _check(config)
    output = Path(config.output).expanduser()
    _check_output(output)
    wanted = list(config.source) if isinstance(config.source, ListConfig) else str(config.source)
    pictures = find_pictures(wanted, [output / name for name in ("results", "drawn", "explained")])
    detector = load(config.checkpoint, config.device)
    detector.operating_point = with_overlap(detector.operating_point, config.suppress_iou)
    try:
        written = _write_all(detector, pictures, output, config)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error.strerror or error}); nothing there was changed") from error
    _summarise(written, output, detector.least_score(config.threshold, _caption(config)))
    return output


def _write_all(detector: Detector, pictures: Sequence[Source], output: Path, config: DictConfig) -> Written:
    """Write beside the old results, then put the new ones in their place: a run that breaks off changes nothing."""
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".writing-", dir=output))
    try:
        written = _detect_all(detector, pictures, work, config)
        if not written.images:
            raise DataError(f"none of {len(pictures)} pictures can be read: {written.unreadable[0]['reason']}")
        categories = detector.categories_of(_caption(config))
        index = {"written_by": WRITER, "images": written.images, "categories": categories.records()}
        _write(work / "predictions.json", written.records)
        _write(work / "images.json", {**index, "unreadable": written.unreadable})
        _replace(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return written


def _check(config: DictConfig) -> None:
    for key in ("checkpoint", "source"):
        if OmegaConf.is_missing(config, key) or config[key] is None:
            raise ConfigError(f"{key} is not set; say {key}=... (see 'detr-mini predict --help')")
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise ConfigError(f"threshold is {config.threshold}; it is a score between 0 and 1")
    check_overlap("suppress_iou", config.suppress_iou)
    if config.caption is not None and config.explain:
        raise ConfigError("explain=true shows where detections without a caption come from; leave one of the two out")
    if config.batch_size < 1:
        raise ConfigError(f"batch_size is {config.batch_size}; it must be at least 1")


def _caption(config: DictConfig) -> str | list[str] | None:
    """A sentence, or names."""
    if isinstance(config.caption, ListConfig):
        return [str(name) for name in config.caption]
    return None if config.caption is None else str(config.caption)


def _check_output(output: Path) -> None:
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


def _detect_all(detector: Detector, pictures: Sequence[Source], work: Path, config: DictConfig) -> Written:
    written, caption = Written(), _caption(config)
    least = detector.least_score(config.threshold, caption)
    steps = track(range(0, len(pictures), config.batch_size), "detecting", transient=True)
    for start in steps:
        readable = list(_readable(pictures[start : start + config.batch_size], written))
        images = [image for _, image in readable]
        found = detector.detect(
            images, caption=caption, threshold=0.0, limit=config.limit, batch_size=max(1, len(readable))
        )
        for (source, image), everything in zip(readable, found, strict=True):
            written.best_score = max([written.best_score, *everything.scores[:1].tolist()])
            detections = everything.above(least)
            written.full += len(detections) == config.limit
            written.best += [everything[:BEST]] if len(written.best) < MOST else []
            _write_one(source, image, detections, work, written, draw=config.draw)
            if config.explain and len(detections):
                why = explain_all(detector, image, least)
                sheet = draw_attention(image, why.detections, why.maps, samples=why.samples, influence=why.influence)
                _save(sheet, work / "explained" / _drawn_name(source.name))
    return written


def _readable(sources: Sequence[Source], written: Written) -> Iterator[tuple[Source, UInt8[Tensor, "3 _ _"]]]:
    for source in sources:
        try:
            yield source, load_image(source.path)
        except DataError as error:
            written.unreadable.append({"file_name": source.name, "reason": str(error)})


def _write_one(
    source: Source, image: UInt8[Tensor, "3 h w"], detections: Detections, work: Path, written: Written, *, draw: bool
) -> None:
    image_id = len(written.images) + 1
    height, width = detections.image_size
    entry = {"id": image_id, "file_name": source.name, "width": width, "height": height}
    records = to_coco_records(detections, image_id)
    named = [{**record, "name": name} for record, name in zip(records, detections.names, strict=True)]
    for record, phrase in zip(named, detections.phrases or (), strict=False):
        record["phrase"] = phrase
    written.images.append(entry)
    written.records += records
    written.per_category.update(detections.names)
    _write(work / "results" / f"{source.name}.json", {"image": entry, "detections": named})
    if draw:
        picture = draw_detections(image, detections, max(SHARPEST, height, width))
        _save(picture, work / "drawn" / _drawn_name(source.name))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)


def _drawn_name(name: str) -> str:
    """`name`, with a second suffix where it is of another kind than JPEG and PNG: a.png and a.tif stay apart."""
    return name if name.lower().endswith((".jpg", ".jpeg", ".png")) else f"{name}.drawn.png"


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _replace(work: Path, output: Path) -> None:
    """Move what was written to its place, and what an earlier run wrote there away."""
    old = work / "old"
    old.mkdir()
    for name in OURS:
        if (output / name).exists():
            os.replace(output / name, old / name)
    for name in OURS:
        if (work / name).exists():
            os.replace(work / name, output / name)


def _summarise(written: Written, output: Path, threshold: float | int) -> None:
    console = Console(highlight=False)
    kinds = ", ".join(f"{count} {name}" for name, count in written.per_category.most_common(8))
    more = ", ..." if len(written.per_category) > 8 else ""
    total = sum(written.per_category.values())
    console.print(
        f"{len(written.images)} pictures, {total} detections with a score of at least {threshold:g}"
        + (f": {kinds}{more}" if total else ""),
        markup=False,
    )
    if not total:
        lower = max(0.0, int(written.best_score * 90) / 100)
        console.print(f"the best score is {written.best_score:.3f}; threshold={lower:g} shows what it belongs to")
    if written.full:
        console.print(f"{written.full} pictures have as many detections as are kept; limit=... keeps more of them")
    remark = alike_notice(written.best)
    if remark is not None:
        console.print(remark, markup=False)
    if written.unreadable:
        console.print(f"{len(written.unreadable)} pictures could not be read:", markup=False)
        for entry in written.unreadable[:10]:
            console.print(f"  {entry['reason']}", markup=False)
    console.print(f"written to {output}", markup=False)
