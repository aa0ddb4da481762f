from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_parts import AUTO, write_coco, write_voc, write_yolo
from detr_mini.data.choice import Choice, stratified_order
from detr_mini.data.splits import new_splits, split_ids
from detr_mini.data.subset import subset_of
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.discover import Source
from detr_mini.formats.split import CocoSet
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.verbs.data_split import data_split
from detr_mini.verbs.data_subset import data_subset

NAMES = ("bolt", "nut", "washer")
HERE = Path()
IDS, BOX = ({"id": 1}, {"id": 2}, {"id": 3}), [1, 2, 30, 20]
sets = st.lists(st.sets(st.sampled_from(NAMES)), min_size=1, max_size=60)


def numbered(categories: list[set[str]]) -> tuple[dict[int, set[str]], dict[int, str]]:
    owned = dict(enumerate(categories, start=1))
    return owned, {i: f"{i}.png" for i in owned}


@given(sets, st.integers(0, 5))
def test_the_order_has_every_image_once_and_means_nothing_by_its_listing(categories: list[set[str]], seed: int) -> None:
    owned, names = numbered(categories)
    order = stratified_order(owned, names, seed)
    assert sorted(order) == sorted(owned)
    assert stratified_order(dict(reversed(owned.items())), names, seed) == order


@given(st.integers(0, 100), st.integers(1, 99))
def test_every_beginning_has_each_category_in_its_share(seed: int, percent: int) -> None:
    owned, names = numbered([{"bolt"}] * 200 + [{"nut"}] * 50 + [{"washer"}] * 20 + [set()] * 30)
    count = round(percent / 100 * len(owned))
    found = Counter(name for i in stratified_order(owned, names, seed)[:count] for name in owned[i])
    for name, all_of_it in (("bolt", 200), ("nut", 50), ("washer", 20)):
        assert abs(found[name] - all_of_it * percent / 100) <= 1.5


def test_seeds_differ_and_repeat() -> None:
    owned, names = numbered([{"bolt"}] * 50)
    first, again, other = (stratified_order(owned, names, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    owned, names = numbered([{"bolt"}, {"nut"}] * 40)
    parts = [set(Choice(share=share).images(owned, names, NAMES)) for share in (0.1, 0.25, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(parts))
    assert [len(found) for found in parts] == [8, 20, 40, 80]


@given(sets.filter(lambda s: len(s) > 9), st.integers(0, 3))
def test_a_split_gives_every_image_to_one_part(categories: list[set[str]], seed: int) -> None:
    owned, names = numbered(categories)
    parts = split_ids(owned, names, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    assert sorted(i for own in parts.values() for i in own) == sorted(owned)
    assert len(parts["val"]) == round(0.2 * len(owned))


@pytest.mark.parametrize("shares", [{"val": 0.7, "test": 0.3}, {"val": 0.5, "test": 0.5}])
def test_without_train_the_other_parts_have_every_image(shares: dict[str, float]) -> None:
    owned, names = numbered([{"bolt"}, {"nut"}, set()] * 10)
    parts = split_ids(owned, names, shares, 0)
    assert {name: len(own) for name, own in parts.items()} == {name: 30 * share for name, share in shares.items()}
    assert sorted(i for own in parts.values() for i in own) == sorted(owned)


@pytest.mark.parametrize(("val", "test"), [(0.7, 0.3), (0.9, 0.1), (0.5, 0.5)])
def test_shares_that_are_all_of_it_leave_no_train(tmp_path: Path, val: float, test: float) -> None:
    write_yolo(tmp_path / "set", {"train": {f"{k:02d}": ["0 0.5 0.5 0.5 0.5"] for k in range(20)}})
    parts, _ = new_splits(Source.of({"root": tmp_path / "set", **AUTO}), val=val, test=test)
    assert {name: len(tree.content["images"]) for name, tree in parts.items()} == {"val": 20 * val, "test": 20 * test}


def test_a_category_of_two_images_stays_in_train() -> None:
    owned, names = numbered([{"bolt"}] * 98 + [{"washer"}] * 2)
    for seed in range(20):
        parts = split_ids(owned, names, {"train": 0.8, "val": 0.2}, seed)
        assert {99, 100} <= set(parts["train"])


def test_pictures_that_belong_together_stay_together() -> None:
    owned, names = numbered([{"bolt"}] * 40)
    together = {i: i - 1 for i in range(2, 41, 2)}
    for seed in range(5):
        parts = split_ids(owned, names, {"train": 0.5, "val": 0.5}, seed, together)
        place = {i: name for name, own in parts.items() for i in own}
        assert all(place[a] == place[b] for a, b in together.items())
        assert len(parts["val"]) == 20


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"count": 0}, "count is 0"),
        ({"share": 0}, "share is 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"share": 0.5, "count": 3}, "say the same twice"),
        ({"cuont": 3}, "cuont does not exist in a subset; did you mean 'count'"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wish: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Choice.of(wish)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"categories": ["bold"]}, "no category 'bold'; did you mean 'bolt'"),
        ({"categories": ["washer"]}, "the subset is empty: there is no image with washer"),
        ({"ids": [9]}, "there is no image 9"),
        ({"ids": ["3.pgn"]}, r"no image '3\.pgn'; did you mean '3\.png'"),
        ({"count": 4}, "a subset of 4 images is asked for, but there are 3"),
    ],
)
def test_an_empty_subset_is_refused(wish: dict[str, Any], sentence: str) -> None:
    owned, names = numbered([{"bolt"}, {"nut"}, set()])
    with pytest.raises(DataError, match=sentence):
        Choice.of(wish).images(owned, names, NAMES)


@pytest.fixture
def coco(tmp_path: Path) -> CocoSet:
    boxes = [
        {"bbox": [10, 10, 5 + i, 6 + c], "image_id": i, "category_id": c, "iscrowd": int(c == 3)}
        for i in range(1, 7)
        for c in (1, 2, 3)
        if i % c == 0
    ]
    return read_coco(*write_coco(tmp_path, images=[{"id": i} for i in range(1, 8)], annotations=boxes))


def test_a_subset_of_a_set_is_what_reading_it_alone_would_give(coco: CocoSet) -> None:
    part = subset_of(coco, Choice(ids=(2, 3, 7)))
    assert part.image_ids == (2, 3, 7)
    for image_id in part.image_ids:
        whole, own = coco.target(image_id), part.target(image_id)
        assert whole.boxes.tolist() == own.boxes.tolist()
        assert whole.labels.tolist() == own.labels.tolist()
        assert whole.is_crowd.tolist() == own.is_crowd.tolist()
    assert [r.path for r in part.records] == [coco.records[i].path for i in (1, 2, 6)]
    report = part.report
    assert (report.images, report.boxes, report.crowd, report.background) == (3, 3, 1, 1)
    assert report.per_category == {"bolt": 2, "nut": 1, "washer": 0}


def test_a_subset_by_category_has_its_boxes_only_and_the_model_s_labels(coco: CocoSet) -> None:
    part = subset_of(coco, Choice(categories=("nut",)))
    assert part.image_ids == (2, 4, 6)
    assert part.labels.tolist() == [1, 1, 1]
    assert part.categories == coco.categories


def task(root: Path, output: Path, **settings: Any) -> dict[str, Any]:
    return {
        "data": {"root": root, **AUTO}, "output": output, "splits": ["train"], "categories": None, "ids": None,
        "count": None, "share": None, "seed": 0, "images": "copy", **settings,
    }  # fmt: skip


ROWS = {
    "a": ["0 0.5 0.5 0.5 0.5"],
    "b": ["1 0.5 0.5 0.5 0.5", "0 0.2 0.2 0.1 0.1"],
    "c": [],
    "d": ["2 0.5 0.5 0.5 0.5"],
}


def test_a_subset_is_written_in_the_form_it_came_in_and_the_other_splits_stay_whole(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set", {"train": ROWS, "val": {"e": ROWS["b"], "f": []}})
    data_subset(task(tmp_path / "set", tmp_path / "part", count=2))
    trees = Source.of({"root": tmp_path / "part", **AUTO}).trees()
    assert [len(tree.content["images"]) for tree in trees.values()] == [2, 2]
    assert len(list((tmp_path / "part" / "images").rglob("*.png"))) == 4
    data_subset(task(tmp_path / "set", tmp_path / "again", count=2))
    files = [sorted(p.name for p in (tmp_path / name).rglob("*.txt")) for name in ("part", "again")]
    assert files[0] == files[1]


def test_a_subset_by_category_cuts_all_splits(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set", {"train": ROWS, "val": {"e": ROWS["b"], "f": []}})
    data_subset(task(tmp_path / "set", tmp_path / "part", categories=["bolt"]))
    trees = Source.of({"root": tmp_path / "part", **AUTO}).trees()
    assert [[c["name"] for c in tree.content["categories"]] for tree in trees.values()] == [["bolt"]] * 2
    assert [len(tree.content["images"]) for tree in trees.values()] == [2, 1]
    assert [len(tree.content["annotations"]) for tree in trees.values()] == [2, 1]
    with pytest.raises(DataError, match="the subset is empty: there is no image with washer"):
        data_subset(task(tmp_path / "set", tmp_path / "none", categories=["washer"]))
    with pytest.raises(ConfigError, match="has no split 'tran'"):
        data_subset(task(tmp_path / "set", tmp_path / "none", splits=["tran"]))


def test_a_folder_without_splits_is_split_and_copies_of_one_picture_stay_together(tmp_path: Path) -> None:
    many = {f"{k:02d}": ["0 0.5 0.5 0.5 0.5"] for k in range(20)}
    write_yolo(tmp_path / "set", {"train": many})
    shutil.copy(tmp_path / "set/images/train/00.png", tmp_path / "set/images/train/19.png")
    config = {**task(tmp_path / "set", tmp_path / "new"), "val": 0.4, "test": 0.2, "all": False}
    for seed in range(3):
        data_split({**config, "seed": seed, "output": tmp_path / f"new{seed}"})
        trees = Source.of({"root": tmp_path / f"new{seed}", **AUTO}).trees()
        stems = {name: {Path(i["file_name"]).stem for i in tree.content["images"]} for name, tree in trees.items()}
        assert sum(map(len, stems.values())) == 20
        assert [len(own & {"00", "19"}) for own in stems.values()].count(2) == 1
        assert abs(len(stems["val"]) - 8) <= 1
    with pytest.raises(ConfigError, match="is split already"):
        data_split({**config, "data": {"root": tmp_path / "new0", **AUTO}, "output": tmp_path / "x"})
    with pytest.raises(DataError, match="test would be empty"):
        data_split({**config, "test": 0.01, "output": tmp_path / "y"})
    with pytest.raises(ConfigError, match=r"leave -0\.2 for train"):
        data_split({**config, "val": 0.8, "test": 0.4, "output": tmp_path / "z"})


def test_splits_that_number_their_categories_otherwise_are_joined_by_name(tmp_path: Path) -> None:
    one, two = (
        ({"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}),
        ({"id": 1, "name": "nut"}, {"id": 7, "name": "pin"}),
    )
    write_coco(tmp_path / "set", "train", images=IDS, annotations=[{"bbox": BOX, "category_id": 2}], categories=one)
    boxes = [{"image_id": 9, "bbox": BOX, "category_id": 1}, {"image_id": 9, "bbox": BOX, "category_id": 7}]
    write_coco(tmp_path / "set", "val", images=[{"id": 9}], annotations=boxes, categories=two)
    for file in (tmp_path / "set/val").iterdir():
        shutil.move(file, tmp_path / "set/train")
    (tmp_path / "set/val").rmdir()
    (tmp_path / "set/train").rename(tmp_path / "set/images")
    data = {**AUTO, "root": tmp_path / "set", "format": "coco"}
    data_split({**task(tmp_path / "set", tmp_path / "new"), "data": data, "val": 0.4, "test": 0.0, "all": True})
    trees = Source.of({"root": tmp_path / "new", **AUTO}).trees().values()
    names = [{c["id"]: c["name"] for c in tree.content["categories"]} for tree in trees]
    assert names == [{1: "bolt", 2: "nut", 7: "pin"}] * 2
    found = Counter(names[0][a["category_id"]] for tree in trees for a in tree.content["annotations"])
    assert found == {"nut": 2, "pin": 1}


def test_an_id_that_two_names_claim_goes_to_the_first() -> None:
    def tree(*categories: tuple[int, str]) -> Tree:
        boxes = [{"category_id": i} for i, _ in categories]
        return Tree({"categories": [{"id": i, "name": n} for i, n in categories], "annotations": boxes}, HERE, HERE)

    joined = with_one_list({"train": tree((1, "bolt")), "val": tree((1, "pin"), (2, "bolt"))})
    assert joined["val"].content["categories"] == [{"id": 3, "name": "pin"}, {"id": 1, "name": "bolt"}]
    assert joined["val"].content["annotations"] == [{"category_id": 3}, {"category_id": 1}]
    assert joined["train"].content["annotations"] == [{"category_id": 1}]


def test_splitting_anew_refuses_what_no_box_can_be_made_of(tmp_path: Path) -> None:
    things = [("bolt", (1, 2, 30, 20))]
    write_voc(tmp_path / "set", {"train": {"a": things, "b": things}, "val": {"c": [("nut", ("wide", 9, 9, 30))]}})
    with pytest.raises(DataError, match="fix them first"):
        data_split({**task(tmp_path / "set", tmp_path / "new"), "val": 0.4, "test": 0.0, "all": True})


def test_blood_cells_are_split_in_their_shares(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    config = task(shared_data("bccd_voc"), tmp_path / "new", images="link")
    data_split({**config, "val": 0.25, "test": 0.0, "all": True})
    trees = Source.of({"root": tmp_path / "new", **AUTO}).trees()
    assert {name: len(tree.content["images"]) for name, tree in trees.items()} == {"train": 273, "val": 91}
    boxes = Counter(a["category_id"] for a in trees["val"].content["annotations"])
    whole = Counter(a["category_id"] for tree in trees.values() for a in tree.content["annotations"])
    assert all(0.18 < boxes[i] / whole[i] < 0.32 for i in whole)


def test_a_subset_of_coco_keeps_what_the_records_say(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("coco_mini")
    data_subset(task(root, tmp_path / "part", share=0.25, splits=["val"], images="link"))
    whole = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    part = json.loads((tmp_path / "part" / "annotations" / "val.json").read_text())
    assert len(part["images"]) == round(0.25 * len(whole["images"]))
    by_id = {a["id"]: a for a in whole["annotations"]}
    assert part["annotations"]
    assert all(by_id[a["id"]] == a for a in part["annotations"])
    assert part["categories"] == whole["categories"]
