"""One picture twice, or two pictures of one scene, within a split and across splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detr_mini.checking.boxes import AT_ONCE, overlaps
from detr_mini.checking.pictures import LIKE, Picture, same_digests
from detr_mini.checking.report import Checked
from detr_mini.checking.scene_names import scenes
from detr_mini.formats.faults import Fault, Fix, Kind

SAME_COPY = 0.9
"""IoU from which boxes of two copies of a picture, of whatever size, are one."""


def check_pictures(done: Checked, pictures: Mapping[str, Mapping[int, Picture]]) -> None:
    """Pictures that are there twice; the fixed copy has them once, in val or test rather than in train.

    Within a split a copy is left out only where the other one has all of its boxes: else it is unknown which are
    right.
    """
    everything = [(split, image_id, picture) for split, own in pictures.items() for image_id, picture in own.items()]
    everything.sort(key=lambda item: item[0] == "train")
    pairs = _same_pictures([picture for *_, picture in everything], [split for split, *_ in everything])
    alike = {everything[place][:2] for one, two, *_ in pairs for place in (one, two)}
    owned = {
        split: Owned(tree.content, {i for name, i in alike if name == split})
        for split, tree in done.trees.items()
    }  # fmt: skip
    kept: dict[int, int] = {}  # of a copy that is left out, the other one
    looked_at: set[tuple[int, int]] = set()
    for first, second, how, crowded in pairs:
        if how != LIKE:  # what is a copy of one that is left out is a copy of the one that is kept
            first, second = sorted((_end_of(kept, first), _end_of(kept, second)))
            if first == second or (first, second) in looked_at:
                continue
            looked_at.add((first, second))
        elif first in kept or second in kept:
            continue
        (one_split, one, _), (two_split, two, _) = everything[first], everything[second]
        if crowded and owned[one_split].differs_from(owned[two_split], one, two):
            continue  # one camera, another scene
        one_name, two_name = owned[one_split].names[one], owned[two_split].names[two]
        text = f"{one_split}: {one_name}, {two_split}: {two_name}: {how}"
        if how == LIKE:
            done.faults.append(Fault(Kind.LIKE_PICTURES, text, two_name))
            continue
        kind = Kind.SAME_PICTURE if one_split == two_split else Kind.SHARED_PICTURE
        if one_split == two_split and not owned[one_split].has_all_of(two, one):
            if not owned[one_split].has_all_of(one, two):
                done.faults.append(Fault(kind, f"{text}, with other boxes", two_name))
                continue
            first, second, two, two_name = second, first, one, one_name
        boxes = len(owned[two_split].boxes[two])
        done.faults.append(Fault(kind, text, two_name, Fix.LEFT_OUT, f"of {two_split}", boxes))
        kept[second] = first
    for split in {everything[place][0] for place in kept}:
        ids = {everything[place][1] for place in kept if everything[place][0] == split}
        content = done.trees[split].content
        content["images"] = [image for image in content["images"] if image["id"] not in ids]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]


def _end_of(kept: Mapping[int, int], place: int) -> int:
    while place in kept:
        place = kept[place]
    return place


def _same_pictures(pictures: Sequence[Picture], splits: Sequence[str]) -> list[tuple[int, int, str, bool]]:
    """See `pixels.same_pictures`. By digest alone, without torch, where no pixels were decoded."""
    if all(picture.mark is None for picture in pictures):
        return same_digests([picture.digest for picture in pictures])
    from detr_mini.checking.pixels import same_pictures

    return same_pictures(pictures, splits)


def check_scenes(done: Checked) -> None:
    """Frames of one video and tiles of one picture, by their names, in two splits: one fault for each of these."""
    images = [(split, i["file_name"]) for split, tree in done.trees.items() for i in tree.content["images"]]
    for scene in scenes({k: name for k, (_, name) in enumerate(images)}).values():
        counts = Counter(images[k][0] for k in scene)
        if len(counts) > 1:
            shown = ", ".join(f"{split} {count}" for split, count in counts.items())
            name = images[scene[0]][1]
            text = f"{name} and {len(scene) - 1} more frames or tiles of one scene, by their names: {shown}"
            done.faults.append(Fault(Kind.LIKE_PICTURES, text, name))


class Owned:
    """The boxes of some images of a split, as shares of the image, with their categories' names."""

    def __init__(self, content: Mapping[str, Any], chosen: set[int]) -> None:
        categories = {c["id"]: c["name"] for c in content["categories"]}
        images = [image for image in content["images"] if image["id"] in chosen]
        sizes = {i["id"]: np.array([i["width"], i["height"]] * 2, np.float64) for i in images}
        self.names = {i["id"]: i["file_name"] for i in images}
        self.boxes: dict[int, list[tuple[str, np.ndarray]]] = {image_id: [] for image_id in sizes}
        for a in content["annotations"] if chosen else ():
            if a["image_id"] not in chosen:
                continue
            kind = f"{categories[a['category_id']]} {a.get('iscrowd', 0)}"
            self.boxes[a["image_id"]].append((kind, np.array(a["bbox"], np.float64) / sizes[a["image_id"]]))

    def differs_from(self, other: Owned, image_id: int, other_id: int) -> bool:
        """Whether each of two images has an object that the other one lacks."""
        one, two = (Counter(name for name, _ in boxes) for boxes in (self.boxes[image_id], other.boxes[other_id]))
        return bool(one - two) and bool(two - one)

    def has_all_of(self, image_id: int, other_id: int) -> bool:
        """Whether each box of the first image is a box of the second one, too."""
        one, two = self.boxes[image_id], self.boxes[other_id]
        if not one or not two:
            return not one
        other, names = np.stack([box for _, box in two]), np.array([name for name, _ in two])
        for begin in range(0, len(one), AT_ONCE):
            rows = one[begin : begin + AT_ONCE]
            same = np.array([name for name, _ in rows])[:, None] == names
            if not ((overlaps(np.stack([box for _, box in rows]), other) >= SAME_COPY) & same).any(1).all():
                return False
        return True
