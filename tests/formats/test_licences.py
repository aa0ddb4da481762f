"""A checkpoint says which datasets it learned from, and their licences as the datasets state them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detr_mini.formats.licences import MERGED, licence_of, sources_of

ROBOFLOW = '{"info": {"year": "2024"}, "licenses": [{"id": 1, "url": "https://x", "name": "CC BY 4.0"}], "images": ['
PAGES = {
    "README.dataset.txt": ("# Cells > raw\n\nProvided by somebody\nLicense: ODbL v1.0\n", "ODbL v1.0"),
    "SOURCE.txt": ("repository: a/b\nlicence: Public Domain (its JSON too)\n", "Public Domain (its JSON too)"),
    "data.yaml": ("nc: 1\nroboflow:\n  workspace: w\n  license: 'CC BY 4.0'\n", "CC BY 4.0"),
    "README.md": ("# Cells\n\n**License**: MIT\n", "MIT"),
    "LICENSE": ("\nMIT License\n\nCopyright (c) 2017\n", "MIT License"),
    "train/_annotations.coco.json": (ROBOFLOW, "CC BY 4.0"),
    "annotations/instances_train2017.json": (ROBOFLOW, "CC BY 4.0"),
}  # fmt: skip


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", PAGES)
def test_the_licence_is_what_the_files_say(tmp_path: Path, name: str) -> None:
    text, licence = PAGES[name]
    assert licence_of(written(tmp_path, {name: text})) == licence


@pytest.mark.parametrize(
    "files",
    [{}, {"README.md": "We sell licenses.\n"}, {"data.yaml": "license:\nnc: 1\n"}, {"train/a.json": '"licenses": [nan'},
     {"a.json": '"licenses": [1, {"id": 2}]'}, {"LICENSE": "\n\n"}],
)  # fmt: skip
def test_where_nothing_says_it_nothing_is_made_up(tmp_path: Path, files: dict[str, str]) -> None:
    assert licence_of(written(tmp_path, files)) is None


def test_a_page_of_many_bytes_is_searched_at_its_beginning_alone(tmp_path: Path) -> None:
    written(tmp_path, {"README.md": "x\n" * 10**6 + "License: MIT\n", "SOURCE.txt": f"License: {'y' * 10**5}\n"})
    assert len(licence_of(tmp_path) or "") == 300


@pytest.mark.parametrize(
    "listed", ["", "[", "1", "{}", "[1]", '[{"name": "a"}]', '[{"name": "a", "images": "many"}]', '[{"images": 1}]']
)
def test_a_list_of_sources_that_is_none_is_not_believed(tmp_path: Path, listed: str) -> None:
    written(tmp_path / "cells", {MERGED: listed, "LICENSE": "MIT License"})
    assert sources_of(tmp_path / "cells", 7) == [{"name": "cells", "images": 7, "licence": "MIT License"}]


def test_a_merged_dataset_has_the_sources_of_its_parts(tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = [{"name": "a", "images": 3, "licence": "MIT"}, {"name": "b", "images": 4, "boxes": 9}]
    written(tmp_path, {MERGED: json.dumps(parts)})
    assert sources_of(tmp_path, 7) == [parts[0], {"name": "b", "images": 4, "licence": None}]
