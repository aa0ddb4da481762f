"""What a person has corrected of pre-labels: boxes kept, moved, renamed, added and removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import box_iou, xywh_to_xyxy
from detr_mini.errors import DataError, nearest, some_of
from detr_mini.formats.box_rules import upright
from detr_mini.formats.columns import any_json
from detr_mini.formats.label_studio import UPLOADED
from detr_mini.formats.path_words import shared_folder
from detr_mini.formats.tree import Tree
from detr_mini.labelling.prelabels import RECORD, WRITER

KINDS = ("kept", "moved", "renamed", "added", "removed")
SAME_BOX = 0.2
"""IoU from which a box before and a box after are one that was changed; below, one was removed and one added."""
UNTOUCHED = 0.5
"""Pixels by which an edge may differ in a box that nobody has touched: tools round."""
NAME_BONUS = 0.1
"""How much IoU the same name is worth where two boxes might be the one from before."""

Box = tuple[str, Sequence[float | int]]
"""Name, and (left, top, width, height) in pixels."""


@dataclass
class Corrections:
    """Counts over the pictures that came back."""

    counts: Counter[str] = field(default_factory=Counter)
    by_name: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each name before (of added boxes: after) what became of its boxes."""
    pictures: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Pictures that have pre-labels and did not come back."""
    extra: list[str] = field(default_factory=list)
    """Pictures that came back without having had pre-labels."""
    new_names: list[str] = field(default_factory=list)
    """Names that the detector does not know."""
    known: tuple[str, ...] = ()

    @property
    def touched(self) -> float:
        """Boxes that a person has touched, for each picture that came back."""
        changes = sum(self.counts[kind] for kind in KINDS if kind != "kept")
        return changes / max(1, len(self.pictures))

    def lines(self) -> Iterator[str]:
        """The counts in sentences."""
        boxes = ", ".join(f"{self.counts[kind]} {kind}" for kind in KINDS)
        yield f"{len(self.pictures)} pictures came back; boxes: {boxes} ({self.touched:.2f} touched a picture)"
        for name, counts in sorted(self.by_name.items()):
            yield f"  {name}: {', '.join(f'{counts[kind]} {kind}' for kind in KINDS if counts[kind])}"
        if self.missing:
            yield f"{len(self.missing)} pictures did not come back: {some_of(self.missing, 5)}"
        if self.extra:
            yield f"{len(self.extra)} pictures had no pre-labels and are not counted: {some_of(self.extra, 5)}"
        for name in self.new_names:
            yield f"'{name}' is a name that the pre-labels do not have{nearest(name, self.known)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "counts": {kind: self.counts[kind] for kind in KINDS}, "touched_per_picture": self.touched,
            "by_name": {name: dict(counts) for name, counts in sorted(self.by_name.items())},
            "pictures": self.pictures, "missing": self.missing, "extra": self.extra, "new_names": self.new_names,
        }  # fmt: skip


def read_prelabels(folder: Path) -> dict[str, Any]:
    """The prelabels.json of a folder of `data label`, or such a file. DataError for another."""
    path = folder / RECORD if folder.is_dir() else folder
    if not path.is_file():
        raise DataError(f"there is no {path}; give the folder that 'detr-mini data label' wrote")
    content = any_json(path)
    if not isinstance(content, dict) or content.get("written_by") != WRITER or not _is_record(content):
        raise DataError(f"{path} was not written by 'detr-mini data label'; give the folder that it wrote")
    return content


def _is_record(content: Mapping[str, Any]) -> bool:
    pictures, names = content.get("pictures"), content.get("names")
    if not isinstance(pictures, list) or not isinstance(names, list):
        return False
    for picture in pictures:
        boxes = picture.get("boxes") if isinstance(picture, dict) else None
        if not isinstance(boxes, list) or not isinstance(picture.get("file_name"), str):
            return False
        if not all(isinstance(b, dict) and isinstance(b.get("name"), str) and _is_bbox(b.get("bbox")) for b in boxes):
            return False
    return True


def _is_bbox(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)


def count_corrections(record: Mapping[str, Any], trees: Sequence[Tree]) -> Corrections:
    """Compare pre-labels with the corrected splits.

    Pictures are matched by their names in the task (`_matched`), whatever folders they are in.

    DataError where none of the pictures came back.
    """
    after = dict(_pictures_of(trees))
    done = Corrections(known=tuple(map(str, record["names"])))
    names = [str(picture.get("written", picture["file_name"])) for picture in record["pictures"]]
    places = _matched(names, after)
    used = set()
    for picture, name in zip(record["pictures"], names, strict=True):
        place = places.get(name)
        if place is None:
            done.missing.append(picture["file_name"])
            continue
        used.add(place)
        before = [(box["name"], box["bbox"]) for box in picture["boxes"]]
        counts: Counter[str] = Counter()
        for kind, category in compare(before, after[place]):
            counts[kind] += 1
            done.by_name.setdefault(category, Counter())[kind] += 1
        done.counts += counts
        done.pictures[picture["file_name"]] = {kind: counts[kind] for kind in KINDS}
    if record["pictures"] and not done.pictures:
        raise DataError(f"none of the {len(record['pictures'])} pictures with pre-labels is in the corrected set "
                        f"(the first is {record['pictures'][0]['file_name']}); data.root must be the export of this "
                        "task")  # fmt: skip
    done.extra = sorted(set(after) - used)
    done.new_names = sorted({category for place in used for category, _ in after[place]} - set(done.known))
    return done


def _pictures_of(trees: Sequence[Tree]) -> Iterator[tuple[str, list[Box]]]:
    for tree in trees:
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        boxes: dict[int, list[Box]] = {image["id"]: [] for image in tree.content["images"]}
        for annotation in tree.content["annotations"]:
            boxes[annotation["image_id"]].append((names[annotation["category_id"]], upright(annotation)))
        yield from ((image["file_name"], boxes[image["id"]]) for image in tree.content["images"])


def _tails(name: str) -> list[tuple[str, ...]]:
    """A path and its ends, longest first, without the suffix and the prefix of an upload."""
    parts = PurePosixPath(re.sub(r"\\", "/", name)).with_suffix("").parts
    parts = (*parts[:-1], UPLOADED.sub("", parts[-1], count=1)) if parts else ("",)
    return [parts[k:] for k in range(len(parts))]


def _by_tail(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        for tail in _tails(name):
            found.setdefault(tail, []).append(name)
    return found


def _matched(before: Collection[str], after: Collection[str]) -> dict[str, str]:
    """Of names before the same pictures' names after: the same path, from the folder that all of them share if need be,
    else the longest end that both have in common.

    Where a longest end belongs to several names, before or after, nobody can tell which is meant: none is given.
    """
    old, new = _by_tail(before), _by_tail(after)
    shared = len(PurePosixPath(shared_folder([*after])).parts)
    inside = {"/".join(PurePosixPath(name).parts[shared:]): name for name in after}
    meant = {place: next((old[tail] for tail in _tails(place) if tail in old), []) for place in after}
    found: dict[str, str] = {}
    for name in before:
        if name in after or (name in inside and name in meant[inside[name]]):
            found[name] = name if name in after else inside[name]
            continue
        tail = next((tail for tail in _tails(name) if tail in new), None)
        if tail is not None and len(old[tail]) == len(new[tail]) == 1:
            found[name] = new[tail][0]
    return found


def compare(
    before: Sequence[Box], after: Sequence[Box], kept_iou: float | int | None = None
) -> Iterator[tuple[str, str]]:
    """What became of each box of one picture, and what is new: (kind, name before, or after for an added box).

    Boxes are paired so that the sum of their IoU is largest; a box that was both moved and renamed counts as renamed.
    `kept_iou`: IoU from which a box counts as kept; None: no edge may differ by more than UNTOUCHED.
    """
    pairs = _paired(before, after)
    for i, (name, box) in enumerate(before):
        if i not in pairs:
            yield "removed", name
        elif after[pairs[i]][0] != name:
            yield "renamed", name
        else:
            yield ("kept" if _is_same(box, after[pairs[i]][1], kept_iou) else "moved"), name
    for j in set(range(len(after))) - set(pairs.values()):
        yield "added", after[j][0]


def _paired(before: Sequence[Box], after: Sequence[Box]) -> dict[int, int]:
    if not before or not after:
        return {}
    iou = box_iou(_xyxy(before), _xyxy(after))
    same = torch.tensor([[a == b for b, _ in after] for a, _ in before])
    worth = torch.where(iou >= SAME_BOX, iou + NAME_BONUS * same, 0.0)
    rows, columns = linear_sum_assignment(worth.numpy(), maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if worth[i, j] > 0}


def _xyxy(boxes: Sequence[Box]) -> Tensor:
    return xywh_to_xyxy(torch.tensor([list(map(float, box)) for _, box in boxes], dtype=torch.float64))


def _is_same(one: Sequence[float | int], two: Sequence[float | int], least: float | int | None) -> bool:
    if least is not None:
        return float(box_iou(_xyxy([("", one)]), _xyxy([("", two)]))) >= least
    edges = [(box[0], box[1], box[0] + box[2], box[1] + box[3]) for box in (one, two)]
    return all(abs(a - b) <= UNTOUCHED for a, b in zip(*edges, strict=True))
