"""Parts of a dataset, by category, id, count or share; and a dataset split into train, val and test.

Drawn parts are stratified: images are ordered by seed so that every beginning of the order has all categories in their
shares, the rarest category of an image deciding. So 10 % is part of 20 %, and the order of a list means nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detr_mini.checking.images import alike
from detr_mini.data.stratify import stratify
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.columns import columns_of
from detr_mini.formats.convert import check_sizes, write_set
from detr_mini.formats.discover import Source
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.formats.writing import new_folder
from detr_mini.progress import BAR_FROM, track
from detr_mini.seeding import drawing_order

_BOXES = 0.05
"""How much the boxes of a category count beside its images in a split."""


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


def subset_of(coco: CocoSet, choice: Choice) -> CocoSet:
    """Those images of a set that was read, with their boxes. The categories stay, so a model's labels do."""
    files = {record.image_id: record.file_name for record in coco.records}
    kept = choice.images(owned_in(coco), files, coco.categories.names)
    return of_images(coco, kept, choice.categories, f"a subset: {len(kept)} of {len(coco)} images")


def owned_in(coco: CocoSet) -> dict[int, Counter[str]]:
    """Of each image its categories and how many boxes each has, crowd regions aside."""
    owned: dict[int, Counter[str]] = {image_id: Counter() for image_id in coco.image_ids}
    owners = coco.records.ids[coco.owner].tolist()
    for image_id, label, crowd in zip(owners, coco.labels.tolist(), coco.is_crowd.tolist(), strict=True):
        if not crowd:
            owned[image_id][coco.categories.names[label]] += 1
    return owned


def of_images(coco: CocoSet, kept: Sequence[int], categories: Collection[str] | None, notice: str) -> CocoSet:
    """The images of these ids, ascending, with their boxes: all, or those of some categories."""
    images, boxes_image = coco.records, coco.owner
    places = torch.tensor([images.index_of(image_id) for image_id in kept], dtype=torch.long)
    records = [images[place] for place in places.tolist()]
    named = torch.tensor([categories is None or name in categories for name in coco.categories.names], dtype=torch.bool)
    rows = torch.nonzero(torch.isin(boxes_image, places) & named[coco.labels])[:, 0]
    per_image = torch.bincount(boxes_image[rows], minlength=len(coco))[places]
    labels, crowd = coco.labels[rows], coco.is_crowd[rows]
    counts = Counter(labels[~crowd].tolist())
    report = replace(
        coco.report,
        images=len(kept),
        boxes=int((~crowd).sum()),
        crowd=int(crowd.sum()),
        background=len(kept) - len(torch.unique(boxes_image[rows][~crowd])),
        per_category={name: counts[label] for label, name in enumerate(coco.categories.names)},
        notices=[*coco.report.notices, notice],
    )
    return CocoSet(
        records=ImageRecords.of(images.folder, kept, [r.file_name for r in records], [r.size for r in records]),
        categories=coco.categories,
        report=report,
        first=torch.cat([torch.zeros(1, dtype=torch.int64), per_image.cumsum(0)]),
        boxes_xywh=coco.boxes_xywh[rows],
        labels=labels,
        is_crowd=crowd,
        area=coco.area[rows],
    )


def part(tree: Tree, ids: Collection[int], categories: Collection[str] | None = None) -> Tree:
    """The content of a split without other images, and without boxes of other categories where some are named."""
    kept = set(ids)
    named = {c["id"] for c in tree.content["categories"] if categories is None or c["name"] in categories}
    content = {
        **tree.content,
        "images": [image for image in tree.content["images"] if image["id"] in kept],
        "annotations": [a for a in tree.content["annotations"] if a["image_id"] in kept and a["category_id"] in named],
        "categories": [c for c in tree.content["categories"] if c["id"] in named],
    }
    return replace(tree, content=content)


def owned_names(tree: Tree) -> tuple[dict[int, Counter[str]], dict[int, str], list[str]]:
    """Of each image its categories and their boxes (crowd regions aside) and its file name; all categories' names."""
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    owned: dict[int, Counter[str]] = {image["id"]: Counter() for image in tree.content["images"]}
    for annotation in tree.content["annotations"]:
        if not annotation.get("iscrowd"):
            owned[annotation["image_id"]][names[annotation["category_id"]]] += 1
    return owned, {image["id"]: image["file_name"] for image in tree.content["images"]}, list(names.values())


def split_ids(
    owned: Mapping[int, Collection[str]],
    names: Mapping[int, str],
    shares: Mapping[str, float],
    seed: int,
    together: Mapping[int, int] | None = None,
) -> dict[str, list[int]]:
    """The images of each part (val and test by their shares, train the rest), ids ascending, none in two.

    `together`: of an image the one that it must stay with (the same picture, saved again).
    """
    together = together or {}
    groups: dict[int, list[int]] = {}
    for i in sorted(owned, key=lambda i: drawing_order(seed, names[i])):
        groups.setdefault(together.get(i, i), []).append(i)
    rows = [_row(owned[i] for i in group) for group in groups.values()]
    boxes: dict[Hashable, float] = {key: _BOXES for row in rows for key in row if isinstance(key, tuple)}
    others = [name for name in shares if name != "train"]
    parts = ["train", *others]
    rest = 1 - sum(shares[name] for name in others)
    sizes = [len(group) for group in groups.values()]
    placed = stratify(rows, sizes, [rest, *(shares[name] for name in others)], boxes)
    found: dict[str, list[int]] = {name: [] for name in parts}
    for group, part in zip(groups.values(), placed, strict=True):
        found[parts[part]] += group
    return {name: sorted(found[name]) for name in shares}


def _row(members: Iterable[Collection[str]]) -> dict[Hashable, int]:
    """Of a group the images with each category (or without any), and, where they are counted, the boxes."""
    row: Counter[Hashable] = Counter()
    for categories in members:
        row.update(set(categories) or {""})
        if isinstance(categories, Mapping):
            row.update({(name, "boxes"): count for name, count in categories.items()})
    return dict(row)


def subset_of_splits(source: Source, choice: Choice, splits: Sequence[str] | None = None) -> dict[str, Tree]:
    """Every split of `source`: those named in `splits` (None: all) cut to `choice`, the others whole.

    Only boxes of `choice.categories` stay, in every split. ConfigError for a split that does not exist.
    """
    trees = source.trees()
    chosen = list(splits or trees)
    for name in chosen:
        if name not in trees:
            raise ConfigError(f"{source.root} has no split {name!r}{nearest(name, trees)}")
    parts = {}
    for name, tree in trees.items():
        columns_of(tree.content, tree.path)
        wanted = choice if name in chosen else Choice(categories=choice.categories)
        parts[name] = part(tree, wanted.images(*owned_names(tree)), choice.categories)
    return parts


def new_splits(
    source: Source, *, val: int | float, test: int | float, seed: int = 0, whole: bool = False
) -> tuple[dict[str, Tree], int]:
    """`source` divided into train, val and test by shares, and the number of images kept with a similar one.

    Copies of one image, and frames or tiles of one scene, stay in one split. A source that has splits already is
    divided only with `whole`. ConfigError for impossible shares, DataError where a split would be empty.
    """
    shares = {"train": 1 - val - test, "val": val, "test": test}
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
    files = [(image["id"], merged.folder / image["file_name"]) for image in merged.content["images"]]
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


def write_splits(output: str | Path, format: str, parts: Mapping[str, Tree], images: str = "copy") -> str:
    """Write `parts` in `format` into the new folder `output`; a sentence with the counts of each split.

    `images`: "copy", "link" (hard links where the disk can) or "none".
    """
    for name, tree in parts.items():
        check_sizes(name, tree)
    with new_folder(output) as folder:
        write_set(folder, format, parts, images)
    counts = (
        f"{name} {len(t.content['images'])} images, {len(t.content['annotations'])} boxes" for name, t in parts.items()
    )
    return f"{output} ({format}): {'; '.join(counts)}"
