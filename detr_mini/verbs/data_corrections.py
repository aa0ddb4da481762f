"""`detr-mini data corrections`: what a person has changed of pre-labels, counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.config.run_folder import write_text
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import Source
from detr_mini.formats.writing import file_place
from detr_mini.labelling.corrections import Corrections, count_corrections, read_prelabels


def data_corrections(config: Mapping[str, Any]) -> Corrections:
    """Compare `config.prelabels` with the corrected dataset `config.data`, print the counts, write `config.report`."""
    report = file_place(config["report"]) if config["report"] else None
    record = read_prelabels(Path(config["prelabels"]).expanduser())
    source = Source.of(config["data"])
    source.print_notes()
    trees = source.trees()
    for tree in trees.values():
        columns_of(tree.content, tree.path)
        for fault in tree.faults:  # a region that is no box would otherwise count as removed without a word
            print(fault.sentence)
    done = count_corrections(record, list(trees.values()))
    for line in done.lines():
        print(line)
    if report:
        write_text(report, json.dumps(done.to_dict(), indent=1, ensure_ascii=False))
    return done
