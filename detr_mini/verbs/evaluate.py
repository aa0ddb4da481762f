"""`detr-mini evaluate`: measures a checkpoint on the data it was trained for, or on others."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from detr_mini.config.plain import plain_dict
from detr_mini.data.module import STAGES
from detr_mini.errors import ConfigError, UserError
from detr_mini.evaluation.metrics.operating_point import with_overlap
from detr_mini.evaluation.metrics.subset import choose_subset
from detr_mini.evaluation.report.error_report import write_error_report
from detr_mini.evaluation.report.evaluate_checkpoint import (
    WORDS,
    about,
    about_tiles,
    alter_captions,
    check_tiling,
    data_of_checkpoint,
    evaluation_folder,
    measured_of,
    opened,
)
from detr_mini.evaluation.report.measure import write_measured
from detr_mini.evaluation.report.same_predictions import same_predictions_warning
from detr_mini.evaluation.report.table import table


def evaluate(config: DictConfig) -> Path:
    """Measure `config.checkpoint` on a split, print the table, write a new folder, and return it.

    It holds metrics.json, predictions.json, gallery.png and a config.yaml that names the data. Model, image size and
    normalisation come from the checkpoint; the data do too, unless `config.data` changes them. Every detection counts,
    whatever its score. `config.subset` limits the measurement to a part of the data, `config.report` explains it.
    """
    _check(config)
    split, given = config.split, plain_dict(config.data, resolve=True)
    detector, checkpoint, file = opened(config)
    size = {key: config[key] for key in ("size", "shorter_side") if config[key] is not None}
    data, settings, shared = data_of_checkpoint(detector, checkpoint, given, split, size, config.tiles is not None)
    alter_captions(data, split, config.words)
    subset = choose_subset(data.sets[split].image_ids, shared.categories, config.subset)
    point = with_overlap(detector.operating_point, config.suppress_iou)
    run = file.resolve()  # best.ckpt is called by the name of its run, an exported file by its own
    title = run.parent.name if run.suffix == ".ckpt" else run.stem
    with evaluation_folder(config.output, f"{title}-{split}") as output:
        measured = measured_of(detector, data, config, subset, point)
        metrics = {"images_per_second": measured.images_per_second, **about(detector, checkpoint), "split": split,
                   "by": config.by, "checkpoint": str(config.checkpoint)}  # fmt: skip
        threshold = point.threshold if config.threshold is None else float(config.threshold)
        title = f"{title} · {split}"
        write_measured(output, measured, metrics, title, pictures=config.gallery, threshold=threshold)
        kept = {**plain_dict(config), "data": settings, "categories": detector.categories.to_dict()}
        if shared.said:  # not all of the detector's categories are measured, and `compare` measures the same ones
            kept["subset"] = {**(kept["subset"] or {}), "categories": list(subset.categories.ids)}
        OmegaConf.save(OmegaConf.create(kept), output / "config.yaml")
        if config.report:
            write_error_report(output, measured, title, config.detection_limit)
    table(measured.scores, f"{config.checkpoint} on {split}")
    taken, tiles = (checkpoint.get("published") or {}).get("about"), about_tiles(config, detector, data.tiles)
    warning = same_predictions_warning([*measured.found.values()])
    print(*filter(None, (tiles, taken, shared.said, warning, f"written to {output}")), sep="\n")
    return output


def _check(config: DictConfig) -> None:
    for key, choices in (("split", tuple(STAGES)), ("by", ("classes", "names")), ("words", WORDS)):
        if config[key] not in choices:
            raise ConfigError(f"{key} is '{config[key]}'; choose one of {', '.join(choices)}")
    check_tiling(config)
    for key, least in (("detection_limit", 1), ("resamples", 0)):
        if config[key] < least:
            raise ConfigError(f"{key} is {config[key]}; it must be at least {least}")
    if config.output is not None and Path(config.output).expanduser().exists():
        raise UserError(f"the output {config.output} exists already; choose a new folder")
