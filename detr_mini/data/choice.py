"""Which images a part of a dataset has: by category, id, count or share.

Drawn parts are stratified: images are ordered by seed so that every beginning of the order has all categories in their
shares, the rarest category of an image deciding. So 10 % is part of 20 %, and the order of a list means nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.seeding import drawing_order


@dataclass(frozen=True)
class Choice:
    """Which images, and of what; everything that is said must hold."""

    categories: tuple[str, ...] | None = None
    """Names: only their boxes stay, and only images with one of them."""
    ids: tuple[int | str, ...] | None = None
    """Image ids, or file names."""
    count: int | None = None
    share: float | None = None
    """Of the images that the other wishes leave."""
    seed: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Choice:
        """From a config; ConfigError for what makes no sense."""
        known = ("categories", "ids", "count", "share", "seed")
        for key in config:
            if key not in known:
                raise ConfigError(f"{key} does not exist in a subset{nearest(str(key), known)}")
        count, share = config.get("count"), config.get("share")
        check_numbers(config)
        if count is not None and share is not None:
            raise ConfigError("count and share say the same twice; give one of them")
        if count is not None and count < 1:
            raise ConfigError(f"count is {count}; it must be at least 1")
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"share is {share}; it must be above 0, and at most 1")
        names, ids = several(config.get("categories")), several(config.get("ids"))
        return cls(
            None if names is None else tuple(str(name) for name in names),
            None if ids is None else tuple(ids),
            count,
            share,
            int(config.get("seed") or 0),
        )

    def images(self, owned: Mapping[int, Collection[str]], names: Mapping[int, str], known: Iterable[str]) -> list[int]:
        """The ids of the images that are meant, ascending, given each one's categories and file name.

        DataError where a name or an id is unknown, and where nothing is left.
        """
        chosen = sorted(owned)
        if self.ids is not None:
            chosen = self._by_id(chosen, names)
        if self.categories is not None:
            listed = set(known)
            for name in self.categories:
                if name not in listed:
                    raise DataError(f"there is no category {name!r}{nearest(name, listed)}")
            chosen = [i for i in chosen if set(owned[i]) & set(self.categories)]
        if not chosen:
            of = f" with {' or '.join(self.categories)}" if self.categories else ""
            raise DataError(f"the subset is empty: there is no image{of}")
        wanted = len(chosen) if self.share is None else max(1, round(self.share * len(chosen)))
        wanted = wanted if self.count is None else self.count
        if wanted > len(chosen):
            raise DataError(f"a subset of {wanted} images is asked for, but there are {len(chosen)}; ask for fewer")
        order = stratified_order({i: owned[i] for i in chosen}, names, self.seed)
        return sorted(order[:wanted])

    def _by_id(self, chosen: Sequence[int], names: Mapping[int, str]) -> list[int]:
        assert self.ids is not None
        by_name = {name: i for i, name in names.items()}
        found = set()
        for wanted in self.ids:
            image_id = by_name.get(wanted) if isinstance(wanted, str) else wanted
            if image_id not in names:
                raise DataError(f"there is no image {wanted!r}{nearest(str(wanted), by_name)}; give whole numbers or "
                                "file names")  # fmt: skip
            found.add(image_id)
        return [i for i in chosen if i in found]


def several(said: Any) -> list[Any] | None:
    """A setting that may be a list, a single word or number, or None."""
    return None if said is None else [said] if isinstance(said, str | int | float) else list(said)


def check_numbers(config: Mapping[str, Any]) -> None:
    """ConfigError where `share`, `count` or `seed` of a subset is no number."""
    for key, kinds in (("share", (int, float)), ("count", (int,)), ("seed", (int,))):
        value = config.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ConfigError(f"{key} of a subset is {value!r}; it must be a {'whole ' * (len(kinds) == 1)}number")


def stratified_order(owned: Mapping[int, Collection[str]], names: Mapping[int, str], seed: int) -> list[int]:
    """The images so ordered that every beginning has its share of each category's images.

    The n images whose rarest category is c get the places (k + 1/2) / n, in an order that seed and file names decide;
    all are then sorted by place. So of a category with two images none is among the first fifth, and one in the half.
    """
    images = Counter(name for categories in owned.values() for name in set(categories))
    groups: dict[str, list[int]] = defaultdict(list)
    for image_id, categories in owned.items():
        groups[min(set(categories), key=lambda name: (images[name], name), default="")].append(image_id)
    lot = {i: drawing_order(seed, names[i]) for i in owned}
    placed = []
    for group in groups.values():
        drawn = sorted(group, key=lot.__getitem__)
        placed += [((k + 0.5) / len(drawn), lot[i], i) for k, i in enumerate(drawn)]
    return [image_id for _, _, image_id in sorted(placed)]
