"""The images and categories on which a detector is evaluated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from detr_mini.data.choice import check_numbers, several
from detr_mini.errors import ConfigError, nearest
from detr_mini.structures import Categories

T = TypeVar("T")


@dataclass(frozen=True)
class Subset:
    """Some images and some categories of a split."""

    image_ids: Sequence[int]
    categories: Categories

    def select(
        self, truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
        """`truth` (a COCO file's content) and `records`, with these images and categories only."""
        images, categories = set(self.image_ids), set(self.categories.ids)

        def belongs(record: Mapping[str, Any]) -> bool:
            return record["image_id"] in images and record["category_id"] in categories

        selected = {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in images],
            "annotations": [annotation for annotation in truth["annotations"] if belongs(annotation)],
        }
        return selected, [record for record in records if belongs(record)]


def choose_subset(image_ids: Sequence[int], categories: Categories, config: Mapping[str, Any] | None) -> Subset:
    """The subset that a config's `subset` section describes (categories, ids, share, seed; None: no restriction)."""
    settings = dict(config or {})
    check_numbers(settings)
    images = choose_images(image_ids, several(settings.get("ids")), settings.get("share"), settings.get("seed") or 0)
    return Subset(images, choose_categories(categories, several(settings.get("categories"))))


def choose_images(
    image_ids: Sequence[int], ids: Collection[int] | None = None, share: int | float | None = None, seed: int = 0
) -> list[int]:
    """The `image_ids` that are in `ids`, or a random `share` of them (at least one), in ascending order.

    With the same seed, a larger share contains a smaller one. ConfigError for an unknown id and for an empty result.
    """
    chosen = sorted(image_ids)
    if ids is not None:
        known = set(chosen)
        unknown = [i for i in ids if i not in known]
        if unknown:
            raise ConfigError(
                f"subset.ids names the image id {unknown[0]!r}, which is none of the {len(known)} images; "
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


def choose_categories(categories: Categories, names: Sequence[Any] | None) -> Categories:
    """The `categories` with these names or ids, all if None. ConfigError for an unknown one and for an empty list."""
    if names is None:
        return categories
    labels = categories.labels_of_names() | {i: k for k, i in enumerate(categories.ids)}
    for name in names:
        if name not in labels:
            raise ConfigError(f"subset.categories names {name!r}, which is not a category of the dataset"
                              f"{nearest(str(name), categories.names)}")  # fmt: skip
    kept = sorted({labels[name] for name in names})
    if not kept:
        raise ConfigError("subset.categories is empty; name at least one category, or remove the setting")
    return Categories(tuple(categories.ids[k] for k in kept), tuple(categories.names[k] for k in kept))


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, at equal distances, in their order."""
    n = min(count, len(items))
    return [items[i * len(items) // n] for i in range(n)]
