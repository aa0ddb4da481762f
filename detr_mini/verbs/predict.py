"""`detr-mini predict`: finds objects in images, and writes COCO records and drawn images."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from detr_mini.deploy.detector import is_exported
from detr_mini.deploy.load import load
from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.operating_point import check_overlap, with_overlap
from detr_mini.evaluation.report.same_predictions import BEST, MOST, same_predictions_warning
from detr_mini.inference.prediction_folder import IMAGES, Request, check_output, write_predictions
from detr_mini.inference.sources import find_pictures
from detr_mini.structures import Detections


def predict(config: DictConfig) -> Path:
    """Detect in the images of `config.source`, write the results into `config.output`, print a summary; the folder.

    `write_predictions` describes the files. Results of an earlier run in the same folder are replaced.
    """
    _check(config)
    output = Path(config.output).expanduser()
    check_output(output)
    wanted = list(config.source) if isinstance(config.source, ListConfig) else str(config.source)
    images = find_pictures(wanted, [output / name for name in IMAGES])
    detector = load(config.checkpoint, config.device)
    detector.operating_point = with_overlap(detector.operating_point, config.suppress_iou)
    request = Request(
        _caption(config), config.threshold, config.limit, config.batch_size, draw=config.draw, explain=config.explain
    )
    first: list[Detections] = []

    def keep(found: Detections) -> None:
        if len(first) < MOST:
            first.append(found[:BEST])

    predictions = write_predictions(detector, images, output, request, keep)
    lines = list(predictions.summary(detector.least_score(request.threshold, request.caption)))
    notice = same_predictions_warning(first)
    for line in (*lines, *([notice] if notice else []), *predictions.failures(), f"written to {output}"):
        Console(highlight=False).print(line, markup=False)
    return output


def _check(config: DictConfig) -> None:
    for key in ("checkpoint", "source"):
        if OmegaConf.is_missing(config, key) or config[key] is None:
            raise ConfigError(f"{key} is not set; add {key}=... (see 'detr-mini predict --help')")
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise ConfigError(f"threshold is {config.threshold}; it must be a score from 0 to 1")
    check_overlap("suppress_iou", config.suppress_iou)
    if config.caption is not None and config.explain:
        raise ConfigError("explain=true works without a caption only; leave one of the two out")
    if config.explain and is_exported(config.checkpoint):
        raise ConfigError("explain=true needs a checkpoint: an exported file does not say where its queries look")
    if config.batch_size < 1:
        raise ConfigError(f"batch_size is {config.batch_size}; it must be at least 1")


def _caption(config: DictConfig) -> str | list[str] | None:
    """A sentence, or a list of names."""
    if isinstance(config.caption, ListConfig):
        return [str(name) for name in config.caption]
    return None if config.caption is None else str(config.caption)
