"""Files of captions that are made from boxes: written once, with what they were made from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from detr_mini.captions.from_boxes import WEIGHTS, Words, captions_to_measure, things_of
from detr_mini.captions.mdetr_format import caption_records, pictures_of, write_json
from detr_mini.errors import DataError
from detr_mini.formats.coco import CocoSet
from detr_mini.formats.columns import read_json
from detr_mini.progress import track
from detr_mini.seeding import text_generator

VERSION = 1


def referred(
    coco: CocoSet, words: Words, *, each: int, weights: Mapping[str, float | int] = WEIGHTS, seed: int = 0
) -> dict[str, Any]:
    """A grounded file's content: up to `each` captions of every kind about each picture, each proven by the checker.

    `info` says what they were made with, counts them by kind (`kinds`), and counts what the checker did not prove,
    which is left out (`refused`). DataError where nothing can be said of any picture.
    """
    if each < 1:
        raise DataError(f"each is {each}; ask for at least one caption of each kind")
    pictures, counts, refused = [], Counter[str](), 0
    name_of = dict(zip(coco.categories.ids, coco.categories.names, strict=True))
    for picture, things in track(pictures_of(coco), "Making captions"):
        kept = [thing for thing in things if not thing["iscrowd"]]
        crowded = frozenset(name_of[thing["category_id"]] for thing in things if thing["iscrowd"])
        items = things_of([name_of[thing["category_id"]] for thing in kept], [thing["bbox"] for thing in kept])
        side, rng = min(picture["height"], picture["width"]), text_generator(seed, picture["file_name"])
        made, faults = captions_to_measure(items, side, rng, words, each, crowded=crowded, weights=weights)
        refused += len(faults)
        counts.update(caption.kind for caption in made)
        pictures.append((picture, kept, made))
    if not counts:
        raise DataError(f"nothing can be said of the {len(coco)} pictures: no category that is complete "
                        f"({', '.join(sorted(words.complete)) or 'none is'}) has boxes to speak of")  # fmt: skip
    info = {"made": _made(coco, words, each, weights, seed), "kinds": dict(counts), "refused": refused}
    return {"info": info, "categories": coco.categories.records(), **caption_records(pictures)}


def ensure_referred(
    path: str | Path,
    coco: CocoSet,
    words: Words,
    *,
    each: int,
    weights: Mapping[str, float | int] = WEIGHTS,
    seed: int = 0,
) -> str:
    """Write `referred` captions to `path` unless these very ones are there already; a sentence that says which.

    A file of ours that was made of other boxes or in other words is made anew. DataError for one of somebody else.
    """
    path, why = Path(path), ""
    if path.exists():
        wanted = json.loads(json.dumps(_made(coco, words, each, weights, seed)))
        found = read_json(path).get("info", {}).get("made")
        if not isinstance(found, dict):
            raise DataError(f"{path} holds captions that were not made here, and data.refer would replace them; "
                            "name another file in data.captions, or leave data.refer out")  # fmt: skip
        if found == wanted:
            return f"the captions in {path} are there already and are used as they are"
        why = f", anew, since they differ in {', '.join(key for key in wanted if found.get(key) != wanted[key])}"
    content = referred(coco, words, each=each, weights=weights, seed=seed)
    write_json(path, content)
    return f"made {len(content['images'])} captions from boxes in {path}{why}"


def _made(coco: CocoSet, words: Words, each: int, weights: Mapping[str, float | int], seed: int) -> dict[str, Any]:
    """All that the captions depend on."""
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
