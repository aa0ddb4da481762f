"""A part of a truth to judge by: some categories, some images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detr_mini.data.splits import check_numbers, several
from detr_mini.errors import ConfigError, nearest
from detr_mini.structures import Categories


@dataclass(frozen=True)
class Part:
    """The images and the categories that something is judged by."""

    image_ids: Sequence[int]
    categories: Categories

    def of(
        self, truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
        """The part's own annotations (in a COCO file's content) and records."""
        images, categories = set(self.image_ids), set(self.categories.ids)

        def mine(record: Mapping[str, Any]) -> bool:
            return record["image_id"] in images and record["category_id"] in categories

        there = {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in images],
            "annotations": [annotation for annotation in truth["annotations"] if mine(annotation)],
        }
        return there, [record for record in records if mine(record)]


def chosen(image_ids: Sequence[int], categories: Categories, subset: Mapping[str, Any] | None) -> Part:
    """The part that a config's `subset` (categories, ids, share, seed; each may be None) says; all where None."""
    said = dict(subset or {})
    check_numbers(said)
    images = chosen_images(image_ids, several(said.get("ids")), said.get("share"), said.get("seed") or 0)
    return Part(images, chosen_categories(categories, several(said.get("categories"))))


def chosen_images(
    image_ids: Sequence[int], ids: Collection[int] | None = None, share: int | float | None = None, seed: int = 0
) -> list[int]:
    """Those of `image_ids` that are in `ids`, or a random `share` of them (at least one), in ascending order.

    A smaller share of the same seed is a part of a larger one. ConfigError for an unknown id and for nothing chosen.
    """
    chosen = sorted(image_ids)
    if ids is not None:
        known = set(chosen)
        strange = [i for i in ids if i not in known]
        if strange:
            raise ConfigError(
                f"subset.ids names the image id {strange[0]!r}, which is none of the {len(known)} images; "
                "take ids of the annotation file's images"
            )
        chosen = sorted(set(ids))
    if share is not None:
        if not 0 < share <= 1:
            raise ConfigError(f"subset.share is {share}; it must be above 0 and at most 1")
        order = np.random.default_rng(seed).permutation(len(chosen))
        chosen = sorted(chosen[i] for i in order[: max(1, round(share * len(chosen)))])
    if not chosen:
        raise ConfigError("the subset has no images; check subset.ids and subset.share")
    return chosen


def chosen_categories(categories: Categories, names: Sequence[Any] | None) -> Categories:
    """Those of `categories` with these names (or ids); ConfigError for an unknown one and for none."""
    if names is None:
        return categories
    labels = categories.labels_of_names() | {i: k for k, i in enumerate(categories.ids)}
    for name in names:
        if name not in labels:
            raise ConfigError(f"subset.categories names {name!r}, which the data do not have"
                              f"{nearest(str(name), categories.names)}")  # fmt: skip
    kept = sorted({labels[name] for name in names})
    if not kept:
        raise ConfigError("subset.categories is empty; name some, or leave it out")
    return Categories(tuple(categories.ids[k] for k in kept), tuple(categories.names[k] for k in kept))
