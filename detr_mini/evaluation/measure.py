"""A detector measured on a split: its numbers, its detections, and the files that hold them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detr_mini.config.run_folder import write_text
from detr_mini.convert import to_coco_records
from detr_mini.drawing.caption_cards import draw_captions
from detr_mini.drawing.gallery import Pair, gallery
from detr_mini.errors import UserError
from detr_mini.evaluation.answer_cards import card, spread
from detr_mini.evaluation.coco import Scores, score
from detr_mini.evaluation.doubles import doubles
from detr_mini.evaluation.grounding import Answer, answers, grounding_metrics
from detr_mini.evaluation.intervals import intervals
from detr_mini.evaluation.matching import Matches, match
from detr_mini.evaluation.subset import Part
from detr_mini.evaluation.table import number
from detr_mini.formats.coco import CocoSet, ImageRecord
from detr_mini.images.load import load_image
from detr_mini.inference.batches import detect_batches
from detr_mini.structures import Batch, Categories, Detections, DetectorOutput, OperatingPoint


@dataclass(frozen=True)
class Measured:
    """A split's scores, and all that was found in it."""

    scores: Scores
    records: list[dict[str, Any]]
    """COCO results records of every detection, whatever its score."""
    found: dict[int, Detections]
    truth: CocoSet
    images_per_second: float
    part: Part
    """What it was judged by."""
    matches: Matches
    said: tuple[Answer, ...] = ()
    """To every caption, where there were any."""
    threshold: float = 0.5
    """Of a phrase's score."""


def measure(
    model: nn.Module,
    loader: Iterable[Batch],
    truth: CocoSet,
    categories: Categories,
    device: torch.device | str = "cpu",
    limit: int = 100,
    progress: bool = True,
    threshold: float | None = None,
    point: OperatingPoint | None = None,
    part: Part | None = None,
    resamples: int = 1000,
    fast: bool = False,
) -> Measured:
    """Detect in the images of `truth` that `loader` gives, and score it with COCO's metric, each AP with its 95 %
    interval (keys `AP_low`, `AP_high`, `AP_low/<category>` and so on) from so many `resamples` (0: none).

    `part`: the images, which `loader` gives, and the categories to judge by; None: all. `fast`: see `coco.score`.
    `point`: the detector's own, chosen on other data. Overlaps are suppressed as it says, and detections above its
    threshold that repeat another one are counted (`doubles`). Where the loader gives captions, what the model reads in
    them is scored at `threshold` (0.5 where it is None).
    """
    said: list[Answer] = []

    def listen(batch: Batch, output: DetectorOutput) -> None:
        if batch.captions is not None:
            sizes = [target.original_size for target in batch.targets]
            found = model.read(output, batch.captions, sizes)  # type: ignore[operator]
            said.extend(answers(found, batch.captions, batch.targets))

    started = time.perf_counter()
    point = point or OperatingPoint()
    found = detect_batches(
        model, loader, categories, device, limit, progress, watch=listen, suppress_iou=point.suppress_iou
    )
    seconds = time.perf_counter() - started
    part = part or Part(truth.image_ids, categories)
    records = [record for image_id in part.image_ids for record in to_coco_records(found[image_id], image_id)]
    scores, matches = judge(truth.truth, records, part, limit, resamples, fast)
    least = 0.5 if threshold is None else threshold
    scores.metrics.update({"threshold": point.threshold, "suppress_iou": point.suppress_iou})
    scores.metrics.update(doubles(truth.truth, records, part, point.threshold))
    if said:
        scores.metrics.update(grounding_metrics(said, least))
    return Measured(scores, records, found, truth, len(part.image_ids) / seconds, part, matches, tuple(said), least)


def judge(
    truth: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    part: Part,
    limit: int = 100,
    resamples: int = 1000,
    fast: bool = False,
) -> tuple[Scores, Matches]:
    """COCO's numbers of `records` on a part of the truth, with intervals, and the matches behind these."""
    there, found = part.of(truth, records)
    scores = score(there, found, part.categories, part.image_ids, limit, fast)
    matches = match(there, found, part.categories.ids, part.image_ids, limit)
    if resamples:
        for name, (low, high) in intervals(matches, part.categories.names, resamples).items():
            head, slash, category = name.partition("/")
            value = scores.metrics[name]  # the matches' own may differ from it in the last bit
            scores.metrics[f"{head}_low{slash}{category}"] = min(low, value)
            scores.metrics[f"{head}_high{slash}{category}"] = max(high, value)
    return scores, matches


def write_measured(
    folder: Path,
    measured: Measured,
    metrics: Mapping[str, Any],
    name: str,
    *,
    pictures: int = 12,
    threshold: float = 0.5,
) -> None:
    """Write metrics.json (the scores and `metrics`), predictions.json and gallery.png into `folder`.

    `name` heads the gallery, which shows at most `pictures` images, evenly spread, with detections of at least
    `threshold`; no number depends on it. Where there were captions, captions.png shows answers to twice as many.
    UserError where nothing can be written.
    """
    numbers = {**measured.scores.metrics, **metrics}
    title = f"{name} · AP {number(numbers['AP'])}, AP50 {number(numbers['AP50'])}"
    try:
        write_text(folder / "predictions.json", json.dumps(measured.records))
        gallery(pairs(measured, pictures), folder / "gallery.png", threshold, title)
        if measured.said and pictures:
            _draw_answers(folder / "captions.png", measured, 2 * pictures, name)
        write_text(folder / "metrics.json", json.dumps(numbers, indent=1))  # the last: where it is, all is
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error


def _draw_answers(path: Path, measured: Measured, count: int, name: str) -> None:
    files = {record.image_id: record.path for record in measured.truth.records}
    answers = spread(measured.said, count)
    cards = [card(answer, measured.threshold, load_image(files[answer.image_id])) for answer in answers]
    exact = number(measured.scores.metrics["grounding/accuracy"])
    draw_captions(cards, path, f"{name} · {exact} of the captions are answered exactly")


def pairs(measured: Measured, count: int) -> list[Pair]:
    """At most `count` images, evenly spread over what was judged, with truth and detections."""
    wanted = set(measured.part.image_ids)
    records = [record for record in measured.truth.records if record.image_id in wanted]
    n = min(count, len(records))
    return [pair_of(measured, records[i * len(records) // n]) for i in range(n)]


def pair_of(measured: Measured, record: ImageRecord, note: str = "") -> Pair:
    """What was found in one image beside its truth, under its file name and a `note`."""
    found, target = measured.found[record.image_id], measured.truth.target(record.image_id)
    return Pair(load_image(record.path), found, target, record.file_name + note)
