"""A dataset divided into train, val and test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from detr_mini.checking.pixels import alike
from detr_mini.data.stratify import stratify
from detr_mini.data.tree_parts import owned_names, part
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.columns import columns_of
from detr_mini.formats.discover import Source
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.progress import BAR_FROM, track
from detr_mini.seeding import drawing_order

_BOXES = 0.05
"""How much the boxes of a category count beside its images in a split."""
NONE = 1e-9
"""A share below this is rounding."""


def split_ids(
    owned: Mapping[int, Collection[str]],
    names: Mapping[int, str],
    shares: Mapping[str, float],
    seed: int,
    together: Mapping[int, int] | None = None,
) -> dict[str, list[int]]:
    """The images of each part (train, if it is one, has what the other shares leave), ids ascending, none in two.

    `together`: of an image the one that it must stay with (the same picture, saved again).
    """
    together = together or {}
    groups: dict[int, list[int]] = {}
    for i in sorted(owned, key=lambda i: drawing_order(seed, names[i])):
        groups.setdefault(together.get(i, i), []).append(i)
    rows = [_row(owned[i] for i in group) for group in groups.values()]
    boxes: dict[Hashable, float] = {key: _BOXES for row in rows for key in row if isinstance(key, tuple)}
    others = {name: share for name, share in shares.items() if name != "train"}
    wanted = ({"train": 1 - sum(others.values())} if "train" in shares else {}) | others
    parts = [*wanted]
    sizes = [len(group) for group in groups.values()]
    placed = stratify(rows, sizes, [*wanted.values()], boxes)
    found: dict[str, list[int]] = {name: [] for name in parts}
    for group, place in zip(groups.values(), placed, strict=True):
        found[parts[place]] += group
    return {name: sorted(found[name]) for name in shares}


def _row(members: Iterable[Collection[str]]) -> dict[Hashable, int]:
    """Of a group the images with each category (or without any), and, where they are counted, the boxes."""
    row: Counter[Hashable] = Counter()
    for categories in members:
        row.update(set(categories) or {""})
        if isinstance(categories, Mapping):
            row.update({(name, "boxes"): count for name, count in categories.items()})
    return dict(row)


def new_splits(
    source: Source, *, val: int | float, test: int | float, seed: int = 0, whole: bool = False
) -> tuple[dict[str, Tree], int]:
    """`source` divided into train, val and test by shares, and the number of images kept with a similar one.

    Copies of one image, and frames or tiles of one scene, stay in one split. A source that has splits already is
    divided only with `whole`. ConfigError for impossible shares, DataError where a split would be empty.
    """
    shares = {"train": 1 - val - test, "val": val, "test": test}
    shares = {name: 0.0 if abs(share) < NONE else share for name, share in shares.items()}  # 1 - 0.7 - 0.3 is not 0
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"val={val} and test={test} leave {shares['train']:g} for train; "
                              f"{name} must be a share from 0 to 1")  # fmt: skip
    trees = source.trees()
    if len(trees) > 1 and not whole:
        raise ConfigError(f"{source.root} is split already ({', '.join(trees)}); all=true divides all of it again")
    for tree in trees.values():
        columns_of(tree.content, tree.path)
    merged = _merged(trees)
    owned, names, _ = owned_names(merged)
    files = [(image["id"], os.path.join(merged.folder, image["file_name"])) for image in merged.content["images"]]
    together = alike(track(files, "Looking for similar images", at_least=BAR_FROM), names=names)
    wanted = {name: share for name, share in shares.items() if share > 0}
    parts = split_ids(owned, names, wanted, seed, together)
    for name, ids in parts.items():
        if not ids:
            raise DataError(f"{name} would be empty: {shares[name]:g} of {len(owned)} images is none; give it more")
    return {name: part(merged, ids) for name, ids in parts.items()}, len(together)


def _merged(trees: Mapping[str, Tree]) -> Tree:
    """All splits as one; images and annotations are renumbered where there are several, categories joined by name.

    What their readers say of each (faults, notices) stays.
    """
    first = next(iter(trees.values()))
    if len(trees) == 1:
        return first
    if len({tree.folder for tree in trees.values()}) > 1:
        raise DataError("the splits lie in different folders; bring them into one form first: 'detr-mini data convert "
                        "to=voc' puts all images in one folder")  # fmt: skip
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[int, dict[str, Any]] = {}
    sizes = {}
    trees = with_one_list(trees)
    for tree in trees.values():
        new = {image["id"]: len(images) + k for k, image in enumerate(tree.content["images"], start=1)}
        images += [{**image, "id": new[image["id"]]} for image in tree.content["images"]]
        sizes.update({new[i]: size for i, size in tree.sizes.items()})
        annotations += [
            {**a, "id": len(annotations) + k, "image_id": new[a["image_id"]]}
            for k, a in enumerate(tree.content["annotations"], start=1)
        ]
        categories |= {c["id"]: c for c in tree.content["categories"]}
    own = {"images": images, "annotations": annotations, "categories": list(categories.values())}
    return replace(
        first,
        content={**first.content, **own},
        sizes=sizes,
        faults=[fault for tree in trees.values() for fault in tree.faults],
        notices=[notice for tree in trees.values() for notice in tree.notices],
    )
