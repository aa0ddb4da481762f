"""D-13: a tiny export of each labelling tool, as the tool lays it out; every one holds one box of a cat."""

# An export stands on one line, so that the table of tools can be read.
# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from data_parts import AUTO, voc_text, write_images
from detr_mini.checking.check import check
from detr_mini.errors import DataError
from detr_mini.formats.convert import convert
from detr_mini.formats.discover import FORMATS, Source, find_layout
from detr_mini.formats.faults import Kind
from detr_mini.formats.listing import NAMES
from detr_mini.formats.load import read_split

BOX = [15.0, 10.0, 30.0, 20.0]
"""Of an image of 60 x 40 pixels, in whatever form the tool has it."""
VOC = voc_text("a.png", [("cat", (16, 11, 45, 30))])
ROW = "0 0.5 0.5 0.5 0.5\n"
LABEL_STUDIO = '{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024, "contributor": "Label Studio"}}'


def coco(name: str, **other: object) -> str:
    image = {"id": 1, "width": 60, "height": 40, "file_name": name}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 600, "iscrowd": 0, "segmentation": []}
    return json.dumps(
        {
            "images": [image],
            "annotations": [box],
            "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
            **other,
        }
    )


def cvat(shape: str, name: str = "a.png", more: str = "") -> str:
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    image = f'<image id="0" name="{name}" width="60" height="40" {more}>{shape}</image>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{labels}{image}</annotations>'


CVAT_BOX = '<box label="cat" source="manual" occluded="0" xtl="15.00" ytl="10.00" xbr="45.00" ybr="30.00" z_order="0"/>'
CVAT_VIDEO = (
    "<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    '<track id="0" label="cat" source="manual"><box frame="0" keyframe="1" outside="0" occluded="0" xtl="15" ytl="10" '
    'xbr="45" ybr="30" z_order="0"/><box frame="1" keyframe="1" outside="1" occluded="0" xtl="15" ytl="10" xbr="45" '
    'ybr="30" z_order="0"/></track></annotations>'
)
TASK_BOX = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
TASK_SIZE = {"original_width": 60, "original_height": 40}
TASK_RESULT = {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": TASK_BOX, **TASK_SIZE}
TASK = {
    "id": 1,
    "data": {"image": "/data/upload/1/5f00aa11-a.png"},
    "annotations": [{"id": 1, "result": [TASK_RESULT]}],
}
REGION = {
    "shape_attributes": {"name": "rect", "x": 15, "y": 10, "width": 30, "height": 20},
    "region_attributes": {"class": "cat"},
}
VIA = {"a.png123": {"filename": "a.png", "size": 123, "regions": [REGION], "file_attributes": {}}}
VIA_OLD = {"a.png123": {**VIA["a.png123"], "fileref": "", "base64_img_data": "", "regions": {"0": REGION}}}
POLYGON = {
    "shape_attributes": {"name": "polygon", "all_points_x": [15, 45, 30], "all_points_y": [10, 12, 30]},
    "region_attributes": {"animal": {"cat": True}},
}
VIA_CSV = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.png,123,"{}",1,0,"{""name"":""rect"",""x"":15,""y"":10,""width"":30,""height"":20}","{""class"":""cat""}"\n'
)  # fmt: skip

TOOLS: dict[str, tuple[str, list[str], Mapping[str, str]]] = {
    "labelimg_voc": ("voc", ["a.png"], {"a.xml": VOC}),
    "labelimg_yolo": ("yolo", ["a.png"], {"a.txt": ROW, "classes.txt": "cat\n"}),
    "labelimg_yolo_labels_apart": ("yolo", ["img/a.png"], {"txt/a.txt": ROW, "txt/classes.txt": "cat\n"}),
    "cvat_xml": ("cvat", ["images/a.png"], {"annotations.xml": cvat(CVAT_BOX)}),
    "cvat_xml_nested": ("cvat", ["images/x/a.png"], {"annotations.xml": cvat(CVAT_BOX, "x/a.png")}),
    "cvat_xml_ellipse": ("cvat", ["a.png"], {"annotations.xml": cvat('<ellipse label="cat" cx="30" cy="20" rx="15" ry="10"/>')}),
    "cvat_xml_polygon": ("cvat", ["a.png"], {"annotations.xml": cvat('<polygon label="cat" points="15,10;45,12;30,30"/>')}),
    "cvat_video": ("cvat", ["images/frame_000000.png"], {"annotations.xml": CVAT_VIDEO}),
    "cvat_coco": ("coco", ["images/a.png"], {"annotations/instances_default.json": coco("a.png")}),
    "cvat_voc": ("voc", ["JPEGImages/a.png"], {"Annotations/a.xml": VOC, "ImageSets/Main/default.txt": "a\n",
                                             "ImageSets/Main/cat_default.txt": "a  1\n", "labelmap.txt": "cat:::\n"}),
    "cvat_yolo": ("yolo", ["obj_train_data/a.png"], {
        "obj_train_data/a.txt": ROW, "obj.names": "cat\n", "train.txt": "data/obj_train_data/a.png\n",
        "obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"}),
    "cvat_ultralytics": ("yolo", ["images/train/a.png"], {
        "labels/train/a.txt": ROW, "data.yaml": "names:\n  0: cat\npath: .\ntrain: train.txt\n",
        "train.txt": "data/images/train/a.png\n"}),
    "label_studio_yolo": ("yolo", ["images/5f-a.png"], {
        "labels/5f-a.txt": ROW, "classes.txt": "cat\n", "notes.json": LABEL_STUDIO}),
    "label_studio_coco": ("coco", ["images/5f-a.png"], {"result.json": coco("images/5f-a.png")}),
    "label_studio_coco_windows": ("coco", ["images/5f-a.png"], {"result.json": coco("images\\5f-a.png")}),
    "label_studio_coco_local": ("coco", ["images/5f-a.png"], {"result.json": coco("../../label-studio/data/media/upload/1/5f-a.png")}),
    "label_studio_json": ("label_studio", ["images/5f00aa11-a.png"], {"project-1.json": json.dumps([TASK])}),
    "label_studio_json_min": ("label_studio", ["images/a.png"], {"project-1.json": json.dumps([
        {"image": "/data/upload/1/5f00aa11-a.png", "id": 1, "annotation_id": 1, "label": [{**TASK_BOX, **TASK_SIZE}]}])}),
    "label_studio_voc": ("voc", ["images/a.png"], {"Annotations/a.xml": VOC}),
    "roboflow_yolo": ("yolo", ["train/images/a.png"], {
        "train/labels/a.txt": ROW, "README.roboflow.txt": "cats\n",
        "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"}),
    "roboflow_darknet": ("yolo", ["train/a.png"], {"train/a.txt": ROW, "train/_darknet.labels": "cat\n"}),
    "roboflow_coco": ("coco", ["train/a.png"], {"train/_annotations.coco.json": coco("a.png")}),
    "roboflow_voc": ("voc", ["train/a.png"], {"train/a.xml": VOC}),
    "roboflow_csv": ("csv", ["train/a.png"], {
        "train/_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,cat,15,10,45,30\n"}),
    "fiftyone_coco": ("coco", ["data/a.png"], {"labels.json": coco("a.png", info={"description": ""})}),
    "fiftyone_voc": ("voc", ["data/a.png"], {"labels/a.xml": VOC}),
    "fiftyone_yolo": ("yolo", ["images/train/a.png"], {
        "labels/train/a.txt": ROW, "dataset.yaml": "names:\n  0: cat\npath: /content/out\ntrain: ./images/train/\n"}),
    "fiftyone_darknet": ("yolo", ["data/a.png"], {"data/a.txt": ROW, "obj.names": "cat\n", "images.txt": "data/a.png\n"}),
    "via_json": ("via", ["a.png"], {"via_region_data.json": json.dumps(VIA)}),
    "via_json_old": ("via", ["images/a.png"], {"via_region_data.json": json.dumps(VIA_OLD)}),
    "via_polygon": ("via", ["a.png"], {"via.json": json.dumps({"k": {"filename": "a.png", "size": 1, "regions": [POLYGON]}})}),
    "via_project": ("via", ["images/a.png"], {"via_project.json": json.dumps(
        {"_via_settings": {"ui": {}}, "_via_img_metadata": VIA, "_via_attributes": {}})}),
    "via_csv": ("via", ["images/a.png"], {"via_export_csv.csv": VIA_CSV}),
    "makesense_yolo": ("yolo", ["images/a.png"], {"labels_my-project_2024-01-01/a.txt": "0 0.500000 0.500000 0.500000 0.500000"}),
    "makesense_voc": ("voc", ["images/a.png"], {"labels_my-project/a.xml": VOC}),
    "makesense_csv": ("csv", ["a.png"], {"labels.csv": "cat,15,10,30,20,a.png,60,40\n"}),
    "makesense_csv_header": ("csv", ["a.png"], {
        "labels.csv": "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
                      "cat,15,10,30,20,a.png,60,40\n"}),
    "csv_of_retinanet": ("csv", ["img/a.png", "img/b.png"], {"annotations.csv": "img/a.png,15,10,45,30,cat\nimg/b.png,,,,,\n"}),
    "csv_of_numbers": ("csv", ["a.png"], {"boxes.csv": "a.png,15,10,45,30,7\n"}),
    "makesense_csv_of_numbers": ("csv", ["a.png"], {"labels.csv": "7,15,10,30,20,a.png,60,40\n"}),
    "csv_of_sku110k": ("csv", ["images/a.png"], {"annotations.csv": "a.png,15,10,45,30,cat,60,40\n"}),
    "csv_of_sku110k_of_numbers": ("csv", ["images/a.png"], {"annotations.csv": "a.png,15,10,45,30,7,60,40\n"}),
    "csv_of_wheat": ("csv", ["train/a.png"], {"train.csv": 'image_id,width,height,bbox,source\na,60,40,"[15.0, 10.0, 30.0, 20.0]",x\n'}),
    "csv_without_classes": ("csv", ["images/a.png"], {"train.csv": "image,xmin,ymin,xmax,ymax\na.png,15,10,45,30\n"}),
    "csv_of_open_images": ("csv", ["images/a.png"], {
        "train.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,xclick,cat,1,0.25,0.75,0.25,0.75\n"}),
    "csv_of_semicolons": ("csv", ["a.png"], {"gt.csv": "Path;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\na.png;15;10;45;30;7\n"}),
    "csv_of_automl": ("csv", ["images/a.png"], {
        "set.csv": "TRAIN,gs://bucket/a.png,cat,0.25,0.25,,,0.75,0.75,,\n"}),
    "csv_of_automl_without_a_set": ("csv", ["images/a.png"], {
        "set.csv": "UNASSIGNED,gs://bucket/a.png,cat,0.25,0.25,,,0.75,0.75,,\n"}),
    "csv_of_automl_with_four_vertices": ("csv", ["images/a.png"], {
        "set.csv": "TRAINING,gs://bucket/a.png,cat,0.75,0.25,0.75,0.75,0.25,0.75,0.25,0.25\n"}),
    "csv_of_vertex_ai": ("csv", ["images/a.png"], {"set.csv": "gs://bucket/a.png,cat,0.25,0.25,,,0.75,0.75,,\n"}),
    "csv_of_windows": ("csv", ["images/a.png"], {
        "labels.CSV": "\ufeffFile Name,Class,X Min,Y Min,X Max,Y Max\r\nC:\\me\\images\\a.png,cat,15,10,45,30\r\n"}),
}  # fmt: skip
"""Form, images and files of each."""
OTHER_NAMES = {
    "makesense_yolo": "class_0", "csv_of_numbers": "7", "csv_of_semicolons": "7", "csv_of_wheat": "object",
    "csv_without_classes": "object", "makesense_csv_of_numbers": "7", "csv_of_sku110k_of_numbers": "7",
}  # fmt: skip
"""Of those in which the box is not called a cat."""


@pytest.mark.parametrize("tool", TOOLS)
def test_d13_the_export_of_every_tool_is_read(tmp_path: Path, tool: str) -> None:
    form, images, files = TOOLS[tool]
    write_images(tmp_path, images)
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    layout = find_layout(tmp_path)
    assert layout.format == form, layout.notes
    assert list(layout.splits) == ["train"]
    train = read_split(tmp_path, layout.splits["train"], format=form)
    assert train.boxes_xywh.tolist() == [pytest.approx(BOX)]
    assert train.categories.names == (OTHER_NAMES.get(tool, "cat"),)
    assert train.report.background == len(images) - 1
    assert train.records[0].path == tmp_path / images[0]
    assert any("class" in note and ("come from" in note or "class_0" in note) for note in layout.notes)
    assert [
        f.sentence for f in check(Source.of({"root": tmp_path, **AUTO})).faults if f.kind is Kind.IMAGE_MISSING
    ] == []


def test_d13_every_format_has_a_sample() -> None:
    own = {"litdata"}  # shards are written by this package (tests/data/test_shards.py)
    assert {form for form, _, _ in TOOLS.values()} == set(FORMATS) - own


def write(root: Path, images: list[str], files: Mapping[str, str]) -> dict[str, dict[str, object]]:
    write_images(root, images)
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    layout = find_layout(root)
    return {
        name: read_split(root, split, name, format=layout.format).report.per_category
        for name, split in layout.splits.items()
    }  # type: ignore[misc]


@pytest.mark.parametrize(
    ("images", "files"),
    [
        (["train/a.png", "val/b.png"], {"train/via.json": json.dumps(VIA), "val/via.json": json.dumps(VIA).replace("a.png", "b.png")}),
        (["images/a.png", "images/b.png"], {
            "train_labels.csv": "filename,class,xmin,ymin,xmax,ymax\na.png,cat,15,10,45,30\n",
            "test_labels.csv": "filename,class,xmin,ymin,xmax,ymax\nb.png,cat,15,10,45,30\n"}),
        (["a.png", "b.png"], {"all.csv": "image,split,label,x1,y1,x2,y2\na.png,train,cat,1,1,9,9\nb.png,valid,cat,1,1,9,9\n"}),
        (["train/a.png", "train/b.png"], {"all.csv": "image,split,label,x1,y1,x2,y2\na.png,train,cat,1,1,9,9\nb.png,valid,cat,1,1,9,9\n"}),
        (["images/Train/a.png", "images/Validation/b.png"], {"annotations.xml": cvat(CVAT_BOX, more='subset="Train"').replace(
            "</annotations>", f'<image id="1" name="b.png" width="60" height="40" subset="Validation">{CVAT_BOX}</image></annotations>')}),
        (["obj_Train_data/a.png", "obj_Validation_data/b.png"], {
            "obj_Train_data/a.txt": ROW, "obj_Validation_data/b.txt": ROW, "obj.names": "cat\n",
            "Train.txt": "data/obj_Train_data/a.png\n", "Validation.txt": "data/obj_Validation_data/b.png\n",
            "obj.data": "classes = 1\nTrain = data/Train.txt\nValidation = data/Validation.txt\nnames = data/obj.names\n"}),
    ],
)  # fmt: skip
def test_d13_splits_of_one_file_formats_are_found(tmp_path: Path, images: list[str], files: Mapping[str, str]) -> None:
    found = write(tmp_path, images, files)
    assert list(found) in (["train", "val"], ["train", "test"])
    assert all(counts == {"cat": 1} for counts in found.values())


def subsets(kind: str, own: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A file of CVAT, or of CSV, with a box in each image; of each image its name and its subset."""
    if kind == "csv":
        rows = "".join(f"{name},{subset},cat,15,10,45,30\n" for name, subset in own)
        return {"all.csv": f"image,split,label,x1,y1,x2,y2\n{rows}"}
    size = 'width="60" height="40"'
    images = (f'<image id="0" name="{name}" subset="{subset}" {size}>{CVAT_BOX}</image>' for name, subset in own)
    return {"annotations.xml": f"<annotations><version>1.1</version>{''.join(images)}</annotations>"}


@pytest.mark.parametrize("kind", ["cvat", "csv"])
def test_d13_a_subset_behind_many_images_of_another_is_found_in_its_own_folder(tmp_path: Path, kind: str) -> None:
    many = [f"t{k}.png" for k in range(NAMES + 1)]
    own = [*((name, "Train") for name in many), ("b.png", "Validation")]
    found = write(tmp_path, [*(f"images/Train/{name}" for name in many), "images/Validation/b.png"], subsets(kind, own))
    assert found == {"train": {"cat": len(many)}, "val": {"cat": 1}}


@pytest.mark.parametrize("kind", ["cvat", "csv"])
def test_d13_boxes_of_a_subset_are_not_put_on_images_of_the_same_names_in_another(tmp_path: Path, kind: str) -> None:
    images = ["images/Train/frame_000000.png", "images/Validation/frame_000000.png"]
    write(tmp_path, images, subsets(kind, [("frame_000000.png", "Train"), ("frame_000000.png", "Validation")]))
    layout = find_layout(tmp_path)
    sets = [read_split(tmp_path, split, name, format=kind) for name, split in layout.splits.items()]
    assert [coco.records[0].path for coco in sets] == [tmp_path / image for image in images]


def test_d13_lists_of_other_tasks_of_voc_are_not_the_splits(tmp_path: Path) -> None:
    xmls = {f"Annotations/{stem}.xml": voc_text(f"{stem}.png", [("cat", (16, 11, 45, 30))]) for stem in "abc"}
    few = {f"ImageSets/{task}/{split}.txt": f"{stem}\n" for task in ("Layout", "Segmentation", "Action")
           for split, stem in (("train", "a"), ("val", "c"))}  # fmt: skip
    main = {"ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "c\n"}
    found = write(tmp_path, [f"JPEGImages/{stem}.png" for stem in "abc"], {**xmls, **few, **main})
    assert found == {"train": {"cat": 2}, "val": {"cat": 1}}
    assert find_layout(tmp_path).splits["train"]["list"] == "ImageSets/Main/train.txt"


KITTI = (
    "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
    "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"
)
KITTI_CALIBRATION = "P0: 7.2e+02 0.0 6.1e+02 0.0 0.0 7.2e+02 1.8e+02 0.0 0.0 0.0 1.0 0.0\nR0_rect: 1 0 0 0 1 0 0 0 1\n"


@pytest.mark.parametrize("tool", ["cvat_xml", "via_json", "csv_of_retinanet"])
def test_d13_what_has_no_writer_of_its_own_is_converted(tmp_path: Path, tool: str) -> None:
    _, images, files = TOOLS[tool]
    write(tmp_path / "in", images, files)
    for to in ("coco", "voc", "yolo"):
        convert(Source.of({"root": tmp_path / "in", **AUTO}), tmp_path / to, to)
        layout = find_layout(tmp_path / to)
        assert layout.format == to
        assert read_split(tmp_path / to, layout.splits["train"], format=to).boxes_xywh.tolist() == [BOX]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["no files", "set data.root"]),
        ({"a.png": ""}, ["1 images and no annotations", "detr-mini data check data.root="]),
        ({"a.png": "", "a.json": '{"version": "5", "shapes": [], "imagePath": "a.png"}'}, ["labelme", "Export it", "detr-mini data check"]),
        ({"a.png": "", "x.json": '[{"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]'}, ["CreateML", "detr-mini data check"]),
        ({"training/image_2/0.png": "", "training/calib/0.txt": KITTI_CALIBRATION, "training/label_2/0.txt": KITTI}, ["the format KITTI", "Export it as COCO"]),
        ({"train/cats.tfrecord": "x"}, ["TensorFlow records", "detr-mini data check"]),
        ({"labels/a.txt": ROW}, ["no images", "put the images"]),
    ],
)  # fmt: skip
def test_d13_what_is_not_read_ends_in_one_sentence_that_leads_on(
    tmp_path: Path, files: Mapping[str, str], words: list[str]
) -> None:
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as error:
        find_layout(tmp_path)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_d13_broken_rows_of_a_csv_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = "a.png,cat,15,10,45,30\na.png,cat,x,10,45,30\na.png,,1,1,9,9\n"
    write_images(tmp_path, ["a.png"])
    (tmp_path / "boxes.csv").write_text(f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    train = read_split(tmp_path, find_layout(tmp_path).splits["train"], format="csv")
    assert train.report.boxes == 1
    assert train.report.dropped == {"row that is no box": 2}


def test_d13_two_forms_of_one_set_are_said_and_either_can_be_chosen(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / "a.xml").write_text(VOC)
    (tmp_path / "labels.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.png,cat,15,10,45,30\n")
    layout = find_layout(tmp_path)
    assert layout.format == "voc"
    assert "there is CSV, too; data.format=csv reads that" in layout.notes
    assert find_layout(tmp_path, "csv").splits["train"]["annotations"] == "labels.csv"
