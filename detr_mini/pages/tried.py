"""What a report tries out on this machine while it is made: where queries look, and how long a picture takes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from detr_mini.deploy.load import load
from detr_mini.drawing.attention import MAP_SIDE, draw_attention
from detr_mini.errors import UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.explain import explain_all
from detr_mini.pages.judged import Judged
from detr_mini.pages.run_reader import RunFolder

IMAGES, EACH = 3, 2
"""Images whose detections are explained, and detections of each."""
RUNS = 7
"""The number of timed runs, after one that is not."""


@dataclass(frozen=True)
class Attention:
    """A sheet: a row for each detection, a column for each decoder layer."""

    name: str
    sheet: Image.Image


def attention(detector: Any, judged: Judged) -> list[Attention]:
    """Where the queries of the surest detections of some images looked. UserError for a model that does not say."""
    if not isinstance(detector, Detector):
        raise UserError("an exported file does not say where its queries look; report on the run itself")
    sure = sorted(judged.subset.image_ids, key=lambda i: -float(judged.found[i].scores[:1].sum()))
    shown = []
    for image_id in [i for i in sure if len(judged.found[i])][:IMAGES]:
        record = judged.truth.records.of_id(image_id)
        image = record.pixels()
        own = explain_all(detector, image, 0.0, most=0, rows=EACH, longest=MAP_SIDE)
        sheet = draw_attention(image, own.detections, own.maps, 240, own.samples)
        shown.append(Attention(record.file_name, sheet))
    if not shown:
        raise UserError("the run found nothing in any image, so there is no detection to explain")
    return shown


def latency(detector: Any, judged: Judged) -> dict[str, Any]:
    """Seconds for one picture of the split, alone, from its file to its boxes, on this machine now."""
    record = judged.truth.records.of_id(judged.subset.image_ids[0])
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        detector.detect(record.for_detectors)
        seconds.append(time.perf_counter() - started)
    return {
        "median": statistics.median(seconds[1:]), "least": min(seconds[1:]), "most": max(seconds[1:]), "runs": RUNS,
        "first": seconds[0], "device": str(getattr(detector, "device", "cpu")), "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__,
        "size": detector.image["size"],
    }  # fmt: skip


def opened(run: RunFolder) -> Any:
    """The run's detector. CheckpointError where it cannot be read."""
    return load(run.checkpoint)
