"""`detr-mini data label`: pre-labels for new pictures, in the form of a labelling tool."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.deploy.load import load
from detr_mini.inference.sources import find_pictures
from detr_mini.labelling.prelabels import check_form, find_in, summary, write_prelabels
from detr_mini.labelling.settings import check_new_labels


def data_label(config: DictConfig) -> Path:
    """Detect in the pictures of `config.source` and write them with their boxes into the new `config.output`."""
    check_new_labels(config)
    check_form(config.format, config.images)
    output = Path(config.output).expanduser()
    wanted = list(config.source) if isinstance(config.source, ListConfig) else str(config.source)
    sources = find_pictures(wanted, [output])
    detector = load(config.checkpoint, config.device)
    least = detector.least_score(config.threshold)
    found = find_in(detector, sources, least, config.batch_size)
    about = {"checkpoint": str(config.checkpoint), "threshold": least}
    for line in (*write_prelabels(found, output, config.format, config.images, about), *found.failures()):
        print(line)
    print(summary(found, least))
    print(f"written to {output} ({config.format}); correct it in your tool, then count what you changed with "
          f"'detr-mini data corrections prelabels={output} data.root=CORRECTED'")  # fmt: skip
    return output
