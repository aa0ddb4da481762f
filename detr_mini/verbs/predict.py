"""`detr-mini predict`: finds objects in images, and writes COCO records and drawn images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from detr_mini.deploy.detector import is_exported
from detr_mini.deploy.load import load
from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.operating_point import check_overlap, with_overlap
from detr_mini.evaluation.report.same_predictions import BEST, MOST, same_predictions_warning
from detr_mini.images.tiling import check_tiles
from detr_mini.inference.prediction_folder import IMAGES, Request, check_output, write_predictions
from detr_mini.inference.requests import USUAL_LIMIT, at_most, checked_counts
from detr_mini.inference.sources import find_pictures
from detr_mini.inference.video_folder import write_video
from detr_mini.inference.video_source import Cut, is_video, refuse_misplaced
from detr_mini.structures import Detections


def predict(config: DictConfig) -> Path:
    """Detect in `config.source` and print a summary; the folder `config.output`, as `write_predictions` fills it."""
    wanted, video = _check(config)
    check_output(output := Path(config.output).expanduser())
    images = [] if video else find_pictures(wanted, [output / name for name in IMAGES])
    detector = load(config.checkpoint, config.device)
    detector.operating_point = with_overlap(detector.operating_point, config.suppress_iou)
    of_file = config.limit is None and config.tiles is None and config.caption is None
    limit = at_most(detector, USUAL_LIMIT) if of_file else config.limit
    request = Request(
        _plain(config.caption), config.threshold, limit, config.batch_size, draw=config.draw,
        explain=config.explain, tiles=config.tiles, overlap=config.overlap,
    )  # fmt: skip
    if video:
        lines = write_video(detector, str(wanted), output, request, Cut.of(config), config.track)
        print(*lines, f"written to {output}", sep="\n")
        return output
    first: list[Detections] = []

    def keep(found: Detections) -> None:
        if len(first) < MOST:
            first.append(found[:BEST])

    predictions = write_predictions(detector, images, output, request, keep)
    summary = predictions.summary(detector.least_score(request.threshold, request.caption))
    notice = same_predictions_warning(first)
    for line in (*summary, *([notice] if notice else []), *predictions.failures(), f"written to {output}"):
        Console(highlight=False).print(line, markup=False)
    return output


def _check(config: DictConfig) -> tuple[str | list[str], bool]:
    """What to detect in, and whether it is a video. ConfigError for settings that make no sense."""
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise ConfigError(f"threshold is {config.threshold}; it must be a score from 0 to 1")
    check_overlap("suppress_iou", config.suppress_iou)
    if config.caption is not None and config.explain:
        raise ConfigError("explain=true works without a caption only; leave one of the two out")
    if config.explain and is_exported(config.checkpoint):
        raise ConfigError("explain=true needs a checkpoint: an exported file does not say where its queries look")
    checked_counts(config.limit, config.batch_size)
    check_tiles(config.tiles, config.overlap)
    video = is_video(wanted := _plain(config.source), config.video)
    if config.explain and (config.tiles is not None or video):
        raise ConfigError("explain=true works for whole images only; leave it out with tiles=... and for videos")
    refuse_misplaced(config, wanted, video)
    return wanted, video


def _plain(given: Any) -> Any:
    """A text, a list of texts, or None."""
    return [*map(str, given)] if isinstance(given, ListConfig) else None if given is None else str(given)
