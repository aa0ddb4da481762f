"""Label Studio's JSON: tasks with confirmed annotations or with predictions, and its short export (JSON-MIN).

The form: https://labelstud.io/guide/task_format and https://labelstud.io/tags/rectanglelabels. Boxes are percentages of
the image. An annotation that a person has confirmed is a label; a prediction is a proposal, and never becomes a label
by itself.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree as ET

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.box_list import BoxList
from detr_mini.formats.box_rules import ellipse_edges, rotation_of
from detr_mini.formats.columns import any_json
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, layout_of_files
from detr_mini.formats.listing import NAMES, Listing, is_image_name, read_start
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.formats.values import is_number, is_whole
from detr_mini.formats.writing import left_out, owned_by, place_images, plain_names, without_crowds

CONFIG = "label_config.xml"
"""The labelling interface that goes with the tasks, to be pasted into the settings of a project."""
MODEL = "detr-mini"
"""The `model_version` of predictions that are written here."""
LOCAL = "/data/local-files/?d="
"""How Label Studio addresses a file below its LOCAL_FILES_DOCUMENT_ROOT."""
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that was uploaded."""
DECIMALS = 6
"""Of a pixel: percentages in JSON have rounding errors far below a millionth of a pixel."""
_HINT = (b'"annotations"', b'"predictions"', b'"completions"', b'"rectanglelabels"', b'"original_width"')


class Answer(NamedTuple):
    """What one person, or one model, says of an image."""

    image: str
    """As the task addresses it."""
    results: list[Any] | None
    """None: nobody has answered."""
    score: float = 0.0
    """Of a prediction as a whole; its regions may have their own."""


def look_label_studio(found: Listing) -> Layout | None:
    """JSON files with a list of tasks; splits by the names of files and folders."""
    files: dict[str, list[str]] = {}
    for file in found.ending(".json"):
        start = read_start(found.root / file, 1 << 18)
        if not start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[") or not any(word in start for word in _HINT):
            continue
        try:
            answers = list(_answers(found.root / file, "annotations"))
        except DataError:
            continue
        if answers:
            files[file] = [_file_of(answer.image, found) for answer in answers[:NAMES]]
    return layout_of_files(found, "label_studio", files)


def read_label_studio(
    root: Path,
    images: str,
    annotations: str,
    predictions: bool = False,
    *,
    categories: Categories | None = None,
) -> Tree:
    """The confirmed boxes of `root`/`annotations`. Tasks that nobody has confirmed are left out, with a notice.

    `predictions`: read the proposals of models instead, each with its `score`. Of several annotations of a task the
    last one counts that was not cancelled. DataError for a file without any annotation.
    """
    path = root / annotations
    found = BoxList(path)
    listing, open_tasks = Listing(root / images), 0
    for answer in _answers(path, "predictions" if predictions else "annotations"):
        if answer.results is None:
            open_tasks += 1
            continue
        name = _file_of(answer.image, listing)
        found.image(name)
        score = answer.score if predictions else None
        for number, result in enumerate(answer.results, start=1):
            _add(found, name, result, f"region {number} of {name} in {path.name}", score)
    if not found.sizes and open_tasks:
        raise DataError(_nothing_confirmed(path, images, annotations, predictions))
    if open_tasks:
        what = "predictions" if predictions else "confirmed annotation"
        found.notices.append(f"{open_tasks} tasks of {path.name} have no {what} and are left out")
    return found.tree(root / images, categories)


def _nothing_confirmed(path: Path, images: str, annotations: str, predictions: bool) -> str:
    if predictions:
        return f"{path} has no predictions; import it without predictions=true"
    return (f"{path} holds predictions or empty tasks only, and no annotation that a person has confirmed; confirm "
            "them in Label Studio and export the project again. To read the predictions as they are: "
            f"data.format=label_studio 'data.train={{images: {images}, annotations: {annotations}, "
            "predictions: true}'")  # fmt: skip


def _answers(path: Path, which: str) -> Iterator[Answer]:
    """One answer for each task; `which` is "annotations" or "predictions".

    The short export has a record for each annotation of a task, the newest first, with a list of regions for each tag
    of the labelling interface.
    """
    tasks = any_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"broken annotation file: {path} is no list of tasks; export it from Label Studio as JSON")
    answered = set[int]()
    for task in tasks:
        data = task.get("data") if isinstance(task.get("data"), dict) else task
        image = _image_of(data)
        if not image:
            continue
        if data is task:  # JSON-MIN: the labels stand beside the image
            lists = [value for value in task.values() if isinstance(value, list)]
            regions = [value for values in lists for value in values if _is_region(value)]
            if which != "annotations" or not (regions or "annotation_id" in task):  # it is no export of Label Studio
                continue
            number, annotation = task.get("id"), task.get("annotation_id")
            if annotation is not None and is_whole(number):
                if number in answered:
                    continue
                answered.add(number)
            yield Answer(image, regions if regions or annotation is not None else None)
            continue
        given = task.get(which) or (task.get("completions") if which == "annotations" else None)
        given = given if isinstance(given, list) else []
        done = [one for one in given if isinstance(one, dict) and isinstance(one.get("result"), list)]
        done = [one for one in done if not one.get("was_cancelled")]
        last = done[-1] if done else {}
        score = last.get("score")
        yield Answer(image, last.get("result"), score if is_number(score) else 0.0)


def _image_of(data: Mapping[str, Any]) -> str:
    """The address of the image of a task: its `image`, else the first text that ends like one."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    usual = [texts[key] for key in ("image", "img") if texts.get(key)]
    return next(iter(usual + [text for text in texts.values() if is_image_name(_plain(text))]), "")


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and "original_width" in value


def _plain(address: str) -> str:
    """The path in an address: of a local file below the document root, of an upload, of a URL."""
    try:
        parts = urlsplit(address)
    except ValueError:  # any text of any JSON file may come here
        return address
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path or address)


def _file_of(address: str, listing: Listing) -> str:
    """The path of a task's image; without the prefix of an upload where no file has it."""
    path = _plain(address)
    folder, name = posixpath.split(path.replace("\\", "/"))
    bare = UPLOADED.sub("", name, count=1)
    if bare != name and not listing.find_files(path):
        return posixpath.join(folder, bare)
    return path


def _add(found: BoxList, image: str, result: Any, where: str, score: float | None) -> None:
    """A box from one region; what is no region (a choice, a text) is passed over. `score`: None for annotations."""
    if not isinstance(result, dict):
        return
    value: Any = result.get("value") if isinstance(result.get("value"), dict) else result
    kinds = [key for key in value if key.endswith("labels") and isinstance(value[key], list)]
    if not kinds:
        return
    width, height = result.get("original_width"), result.get("original_height")
    try:
        if kinds[0] not in ("rectanglelabels", "polygonlabels", "ellipselabels", "labels") or not value[kinds[0]]:
            raise ValueError(kinds[0])
        xs, ys = _corners(value, float(width or 0), float(height or 0))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        found.no_box(image, f"{where}: {kinds[0]} of which no box can be made")
        return
    found.image(image, height, width)
    own = result.get("score")
    extra = {} if score is None else {"score": float(own if is_number(own) else score)}
    for label in value[kinds[0]]:
        label = str(label) if isinstance(label, str | int | float) else ""
        if len(xs) == 2:
            found.box(image, label, [xs[0], ys[0], xs[1], ys[1]], where, **extra)
        else:
            found.outline(image, label, xs, ys, where, **extra)


def _corners(value: Mapping[str, Any], width: float, height: float) -> tuple[list[float], list[float]]:
    """(left, width) and (top, height) of an upright box, or the x and the y of an outline's points; in pixels."""
    if not (width > 0 and height > 0):
        raise ValueError("the size of the image is not there")
    if "points" in value:
        return [_pixels(p[0], width) for p in value["points"]], [_pixels(p[1], height) for p in value["points"]]
    x, y = _pixels(value["x"], width), _pixels(value["y"], height)
    degrees = float(value.get("rotation") or 0)
    if "radiusX" in value:
        edges = ellipse_edges((x, y), (_pixels(value["radiusX"], width), _pixels(value["radiusY"], height)), degrees)
        return [edges[0][0], x, edges[0][1]], [edges[1][0], y, edges[1][1]]
    w, h = _pixels(value["width"], width), _pixels(value["height"], height)
    angle = math.radians(degrees)
    if not angle:
        return [x, w], [y, h]
    sine, cosine = math.sin(angle), math.cos(angle)  # around the corner at the top left
    corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
    return [x + a * cosine - b * sine for a, b in corners], [y + a * sine + b * cosine for a, b in corners]


def _pixels(percent: Any, side: float) -> float:
    return round(float(percent) * side / 100, DECIMALS)


def write_label_studio(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    """<split>.json with a task for each image, the images in <split>/, and the labelling interface.

    A box with a `score` is a prediction; the others are annotations. An image whose boxes all have scores is a task
    that nobody has confirmed. `notes` of an image record becomes a text of its task.
    """
    trees = with_one_list(trees)
    names = dict.fromkeys(c["name"] for tree in trees.values() for c in tree.content["categories"])
    (folder / CONFIG).write_text(label_config(list(names)), encoding="utf-8")
    for split, tree in trees.items():
        files, owned = plain_names(tree), owned_by(tree)
        ids = {c["id"]: c["name"] for c in tree.content["categories"]}
        tasks = [
            task_of(image, f"{split}/{files[image['file_name']]}", without_crowds(owned[image["id"]]), ids)
            for image in tree.content["images"]
        ]
        (folder / f"{split}.json").write_text(json.dumps(tasks, indent=1, ensure_ascii=False), encoding="utf-8")
        place_images(tree, {old: folder / split / new for old, new in files.items()}, images)
    return left_out(trees, {"segmentation": "outlines", "area": "areas", "iscrowd": "crowd regions"})


def label_config(names: list[str]) -> str:
    """The labelling interface with these labels, to be pasted into a project's settings."""
    view = ET.Element("View")
    ET.SubElement(view, "Text", name="notes", value="$notes")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ET.SubElement(labels, "Label", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def task_of(
    image: Mapping[str, Any], file: str, boxes: list[dict[str, Any]], names: Mapping[int, str]
) -> dict[str, Any]:
    """A task of one image: boxes with a score are its prediction, the others its annotation."""
    width, height = image["width"], image["height"]
    proposed = [box for box in boxes if "score" in box]
    confirmed = [box for box in boxes if "score" not in box]
    task: dict[str, Any] = {"data": {"image": LOCAL + quote(file), "notes": str(image.get("notes", ""))}}
    if confirmed or not (proposed or image.get("proposed")):
        task["annotations"] = [{"result": [_region(box, names, width, height, k) for k, box in enumerate(confirmed)]}]
    if proposed or image.get("proposed"):
        regions = [{**_region(box, names, width, height, k), "score": box["score"]} for k, box in enumerate(proposed)]
        least = min((box["score"] for box in proposed), default=0.0)
        task["predictions"] = [{"model_version": MODEL, "score": least, "result": regions}]
    return task


def _region(box: Mapping[str, Any], names: Mapping[int, str], width: int, height: int, number: int) -> dict[str, Any]:
    x, y, w, h = box["bbox"]
    degrees = rotation_of(box)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # a box is turned about its centre, and here about its first corner, which the turn has moved
    x, y = x + (w - w * cosine + h * sine) / 2, y + (h - w * sine - h * cosine) / 2
    return {
        "id": f"box{number + 1}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {"x": x / width * 100, "y": y / height * 100, "width": w / width * 100, "height": h / height * 100,
                  "rotation": degrees, "rectanglelabels": [names[box["category_id"]]]},
    }  # fmt: skip


LABEL_STUDIO = Format(
    "label_studio",
    look_label_studio,
    ("images", "annotations", "predictions"),
    2,
    read_label_studio,
    write=write_label_studio,
    title="Label Studio (JSON)",
)
