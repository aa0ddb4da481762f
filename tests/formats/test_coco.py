from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_parts import edited
from detr_mini.boxes import cxcywh_to_xyxy, scale_boxes
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.box_rules import BoxFault, clip_boxes
from detr_mini.formats.coco import read_coco

MakeCoco = Callable[..., tuple[Path, Path]]
BOX = [10, 10, 20, 15]


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_boxes_come_back_as_they_are_in_the_file(make_coco: MakeCoco) -> None:
    boxes = [[1.25, 2.5, 30, 20], [0, 0, 60, 40], [59, 39, 1, 1]]
    path, folder = make_coco(annotations=[{"bbox": b, "category_id": k + 1} for k, b in enumerate(boxes)])
    coco = read_coco(path, folder)
    target = coco.target(1)
    assert target.original_size == (40, 60)
    assert target.labels.tolist() == [0, 1, 2]
    xyxy = scale_boxes(cxcywh_to_xyxy(target.boxes), 60.0, 40.0)
    torch.testing.assert_close(xyxy, torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float())
    assert [a["bbox"] for a in coco.truth["annotations"]] == boxes


def test_images_without_boxes_are_background(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX, "image_id": 2}])
    coco = read_coco(path, folder)
    target = coco.target(1)
    assert target.boxes.shape == (0, 4)
    assert target.labels.dtype == torch.long
    assert (coco.report.images, coco.report.background, coco.report.boxes) == (2, 1, 1)


def test_a_high_share_of_background_is_pointed_out(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": i} for i in range(1, 6)], annotations=[{"bbox": BOX}])
    assert any("4 of 5 images have no box" in notice for notice in read_coco(path, folder).report.notices)


def test_images_stand_by_id_whatever_the_listing(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 9}, {"id": 2}, {"id": 5}])
    assert read_coco(path, folder).image_ids == (2, 5, 9)
    assert read_coco(path, folder, limit=2).image_ids == (2, 5)


def test_truth_counts_annotation_ids_from_one(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX, "id": 0}, {"bbox": BOX, "id": 0}, {"bbox": BOX, "id": 70}])
    coco = read_coco(path, folder)
    assert [a["id"] for a in coco.truth["annotations"]] == [1, 2, 3]
    assert any("1 annotation ids stand more than once" in notice for notice in coco.report.notices)


def test_segmentations_are_ignored_and_areas_kept(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX, "area": 123.5, "segmentation": [[1, 2, 3]]}, {"bbox": BOX}])
    coco = read_coco(path, folder)
    assert coco.target(1).area.tolist() == [123.5, 300.0]


def test_an_image_s_size_may_be_left_out(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 1, "height": None, "width": 0}])
    assert read_coco(path, folder).records[0].size == (40, 60)


def test_an_image_of_another_size_than_the_json_says_is_refused_or_left_out(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 1, "height": 41}, {"id": 2}])
    with pytest.raises(DataError, match=r"1\.png is 60 x 40 pixels, the JSON says 60 x 41"):
        read_coco(path, folder)
    coco = read_coco(path, folder, on_wrong_size="skip")
    assert coco.image_ids == (2,)
    assert coco.report.dropped == {"image of another size than the JSON says": 1}


def test_a_box_past_the_edge_is_clipped_and_counted(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": [-5, 30, 20, 20]}, {"bbox": BOX}])
    coco = read_coco(path, folder)
    assert coco.boxes_xywh.tolist() == [[0, 30, 15, 10], BOX]
    assert coco.report.clipped == 1
    assert "annotation 1" in coco.report.examples["clipped"][0]
    with pytest.raises(DataError, match=r"bbox \[-5, 30, 20, 20\] sticks out of .* 60 x 40 \(1 boxes like this"):
        read_coco(path, folder, on_bad_box="refuse")


def test_a_rounding_error_at_the_edge_is_no_news(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": [40, 20, 20.01, 20]}])
    coco = read_coco(path, folder, on_bad_box="refuse")
    assert coco.report.clipped == 0
    assert coco.target(1).boxes[0, 0] + coco.target(1).boxes[0, 2] / 2 <= 1


def test_a_box_outside_its_image_is_dropped_and_counted(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": [60, 0, 5, 5]}, {"bbox": BOX}])
    coco = read_coco(path, folder)
    assert coco.boxes_xywh.tolist() == [BOX]
    assert coco.report.dropped == {"box outside its image": 1}


numbers = st.floats(-100, 200).map(lambda v: round(v, 2))


@given(numbers, numbers, numbers, numbers)
def test_a_clipped_box_is_the_part_inside(x: float, y: float, w: float, h: float) -> None:
    boxes, faults = clip_boxes(np.array([[x, y, w, h]]), np.array([[40, 60]]))
    fault = faults[0]
    box = None if fault and fault is not BoxFault.PAST_EDGE else boxes[0].tolist()
    inside = w > 0 and h > 0 and min(x + w, 60) > max(x, 0) and min(y + h, 40) > max(y, 0)
    assert (box is not None) == inside
    if box is None:
        assert fault
        return
    left, top, width, height = box
    assert left >= 0
    assert top >= 0
    assert width > 0
    assert height > 0
    np.testing.assert_allclose([left, top], [max(x, 0), max(y, 0)])
    np.testing.assert_allclose([left + width, top + height], [min(x + w, 60), min(y + h, 40)], atol=1e-9)


BROKEN: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (
        "unknown image id",
        lambda c: c["annotations"][0].update(image_id=77),
        r"annotation 1 of .*train\.json belongs to image id 77",
    ),
    (
        "unknown category id",
        lambda c: c["annotations"][0].update(category_id=12),
        r"annotation 1 of .* has category id 12, which is not among the categories",
    ),
    ("three numbers", lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"bbox \[1, 2, 3\]; it must be four"),
    ("words", lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), r"bbox \[1, 2, 3, '4'\]; it must be four"),
    ("not a number", lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), r"bbox .* must be four"),
    ("no box", lambda c: c["annotations"][0].pop("bbox"), r"bbox None; it must be four numbers"),
    ("one id twice", lambda c: c["images"][1].update(id=1), r"two images of .* have the id 1 \(1\.png and 2\.png\)"),
    ("id of text", lambda c: c["images"][1].update(id="b"), r"image number 2 .* has the id 'b'"),
    ("no file name", lambda c: c["images"][1].pop("file_name"), r"image 2 of .* has no file_name"),
    ("no images", lambda c: c.update(images=[], annotations=[]), r"lists no images"),
    ("no annotations", lambda c: c.pop("annotations"), r"has no list 'annotations'"),
    ("no categories", lambda c: c.update(categories=[], annotations=[]), r"lists no categories"),
    ("category name twice", lambda c: c["categories"][1].update(name="bolt"), r"category name bolt stands twice"),
    ("category id twice", lambda c: c["categories"][1].update(id=1), r"category id 1 stands twice"),
    ("category without name", lambda c: c["categories"][1].pop("name"), r"give each a whole 'id'"),
]


@pytest.mark.parametrize(("change", "sentence"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_file_is_refused_in_one_sentence(
    make_coco: MakeCoco, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX}])
    edited(path, change)
    with pytest.raises(DataError, match=sentence) as error:
        read_coco(path, folder)
    assert path.name in one_sentence(error)


def test_a_json_that_is_cut_off_is_refused(make_coco: MakeCoco) -> None:
    path, folder = make_coco(annotations=[{"bbox": BOX}])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"train\.json is not whole JSON .* cut off") as error:
        read_coco(path, folder)
    one_sentence(error)


def test_paths_that_are_not_there_are_refused(make_coco: MakeCoco, tmp_path: Path) -> None:
    path, folder = make_coco()
    with pytest.raises(DataError, match=r"there is no annotation file .*gone\.json"):
        read_coco(tmp_path / "gone.json", folder)
    with pytest.raises(DataError, match=r"there is no image folder .*gone"):
        read_coco(path, tmp_path / "gone")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_coco(folder, folder)


def test_an_image_file_that_is_no_image_is_refused_at_load(make_coco: MakeCoco) -> None:
    path, folder = make_coco()
    (folder / "2.png").write_text("no image")
    with pytest.raises(DataError, match=r"2\.png is not an image"):
        read_coco(path, folder)


def test_an_unknown_choice_is_refused(make_coco: MakeCoco) -> None:
    path, folder = make_coco()
    with pytest.raises(ConfigError, match=r"data\.on_bad_box is 'keep'; it must be 'drop' or 'refuse'"):
        read_coco(path, folder, on_bad_box="keep")


def test_turned_photographs_are_counted(make_coco: MakeCoco) -> None:
    path, folder = make_coco(images=[{"id": 1, "file_name": "1.jpg"}], write=False)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (40, 60)).save(folder / "1.jpg", exif=exif)
    assert read_coco(path, folder).report.turned == 1


def test_real_photographs_are_read_whole(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco_mini")
    coco = read_coco(root / "annotations" / "instances_train2017.json", root / "train2017")
    report = coco.report
    assert (report.images, report.boxes + report.crowd, report.crowd) == (80, 739, 8)
    assert len(coco.categories) == 80
    assert max(coco.categories.ids) == 90
    assert sum(report.per_category.values()) == report.boxes
