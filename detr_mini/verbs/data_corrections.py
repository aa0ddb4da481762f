"""`detr-mini data corrections`: what a person has changed of pre-labels, counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.config.run_folder import write_text
from detr_mini.errors import UserError
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import Source
from detr_mini.labelling.corrections import Corrections, count_corrections, read_prelabels


def data_corrections(config: Mapping[str, Any]) -> Corrections:
    """Compare `config.prelabels` with the corrected dataset `config.data`, print the counts, write `config.report`."""
    record = read_prelabels(Path(config["prelabels"]).expanduser())
    report = _report(config["report"])
    source = Source.of(config["data"])
    source.print_notes()
    trees = source.trees()
    for tree in trees.values():
        columns_of(tree.content, tree.path)
    done = count_corrections(record, list(trees.values()))
    for line in done.lines():
        print(line)
    if report:
        write_text(report, json.dumps(done.to_dict(), indent=1, ensure_ascii=False))
    return done


def _report(wanted: str | None) -> Path | None:
    """Where the report goes, in a folder that is there. UserError where it cannot be written."""
    if not wanted:
        return None
    path = Path(wanted).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"report={path} cannot be written ({error.strerror or error}); choose another file") from error
    if path.is_dir():
        raise UserError(f"report={path} is a folder; give the name of a JSON file")
    return path
