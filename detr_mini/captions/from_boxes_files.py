"""Writes captions made from boxes to a file, once, with the settings and boxes that they depend on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from detr_mini.captions.captions_of_split import objects_of
from detr_mini.captions.from_boxes import WEIGHTS, Words, captions_to_measure, items_from
from detr_mini.captions.mdetr_format import caption_records, write_json
from detr_mini.errors import DataError
from detr_mini.formats.columns import read_json
from detr_mini.formats.split import CocoSet
from detr_mini.progress import track
from detr_mini.seeding import text_generator

VERSION = 1


def referred(
    coco: CocoSet, words: Words, *, each: int, weights: Mapping[str, float | int] = WEIGHTS, seed: int = 0
) -> dict[str, Any]:
    """The content of a grounded file: up to `each` captions of every kind for each image.

    `info` holds the settings (`made`) and the number of captions of each kind (`kinds`). DataError for a dataset that
    allows no caption.
    """
    if each < 1:
        raise DataError(f"each is {each}; ask for at least one caption of each kind")
    images, counts = [], Counter[str]()
    for own in track(objects_of(coco), "Making captions"):
        items = items_from(own.names, [annotation["bbox"] for annotation in own.annotations])
        side = min(own.record["height"], own.record["width"])
        rng = text_generator(seed, own.record["file_name"])
        made = captions_to_measure(items, side, rng, words, each, crowded=own.crowded, weights=weights)
        counts.update(caption.kind for caption in made)
        images.append((own.record, own.annotations, made))
    if not counts:
        raise DataError(f"no caption can be made for the {len(coco)} images: no complete category "
                        f"({', '.join(sorted(words.complete)) or 'none is'}) has boxes; extend complete")  # fmt: skip
    info = {"made": _made(coco, words, each, weights, seed), "kinds": dict(counts)}
    return {"info": info, "categories": coco.categories.records(), **caption_records(images)}


def ensure_referred(
    path: str | Path,
    coco: CocoSet,
    words: Words,
    *,
    each: int,
    weights: Mapping[str, float | int] = WEIGHTS,
    seed: int = 0,
) -> str:
    """Write `referred` captions to `path` unless the same ones are there already. Returns a sentence for the user.

    A file that was made here from other boxes or settings is replaced. DataError for any other file.
    """
    path, why = Path(path), ""
    if path.exists():
        wanted = json.loads(json.dumps(_made(coco, words, each, weights, seed)))
        found = read_json(path).get("info", {}).get("made")
        if not isinstance(found, dict):
            raise DataError(f"{path} holds captions from another source, which data.refer would replace. "
                            "Name another file in data.captions, or leave data.refer out")  # fmt: skip
        if found == wanted:
            return f"the captions in {path} are there already and are used as they are"
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        why = f" again, since the old ones differ in {', '.join(changed)}"
    content = referred(coco, words, each=each, weights=weights, seed=seed)
    write_json(path, content)
    return f"made {len(content['images'])} captions from boxes in {path}{why}"


def _made(coco: CocoSet, words: Words, each: int, weights: Mapping[str, float | int], seed: int) -> dict[str, Any]:
    """Everything that the captions depend on."""
    boxes = blake2b(json.dumps(coco.truth, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {
        "version": VERSION,
        "pictures": len(coco),
        "boxes": boxes,
        "names": {category: list(nouns) for category, nouns in words.lexicon.synonyms.items()},
        "plurals": dict(words.lexicon.plurals),
        "complete": sorted(words.complete),
        "each": each,
        "kinds": {kind: weight for kind, weight in weights.items() if weight},
        "seed": seed,
    }
