"""`detr-mini data doubt`: the labels that detectors trained without them find most likely wrong."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.config.plain import plain_dict
from detr_mini.errors import ConfigError
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import Source
from detr_mini.labelling.doubt_task import check_output, doubted, write_doubts
from detr_mini.labelling.folds import find_by_checkpoints, find_by_folds, read_as_trained_on
from detr_mini.labelling.settings import check_doubt

OWN = ("folds", "checkpoint", "split", "output", "format", "images", "shown")


def data_doubt(config: DictConfig) -> Path:
    """Rank the labels of `config.split` by how likely they are wrong; the folder with the list and a task."""
    check_doubt(config)
    output = Path(config.output).expanduser()
    check_output(output)
    settings = plain_dict(config, resolve=True)
    source = Source.of(settings["data"])
    source.print_notes()
    if config.split not in source.splits:
        raise ConfigError(f"{source.root} has no split {config.split!r} (there are: {', '.join(source.splits)})")
    tree = source.trees()[config.split]
    columns_of(tree.content, tree.path)
    tree = read_as_trained_on(settings["data"], source, config.split, tree)
    given = config.checkpoint
    if given is None:
        training = {key: value for key, value in settings.items() if key not in OWN}
        found = find_by_folds(training, tree, config.folds, output)
    else:
        paths = [str(path) for path in given] if isinstance(given, ListConfig) else [str(given)]
        found = find_by_checkpoints(paths, tree, source.root, config.split)
    for line in write_doubts(doubted(tree, found), output, config.format, config.images, config.shown):
        print(line)
    print(f"written to {output}: doubts.json, doubts.jpg, and task ({config.format}) for your labelling tool")
    return output
