"""`detr-mini data next`: which pictures to label next, and why."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.deploy.detector import is_exported
from detr_mini.errors import ConfigError
from detr_mini.inference.detector import from_checkpoint
from detr_mini.inference.sources import find_pictures
from detr_mini.labelling.next_pictures import next_pictures, training_pictures, write_next
from detr_mini.labelling.prelabels import check_form
from detr_mini.labelling.settings import check_new_labels
from detr_mini.pretrained.checkpoints import checkpoint_file, read_checkpoint


def data_next(config: DictConfig) -> Path:
    """Choose `config.count` pictures of `config.source`; write them, pre-labelled, into the new `config.output`."""
    check_new_labels(config)
    check_form(config.format, config.images)
    if config.count < 1:
        raise ConfigError(f"count is {config.count}; it must be at least 1")
    if is_exported(config.checkpoint):
        raise ConfigError("data next needs a checkpoint: an exported file does not show what its backbone sees")
    output = Path(config.output).expanduser()
    sources = find_pictures(_listed(config.source), [output])
    checkpoint = read_checkpoint(config.checkpoint)
    detector = from_checkpoint(checkpoint, str(checkpoint_file(config.checkpoint)), config.device)
    least = detector.least_score(config.threshold)
    given = None if config.labelled is None else _listed(config.labelled)
    labelled, others, note = training_pictures(checkpoint, given)
    print(note)
    chosen = next_pictures(detector, sources, labelled, config.count, least, config.batch_size, others)
    about = {"checkpoint": str(config.checkpoint), "threshold": least}
    lost = write_next(chosen, output, config.format, config.images, about, least)
    for line in (*chosen.notices, *lost, *chosen.found.failures()):
        print(line)
    for rank, (source, choice) in enumerate(zip(chosen.found.sources, chosen.choices, strict=True), start=1):
        if rank <= config.shown:
            print(f"{rank:3}. {source.name}: {choice.reason}")
    print(f"written to {output} ({config.format}): {len(chosen.choices)} pictures, next.json, contact_sheet.jpg")
    return output


def _listed(given: str | ListConfig) -> str | list[str]:
    return [*map(str, given)] if isinstance(given, ListConfig) else str(given)
