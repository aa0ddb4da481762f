"""`backgrounds=FOLDER`: images without objects join the training set, and only that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_parts import write_images
from detr_mini.errors import DataError
from detr_mini.formats.split import ImageRecord
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training.build import build
from detr_mini.training.run import train
from training_parts import small_config


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "grass", [f"{k}.png" for k in range(3)], (40, 64))
    (tmp_path / "grass" / "LICENSE").write_text("CC0 1.0")
    return tmp_path / "grass"


def test_they_stand_behind_the_labelled_ones_and_hold_no_box(scenes_root: Path, photos: Path) -> None:
    old = build(small_config(scenes_root, "trainer.max_steps=1")).data
    new = build(small_config(scenes_root, "trainer.max_steps=1", f"backgrounds={photos}")).data
    assert len(new.train_set) == len(old.train_set) + 3
    assert len(new.val_set) == len(old.val_set)
    assert new.train_set.report.boxes == old.train_set.report.boxes
    for image_id in new.train_set.image_ids[-3:]:
        record, target = new.train_set.records.of_id(image_id), new.train_set.target(image_id)
        assert record.path.parent == photos and record.size == (40, 64)
        assert len(target.boxes) == 0
    for image_id in old.train_set.image_ids:
        assert new.train_set.target(image_id).boxes.equal(old.train_set.target(image_id).boxes)
    said = next(notice for notice in new.report.notices if notice.startswith("backgrounds"))
    assert "3 images" in said and str(photos) in said


def test_a_training_with_them_ends_and_its_checkpoint_says_where_they_are_from(
    scenes_root: Path, photos: Path, tmp_path: Path
) -> None:
    more = (f"backgrounds={photos}", "trainer.max_steps=3", f"run_folder={tmp_path / 'run'}")
    run = train(small_config(scenes_root, *more))
    sources = read_checkpoint(run / "last.ckpt")["sources"]
    assert sources[-1] == {"name": "grass", "images": 3, "licence": "CC0 1.0"}
    assert sources[0]["images"] == len(build(small_config(scenes_root, "trainer.max_steps=1")).data.train_set)


def test_images_of_the_dataset_itself_stay_out(scenes_root: Path, photos: Path) -> None:
    shutil.copy(next((scenes_root / "val").iterdir()), photos / "copy.png")
    parts = build(small_config(scenes_root, "trainer.max_steps=1", f"backgrounds={photos}"))
    assert not [record for record in parts.data.train_set.records if record.path.name == "copy.png"]
    with pytest.raises(DataError, match="are in the dataset already; leave backgrounds out"):
        build(small_config(scenes_root, "trainer.max_steps=1", f"backgrounds={scenes_root / 'train'}"))


def test_a_file_that_is_no_image_is_named(scenes_root: Path, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png"):
        build(small_config(scenes_root, "trainer.max_steps=1", f"backgrounds={photos}"))


def test_tiles_cut_them_and_keep_no_more_than_there_are_tiles_with_objects(scenes_root: Path, photos: Path) -> None:
    write_images(photos, ["large.png"], (400, 400))

    def windows(*more: str) -> list[ImageRecord]:
        parts = build(small_config(scenes_root, "trainer.max_steps=1", f"backgrounds={photos}", *more))
        said.append(next(notice for notice in parts.data.report.notices if notice.startswith("backgrounds")))
        full.append(int((parts.data.train_set.objects > 0).sum()))
        return [record for record in parts.data.train_set.records if record.path.parent == photos]

    said, full = list[str](), list[int]()
    cut = windows("data.tiles=48")
    assert len(cut) == full[0] < 100, "as many as there are tiles with objects"
    assert f"{len(cut)} tiles of 4 images" in said[0]
    assert all(record.size == (48, 48) or record.size == (40, 48) for record in cut)
    assert cut == windows("data.tiles=48")
    assert cut[-1].pixels().shape == (3, 48, 48) and cut[-1].window is not None
    assert [record.window for record in windows("data.tiles=400")] == [None] * 4


def test_sources_count_files_and_not_their_tiles(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=1", "data.tiles=48"))
    assert len(parts.data.train_set) > 16
    assert parts.task.metadata["sources"][0]["images"] == 16
