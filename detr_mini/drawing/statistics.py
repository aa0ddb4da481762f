"""The statistics of a dataset in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from detr_mini.drawing.plotting import empty, legend, new_figure, panel, write

SHOWN = 24
"""The most categories that are drawn."""


@runtime_checkable
class Numbers(Protocol):
    """The statistics of a split; see `data.statistics.SplitStats`."""

    @property
    def boxes_of(self) -> dict[str, int]: ...
    @property
    def sizes(self) -> np.ndarray: ...
    @property
    def per_image(self) -> np.ndarray: ...
    @property
    def side(self) -> np.ndarray: ...
    @property
    def aspect(self) -> np.ndarray: ...
    @property
    def centres(self) -> np.ndarray: ...


def statistics(found: Mapping[str, Numbers], path: str | Path, title: str = "") -> None:
    """Write one PNG: the boxes' categories, sizes, shapes and places, boxes per image, and image sizes, by split."""
    figure = new_figure(16, 9)
    categories, side, aspect, per_image, sizes, centres = figure.subplots(2, 3).flat
    _categories(categories, found)
    _histogram(side, "box size: square root of its area, pixels", {n: s.side for n, s in found.items()}, log=True)
    for border in (32, 96):
        side.axvline(border, color="grey", linewidth=0.9, linestyle="--")
    for where, name in ((0.02, "small"), (0.98, "large")):
        side.text(where, 0.97, name, transform=side.transAxes, fontsize=8, color="grey", va="top",
                  ha="left" if where < 0.5 else "right")  # fmt: skip
    _histogram(aspect, "aspect ratio of boxes: width / height", {n: s.aspect for n, s in found.items()}, log=True)
    _histogram(per_image, "boxes per image", {n: s.per_image for n, s in found.items()}, log=False)
    _sizes(sizes, found)
    _centres(centres, found)
    write(figure, path, title)


def _categories(axes: Any, found: Mapping[str, Numbers]) -> None:
    names = dict.fromkeys(name for stats in found.values() for name in stats.boxes_of)
    total = {name: sum(stats.boxes_of.get(name, 0) for stats in found.values()) for name in names}
    most = sorted(total, key=lambda name: -total[name])
    shown = most[:SHOWN]
    left = np.zeros(len(shown))
    for rank, (split, stats) in enumerate(found.items()):
        counts = np.array([stats.boxes_of.get(name, 0) for name in shown], float)
        axes.barh(range(len(shown)), counts, left=left, color=f"C{rank % 10}", label=split, height=0.75)
        left += counts
    for place, name in enumerate(shown):
        axes.text(left[place], place, f" {total[name]:,}", va="center", fontsize=8, color="dimgrey")
    labels = [name if len(name) <= 22 else f"{name[:21]}…" for name in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=9 if len(shown) < 15 else 7.5)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    rest = f", the first {len(shown)} of {len(most)} categories" if len(most) > len(shown) else ""
    panel(axes, f"boxes{rest}", grid=False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    if len(found) > 1:
        legend(axes, loc="lower right")


def _histogram(axes: Any, title: str, values: Mapping[str, np.ndarray], *, log: bool) -> None:
    """Percentages of each split, so that splits of any size can be compared."""
    panel(axes, title)
    everything = np.concatenate([v[v > 0] if log else v for v in values.values()]).astype(float)
    if not len(everything):
        empty(axes, "there are no boxes")
        return
    low, high = float(everything.min()), float(everything.max())
    if log:
        low, high = low / 1.05, high * 1.05
        edges = np.geomspace(low, high, 41)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        axes.tick_params(axis="x", which="minor", labelsize=8)
    else:
        step = max(1, round((high - low) / 40))
        edges = np.arange(low, high + 1.5 * step, step) - 0.5
    for rank, (split, own) in enumerate(values.items()):
        if len(own):
            weights = np.full(len(own), 100 / len(own))
            axes.hist(own, edges, weights=weights, color=f"C{rank % 10}", alpha=0.18)
            axes.hist(own, edges, weights=weights, color=f"C{rank % 10}", histtype="step", linewidth=1.5, label=split)
    axes.set_ylabel("%", fontsize=9, rotation=0, loc="top")
    if len(values) > 1:
        legend(axes)


def _sizes(axes: Any, found: Mapping[str, Numbers]) -> None:
    panel(axes, "image sizes, pixels")
    largest = max((int(stats.sizes.max()) for stats in found.values() if len(stats.sizes)), default=1)
    axes.plot([0, largest * 1.1], [0, largest * 1.1], color="grey", linewidth=0.8, linestyle=":")
    for rank, (split, stats) in enumerate(found.items()):
        kinds, counts = np.unique(stats.sizes, axis=0, return_counts=True)
        area = 12 + 300 * counts / max(1, len(stats.sizes))
        axes.scatter(kinds[:, 1], kinds[:, 0], s=area, color=f"C{rank % 10}", alpha=0.5, linewidths=0, label=split)
    axes.set(xlim=(0, largest * 1.1), ylim=(0, largest * 1.1))
    axes.set_xlabel("width", fontsize=9)
    axes.set_ylabel("height", fontsize=9)
    if len(found) > 1:
        for handle in legend(axes, loc="upper left").legend_handles:
            handle.set_sizes([30])


def _centres(axes: Any, found: Mapping[str, Numbers]) -> None:
    panel(axes, "centres of boxes", grid=False)
    places = np.concatenate([stats.centres for stats in found.values()])
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=32, range=((0, 1), (0, 1)))
    axes.imshow(counts, cmap="viridis", extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
    axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_xlabel("share of the width", fontsize=9)
    axes.set_ylabel("share of the height", fontsize=9)
