"""An exported file that takes captions, measured on a split: its detections and its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from detr_mini.captions.token_targets import collate_captions
from detr_mini.deploy.detector import ExportedDetector
from detr_mini.evaluation.metrics.grounding import Answer, answers
from detr_mini.evaluation.metrics.subset import Subset
from detr_mini.evaluation.report.measure import Measured, score_found
from detr_mini.formats.split import CocoSet
from detr_mini.inference.pixels import as_tensor
from detr_mini.models.heads import sigmoid_detections, suppress
from detr_mini.phrases import Caption
from detr_mini.progress import track
from detr_mini.structures import Target


def measure_caption_file(
    detector: ExportedDetector,
    truth: CocoSet,
    sentences: Callable[[int, int, Target], Sequence[Caption]] | None,
    limit: int = 100,
    *,
    subset: Subset | None = None,
    by_names: bool = False,
    **settings: Any,
) -> Measured:
    """`measure` for an exported detector with captions: each picture is looked at once, and asked its `sentences`.

    `by_names`: its categories are found by their names. `settings`: of `score_found`.
    """
    assert detector.tokenizer is not None
    started = time.perf_counter()
    subset = subset or Subset(truth.image_ids, detector.categories)
    categories, point = detector.categories, detector.operating_point
    postprocess = detector.by_names().postprocess if by_names else sigmoid_detections
    found, given = {}, list[Answer]()
    places = {image_id: index for index, image_id in enumerate(truth.image_ids)}
    for image_id in track(subset.image_ids, "detecting"):
        target = truth.target(image_id)
        output = detector.look([as_tensor(truth.records.of_id(image_id).for_detectors)])
        (all_of_it,) = postprocess(output, [target.original_size], categories, limit)
        found[image_id] = suppress(all_of_it, point.suppress_iou)
        own = [] if sentences is None else list(sentences(places[image_id], 0, target))
        if own:
            captions = collate_captions(detector.tokenizer, [own], [int((~target.is_crowd).sum())])
            given += answers(detector.answers(output, captions, [target.original_size]), captions, [target])
    seconds = time.perf_counter() - started
    return score_found(
        found, seconds, truth, categories, limit, detector.threshold, point, subset, given=given, **settings
    )
