"""A dataset in numbers: how many, how large, what shape, how crowded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from detr_mini.formats.box_rules import BoxFault, area_of, as_read, rotation_of
from detr_mini.formats.tree import Tree

SMALL, LARGE = 32.0**2, 96.0**2
"""COCO's borders between small, medium and large boxes, in square pixels."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class SplitStats:
    """The raw material of one split, with the boxes that a training reads.

    Crowd regions, boxes without size and boxes outside their images are counted and nowhere else.
    """

    categories: tuple[str, ...]
    images_of: dict[str, int]
    """Images with a box of each category."""
    boxes_of: dict[str, int]
    crowd: int
    without_size: int
    outside: int
    sizes: Int[np.ndarray, "i 2"]
    """(height, width) of each image."""
    per_image: Int[np.ndarray, " i"]
    """Boxes of each image."""
    boxes: Float[np.ndarray, "n 4"]
    """Left, top, width, height in pixels, upright, of the part inside the image."""
    area: Float[np.ndarray, " n"]
    """Square pixels, see `area_of_objects`."""
    owner: Int[np.ndarray, " n"]
    """Each box's row in `sizes`."""
    labels: Int[np.ndarray, " n"]
    """Each box's place in `categories`."""

    @property
    def side(self) -> Float[np.ndarray, " n"]:
        """Square root of each box's area, in pixels."""
        return np.sqrt(self.boxes[:, 2] * self.boxes[:, 3])

    @property
    def relative_side(self) -> Float[np.ndarray, " n"]:
        """`side` as a share of the image's longer side: what is left of it whatever size the model sees."""
        return self.side / self.sizes.max(1)[self.owner] if len(self.boxes) else self.side

    @property
    def aspect(self) -> Float[np.ndarray, " n"]:
        """Width by height."""
        return self.boxes[:, 2] / self.boxes[:, 3]

    @property
    def centres(self) -> Float[np.ndarray, "n 2"]:
        """(x, y) of each box's centre in [0, 1] of its image."""
        size = self.sizes[self.owner][:, ::-1] if len(self.boxes) else np.ones((0, 2))
        return (self.boxes[:, :2] + self.boxes[:, 2:] / 2) / size

    def small_medium_large(self) -> tuple[int, int, int]:
        """Boxes of each of COCO's sizes, by area as AP counts them: one right at a border counts on both sides."""
        area = self.area
        return int((area <= SMALL).sum()), int(((area >= SMALL) & (area <= LARGE)).sum()), int((area >= LARGE).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for a JSON file."""
        small, medium, large = self.small_medium_large()
        return {
            "images": len(self.sizes),
            "images_without_boxes": int((self.per_image == 0).sum()),
            "boxes": len(self.boxes),
            "crowd_regions": self.crowd,
            "boxes_without_size": self.without_size,
            "boxes_outside": self.outside,
            "categories": {n: {"images": self.images_of[n], "boxes": self.boxes_of[n]} for n in self.categories},
            "boxes_an_image": _quantiles(self.per_image),
            "box_side_pixels": _quantiles(self.side),
            "box_side_of_longer_image_side": _quantiles(self.relative_side),
            "box_width_by_height": _quantiles(self.aspect),
            "small": small,
            "medium": medium,
            "large": large,
            "image_width": _quantiles(self.sizes[:, 1]),
            "image_height": _quantiles(self.sizes[:, 0]),
        }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES).tolist()
    named = {f"{round(100 * q)} %": round(v, 4) for q, v in zip(QUANTILES, found, strict=True)}
    return {"least": float(values.min()), **named, "most": float(values.max())}


def split_stats(tree: Tree) -> SplitStats:
    """The numbers of a split whose images have sizes (`convert.check_sizes`)."""
    names = {c["id"]: c["name"] for c in tree.content["categories"]}
    order = tuple(dict.fromkeys(names.values()))
    place = {name: k for k, name in enumerate(order)}
    row = {image["id"]: k for k, image in enumerate(tree.content["images"])}
    real = [a for a in tree.content["annotations"] if not a.get("iscrowd")]
    sizes = np.array([(i["height"], i["width"]) for i in tree.content["images"]], np.int64).reshape(-1, 2)
    owner = np.array([row[a["image_id"]] for a in real], np.int64)
    drawn = np.array([a["bbox"] for a in real], np.float64).reshape(-1, 4)
    degrees = np.array([rotation_of(a) for a in real], np.float64)
    stated = np.array([area_of(a.get("area")) for a in real], np.float64)
    boxes, area, _, faults = as_read(drawn, degrees, sizes[owner], stated)
    keep = [k for k, fault in enumerate(faults) if fault in (None, BoxFault.PAST_EDGE)]
    pairs = [(real[k]["image_id"], names[real[k]["category_id"]]) for k in keep]
    images_of, boxes_of = Counter(name for _, name in set(pairs)), Counter(name for _, name in pairs)
    outside = faults.count(BoxFault.OUTSIDE)
    return SplitStats(
        categories=order,
        images_of={name: images_of[name] for name in order},
        boxes_of={name: boxes_of[name] for name in order},
        crowd=len(tree.content["annotations"]) - len(real),
        without_size=len(real) - len(keep) - outside,
        outside=outside,
        sizes=sizes,
        per_image=np.bincount(owner[keep], minlength=len(row)).astype(np.int64),
        boxes=boxes[keep],
        area=area[keep],
        owner=owner[keep],
        labels=np.array([place[name] for _, name in pairs], np.int64),
    )


def tables(found: Mapping[str, SplitStats]) -> list[Any]:
    """For rich: the counts and sizes of every split, then its categories."""
    from rich.markup import escape
    from rich.table import Table

    whole = Table(title="Data in numbers", title_justify="left")
    names = Table(title="Categories: boxes (images)", title_justify="left")
    for table in (whole, names):
        table.add_column("")
        for split in found:
            table.add_column(split, justify="right")
    rows = {split: _row(stats) for split, stats in found.items()}
    for key in next(iter(rows.values())):
        whole.add_row(key, *(rows[split][key] for split in found))
    categories = dict.fromkeys(name for stats in found.values() for name in stats.categories)
    for name in sorted(categories, key=lambda name: -sum(s.boxes_of.get(name, 0) for s in found.values())):
        cells = (f"{s.boxes_of.get(name, 0):,} ({s.images_of.get(name, 0):,})" for s in found.values())
        names.add_row(escape(name), *cells)
    return [whole, names]


def _row(stats: SplitStats) -> dict[str, str]:
    def spread(values: np.ndarray, digits: int = 0) -> str:
        if not len(values):
            return "-"
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"

    small, medium, large = stats.small_medium_large()
    sizes = Counter(map(tuple, stats.sizes[:, ::-1].tolist()))
    most = sizes.most_common(1)[0][0] if sizes else (0, 0)
    return {
        "images": f"{len(stats.sizes):,}",
        "  without a box": f"{int((stats.per_image == 0).sum()):,}",
        "  sizes": f"{len(sizes):,}, mostly {most[0]} x {most[1]}" if sizes else "-",
        "boxes": f"{len(stats.boxes):,}",
        "  crowd regions": f"{stats.crowd:,}",
        "  without size": f"{stats.without_size:,}",
        "  outside the image": f"{stats.outside:,}",
        "  small, medium, large": f"{small:,}, {medium:,}, {large:,}",
        "boxes an image, median (5 to 95 %)": spread(stats.per_image),
        "side of a box, pixels": spread(stats.side),
        "  share of the image's longer side": spread(stats.relative_side, 3),
        "width by height": spread(stats.aspect, 2),
    }


def plain(found: Mapping[str, SplitStats]) -> dict[str, Any]:
    """Every split's numbers, for a JSON file."""
    return {split: stats.to_dict() for split, stats in found.items()}
