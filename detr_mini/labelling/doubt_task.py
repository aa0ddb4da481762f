"""What `detr-mini data doubt` writes: the ranked list, pictures side by side, and a task for a labelling tool."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from detr_mini.boxes import xywh_to_xyxy, xyxy_to_xywh
from detr_mini.config.run_folder import write_text
from detr_mini.drawing.boxes import draw_boxes, to_picture
from detr_mini.errors import DataError, UserError
from detr_mini.formats.box_rules import is_box, upright
from detr_mini.formats.convert import write_set
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import free_place, new_folder, owned_by
from detr_mini.images.header import image_size
from detr_mini.images.load import load_image
from detr_mini.labelling.cards import card, fitted, write_sheet
from detr_mini.labelling.doubts import SEEN, Boxes, Doubt, Kind, doubts
from detr_mini.progress import track

LIST, SHEET, TASK = "doubts.json", "doubts.jpg", "task"
WRITER = "detr-mini data doubt"
DRAWN = 60
"""Doubts on the sheet, at most."""


@dataclass(frozen=True)
class Doubted:
    """The doubts about a split, with what they speak of."""

    tree: Tree
    ids: list[int]
    """Image ids, in the order of `labels` and `detections`."""
    annotations: list[list[dict[str, Any]]]
    """Of each image those that are its `labels`."""
    labels: list[Boxes]
    detections: list[Boxes]
    doubts: list[Doubt]

    @property
    def boxes(self) -> int:
        """Labels that were looked at."""
        return sum(len(labels) for labels in self.labels)

    def file(self, doubt: Doubt) -> str:
        """The picture of a doubt, as the annotations name it."""
        return self._files[self.ids[doubt.image]]

    @cached_property
    def _files(self) -> dict[int, str]:
        return {image["id"]: image["file_name"] for image in self.tree.content["images"]}


def doubted(tree: Tree, detections: Mapping[int, Boxes]) -> Doubted:
    """The doubts about the labels of the images that were looked at. Crowd regions and boxes without size are left."""
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    owned = owned_by(tree)
    ids = [image["id"] for image in tree.content["images"] if image["id"] in detections]
    annotations = [[a for a in owned[i] if _counts(a)] for i in ids]
    labels = [
        Boxes(_xyxy([upright(a) for a in own]), tuple(names[a["category_id"]] for a in own), torch.ones(len(own)))
        for own in annotations
    ]
    found = [detections[i] for i in ids]
    return Doubted(tree, ids, annotations, labels, found, doubts(labels, found))


def _counts(annotation: Mapping[str, Any]) -> bool:
    box = annotation["bbox"]
    return is_box(box) and min(box[2:]) > 0 and not annotation.get("iscrowd")


def _xyxy(boxes: Sequence[Sequence[float | int]]) -> Tensor:
    return xywh_to_xyxy(torch.tensor([list(map(float, box)) for box in boxes]).reshape(-1, 4))


def record_of(found: Doubted, doubt: Doubt, rank: int) -> dict[str, Any]:
    """A doubt for JSON, with a sentence."""
    labels, detections = found.labels[doubt.image], found.detections[doubt.image]
    record: dict[str, Any] = {"rank": rank, "file_name": found.file(doubt), "kind": doubt.kind.value,
                              "score": round(doubt.score, 4)}  # fmt: skip
    if doubt.label is not None:
        annotation = found.annotations[doubt.image][doubt.label]
        record["label"] = {"annotation_id": annotation.get("id"), "name": labels.names[doubt.label],
                           "bbox": annotation["bbox"]}  # fmt: skip
    if doubt.detection is not None:
        box = [round(v, 1) for v in xyxy_to_xywh(detections.xyxy[doubt.detection]).tolist()]
        record["found"] = {"name": detections.names[doubt.detection], "bbox": box,
                           "score": round(float(detections.scores[doubt.detection]), 4)}  # fmt: skip
    return record | {"text": _sentence(doubt, record)}


def _sentence(doubt: Doubt, record: Mapping[str, Any]) -> str:
    label, seen = record.get("label", {}), record.get("found", {})
    sure = f"(score {seen['score']:.2f})" if seen else ""
    return {
        Kind.MISSING: f"a '{seen.get('name')}' without a label? {sure}",
        Kind.DISPLACED: f"'{label.get('name')}': its box seems to lie elsewhere {sure}",
        Kind.MISNAMED: f"'{label.get('name')}' seems to be a '{seen.get('name')}' {sure}",
        Kind.DOUBLED: f"'{label.get('name')}': labelled twice?",
        Kind.SPURIOUS: f"'{label.get('name')}': nothing of this kind is found there",
    }[doubt.kind]


def write_doubts(found: Doubted, output: Path, form: str, images: str, shown: int) -> Iterator[str]:
    """Write the first `shown` doubts into `output`: doubts.json, doubts.jpg, and a task for a tool in task/.

    Those of an earlier run are replaced. Returns what to print. UserError for a task folder that was not written here.
    """
    first = found.doubts[:shown]
    records = [record_of(found, doubt, rank) for rank, doubt in enumerate(first, start=1)]
    output.mkdir(parents=True, exist_ok=True)
    _clear(output)
    about = {"written_by": WRITER, "images": len(found.ids), "labels": found.boxes, "found": len(found.doubts)}
    write_text(output / LIST, json.dumps({**about, "doubts": records}, indent=1, ensure_ascii=False))
    yield f"{len(found.ids)} images, {found.boxes} labels; the {len(first)} most certain of {len(found.doubts)} doubts:"
    counts = Counter(record["kind"] for record in records)
    yield "  " + ", ".join(f"{counts[kind.value]} {kind.value}" for kind in Kind)
    yield from (f"{r['rank']:3}. {r['score']:.2f} {r['file_name']}: {r['text']}" for r in records[:10])
    if not first:
        return
    cards = list(_cards(found, list(zip(first, records, strict=True))[:DRAWN]))
    if cards:
        write_sheet(cards, output / SHEET, f"{len(cards)} doubtful labels: labels left, detections right", 2)
    with new_folder(output / TASK) as folder:
        yield from write_set(folder, form, {"train": task_tree(found, first, records, form)}, images)


def check_output(output: Path) -> None:
    """To be called before long work. UserError where `output` cannot be written, or holds a task of someone else."""
    if not output.exists():
        free_place(output)
        return
    if not (output.is_dir() and os.access(output, os.W_OK)):
        raise UserError(f"the output {output} is no folder that you may write to; choose another output")
    if not (output / TASK).exists():
        return
    try:
        ours = json.loads((output / LIST).read_text(encoding="utf-8")).get("written_by") == WRITER
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{output / TASK} was not written by data doubt; choose another output")


def _clear(output: Path) -> None:
    """Remove the task of an earlier run."""
    check_output(output)
    if (output / TASK).exists():
        shutil.rmtree(output / TASK)


def task_tree(found: Doubted, first: Sequence[Doubt], records: Sequence[Mapping[str, Any]], form: str) -> Tree:
    """The doubtful pictures, the worst first, with all their labels and, with a score, what the detector found instead.

    A label that has a score, because a detector has proposed it once, goes without: it is a label now.
    A tool that cannot show proposals apart from labels (CVAT) gets the proposals for missing labels alone.
    """
    content = found.tree.content
    ids = {c["name"]: c["id"] for c in content["categories"]}
    places = list(dict.fromkeys(doubt.image for doubt in first))
    files = {image["id"]: image for image in content["images"]}
    said: dict[int, list[str]] = {place: [] for place in places}
    marks: dict[int, str] = {}  # by `id`: the labels that were looked at are the tree's own annotations
    proposals: list[dict[str, Any]] = []
    for doubt, record in zip(first, records, strict=True):
        text = f"{record['kind']} {record['score']:.2f}: {record['text']}"
        said[doubt.image].append(text)
        if doubt.label is not None:
            marks[id(found.annotations[doubt.image][doubt.label])] = text
        seen = record.get("found")
        if seen and seen["name"] in ids and (doubt.kind is Kind.MISSING or form == "label_studio"):
            proposals.append({"image_id": found.ids[doubt.image], "category_id": ids[seen["name"]],
                              "bbox": seen["bbox"], "score": seen["score"], "doubt": text})  # fmt: skip
    owned = owned_by(found.tree)
    boxes = [
        {key: value for key, value in {**a, "doubt": marks.get(id(a))}.items() if key != "score" and value is not None}
        for place in places
        for a in owned[found.ids[place]]
    ]
    images = [_sized({**files[found.ids[place]], "notes": "; ".join(said[place])}, found.tree) for place in places]
    annotations = [{**a, "id": number} for number, a in enumerate([*boxes, *proposals], start=1)]
    return Tree({**content, "images": images, "annotations": annotations}, found.tree.folder, found.tree.path)


def _sized(image: dict[str, Any], tree: Tree) -> dict[str, Any]:
    if not (image.get("height") and image.get("width")):
        image["height"], image["width"] = image_size(tree.folder / image["file_name"])[0]
    return image


def _cards(found: Doubted, shown: Sequence[tuple[Doubt, Mapping[str, Any]]]) -> Iterator[Image.Image]:
    for doubt, record in track(shown, "drawing"):
        try:
            picture = to_picture(load_image(found.tree.folder / record["file_name"]))
        except DataError:  # it has vanished in between
            continue
        labels, seen = found.labels[doubt.image], found.detections[doubt.image]
        longest = fitted((picture.height, picture.width))
        left = _drawn(picture, labels, doubt.label, range(len(labels)), longest)
        right = _drawn(picture, seen, doubt.detection, (seen.scores >= SEEN).nonzero()[:, 0].tolist(), longest)
        title = f"{record['rank']}. {record['kind']} {record['score']:.2f} · {record['file_name']}"
        yield card([left, right], title, [record["text"]])


def _drawn(picture: Image.Image, boxes: Boxes, marked: int | None, others: Sequence[int], longest: int) -> Image.Image:
    """A picture with boxes: the one in question in colour and on top, the others pale blue."""
    rows = [*([] if marked is None else [marked]), *(row for row in others if row != marked)]
    texts = [boxes.names[row] if row == marked else "" for row in rows]
    return draw_boxes(picture, boxes.xyxy[rows], texts, [0 if row == marked else 1 for row in rows], longest)
