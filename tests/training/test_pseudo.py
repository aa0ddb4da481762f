"""`pseudo=FOLDER`: pictures without labels join the training set, with what a detector is sure of as labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from data_parts import write_images
from detector_parts import checkpoint_of, untrained
from detr_mini.errors import CheckpointError, ConfigError, DataError
from detr_mini.formats.split import ImageRecord
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.structures import Categories, Detections
from detr_mini.training import pseudo
from detr_mini.training.build import build
from detr_mini.training.keep_categories import once_each
from detr_mini.training.launch import Launch
from detr_mini.training.processes import ALONE, Ranks
from detr_mini.training.pseudo import _path, as_labels, find_pseudo, joined
from detr_mini.training.run import train
from detr_mini.training.watch import Watch
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


def at(path: Path) -> ImageRecord:
    return ImageRecord(1, str(path), path, (64, 64))


def test_pictures_stand_behind_the_labelled_ones_which_stay_as_they_are(scenes_root: Path, photos: Path) -> None:
    old = build(small_config(scenes_root, "trainer.max_steps=1")).data.train_set
    boxes = torch.tensor([[1.0, 2, 11, 22], [30, 30, 40, 60]])
    found = Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), old.categories, image_size=(64, 64))
    both_found = {at(photos / "0.png"): found, at(photos / "1.png"): found[:0]}
    labels = as_labels(both_found, str(photos), 0.7, {0: 0, 1: 2})
    assert labels["names"] == ["0.png", "1.png"] and labels["sure"].tolist() == [True, False]
    both = joined(old, [record.path for record in both_found], labels)
    assert len(both) == len(old) + 2
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
    sources = read_checkpoint(run / "last.ckpt")["sources"]
    assert [source["images"] for source in sources] == [16, len(parts.data.train_set) - 16]
    assert sources[1]["name"] == "photos"
    batch = next(iter(parts.data.train_dataloader()))
    assert len(batch) == 4


def test_a_resumed_run_trains_on_what_was_found_before_it_began(
    scenes_root: Path, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    more = (f"pseudo={photos}", f"pseudo_checkpoint={teacher}", "pseudo_threshold=0.4")
    words = (*more, f"run_folder={tmp_path / 'run'}", "resume=auto", "data.val=null", "data.test=null")
    run = train(small_config(scenes_root, *words, "trainer.max_steps=1"))
    first = read_checkpoint(run / "last.ckpt")["pseudo"]
    teacher.unlink()  # another detector may lie there by now
    write_images(photos, ["later.png"], (64, 64))
    train(small_config(scenes_root, *words, "trainer.max_steps=2"))
    again = read_checkpoint(run / "last.ckpt")
    assert again["global_step"] == 2 and again["pseudo"]["names"] == first["names"]
    assert again["pseudo"]["boxes_xywh"].equal(first["boxes_xywh"])
    (photos / first["names"][0]).unlink()
    with pytest.raises(DataError, match=rf"1 of {len(first['names'])} pictures of this run are not there.*put them"):
        train(small_config(scenes_root, *words, "trainer.max_steps=3"))


def test_with_tiles_the_detector_looks_at_windows_of_the_pictures(
    scenes_root: Path, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    write_images(photos, ["small.png"], (40, 48))
    more = (f"pseudo={photos}", f"pseudo_checkpoint={teacher}", "pseudo_threshold=0.4", "data.tiles=48")
    words = (*more, "data.val=null", "data.test=null", f"run_folder={tmp_path / 'run'}", "resume=auto")
    run = train(small_config(scenes_root, *words, "trainer.max_steps=1"))
    saved = read_checkpoint(run / "last.ckpt")
    assert saved["sources"][1]["images"] == 5, "files and not their windows"
    train_set = build(small_config(scenes_root, *more, "trainer.max_steps=1")).data.train_set
    new = [record for record in train_set.records if record.path.parent == photos]
    assert len(new) == 4 * 4 + 1
    assert {record.window for record in new} == {
        None, *((top, left, 48, 48) for top in (0, 16) for left in (0, 16))}  # fmt: skip
    for record in new:
        target = train_set.target(record.image_id)
        assert len(target.boxes) and tuple(record.pixels().shape[1:]) == record.size == target.original_size
        assert (target.boxes[:, 2:] <= 1).all()
    train(small_config(scenes_root, *words, "trainer.max_steps=2"))
    assert read_checkpoint(run / "last.ckpt")["pseudo"]["corners"] == saved["pseudo"]["corners"]


class Pair(Ranks):
    """One of two processes, which are threads here."""

    def __init__(self, rank: int, given: dict[int, Any], barrier: Barrier) -> None:
        super().__init__(Launch(rank=rank, world=2), Watch())
        self.given, self.barrier = given, barrier

    def of_all(self, value: Any) -> list[Any]:
        self.given[self.launch.rank] = value
        self.barrier.wait(60)
        found = [self.given[0], self.given[1]]
        self.barrier.wait(60)
        return found

    def of_first(self, decide: Callable[[], Any]) -> Any:
        return self.of_all(decide() if self.first else None)[0]


def test_processes_share_the_pictures_and_keep_the_same(
    scenes_root: Path, teacher: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = pseudo._look
    monkeypatch.setattr(pseudo, "track", lambda items, title: items)
    monkeypatch.setattr(
        pseudo, "_look", lambda detector, paths, *more: (looked.append(len(paths)), look(detector, paths, *more))[1]
    )
    settings = {"pseudo": str(photos), "pseudo_checkpoint": str(teacher), "pseudo_threshold": 0.4}
    data = build(small_config(scenes_root, "trainer.max_steps=1")).data
    alone = find_pseudo(data, settings, "cpu", ALONE)
    given: dict[int, Any] = {}
    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        pair = [Pair(rank, given, barrier) for rank in range(2)]
        one, other = pool.map(lambda ranks: find_pseudo(data, settings, "cpu", ranks), pair)
    assert looked[0] == 4 and sorted(looked[1:]) == [2, 2], "each looks at its share"
    assert alone["names"] == one["names"] == other["names"] and alone["pictures"] == 4
    for name in ("boxes_xywh", "labels", "sure", "counts"):
        assert one[name].equal(other[name])
    torch.testing.assert_close(one["boxes_xywh"], alone["boxes_xywh"], atol=1e-3, rtol=0)  # batched otherwise


def test_names_lead_back_to_the_pictures_from_a_folder_and_from_a_pattern(photos: Path) -> None:
    found = {at(photos / "0.png"): Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(),
                                          Categories((1,), ("a",)), image_size=(64, 64))}  # fmt: skip
    for folder in (str(photos), f"{photos}/*.png", f"{photos.parent}/**/*.png"):
        (name,) = as_labels(found, folder, 0.5, {})["names"]
        assert _path(folder, name) == photos / "0.png"


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


def test_what_is_found_twice_counts_once_and_an_unsure_double_does_not_hide_the_sure_one() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 20, 20], [1, 1, 21, 21], [50, 50, 60, 60], [0, 0, 20, 20]])
    labels, scores = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0.9, 0.8, 0.4, 0.4, 0.4])
    rows, sure = once_each(boxes, labels, scores, 0.5)
    assert sorted(zip(rows.tolist(), sure.tolist(), strict=True)) == [(0, True), (3, False)]
    rows, sure = once_each(boxes[:0], labels[:0], scores[:0], 0.5)
    assert not len(rows) and not len(sure)


def test_what_is_found_twice_in_a_large_picture_counts_once_in_every_category() -> None:
    boxes = torch.tensor([[100.12, 100, 101.12, 101], [100.13, 100, 101.13, 101], [39_990, 39_990, 40_000, 40_000]])
    rows, _ = once_each(boxes, torch.tensor([79, 79, 0]), torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert rows.tolist() == [0, 2]
