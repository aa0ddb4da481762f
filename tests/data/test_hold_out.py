"""A set without val: a share of train stands for it, or the report says what that means."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from data_parts import write_coco
from detr_mini.data.module import NO_VAL, DetectionData
from detr_mini.errors import ConfigError, DataError

MODEL = {"mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16, "seed": 0}
IMAGES = 20


@pytest.fixture
def only_train(tmp_path: Path) -> Path:
    """20 images of noise, a bolt in each and a nut in every fourth; images 3 and 4 are the same picture."""
    boxes: list[dict[str, Any]] = [
        {"image_id": i, "category_id": c, "bbox": [1, 2, 30, 20]}
        for i in range(1, IMAGES + 1)
        for c in ([1, 2] if i % 4 == 0 else [1])
    ]
    _, folder = write_coco(tmp_path, images=[{"id": i} for i in range(1, IMAGES + 1)], annotations=boxes)
    shutil.copy(folder / "3.png", folder / "4.png")
    return tmp_path


def data(root: Path, **settings: Any) -> DetectionData:
    parts: dict[str, Any] = {"format": "auto", "train": "auto", "val": "auto", "test": "auto", "size": 32}
    return DetectionData(root=root, **{**parts, **MODEL, **settings})


def test_a_share_of_train_is_val_and_no_image_is_in_both(only_train: Path) -> None:
    own = data(only_train, hold_out=0.25)
    own.setup("fit")
    train, val = set(own.train_set.image_ids), set(own.val_set.image_ids)
    assert not train & val
    assert train | val == set(range(1, IMAGES + 1))
    assert 4 <= len(val) <= 6
    assert own.val_set.categories == own.train_set.categories
    assert own.val_set.report.per_category["nut"] in (1, 2)
    assert ({3, 4} <= train) or ({3, 4} <= val)
    assert own.report.splits["val"].split == "val"
    assert own.report.splits["val"].images == len(val)
    said = [notice for notice in own.report.notices if "data.hold_out=0.25" in notice]
    assert said == [f"{len(val)} of 20 training images are held out as val (data.hold_out=0.25); "
                    "1 that show the same as another one stay with it"]  # fmt: skip


def test_the_same_files_give_the_same_val_whatever_the_seed_and_where_they_lie(
    only_train: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("moved") / "here"
    shutil.copytree(only_train, elsewhere)
    one, other = data(only_train, hold_out=0.25), data(elsewhere, hold_out=0.25, seed=7)
    one.setup("fit")
    other.categories = one.categories  # as an evaluation has them, from a checkpoint
    other.setup("validate")
    assert other.val_set.image_ids == one.val_set.image_ids
    assert list(other.sets) == ["val"]


def test_fewer_training_images_are_measured_on_the_same_val(only_train: Path) -> None:
    whole, less = data(only_train, hold_out=0.25), data(only_train, hold_out=0.25, limit_train=4, limit_val=2)
    for own in (whole, less):
        own.setup("fit")
    assert less.train_set.image_ids == whole.train_set.image_ids[:4]
    assert less.val_set.image_ids == whole.val_set.image_ids[:2]
    part = data(only_train, hold_out=0.25, subset={"count": 4})
    part.setup("fit")
    assert part.val_set.image_ids == whole.val_set.image_ids
    assert set(part.train_set.image_ids) < set(whole.train_set.image_ids)
    for share in (0.25, None):  # a limit counts what a subset leaves
        fewer = data(only_train, hold_out=share, subset={"count": 4}, limit_train=3)
        fewer.setup("fit")
        assert len(fewer.train_set) == 3


def test_a_val_that_is_there_is_val(only_train: Path) -> None:
    write_coco(only_train, "val", images=[{"id": 1}], annotations=[{"bbox": [1, 2, 3, 4]}])
    own = data(only_train, hold_out=0.25)
    own.setup("fit")
    assert len(own.train_set) == IMAGES
    assert own.val_set.image_ids == (1,)
    assert NO_VAL not in own.report.notices
    assert not any("held out" in notice for notice in own.report.notices)


def test_without_val_the_report_says_what_follows_and_how_to_get_one(only_train: Path) -> None:
    own = data(only_train)
    for _ in range(2):  # the trainer sets up once more
        own.setup("fit")
    assert own.report.notices.count(NO_VAL) == 1
    assert "data.hold_out=0.2" in NO_VAL and "detr-mini data split" in NO_VAL


def test_a_check_before_the_training_sees_each_image_once(only_train: Path) -> None:
    own = data(only_train, hold_out=0.25, check="mend")
    own.setup("fit")
    assert len(own.train_set) + len(own.val_set) == IMAGES - 1  # of the two that are the same, one
    assert not any("train and val" in notice for notice in own.report.notices)


def test_shares_that_make_no_sense_are_refused(only_train: Path) -> None:
    for share in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match=r"data\.hold_out is .*it must be a share from 0 to 1"):
            data(only_train, hold_out=share)
    with pytest.raises(DataError, match=r"data\.hold_out=0\.01 of 20 images leaves none for val"):
        data(only_train, hold_out=0.01).setup("fit")


def test_the_size_is_chosen_from_what_is_trained_on(only_train: Path) -> None:
    own = data(only_train, hold_out=0.25, size="auto")
    own.categories = None
    own.setup("fit")
    assert own.image["size"] == 32  # the images are 60 wide
    assert own.report.chosen == {"data.size": 32}
    with pytest.raises(ConfigError, match=r"with data\.shorter_side say a number"):
        data(only_train, size="auto", shorter_side=32)
