"""What `detr-mini data next` does: looks at new pictures and at the training set, chooses, and fills a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr_mini.config.run_folder import write_text
from detr_mini.data.stored_settings import data_settings
from detr_mini.drawing.boxes import draw_detections
from detr_mini.errors import DataError, UserError
from detr_mini.images.load import load_image
from detr_mini.images.model_input import IMAGE_KEYS
from detr_mini.inference.detector import Detector
from detr_mini.inference.sources import Source, find_pictures, without_copies
from detr_mini.labelling.cards import card, fitted, write_sheet
from detr_mini.labelling.choose import LEAST_SHARE, Choice, choose
from detr_mini.labelling.features import directions, find_with_features
from detr_mini.labelling.prelabels import Found, write_prelabels
from detr_mini.models.build import build_part
from detr_mini.progress import track

SHEET, LIST = "contact_sheet.jpg", "next.json"
SHOWN = 100
"""Pictures on the contact sheet, at most."""
COLUMNS = 5


@dataclass(frozen=True)
class Chosen:
    """The pictures to label next, in the order of choice."""

    found: Found
    """What the detector finds in them, above its threshold."""
    choices: list[Choice]
    notices: list[str]


def training_pictures(
    checkpoint: Mapping[str, Any], labelled: str | Sequence[str] | None
) -> tuple[list[Path], list[Path], str]:
    """The pictures to compare with, others that are labelled as well (val), and a sentence about the former.

    `labelled`: folders or patterns; "auto": the training set that the checkpoint's config names, where it is still
    there; None: none.
    """
    if labelled is None:
        return [], [], "no training set was given (labelled=null): pictures are compared among themselves"
    if labelled != "auto":
        paths = [source.path for source in find_pictures(labelled)]
        return paths, [], f"{len(paths)} labelled pictures"
    settings = checkpoint["config"].get("data")
    try:
        if settings is None:
            raise DataError("the checkpoint does not say what it was trained on")
        image = {key: checkpoint["image"][key] for key in IMAGE_KEYS if key in checkpoint["image"]}
        own = data_settings({"make": None}, settings) | {"make": None, "test": None}
        data = build_part("data", own, **image, stride=1, seed=0)
        data.setup("fit")
        paths = list(dict.fromkeys(data.train_set.records.paths))  # of tiles, the image once
        others = list(dict.fromkeys(data.val_set.records.paths)) if "val" in data.sets else []
    except UserError as error:
        return [], [], (f"the training set cannot be read ({error}); pictures are compared among themselves. "
                        "labelled=FOLDER says where the labelled pictures are")  # fmt: skip
    return paths, others, f"{len(paths)} pictures of the training set in {data.root}"


def next_pictures(
    detector: Detector,
    sources: Sequence[Source],
    labelled: Sequence[Path],
    count: int,
    threshold: float,
    batch: int,
    others: Sequence[Path] = (),
) -> Chosen:
    """`count` of `sources` to label next. Pictures that are labelled already are left out.

    `labelled`: the pictures that distances are measured to. `others`: further labelled pictures.

    DataError where none is left or can be read.
    """
    new, known = without_copies(sources, [*labelled, *others])
    notices = [f"{known} of {len(sources)} pictures are labelled already and left out"] if known else []
    if not new:
        raise DataError(f"all {len(sources)} pictures of the source are labelled already; give a folder with new ones")
    found, features = find_with_features(detector, new, LEAST_SHARE * threshold, batch)
    there = [Source(path, path.name) for path in labelled if path.is_file()]
    if len(there) < len(labelled):
        notices.append(f"{len(labelled) - len(there)} labelled pictures have vanished and are not compared with")
    before = find_with_features(detector, there, 1.0, batch)[1] if there else features[:0]
    features, before = directions(features, before)
    choices = choose(found.detections, features, before, count, threshold)
    if len(choices) < count:
        notices.append(f"there are only {len(choices)} pictures to choose from; all are chosen")
    picked = [choice.place for choice in choices]
    kept = Found([found.sources[i] for i in picked], [found.detections[i] for i in picked], found.unreadable)
    return Chosen(kept, choices, notices)


def write_next(
    chosen: Chosen, output: Path, form: str, images: str, about: Mapping[str, Any], threshold: float
) -> list[str]:
    """Pre-labels of the chosen pictures in the form of a tool, next.json with the reasons, and a contact sheet."""
    found = chosen.found
    notes = {source.name: choice.reason for source, choice in zip(found.sources, chosen.choices, strict=True)}
    lost = write_prelabels(found.above(threshold), output, form, images, about, notes)
    rows = [
        {"rank": rank, "file_name": source.name, "uncertainty": round(choice.uncertainty, 4),
         "distance": round(choice.distance, 4), "reason": choice.reason}
        for rank, (source, choice) in enumerate(zip(found.sources, chosen.choices, strict=True), start=1)
    ]  # fmt: skip
    content = {**about, "notices": chosen.notices, "pictures": rows}
    write_text(output / LIST, json.dumps(content, indent=1, ensure_ascii=False))
    cards = []
    shown = list(zip(rows, found.sources, found.detections, strict=True))[:SHOWN]
    for row, source, detections in track(shown, "drawing"):
        try:
            sure = detections.above(threshold)
            picture = draw_detections(load_image(source.path), sure, fitted(detections.image_size))
        except DataError:  # it has vanished in between
            continue
        cards.append(card([picture], f"{row['rank']}. {source.name}", [str(row["reason"])]))
    if cards:
        write_sheet(cards, output / SHEET, f"{len(rows)} pictures to label next, the first ones first", COLUMNS)
    return lost
