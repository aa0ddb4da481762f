"""`detr-mini data check`: every fault of a dataset in one table, and a fixed copy of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detr_mini.captions.mdetr_format import CATEGORIES, MADE, caption_faults
from detr_mini.checking.check import check
from detr_mini.checking.report import Checked, write_fixed_copy
from detr_mini.errors import UserError
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import Fault, Kind
from detr_mini.formats.writing import file_place, free_place
from detr_mini.shards.index import read_index
from detr_mini.shards.store import compare_checksums


def data_check(config: Mapping[str, Any]) -> Checked | None:
    """Check `data.root`, print the table, write `report` (JSON) and, with `fix`, the fixed copy `output`.

    Of shards only the checksums are compared: DataError where a file is not what was written.
    """
    source = Source.of(config["data"], shards=True)
    copy = Path(config["output"] or f"{os.path.abspath(source.root)}-fixed")
    if config["fix"]:
        free_place(copy)
    elif config["output"]:
        raise UserError("output is the folder of the fixed copy; add fix=true")
    report = file_place(config["report"]) if config["report"] else None
    source.print_notes()
    if source.format == "litdata":
        _check_shards(source, config)
        return None
    done = check(source, pixels=config["pixels"])
    done.add(_of_captions(done, config["data"]))
    done.print()
    if report:
        report.write_text(
            json.dumps(done.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8", errors="backslashreplace"
        )
    if config["fix"]:
        _write_fixed(done, copy)
    return done


def _check_shards(source: Source, config: Mapping[str, Any]) -> None:
    if config["fix"] or config["report"]:
        raise UserError(read_index(source.root).no_files(source.root))
    files = compare_checksums(source.root)
    print(f"{source.root}: all {files:,} files are as they were written")


def _of_captions(done: Checked, data: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults of caption files. Captions made from boxes (`refer`) are correct by construction."""
    files = {} if data.get("refer") else data.get("captions") or {}
    for split, file in files.items():
        if file and file not in (MADE, CATEGORIES) and split in done.trees:
            for text in caption_faults(done.source.root / str(file), done.trees[split].content):
                yield Fault(Kind.CAPTION, text, split=split)


def _write_fixed(done: Checked, output: Path) -> None:
    write_fixed_copy(done, output)
    for change, (count, boxes) in done.fixes.items():
        print(f"{count:6,}  {change}{f' ({boxes:,} boxes)' if boxes else ''}")
    images = sum(len(tree.content["images"]) for tree in done.trees.values())
    boxes = sum(len(tree.content["annotations"]) for tree in done.trees.values())
    left = sum(not fault.fix for fault in done.faults)
    print(f"The fixed copy is {output}: {images:,} of {done.images:,} images, {boxes:,} of {done.boxes:,} boxes. "
          f"changes.json lists every change; {left} faults remain for you to fix.")  # fmt: skip
