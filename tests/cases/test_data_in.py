"""The rows D-01 to D-03, D-08 to D-11, T-03 and T-06 of the cases from public reports, COCO's part."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.augment import Augment, RandomScaleCrop
from detr_mini.data.collate import collate
from detr_mini.errors import DataError
from detr_mini.formats.coco import read_coco
from detr_mini.images.load import load_image
from detr_mini.images.model_input import to_model_input

MakeCoco = Callable[..., tuple[Path, Path]]
BOX = [10, 10, 20, 15]
PARTS = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}, {"id": 3, "name": "washer"}]
GROUPED = [
    {"id": 0, "name": "parts", "supercategory": "none"},
    {"id": 1, "name": "bolt", "supercategory": "parts"},
    {"id": 2, "name": "nut", "supercategory": "parts"},
]


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_D_01_the_listing_s_order_does_not_move_a_class(make_coco: MakeCoco, order: tuple[int, ...]) -> None:
    boxes = [{"bbox": BOX, "category_id": i} for i in (1, 2, 3)]
    train = read_coco(*make_coco("train", categories=PARTS, annotations=boxes))
    path, folder = make_coco("val", categories=[PARTS[i] for i in order], annotations=boxes)
    val = read_coco(path, folder, split="val", categories=train.categories)
    assert val.target(1).labels.tolist() == train.target(1).labels.tolist() == [0, 1, 2]
    assert val.truth["categories"] == train.truth["categories"]
    assert val.report.notices == []


def test_D_01_a_name_with_another_id_is_remapped_by_name_with_a_notice(make_coco: MakeCoco) -> None:
    train = read_coco(*make_coco("train", categories=PARTS))
    swapped = [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}, {"id": 3, "name": "washer"}]
    boxes = [{"bbox": BOX, "category_id": i} for i in (1, 2, 3)]
    path, folder = make_coco("val", categories=swapped, annotations=boxes)
    val = read_coco(path, folder, split="val", categories=train.categories)
    assert val.target(1).labels.tolist() == [1, 0, 2]
    assert [a["category_id"] for a in val.truth["annotations"]] == [2, 1, 3]
    assert [n for n in val.report.notices if "mapped by name" in n] == val.report.notices
    assert len(val.report.notices) == 2


def test_D_02_an_unused_group_is_no_class_and_is_named(make_coco: MakeCoco) -> None:
    boxes = [{"bbox": BOX, "category_id": 1}, {"bbox": BOX, "category_id": 2}]
    coco = read_coco(*make_coco(categories=GROUPED, annotations=boxes))
    assert coco.categories.names == ("bolt", "nut")
    assert coco.target(1).labels.tolist() == [0, 1]
    assert any("'parts'" in notice for notice in coco.report.notices)


def test_D_02_a_group_that_a_box_uses_is_a_class(make_coco: MakeCoco) -> None:
    coco = read_coco(*make_coco(categories=GROUPED, annotations=[{"bbox": BOX, "category_id": 0}]))
    assert coco.categories.names == ("parts", "bolt", "nut")


def turned(folder: Path, name: str) -> None:
    """400 x 300 as stored, orientation 6: 300 x 400 upright. White where the box [20, 30, 50, 80] is upright."""
    upright = np.zeros((400, 300, 3), np.uint8)
    upright[30:110, 20:70] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(folder / name, exif=exif, quality=95)
    assert Image.open(folder / name).size == (400, 300)


def test_D_03_a_photograph_stored_sideways_is_turned_once(make_coco: MakeCoco) -> None:
    image = {"id": 1, "file_name": "1.jpg", "width": 300, "height": 400}
    path, folder = make_coco(images=[image], annotations=[{"bbox": [20, 30, 50, 80]}], write=False)
    turned(folder, "1.jpg")
    coco = read_coco(path, folder)
    target = coco.target(1)
    assert target.original_size == (400, 300)
    assert coco.report.turned == 1
    pixels = load_image(coco.records[0].path)
    assert pixels.shape == (3, 400, 300)
    x1, y1, x2, y2 = (cxcywh_to_xyxy(target.boxes[0]) * torch.tensor([300, 400, 300, 400])).round().int().tolist()
    assert (x1, y1, x2, y2) == (20, 30, 70, 110)
    assert pixels[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 240
    assert pixels[:, : y1 - 8].max() < 15


def test_D_03_a_size_of_the_stored_pixels_is_reported_not_trained_on(make_coco: MakeCoco) -> None:
    stored = {"id": 1, "file_name": "1.jpg", "width": 400, "height": 300}
    path, folder = make_coco(images=[stored, {"id": 2, "width": 60, "height": 40}], annotations=[{"bbox": BOX}])
    turned(folder, "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg is 300 x 400 pixels, the JSON says 400 x 300, .* EXIF"):
        read_coco(path, folder)
    coco = read_coco(path, folder, on_wrong_size="skip")
    assert coco.image_ids == (2,)
    assert sum(coco.report.dropped.values()) == 1


def test_D_08_sixteen_bit_pictures_do_not_become_flat(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1000, 4001, (50, 50)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert (int(image.min()), int(image.max())) == (0, 255)
    expected = (values.astype(float) - values.min()) / (int(values.max()) - int(values.min())) * 255
    assert np.abs(image[0].numpy() - expected).max() <= 0.51


def test_D_09_crowd_regions_are_no_targets_and_are_counted(make_coco: MakeCoco) -> None:
    people = [{"bbox": [5 + 15 * i, 10, 10, 20]} for i in range(3)]
    path, folder = make_coco(annotations=[*people, {"bbox": [5, 10, 40, 20], "iscrowd": 1}])
    coco = read_coco(path, folder)
    target = coco.target(1)
    assert target.is_crowd.tolist() == [False, False, False, True]
    batch = collate([torch.rand(3, 40, 60)], [target])
    assert batch.packed.counts == (3,)
    assert (coco.report.boxes, coco.report.crowd) == (3, 1)
    assert [a["iscrowd"] for a in coco.truth["annotations"]] == [0, 0, 0, 1]


def test_D_10_boxes_without_size_are_found_at_load(make_coco: MakeCoco) -> None:
    bad = [{"bbox": [10, 10, 0, 30], "id": 4711}, {"bbox": [10, 10, -5, 30]}, {"bbox": BOX}]
    path, folder = make_coco(annotations=bad)
    coco = read_coco(path, folder)
    assert coco.report.dropped == {"box without size": 2}
    assert len(coco.target(1).boxes) == len(coco.truth["annotations"]) == 1
    first = coco.report.examples["box without size"][0]
    assert "annotation 4711 of" in first
    assert "1.png" in first
    assert "[10, 10, 0, 30] has no width" in first
    sentence = r"annotation 4711 of .*train\.json \(1\.png\): bbox \[10, 10, 0, 30\] has no width \(2 boxes like this"
    with pytest.raises(DataError, match=sentence):
        read_coco(path, folder, on_bad_box="refuse")


def test_D_10_a_box_outside_a_crop_goes_together_with_its_label(make_coco: MakeCoco) -> None:
    corners = [{"bbox": [0, 0, 6, 4], "category_id": 1}, {"bbox": [54, 36, 6, 4], "category_id": 2}]
    coco = read_coco(*make_coco(annotations=corners))
    target = coco.target(1)
    lost_in_all = 0
    for seed in range(30):
        _, out, lost = Augment([RandomScaleCrop(2.0, 4.0)], seed)(load_image(coco.records[0].path), target, 0)
        assert len(out.boxes) == len(out.labels) == len(out.is_crowd) == len(out.area) == 2 - lost
        assert (out.boxes[:, 2:] > 0).all()
        lost_in_all += lost
    assert lost_in_all > 20


def test_D_11_missing_pictures_are_all_named_before_training(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 1}, {"id": 2}, {"id": 3}], annotations=[{"bbox": BOX, "image_id": 3}])
    (folder / "1.png").unlink()
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 images .* are not in .*: 1\.png, 3\.png; .*data\.on_missing=skip"):
        read_coco(path, folder)


def test_D_11_skipped_pictures_are_counted_and_the_truth_has_none_of_them(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 1}, {"id": 2}, {"id": 3}], annotations=[{"bbox": BOX, "image_id": 3}])
    (folder / "3.png").unlink()
    coco = read_coco(path, folder, on_missing="skip")
    assert [image["id"] for image in coco.truth["images"]] == [1, 2]
    assert coco.truth["annotations"] == []
    assert coco.report.images == 2
    assert coco.report.missing == ["3.png"]


def test_D_11_an_annotation_of_an_unknown_picture_is_refused(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX}, {"bbox": BOX, "image_id": 77, "id": 9}])
    with pytest.raises(DataError, match=r"annotation 9 of .*train\.json belongs to image id 77"):
        read_coco(path, folder, on_missing="skip")


def test_T_03_padded_targets_decode_to_the_original_pixels(make_coco: MakeCoco) -> None:
    images, targets = [], []
    for name, size in (("wide", (600, 800)), ("narrow", (600, 400))):
        height, width = size
        path, folder = make_coco(name, images=[{"id": 1}], annotations=[{"bbox": [0, 0, width, height]}], size=size)
        coco = read_coco(path, folder, split=name)
        image = load_image(coco.records[0].path)
        images.append(to_model_input(image, 800, None, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)))
        targets.append(coco.target(1))
    batch = collate(images, targets, stride=32)
    assert batch.images.shape[2:] == (800, 800)
    for row, target in enumerate(batch.targets):
        height, width = target.original_size
        pixels = cxcywh_to_xyxy(target.boxes) * torch.tensor([width, height, width, height])
        assert pixels.tolist() == [[0, 0, width, height]]
        # the canvas of a box is what is not padding: its right and lower edge lie on the last visible pixel
        visible = ~batch.padding_mask[row]
        rows, columns = int(visible.any(1).sum()), int(visible.any(0).sum())
        canvas = cxcywh_to_xyxy(target.boxes) * torch.tensor([columns, rows, columns, rows])
        assert canvas.tolist() == [[0, 0, columns, rows]]
        assert (rows, columns) == tuple(images[row].shape[1:])


def test_T_06_category_ids_of_any_size_become_labels_and_come_back(make_coco: MakeCoco) -> None:
    far = [{"id": i, "name": f"c{i}"} for i in (2905442, 7, 6)]
    boxes = [{"bbox": BOX, "category_id": c["id"]} for c in far]
    coco = read_coco(*make_coco(categories=far, annotations=boxes))
    assert coco.target(1).labels.tolist() == [2, 1, 0]
    assert [a["category_id"] for a in coco.truth["annotations"]] == [2905442, 7, 6]


def test_T_06_ids_from_one_to_six_fit_a_head_of_six(make_coco: MakeCoco) -> None:
    six = [{"id": i, "name": f"c{i}"} for i in range(1, 7)]
    coco = read_coco(*make_coco(categories=six, annotations=[{"bbox": BOX, "category_id": i} for i in range(1, 7)]))
    assert coco.target(1).labels.tolist() == list(range(6))


def test_T_06_an_unknown_class_id_is_named_as_such(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX, "category_id": 6}])
    with pytest.raises(DataError, match="has category id 6, which is not among the categories"):
        read_coco(path, folder)
