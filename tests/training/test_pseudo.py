"""`pseudo=FOLDER`: pictures without labels join the training set, with what a detector is sure of as labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data_parts import write_images
from detector_parts import checkpoint_of, untrained
from detr_mini.errors import CheckpointError, ConfigError, DataError
from detr_mini.structures import Categories, Detections
from detr_mini.training.build import build
from detr_mini.training.pseudo import joined
from detr_mini.training.run import train
from training_parts import small_config

SHAPES = ("square", "circle", "triangle")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An untrained detector whose scores are about one half."""
    model = untrained()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("classify.bias"):
                parameter.add_(4)
    path = tmp_path / "teacher.ckpt"
    torch.save(checkpoint_of(model, Categories((1, 2, 3), SHAPES)), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", [f"{k}.png" for k in range(4)], (64, 64))
    (tmp_path / "photos" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "photos"


def test_pictures_stand_behind_the_labelled_ones_which_stay_as_they_are(scenes_root: Path, photos: Path) -> None:
    old = build(small_config(scenes_root, "trainer.max_steps=1")).data.train_set
    boxes = torch.tensor([[1.0, 2, 11, 22], [30, 30, 40, 60]])
    found = Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), old.categories, image_size=(64, 64))
    both, sure, unsure = joined(old, {photos / "0.png": found, photos / "1.png": found[:0]}, 0.7, {0: 0, 1: 2})
    assert (sure, unsure, len(both)) == (1, 1, len(old) + 2)
    for image_id in old.image_ids:
        assert torch.equal(both.target(image_id).boxes, old.target(image_id).boxes)
    new = both.target(both.image_ids[-2])
    assert new.labels.tolist() == [2, 0] and new.is_crowd.tolist() == [False, True]
    assert new.boxes[0].tolist() == pytest.approx([6 / 64, 12 / 64, 10 / 64, 20 / 64])
    assert not len(both.target(both.image_ids[-1]).boxes)
    assert both.records[len(both) - 2].path.is_file()


def test_a_training_joins_them_says_so_and_goes_on_with_the_same(
    scenes_root: Path, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(next((scenes_root / "train").iterdir()), photos / "labelled.png")
    more = (f"pseudo={photos}", f"pseudo_checkpoint={teacher}", "pseudo_threshold=0.4")
    run = train(small_config(scenes_root, *more, "trainer.max_steps=2", f"run_folder={tmp_path / 'run'}"))
    notices = json.loads((run / "data_report.json").read_text())["notices"]
    said = next(notice for notice in notices if notice.startswith("pseudo"))
    assert " of 4 new pictures" in said
    resumed = small_config(scenes_root, *more, "trainer.max_steps=4", f"run_folder={run}", "resume=auto")
    assert train(resumed) == run
    parts = build(small_config(scenes_root, *more, "trainer.max_steps=2"))
    assert len(parts.data.train_set) > 16
    batch = next(iter(parts.data.train_dataloader()))
    assert len(batch) == 4


def test_what_cannot_be_is_one_sentence(scenes_root: Path, teacher: Path, photos: Path, tmp_path: Path) -> None:
    def of(*more: str) -> None:
        build(small_config(scenes_root, f"pseudo={photos}", "trainer.max_steps=1", *more))

    with pytest.raises(ConfigError, match="needs a detector"):
        of()
    with pytest.raises(ConfigError, match="pseudo_threshold is 2"):
        of(f"pseudo_checkpoint={teacher}", "pseudo_threshold=2")
    with pytest.raises(DataError, match="finds nothing with a score"):
        of(f"pseudo_checkpoint={teacher}", "pseudo_threshold=1.0")
    others = tmp_path / "others.ckpt"
    torch.save(checkpoint_of(untrained()), others)
    with pytest.raises(CheckpointError, match="knows none of the data's categories"):
        of(f"pseudo_checkpoint={others}")
    with pytest.raises(DataError, match="are in the dataset already"):
        of(f"pseudo_checkpoint={teacher}", f"pseudo={scenes_root / 'train'}")
    with pytest.raises(DataError, match="there is no"):
        of(f"pseudo_checkpoint={teacher}", f"pseudo={tmp_path / 'gone'}")
