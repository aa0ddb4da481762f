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
from detr_mini.images.tiling import check_tiles
from detr_mini.inference.prediction_folder import IMAGES, Request, check_output, write_predictions
from detr_mini.inference.sources import find_pictures
from detr_mini.inference.video_folder import write_video
from detr_mini.inference.video_source import Cut, is_video
from detr_mini.structures import Detections

OF_VIDEOS = {"every": 1, "start": None, "end": None, "track": False}
"""Settings of videos, with the values that change nothing."""


def predict(config: DictConfig) -> Path:
    """Detect in the images of `config.source`, write the results into `config.output`, print a summary; the folder.

    `write_predictions` describes the files. Results of an earlier run in the same folder are replaced.
    """
    _check(config)
    check_output(output := Path(config.output).expanduser())
    wanted, video = _source(config)
    images = [] if video else find_pictures(wanted, [output / name for name in IMAGES])
    detector = load(config.checkpoint, config.device)
    detector.operating_point = with_overlap(detector.operating_point, config.suppress_iou)
    request = Request(
        _caption(config), config.threshold, config.limit, config.batch_size, draw=config.draw, explain=config.explain,
        tiles=config.tiles, overlap=config.overlap,
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
    for key in ("batch_size", "limit"):
        if config[key] is not None and config[key] < 1:
            raise ConfigError(f"{key} is {config[key]}; it must be at least 1")
    check_tiles(config.tiles, config.overlap)
    wanted, video = _source(config)
    if config.explain and (config.tiles is not None or video):
        raise ConfigError("explain=true works for whole images only; leave it out with tiles=... and for videos")
    if config.video and isinstance(wanted, list):
        raise ConfigError("video=true takes one folder or pattern of frames, and source is a list; give one of them")
    of_videos = [f"{key}={config[key]}".lower() for key, unset in OF_VIDEOS.items() if config[key] != unset]
    if of_videos and not video:
        raise ConfigError(f"{of_videos[0]} is for videos, and source is none; leave it out, or add video=true where "
                          "source is a folder or pattern of frames")  # fmt: skip


def _source(config: DictConfig) -> tuple[str | list[str], bool]:
    """What to detect in, and whether it is a video."""
    given = config.source
    wanted = [str(each) for each in given] if isinstance(given, ListConfig) else str(given)
    return wanted, is_video(wanted, config.video)


def _caption(config: DictConfig) -> str | list[str] | None:
    """A sentence, or a list of names."""
    given = config.caption
    return [*map(str, given)] if isinstance(given, ListConfig) else None if given is None else str(given)
