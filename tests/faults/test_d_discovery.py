"""D-12, D-13, D-14, D-16 to D-18, D-25: what lies in a folder is recognised by what the files are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_parts import AUTO, voc_text, write_coco, write_images, write_voc, write_yolo
from detr_mini.data.module import DetectionData
from detr_mini.errors import DataError
from detr_mini.formats.discover import Layout, Source, find_layout, located
from detr_mini.formats.load import read_split
from detr_mini.formats.split import CocoSet

BOX = [("nut", (1, 1, 10, 10))]
ROW = "0 0.5 0.5 0.5 0.5\n"
NOTES = '{"categories": [{"id": 2, "name": "B"}, {"id": 0, "name": "A"}, {"id": 1, "name": "C"}]}'


def read_all(root: Path) -> tuple[Layout, dict[str, CocoSet]]:
    """What is found in a folder, every split read."""
    layout = find_layout(root)
    sets: dict[str, CocoSet] = {}
    for name, split in layout.splits.items():
        categories = sets["train"].categories if sets else None
        sets[name] = read_split(root, split, name, format=layout.format, categories=categories)
    return layout, sets


def boxes(root: Path) -> dict[str, int]:
    """How many boxes each split has."""
    return {name: coco.report.boxes for name, coco in read_all(root)[1].items()}


def write_xml(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(voc_text(f"{Path(path).stem}.png", BOX))


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("images", "annotations"),
        ("images", "annots"),
        (".", "."),
        ("photos", "photos"),
        ("my pictures", "xml"),
        ("VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/Annotations"),
        ("data", "labels"),
        ("a/images", "a/b/xmls"),
    ],
)
def test_d12_voc_is_found_whatever_its_folders_are_called(tmp_path: Path, images: str, annotations: str) -> None:
    write_images(tmp_path / images, ["a.png", "b.png"])
    write_xml(tmp_path, f"{annotations}/a.xml", f"{annotations}/b.xml")
    layout, sets = read_all(tmp_path)
    assert layout.format == "voc"
    assert layout.splits == {"train": {"images": images, "annotations": annotations}}
    assert sets["train"].report.boxes == 2


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("{}/images", "{}/annots"),
        ("images/{}", "annotations/{}"),
        ("{}", "{}"),
        ("{}_images", "{}_xml"),
        ("set/{}/pictures", "set/{}/pictures/voc"),
    ],
)
def test_d12_splits_of_voc_are_found_by_their_folders(tmp_path: Path, images: str, annotations: str) -> None:
    for split, stems in {"train": ["a", "b"], "valid": ["a"], "test": ["a"]}.items():  # the same names in each
        write_images(tmp_path / images.format(split), [f"{stem}.png" for stem in stems])
        write_xml(tmp_path, *(f"{annotations.format(split)}/{stem}.xml" for stem in stems))
    layout, sets = read_all(tmp_path)
    assert {name: split["images"] for name, split in layout.splits.items()} == {
        "train": images.format("train"), "val": images.format("valid"), "test": images.format("test"),
    }  # fmt: skip
    assert {name: coco.report.boxes for name, coco in sets.items()} == {"train": 2, "val": 1, "test": 1}


def test_d12_folders_within_the_split_of_voc_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cats/1.png", "dogs/1.png", "dogs/2.png"])
    write_xml(tmp_path, "annots/cats/1.xml", "annots/dogs/1.xml", "annots/dogs/2.xml")
    _, sets = read_all(tmp_path)
    assert [r.file_name for r in sets["train"].records] == ["cats/1.png", "dogs/1.png", "dogs/2.png"]
    assert sets["train"].report.boxes == 3


def test_d12_masks_with_the_images_names_are_not_taken_for_the_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["Photos/a.png", "Masks/a.png"])
    write_xml(tmp_path, "annots/a.xml")
    assert find_layout(tmp_path).splits["train"]["images"] == "Photos"


@pytest.mark.parametrize("listing", ["train.txt", "splits/train_list.txt", "ImageSets/Main/trainval.txt"])
def test_d12_a_list_that_names_the_xml_files_is_the_split(tmp_path: Path, listing: str) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    write_xml(tmp_path, "annots/a.xml", "annots/b.xml", "annots/c.xml")
    for file, stems in {listing: "images/a.png\nimages/b.png\n", "test.txt": "c\n"}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(stems)
    assert boxes(tmp_path) == {"train": 2, "test": 1}


def test_d12_what_was_read_is_said_before_the_training(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    write_xml(tmp_path, "annots/a.xml")
    notes = find_layout(tmp_path).notes
    assert any("is read as VOC" in note for note in notes)
    assert any("class names come from the XML files" in note for note in notes)
    assert any(note == "train: 1 XML files in annots, images in images" for note in notes)
    data = folder(tmp_path)
    data.setup("fit")
    assert set(notes) <= set(data.report.notices)


def folder(root: Path, **settings: object) -> DetectionData:
    how = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "stride": 32, "seed": 0}
    return DetectionData(root=root, **{**AUTO, **how, **settings})  # type: ignore[arg-type]


def yolo_folders(root: Path, folders: dict[str, str]) -> None:
    for split, place in folders.items():
        write_images(root / place, [f"{split}_a.png"])
        labels = root / place.replace("images", "labels") / f"{split}_a.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(ROW)


@pytest.mark.parametrize(
    "said",
    [
        "/mnt/data/{}/images",
        r"C:\Users\me\cats\{}\images",
        "'D:/sets/{}/images/'",
        "Cats-1/{}/images",
        "../{}/images",
        "../../{}/images",
        "./{}/images",
        "https://example.org/sets/{}/images",
    ],
)
def test_d13_splits_are_looked_for_below_the_root_by_the_end_of_their_path(tmp_path: Path, said: str) -> None:
    root = tmp_path / "Cats-1"
    yolo_folders(root, {"train": "train/images", "valid": "valid/images"})
    (root / "data.yaml").write_text(
        f"path: /data/me/sets\ntrain: {said.format('train')}\nval: {said.format('valid')}\nnc: 1\nnames: [cat]\n"
    )
    layout, sets = read_all(root)
    assert layout.splits["train"]["images"] == "train/images"
    assert layout.splits["val"]["images"] == "valid/images"
    assert [r.file_name for r in sets["val"].records] == ["valid/images/valid_a.png"]
    assert sets["train"].report.boxes == sets["val"].report.boxes == 1
    if "mnt" in said:
        assert "train: data.yaml says '/mnt/data/train/images'; it was found at train/images" in layout.notes


def test_d13_a_split_never_lies_outside_the_root_when_something_inside_fits(tmp_path: Path) -> None:
    yolo_folders(tmp_path, {"train": "train/images"})  # another dataset, where ../train/images leads to
    root = tmp_path / "mine"
    yolo_folders(root, {"train": "train/images", "val": "val/images"})
    outside = tmp_path / "train" / "images"
    for said in ("../train/images", str(outside)):
        (root / "data.yaml").write_text(f"train: {said}\nval: val/images\nnames: [cat]\n")
        assert find_layout(root).splits["train"]["images"] == "train/images"


def test_d13_a_path_that_fits_no_split_inside_is_not_given_to_another_split(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": [ROW]}})
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [bolt]\n")
    layout, sets = read_all(tmp_path)
    assert list(sets) == ["train"]
    assert layout.splits["train"]["images"] == "images/train"
    assert any("val: data.yaml says '../valid/images', which is not there" in note for note in layout.notes)


def test_d13_lists_of_foreign_paths_are_read(tmp_path: Path) -> None:
    yolo_folders(tmp_path, {"train": "images/train", "val": "images/val"})
    (tmp_path / "train.txt").write_text("/content/set/images/train/train_a.png\n")
    (tmp_path / "val.txt").write_text("C:\\set\\images\\val\\val_a.png\n")
    (tmp_path / "data.yaml").write_text("train: /content/set/train.txt\nval: /content/set/val.txt\nnames: [cat]\n")
    layout, sets = read_all(tmp_path)
    assert layout.splits["train"]["images"] == "train.txt"
    assert {name: coco.report.boxes for name, coco in sets.items()} == {"train": 1, "val": 1}


def test_d13_a_split_that_the_data_file_does_not_name_is_found(tmp_path: Path) -> None:
    yolo_folders(tmp_path, {"train": "train/images", "val": "valid/images", "test": "test/images"})
    (tmp_path / "data.yaml").write_text("train: /mnt/train/images\nval: /mnt/valid/images\nnames: [cat]\n")
    assert boxes(tmp_path) == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("name", ["/data/coco/{}/a.png", r"images\{}\a.png", "../../upload/{}/a.png"])
def test_d13_foreign_paths_of_coco_images_are_found_by_their_end(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split, images=[{"id": 1, "file_name": "x.png"}], annotations=[{"bbox": [1, 1, 9, 9]}])
        (tmp_path / split / "x.png").rename(tmp_path / split / "a.png")
        path = tmp_path / "annotations" / f"{split}.json"
        path.write_text(path.read_text().replace('"x.png"', json.dumps(name.format(split))))
    _, sets = read_all(tmp_path)
    assert [r.path for r in sets["val"].records] == [tmp_path / "val" / "a.png"]
    assert any("found by the end of their paths" in notice for notice in sets["val"].report.notices)
    trees = Source.of({"root": tmp_path, **AUTO}).trees()
    assert (trees["train"].folder / trees["train"].content["images"][0]["file_name"]).is_file()


@pytest.mark.parametrize("test", ["test: images/test", "test: images/empty", "test: ''", "test: /mnt/data/test/images"])
def test_d14_a_test_that_is_absent_or_empty_is_said_at_the_start(tmp_path: Path, test: str) -> None:
    write_yolo(tmp_path, {"train": {"a": [ROW]}, "val": {"b": [ROW]}})
    (tmp_path / "images" / "empty").mkdir()
    with (tmp_path / "data.yaml").open("a") as file:
        file.write(f"{test}\n")
    data = folder(tmp_path)
    data.setup("fit")
    assert data.splits["test"] is None
    assert data.splits["val"]
    if "''" not in test:
        assert any(notice.startswith("test:") for notice in data.report.notices)


def test_d14_a_test_of_images_alone_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split, annotations=[{"bbox": [1, 1, 9, 9]}])
    path, _ = write_coco(tmp_path, "test2017")
    content = json.loads(path.read_text())
    del content["annotations"]
    path.unlink()
    (path.parent / "image_info_test2017.json").write_text(json.dumps(content))
    data = folder(tmp_path)
    data.setup("fit")
    assert data.splits["test"] is None
    assert any("image_info_test2017.json lists images without annotations" in note for note in data.report.notices)
    where = {"images": "test2017", "annotations": "annotations/image_info_test2017.json"}
    layout = located(tmp_path, "coco", {"train": None, "val": None, "test": where})
    assert "test" not in layout.splits
    assert "image_info_test2017.json has no annotations" in layout.notes[0]


def test_d14_a_test_without_boxes_is_measured_on_val(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": [ROW]}, "val": {"b": [ROW]}, "test": {"c": [], "d": None}})
    data = folder(tmp_path)
    data.setup("fit")
    assert data.splits["test"] is None
    assert "test has 2 images and no box; measured on val instead" in data.report.notices


def test_d14_the_usual_list_of_voc_that_is_absent_is_left_out(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": {"a": BOX}, "val": {"b": BOX}})
    main = {"images": "JPEGImages", "annotations": "Annotations"}
    splits = {name: {**main, "list": f"ImageSets/Main/{name}.txt"} for name in ("train", "val", "test")}
    data = folder(tmp_path, format="voc", **splits)
    data.setup("fit")
    assert data.splits["test"] is None
    assert any("test is left out: there is no" in notice for notice in data.report.notices)


def test_d14_a_test_that_cannot_be_used_is_refused_before_the_training(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": {"a": BOX}, "val": {"b": BOX}, "test": {"c": [("bolt", (1, 1, 10, 10))]}})
    with pytest.raises(DataError, match=r"test: .*'bolt'.* data\.test=null trains without it"):
        folder(tmp_path).setup("fit")


def test_d16_a_mark_at_the_start_of_lists_and_data_files_is_no_part_of_them(tmp_path: Path) -> None:
    mark = "\ufeff"
    write_images(tmp_path / "yolo", ["images/a.png"])
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "a.txt").write_text(mark + ROW)
    (tmp_path / "yolo" / "data.yaml").write_text(f"{mark}names: [bolt]\ntrain: images\n")
    assert boxes(tmp_path / "yolo") == {"train": 1}
    (tmp_path / "yolo" / "data.yaml").unlink()
    (tmp_path / "yolo" / "classes.txt").write_text(f"{mark}bolt\n")
    assert read_all(tmp_path / "yolo")[1]["train"].categories.names == ("bolt",)
    write_voc(tmp_path / "voc", {"train": {"a": BOX, "b": BOX}})
    (tmp_path / "voc" / "ImageSets" / "Main" / "train.txt").write_text(f"{mark}a\nb\n")
    assert boxes(tmp_path / "voc") == {"train": 2}


def test_d17_hidden_files_beside_the_real_ones_are_ignored(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"0": [ROW]}})
    write_voc(tmp_path / "voc", {"train": {"a": BOX}})
    write_coco(tmp_path / "coco", annotations=[{"bbox": [1, 1, 9, 9]}])
    junk = b"\x00\x05\x16\x07\x00\x02\xff"
    for path in (
        "yolo/labels/train/._0.txt", "yolo/images/train/._0.png", "yolo/._data.yaml", "yolo/.DS_Store",
        "voc/Annotations/._a.xml", "voc/JPEGImages/._a.png", "voc/ImageSets/Main/._train.txt",
        "voc/Annotations/.DS_Store", "coco/annotations/._train.json",
        "coco/._instances_train.json", "coco/__MACOSX/train.json",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(junk)
    for kind in ("yolo", "voc", "coco"):
        layout, sets = read_all(tmp_path / kind)
        assert layout.format == kind
        assert sets["train"].report.boxes == 1
        assert sets["train"].report.notices == []


def test_d18_endings_may_be_written_in_any_case(tmp_path: Path) -> None:
    write_images(tmp_path / "voc" / "images", ["a.png", "b.PNG"])
    write_xml(tmp_path / "voc", "annots/a.xml", "annots/b.XML")
    assert boxes(tmp_path / "voc") == {"train": 2}
    write_images(tmp_path / "yolo" / "images", ["a.png", "b.PNG"])
    for name in ("a.txt", "b.TXT"):
        (tmp_path / "yolo" / "labels").mkdir(exist_ok=True)
        (tmp_path / "yolo" / "labels" / name).write_text(ROW)
    (tmp_path / "yolo" / "data.YAML").write_text("names: [bolt]\n")
    layout, sets = read_all(tmp_path / "yolo")
    assert sets["train"].report.boxes == 2
    assert layout.splits["train"]["names"] == "data.YAML"
    path, _ = write_coco(tmp_path / "coco", annotations=[{"bbox": [1, 1, 9, 9]}])
    path.rename(path.with_suffix(".JSON"))
    assert boxes(tmp_path / "coco") == {"train": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"classes.txt": "B\nA\nC\n"}, {"notes.json": NOTES}),
        ({"data.yaml": "names: [A, B]\ntrain: images\n"}, {"classes.txt": "B\nA\n"}),
        ({"data.yaml": "names: [A, B]\ntrain: images\n"}, {"labels/classes.txt": "B\nA\n"}),
        ({"data.yaml": "names: [A, B]\n"}, {"other.yaml": "names: {0: A, 1: C}\n"}),
    ],
)  # fmt: skip
def test_d25_two_lists_of_names_that_disagree_stop_and_are_shown(
    tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(ROW)
    for file, text in {**first, **second}.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as error:
        find_layout(tmp_path)
    sentence = str(error.value)
    one, two = Path(next(iter(first))).name, Path(next(iter(second))).name
    assert "\n" not in sentence
    assert f"{one} and " in sentence
    assert f"{two}); remove the wrong file" in sentence
    assert "disagree about the classes: 0 " in sentence
    (tmp_path / next(iter(second))).unlink()
    assert boxes(tmp_path) == {"train": 1}


def test_d25_lists_that_agree_are_no_matter_of_order_of_lines_or_length(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(ROW)
    (tmp_path / "classes.txt").write_text("B\nA\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 1, "name": "A"}, {"id": 0, "name": "B"}]}')
    (tmp_path / "labels" / "classes.txt").write_text("B\nA\nC\n")
    assert read_all(tmp_path)[1]["train"].categories.names == ("B", "A")


def test_d12_a_folder_for_each_scene_is_read_whatever_all_files_in_them_are_called(tmp_path: Path) -> None:
    for scene in ("scene_1", "scene_2"):
        write_images(tmp_path / "voc" / scene / "img", ["rgb.png"])
        write_xml(tmp_path / "voc", f"{scene}/ann/rgb.xml")
        write_images(tmp_path / "yolo" / scene / "img", ["rgb.png"])
        (tmp_path / "yolo" / scene / "ann").mkdir()
        (tmp_path / "yolo" / scene / "ann" / "rgb.txt").write_text(f"{scene[-1]} 0.5 0.5 0.5 0.5\n")
    assert boxes(tmp_path / "voc") == {"train": 2}
    _, sets = read_all(tmp_path / "yolo")
    assert sets["train"].report.per_category == {"class_0": 0, "class_1": 1, "class_2": 1}
    assert [sets["train"].labels[k].item() for k in (0, 1)] == [1, 2]


def test_d12_an_xml_file_of_two_images_is_refused_and_named(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cats/1.png", "dogs/1.png"])
    write_xml(tmp_path, "annots/1.xml")
    with pytest.raises(DataError, match=r"1 may be cats/1\.png or dogs/1\.png in .*give each file its own name"):
        read_split(tmp_path, {"images": "images", "annotations": "annots"}, format="voc")
    layout = find_layout(tmp_path)
    assert any("images of the same names are in images/dogs, too" in note for note in layout.notes)


def test_d13_several_datasets_in_one_folder_are_refused_with_a_root_that_works(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_yolo(tmp_path / name, {"train": {"a": [ROW]}}, names=f"[{name}]")
    with pytest.raises(DataError, match=r"holds several datasets \(A/data\.yaml, B/data\.yaml\).*data\.root=\S+A$"):
        find_layout(tmp_path)
    assert boxes(tmp_path / "A") == {"train": 1}


def test_d13_a_dataset_that_lies_one_folder_deeper_is_found(tmp_path: Path) -> None:
    write_yolo(tmp_path / "Cats-1", {"train": {"a": [ROW]}})
    assert boxes(tmp_path) == {"train": 1}


def test_links_that_lead_round_in_a_circle_do_not_hang(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": {"a": [ROW]}})
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    assert boxes(tmp_path) == {"train": 1}


def test_every_real_set_is_found_with_all_its_splits(shared_data: Callable[[str], Path]) -> None:
    counts = {
        "coco_mini": [80, 79], "coco128_yolo": [128, 128], "bccd_voc": [205, 87, 72], "filaria": [102, 10, 5],
        "foosball": [106, 21, 14], "odinw_aquarium": [448, 63], "odinw_chess": [202, 58, 29],
        "odinw_pothole": [465, 133, 67], "odinw_thermal_cheetah": [90, 25, 14],
    }  # fmt: skip
    for name, images in counts.items():
        source = Source.of({"root": shared_data(name), **AUTO})
        assert [len(tree.content["images"]) for tree in source.trees().values()] == images
