"""A detector measured on a split: its metrics, its detections, and the files that hold them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detr_mini.config.run_folder import write_text
from detr_mini.drawing.caption_cards import draw_captions
from detr_mini.drawing.gallery import Pair, gallery
from detr_mini.errors import UserError
from detr_mini.evaluation.comparison.intervals import intervals
from detr_mini.evaluation.metrics.coco import Scores, score
from detr_mini.evaluation.metrics.duplicate_detections import duplicate_metrics
from detr_mini.evaluation.metrics.grounding import Answer, answers, grounding_metrics
from detr_mini.evaluation.metrics.matching import Matches, match
from detr_mini.evaluation.metrics.subset import Subset, evenly_spread
from detr_mini.evaluation.report.answer_cards import card, spread
from detr_mini.evaluation.report.table import number
from detr_mini.formats.split import CocoSet, ImageRecord
from detr_mini.images.model_input import resized
from detr_mini.inference.batches import detect_batches, tf32
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.requests import DetectorLike
from detr_mini.models.protocol import EvaluatedModel
from detr_mini.progress import track
from detr_mini.structures import Batch, Categories, Detections, DetectorOutput, OperatingPoint

SHOWN = 1024
"""The most pixels of the longer side of a picture that is kept until a gallery is drawn, at less than half of that."""
FAINT = 0.01
"""The least score that counts where images are looked at by tiles: hundreds of windows have very many below."""


@dataclass(frozen=True)
class Measured:
    """The scores and detections on a split."""

    scores: Scores
    records: list[dict[str, Any]]
    """COCO results records of every detection, whatever its score."""
    found: dict[int, Detections]
    """Detections by image id."""
    truth: CocoSet
    images_per_second: float
    subset: Subset
    """The images and categories that were evaluated."""
    matches: Matches
    answers: tuple[Answer, ...] = ()
    """One per caption; empty for data without captions."""
    threshold: float = 0.5
    """The score threshold of a phrase."""


def measure(
    model: EvaluatedModel,
    loader: Iterable[Batch],
    truth: CocoSet,
    categories: Categories,
    device: torch.device | str = "cpu",
    limit: int = 100,
    progress: bool = True,
    threshold: float | None = None,
    point: OperatingPoint | None = None,
    subset: Subset | None = None,
    resamples: int = 1000,
    fast: bool = False,
) -> Measured:
    """Detect in the images of `truth` that `loader` yields, and evaluate the detections with COCO's metric.

    `resamples`: the number of bootstrap resamples behind the 95 % interval of each AP (keys `AP_low`, `AP_high`,
    `AP_low/<category>` and so on); 0: no intervals. `subset`: the images (those of `loader`) and categories to
    evaluate; None: all. `fast`: see `coco.score`. `point`: the detector's operating point, chosen on other data. Its
    overlap suppression is applied, and detections above its threshold that repeat another are counted
    (`duplicate_metrics`). `threshold`: of a phrase's score, where the loader yields captions (None: 0.5).
    """
    given: list[Answer] = []

    def answer(batch: Batch, output: DetectorOutput) -> None:
        if batch.captions is not None:
            sizes = [target.original_size for target in batch.targets]
            phrases = model.read(output, batch.captions, sizes)
            given.extend(answers(phrases, batch.captions, batch.targets))

    started = time.perf_counter()
    point = point or OperatingPoint()
    with tf32(False):  # as in a training's validation
        found = detect_batches(
            model, loader, categories, device, limit, progress, watch=answer, suppress_iou=point.suppress_iou
        )
    seconds = time.perf_counter() - started
    return score_found(found, seconds, truth, categories, limit, threshold, point, subset, resamples, fast, given)


def measure_detector(
    detector: DetectorLike,
    truth: CocoSet,
    limit: int = 100,
    subset: Subset | None = None,
    resamples: int = 1000,
    fast: bool = False,
    tiles: int | str | None = None,
    overlap: float | int = 0.2,
) -> Measured:
    """`measure` for a detector that prepares images itself, such as an exported file: it takes those of `truth`.

    With `tiles` (see `Detector.detect`), detections with a score below FAINT do not count.
    """
    started = time.perf_counter()
    subset = subset or Subset(truth.image_ids, detector.categories)
    found = {}
    for image_id in track(subset.image_ids, "detecting"):
        image = truth.records.of_id(image_id).for_detectors
        if tiles is None:
            found[image_id] = detector.detect(image, threshold=0.0, limit=limit)
        else:  # the metric takes the best of each category; the file keeps all
            found[image_id] = detector.detect(image, threshold=FAINT, tiles=tiles, overlap=overlap)
    seconds = time.perf_counter() - started
    point, categories = detector.operating_point, detector.categories
    return score_found(found, seconds, truth, categories, limit, None, point, subset, resamples, fast)


def score_found(
    found: dict[int, Detections],
    seconds: float,
    truth: CocoSet,
    categories: Categories,
    limit: int = 100,
    threshold: float | None = None,
    point: OperatingPoint | None = None,
    subset: Subset | None = None,
    resamples: int = 1000,
    fast: bool = False,
    given: Sequence[Answer] = (),
) -> Measured:
    """What `measure` says of detections by image id, found in `seconds`; `given` are answers to captions."""
    point = point or OperatingPoint()
    subset = subset or Subset(truth.image_ids, categories)
    records = [record for image_id in subset.image_ids for record in to_coco_records(found[image_id], image_id)]
    scores, matches = evaluate_subset(truth.truth, records, subset, limit, resamples, fast)
    least = 0.5 if threshold is None else threshold
    scores.metrics.update({"threshold": point.threshold, "suppress_iou": point.suppress_iou})
    scores.metrics.update(duplicate_metrics(truth.truth, records, subset, point.threshold))
    if given:
        scores.metrics.update(grounding_metrics(given, least))
    speed = len(subset.image_ids) / seconds
    return Measured(scores, records, found, truth, speed, subset, matches, tuple(given), least)


def evaluate_subset(
    truth: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    subset: Subset,
    limit: int = 100,
    resamples: int = 1000,
    fast: bool = False,
) -> tuple[Scores, Matches]:
    """COCO's metrics of `records` on a subset of the ground truth, with intervals, and the matches behind them."""
    selected, found = subset.select(truth, records)
    scores = score(selected, found, subset.categories, subset.image_ids, limit, fast)
    matches = match(selected, found, subset.categories.ids, subset.image_ids, limit)
    if resamples:
        for name, (low, high) in intervals(matches, subset.categories.names, resamples).items():
            head, slash, category = name.partition("/")
            value = scores.metrics[name]  # computed by COCOeval; from the matches it may differ in the last bit
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

    `name` is the gallery's title. It shows at most `pictures` images, evenly spread, with the detections of at least
    `threshold`; no metric depends on it. Where there were captions, captions.png shows the answers to twice as many.
    UserError where a file cannot be written.
    """
    numbers = {**measured.scores.metrics, **metrics}
    title = f"{name} · AP {number(numbers['AP'])}, AP50 {number(numbers['AP50'])}"
    try:
        write_text(folder / "predictions.json", json.dumps(measured.records))
        gallery(pairs(measured, pictures), folder / "gallery.png", threshold, title)
        if measured.answers and pictures:
            _draw_answers(folder / "captions.png", measured, 2 * pictures, name)
        write_text(folder / "metrics.json", json.dumps(numbers, indent=1))  # last: where it exists, the others do
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error})") from error


def _draw_answers(path: Path, measured: Measured, count: int, name: str) -> None:
    answers, records = spread(measured.answers, count), measured.truth.records
    # one after the other: each is drawn before the next image is read
    cards = (card(answer, measured.threshold, records.of_id(answer.image_id).pixels()) for answer in answers)
    exact = number(measured.scores.metrics["grounding/accuracy"])
    draw_captions(cards, path, f"{name} · {exact} of the captions answered exactly")


def pairs(measured: Measured, count: int) -> list[Pair]:
    """At most `count` of the evaluated images, evenly spread, with ground truth and detections."""
    shown = evenly_spread(sorted(set(measured.subset.image_ids)), count)
    return [pair_of(measured, measured.truth.records.of_id(image_id)) for image_id in shown]


def pair_of(measured: Measured, record: ImageRecord, note: str = "") -> Pair:
    """The detections in one image and its ground truth, titled with its file name and a `note`."""
    found, target = measured.found[record.image_id], measured.truth.target(record.image_id)
    pixels = record.reduced(SHOWN)
    if max(pixels.shape) > SHOWN:
        pixels = resized(pixels, SHOWN, None)
    return Pair(pixels, found.resized((pixels.shape[1], pixels.shape[2])), target, record.file_name + note)
