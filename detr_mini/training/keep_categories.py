"""Learning more categories without forgetting: an old detector labels what new data leave unlabelled.

Where pictures are labelled for new categories only, things of the old ones look like background, and a training on them
teaches the detector that they are none. The old detector therefore looks at the training pictures once, before the
training: what it finds counts as truth beside the labels (pseudo-labels: Li and Hoiem 2017; for boxes Shmelkov et al.
2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detr_mini.boxes import box_iou, xywh_to_xyxy, xyxy_to_xywh
from detr_mini.data.protocol import Data
from detr_mini.errors import ConfigError
from detr_mini.formats.split import CocoSet, ImageRecord
from detr_mini.inference.detector import Detector, from_checkpoint
from detr_mini.inference.requests import found_in_each, ignored
from detr_mini.models.heads import nms
from detr_mini.pretrained.coco_categories import is_nothing
from detr_mini.pretrained.transfer import THING
from detr_mini.progress import track
from detr_mini.structures import Categories, Detections
from detr_mini.text.names import rows_by_name
from detr_mini.torch_seeding import seeded
from detr_mini.training.processes import ALONE, Ranks

SAME_OBJECT = 0.5
"""IoU with a label from which a found box is of the labelled object: the label counts."""
SAME_FIND = 0.7
"""IoU of two found boxes of one category from which the weaker is the same object again."""
UNSURE_SHARE = 0.5
"""Of the old detector's threshold: what it finds from there up to the threshold is neither truth nor background."""


def find_kept(data: Data, start: Mapping[str, Any], name: str, device: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What the detector in the checkpoint `start` (of the file `name`) finds of its own categories in the training set.

    Plain values and tensors, for the checkpoint: names and ids of the kept categories, and the boxes. `add_kept` adds
    them to the data. ConfigError where there is no category to keep. The processes share the pictures.
    """
    train, theirs = data.train_set, Categories.from_dict(start["categories"])
    kept = _kept_categories(train, theirs, data, name)
    with seeded(0):
        detector = from_checkpoint(start, name, device)
    own = [(record.image_id, _judged(found, record, train, detector, kept))
           for record, found in _looked_at(detector, ranks.share(train.records))]  # fmt: skip
    seen = sorted((one for each in ranks.of_all(own) for one in each), key=lambda one: one[0])
    ids = torch.tensor([image_id for image_id, _ in seen]).long()
    image_ids = ids.repeat_interleave(torch.tensor([len(each[0]) for _, each in seen]).long())
    none = torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0).long(), torch.zeros(0).bool()
    boxes, labels, sure = map(torch.cat, zip(none, *(each for _, each in seen), strict=True))
    names = [theirs.names[row] for row, label in kept.items() if label >= len(data.categories)]
    return {
        # behind the data's own, since labels follow the order of ids
        "names": names, "ids": [max(data.categories.ids) + 1 + k for k in range(len(names))],
        "image_ids": image_ids, "boxes_xywh": boxes, "labels": labels, "sure": sure,
        "said": [_said(name, detector, train, kept, theirs, labels, sure), *_about_val(data, kept)],
    }  # fmt: skip


def add_kept(data: Data, kept: Mapping[str, Any]) -> None:
    """Give the data the kept categories behind its own, and its training set the boxes that were found.

    What was found without certainty goes in like a crowd region: it is no target, and `losses.unjudged` keeps it from
    counting as background.
    """
    own = data.categories
    union = Categories((*own.ids, *kept["ids"]), (*own.names, *kept["names"]))
    train = data.train_set
    places = {image_id: place for place, image_id in enumerate(train.image_ids)}
    owner = torch.tensor([places.get(i, -1) for i in kept["image_ids"].tolist()], dtype=torch.int64)
    there = owner >= 0
    boxes, labels, sure = (kept[key][there] for key in ("boxes_xywh", "labels", "sure"))
    data.take(union, train.plus(owner[there], boxes, labels, ~sure))
    data.report.notices += [str(sentence) for sentence in kept["said"]]


def _kept_categories(train: CocoSet, theirs: Categories, data: Data, name: str) -> dict[int, int]:
    """Row of each category that is kept: its label in the data's categories with the kept ones behind them."""
    if data.tokenizer is not None:
        raise ConfigError("keep_categories=true works with boxes, not with captions; leave it out")
    if theirs.names == (THING,):
        raise ConfigError(f"keep_categories=true: init={name} finds objects without naming them, so it has no category "
                          "to keep; leave keep_categories out")  # fmt: skip
    labelled = torch.bincount(train.labels[~train.is_crowd], minlength=len(data.categories)) > 0
    ours = {row: label for label, row in rows_by_name(theirs.names, data.categories.names).items()}
    kept: dict[int, int] = {}
    new = len(data.categories)
    for row, category in enumerate(theirs.names):
        if row in ours and not labelled[ours[row]]:
            kept[row] = ours[row]  # listed, but without a box: nobody has labelled it
        elif row not in ours and not is_nothing(category):
            kept[row], new = new, new + 1
    if not kept:
        raise ConfigError(f"keep_categories=true: the data label every category of init={name}, so there is none to "
                          "keep; leave it out")  # fmt: skip
    return kept


def _looked_at(detector: Detector, pictures: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, Detections]]:
    """Each picture that can be read, with what the old detector finds (the training reports the others)."""
    least = UNSURE_SHARE * detector.operating_point.threshold
    records = track(pictures, "looking for the categories to keep")
    return found_in_each(detector, records, ImageRecord.pixels, ignored, least)


def _judged(
    found: Detections, record: ImageRecord, train: CocoSet, detector: Detector, kept: Mapping[int, int]
) -> tuple[Float[Tensor, "n 4"], Int[Tensor, " n"], Tensor]:
    """Boxes (xywh, pixels), labels, and whether the detector is sure, of what counts in a picture."""
    found = found.to("cpu")
    table = torch.tensor([kept.get(row, -1) for row in range(len(detector.categories))])
    labels, boxes, scores = table[found.labels], found.boxes.double(), found.scores
    index = train.records.index_of(record.image_id)
    begin, end = train.first[index : index + 2].tolist()
    truth = xywh_to_xyxy(train.boxes_xywh[begin:end])
    covered = box_iou(boxes, truth).amax(1) > SAME_OBJECT if end > begin else torch.zeros(len(boxes), dtype=torch.bool)
    large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= 1 if len(boxes) else covered
    right = ((labels >= 0) & ~covered & large).nonzero()[:, 0]
    rows, sure = once_each(boxes[right], labels[right], scores[right], detector.operating_point.threshold)
    right = right[rows]
    return xyxy_to_xywh(boxes[right]), labels[right], sure


def once_each(
    boxes_xyxy: Float[Tensor, "n 4"], labels: Int[Tensor, " n"], scores: Float[Tensor, " n"], threshold: float
) -> tuple[Int[Tensor, " k"], Bool[Tensor, " k"]]:
    """The rows that say something of their own, and whether each is sure.

    What was found twice counts once, and an unsure box on a sure one not at all: as a region of which nobody knows, it
    would take the loss away from the guesses of that very object.
    """
    rows = nms(boxes_xyxy, scores, labels, SAME_FIND)
    sure = scores[rows] >= threshold
    certain = boxes_xyxy[rows[sure]]
    apart = sure | (box_iou(boxes_xyxy[rows], certain).amax(1) <= SAME_OBJECT if len(certain) else ~sure)
    return rows[apart], sure[apart]


def _said(
    name: str, detector: Detector, train: CocoSet, kept: Mapping[int, int], theirs: Categories, labels: Tensor,
    sure: Tensor,
) -> str:  # fmt: skip
    row_of = {label: row for row, label in kept.items()}
    counts = Counter(theirs.names[row_of[label]] for label in labels[sure].tolist())
    named = ", ".join(f"{category} {counts[category]}" for category in (theirs.names[row] for row in [*kept][:20]))
    threshold = detector.operating_point.threshold
    return (
        f"keep_categories: init={name} keeps {len(kept)} of its {len(theirs)} categories. It finds "
        f"{int(sure.sum())} boxes of them in the {len(train)} training pictures with a score from {threshold:.2f}, "
        f"which count as truth ({named}{', ...' if len(kept) > 20 else ''}); {int((~sure).sum())} more from "
        f"{UNSURE_SHARE * threshold:.2f} count neither as objects nor as background. Boxes on a label (IoU over "
        f"{SAME_OBJECT:g}) are left out"
    )


def _about_val(data: Data, kept: Mapping[int, int]) -> list[str]:
    val = data.sets.get("val")
    if val is None or {*kept.values()} & {*val.labels.tolist()}:
        return []
    return ["val has no labels of the kept categories: its metrics are of those that it labels"]
