"""Processes compare what they have read before they train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detr_mini.data.module import DetectionData
from detr_mini.errors import DataError
from detr_mini.training.launch import Launch
from detr_mini.training.processes import ALONE, Ranks
from detr_mini.training.same_data import _read, check_same_data
from detr_mini.training.watch import Watch

SPLIT = {name: {"images": name, "annotations": f"annotations/{name}.json"} for name in ("train", "val")}


def read(root: Path, **more: Any) -> DetectionData:
    data = DetectionData(
        root=root, **SPLIT, size=64, mean=[0.5] * 3, std=[0.25] * 3, stride=16, seed=0, on_missing="skip", **more
    )  # type: ignore[arg-type]
    data.setup("fit")
    return data


class Two(Ranks):
    """The first of two processes, of which the other has read `theirs`."""

    def __init__(self, theirs: DetectionData, world: int = 2) -> None:
        super().__init__(Launch(world=world), Watch())
        self.theirs = theirs

    def of_all(self, value: Any) -> list[Any]:
        return [value] + [_read(self.theirs)] * (self.world - 1)


@pytest.fixture
def copy(scenes_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(scenes_root, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_same_files_elsewhere_are_the_same_data(scenes_root: Path, copy: Path) -> None:
    check_same_data(Two(read(copy)), read(scenes_root))


def changed(root: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = root / "annotations" / f"{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def without_an_image(root: Path) -> None:
    min((root / "val").iterdir()).unlink()


def with_a_moved_box(root: Path) -> None:
    def move(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"][0] += 1

    changed(root, "train", move)


def with_another_name(root: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "disc"

    for split in ("train", "val"):
        changed(root, split, rename)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_an_image, r"another val split \(7 images, not 8\) from"),
        (with_a_moved_box, "another train split from"),
        (with_another_name, "another list of categories from"),
    ],
)
def test_what_differs_is_one_sentence(scenes_root: Path, copy: Path, change: Callable[[Path], None], said: str) -> None:
    change(copy)
    with pytest.raises(DataError, match=f"process 1 of this training .* has read {said} .*copy than process 0"):
        check_same_data(Two(read(copy)), read(scenes_root))


def test_a_split_with_fewer_images_than_processes_is_refused(scenes_root: Path) -> None:
    data = read(scenes_root, limit_val=2)
    check_same_data(Two(data), data)
    with pytest.raises(DataError, match="2 evaluation images cannot be shared by 3 processes"):
        check_same_data(Two(data, world=3), data)
    check_same_data(ALONE, read(scenes_root, limit_val=1))


def test_the_processes_share_what_is_to_be_looked_at() -> None:
    items = [*range(7)]
    shares = [Ranks(Launch(rank=rank, world=3), Watch()).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert ALONE.share(items) is items
