"""The script that merges COCO folders into one dataset of things."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from data_parts import write_images
from detr_mini.formats.licences import sources_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "merge_sets.py"


def folder(root: Path, name: str, boxes: list[list[float]]) -> None:
    names = [f"{i}.png" for i in range(3)]
    write_images(root / name / "images", names)
    images = [{"id": 7 + i, "file_name": n, "width": 60, "height": 40} for i, n in enumerate(names)]
    annotations = [
        {"id": i, "image_id": 7 + image, "category_id": 5, "bbox": box, "area": 1, "iscrowd": 0}
        for image in range(3)
        for i, box in enumerate(boxes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": name}]}
    (root / name / "annotations.json").write_text(json.dumps(content))


def test_datasets_become_one_of_things_with_a_part_of_each_held_out(tmp_path: Path) -> None:
    further, output = tmp_path / "further", tmp_path / "merged"
    folder(further, "cars", [[1, 2, 10, 12], [1, 2, 3, 12]])
    folder(further, "cups", [[5, 5, 20, 20]])
    folder(further, "toys", [[5, 5, 20, 20]])
    (further / "LICENCES.tsv").write_text("set\tlicence\ncars\tMIT\n")
    command = [sys.executable, str(SCRIPT), str(further), str(output), "--leave-out", "toys"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 datasets: 4 images to train on, 2 of val" in done.stdout
    parts = {s: json.loads((output / s / "_annotations.coco.json").read_text()) for s in ("train", "val")}
    for split, content in parts.items():
        assert [c["name"] for c in content["categories"]] == ["thing"]
        ids = {image["id"] for image in content["images"]}
        assert len(content["annotations"]) == len(ids)  # the box of 3 pixels is left out
        assert {a["image_id"] for a in content["annotations"]} == ids
        assert all((output / split / image["file_name"]).is_file() for image in content["images"])
    assert not {i["id"] for i in parts["train"]["images"]} & {i["id"] for i in parts["val"]["images"]}
    assert sources_of(output, 4) == [
        {"name": "cars", "images": 3, "licence": "MIT"},
        {"name": "cups", "images": 3, "licence": None},
    ]


def test_with_names_equal_names_are_one_category_whatever_the_dataset(tmp_path: Path) -> None:
    further, output = tmp_path / "further", tmp_path / "merged"
    folder(further, "cups", [[5, 5, 20, 20]])
    folder(further, "more", [[5, 5, 20, 20], [1, 2, 10, 12]])
    content = json.loads((further / "more" / "annotations.json").read_text())
    content["categories"] = [{"id": 5, "name": " Cups"}, {"id": 2, "name": "Saucer"}]
    content["annotations"][0]["category_id"] = 2
    (further / "more" / "annotations.json").write_text(json.dumps(content))
    subprocess.run([sys.executable, str(SCRIPT), str(further), str(output), "--names"], check=True)
    parts = [json.loads((output / s / "_annotations.coco.json").read_text()) for s in ("train", "val")]
    assert parts[0]["categories"] == parts[1]["categories"]
    names = {c["id"]: c["name"] for c in parts[0]["categories"]}
    assert sorted(names.values()) == ["cups", "saucer"]
    found = [names[a["category_id"]] for part in parts for a in part["annotations"]]
    assert sorted(found) == ["cups"] * 8 + ["saucer"]


def test_images_of_one_name_in_two_folders_keep_their_own_boxes_and_crowds_stay_crowds(tmp_path: Path) -> None:
    further, output = tmp_path / "further", tmp_path / "merged"
    folder(further, "cups", [[5, 5, 20, 20]])
    file = further / "cups" / "annotations.json"
    content = json.loads(file.read_text())
    names = ["a/0.png", "b/0.png", "0.png"]
    write_images(further / "cups" / "images", names)
    for k, (image, name) in enumerate(zip(content["images"], names, strict=True)):
        image["file_name"] = name
        content["annotations"][k] |= {"bbox": [5, 5, 20, 20 + k], "iscrowd": int(k == 2)}
    file.write_text(json.dumps(content))
    command = [sys.executable, str(SCRIPT), str(further), str(output)]
    subprocess.run(command, check=True)
    (left,) = output.glob("*/cups__a__0.png")  # as if an earlier call had found other images
    left.unlink()
    left.symlink_to(further / "cups" / "images" / "0.png")
    subprocess.run(command, check=True)
    found = {}
    for split in ("train", "val"):
        part = json.loads((output / split / "_annotations.coco.json").read_text())
        files = {image["id"]: image["file_name"] for image in part["images"]}
        found |= {files[a["image_id"]]: (a["bbox"][3], a["iscrowd"]) for a in part["annotations"]}
    assert found == {"cups__a__0.png": (20, 0), "cups__b__0.png": (21, 0), "cups__0.png": (22, 1)}
    for name in names:
        (placed,) = output.glob(f"*/cups__{name.replace('/', '__')}")
        assert placed.read_bytes() == (further / "cups" / "images" / name).read_bytes()


def test_two_images_that_would_get_one_name_are_refused(tmp_path: Path) -> None:
    further = tmp_path / "further"
    folder(further, "a", [[5, 5, 20, 20]])
    folder(further, "a__b", [[5, 5, 20, 20]])
    file = further / "a" / "annotations.json"
    write_images(further / "a" / "images", ["b__0.png"])
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "b__0.png"
    file.write_text(json.dumps(content))
    command = [sys.executable, str(SCRIPT), str(further), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "would both become a__b__0.png; rename one of them" in done.stderr
