"""The predictions of a run, judged again against its data: errors and their cost, confusion, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from detr_mini.data.module import STAGES
from detr_mini.data.stored_settings import data_settings
from detr_mini.drawing.boxes import draw_detections, draw_truth
from detr_mini.errors import UserError
from detr_mini.evaluation.comparison.runs import NO_SIZE, data_of
from detr_mini.evaluation.metrics.confusion import best_threshold, confusion, precision_at_recalls
from detr_mini.evaluation.metrics.errors_by_type import TYPES, Errors, errors_by_type
from detr_mini.evaluation.metrics.matching import match
from detr_mini.evaluation.metrics.subset import Subset, choose_subset
from detr_mini.evaluation.report.error_report import worst_images
from detr_mini.formats.split import CocoSet
from detr_mini.pages.charts import Chart, line_chart
from detr_mini.pages.run_reader import RunFolder, detections_by_image
from detr_mini.structures import Categories, Detections

SIDE = 420
"""Pixels of the longer side of a picture."""
GALLERY, WORST, ERRORS = 8, 8, 6
"""Pictures of the gallery, worst pictures, and the costliest errors that are listed of each."""
SQUARES, CURVES = 16, 8
"""The most categories in the confusion matrix, and in a chart."""


@dataclass(frozen=True)
class Pictured:
    """An image beside itself: with its ground truth, and with what was found."""

    name: str
    note: str
    truth: Image.Image
    found: Image.Image
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """The detections of a run and the data they are judged by."""

    truth: CocoSet
    subset: Subset
    found: dict[int, Detections]
    errors: Errors
    threshold: float
    """Score from which detections are drawn: the run's operating point, else the one with the best F1."""
    costs: dict[str, float | None]
    worst: list[tuple[int, float]]
    """(index in `subset.image_ids`, AP that the image costs), the costliest first."""
    confused: np.ndarray
    curves: Chart | None

    @classmethod
    def of(cls, run: RunFolder) -> Judged:
        """The run's predictions on the split that it was measured on. DataError where the data are not there."""
        split = run.metrics.get("split")
        if split not in STAGES:
            raise UserError("metrics.json does not say which split was measured; evaluate the run again")
        settings = data_settings(None, run.config["data"])  # of a stranger's config nothing is made elsewhere
        data = data_of({**settings, "size": NO_SIZE})  # for annotations; pictures are read at their own size
        if run.config.get("categories"):
            data.evaluate_as(Categories.from_dict(run.config["categories"]))
        data.setup(STAGES[split])
        truth = data.sets[split]
        subset = choose_subset(truth.image_ids, data.categories, run.config.get("subset"))
        limit = int(run.metrics.get("detection_limit", 100))
        selected, records = subset.select(truth.truth, run.records)
        ids, names = subset.categories.ids, subset.categories.names
        matches = match(selected, records, ids, subset.image_ids, limit, areas=1)
        best, _ = best_threshold(matches)
        threshold = float(run.metrics.get("threshold") or best)
        errors = errors_by_type(selected, records, ids, subset.image_ids, limit)
        curves = {name: precision_at_recalls(own[0], 0) for name, own in zip(names, matches.rankings, strict=True)}
        recall = np.linspace(0, 1, 101).tolist()
        drawn = {name: curve for name, curve in curves.items() if curve is not None}
        lines = {f"{name} ({np.mean(curve):.3f})": (recall, curve.tolist()) for name, curve in drawn.items()}
        return cls(
            truth, subset,
            detections_by_image([dict(r) for r in records], subset.categories,
                                {i: truth.records.of_id(i).size for i in subset.image_ids}),
            errors, threshold, errors.costs(), worst_images(matches, errors, threshold),
            confusion(selected, records, ids, subset.image_ids, threshold),
            line_chart("Precision over recall at IoU 0.5", dict([*lines.items()][:CURVES]), "recall", top=1.0,
                       ends=False),
        )  # fmt: skip

    def by_type(self) -> list[dict[str, Any]]:
        """Each type of error: its number, and the AP50 that all of them cost."""
        counts = self.errors.counts()
        return [{"type": kind, "count": counts[kind], "cost": self.costs[kind] or 0.0} for kind in TYPES]

    def confusion_rows(self) -> dict[str, Any]:
        """The confusion matrix of the categories with the most errors, as shares of each row and counts."""
        counts, names = self.confused, self.subset.categories.names
        wrong = counts[:-1].sum(1) + counts[:, :-1].sum(0) - 2 * np.diagonal(counts)[:-1]
        present = np.flatnonzero(counts[:-1].sum(1) + counts[:, :-1].sum(0))
        kept = sorted(present[np.argsort(-wrong[present], kind="stable")][:SQUARES].tolist())
        rows = [*kept, len(names)]
        labels = [*(names[k] for k in kept), "background"]
        whole = np.maximum(counts.sum(1), 1)
        cells = [[(int(counts[r, c]), float(counts[r, c] / whole[r])) for c in rows] for r in rows]
        return {"labels": labels, "rows": list(zip(labels, cells, strict=True)), "left_out": len(present) - len(kept)}

    def gallery(self) -> list[Pictured]:
        """Some images, evenly spread over the split."""
        ids = sorted(self.subset.image_ids)
        chosen = [ids[round(k * (len(ids) - 1) / max(1, GALLERY - 1))] for k in range(min(GALLERY, len(ids)))]
        return [self._picture(image_id, "") for image_id in dict.fromkeys(chosen)]

    def worst_pictures(self) -> list[Pictured]:
        """The images that cost most AP, each with its costliest errors."""
        return [
            self._picture(self.subset.image_ids[i], f"costs {cost:.4f} AP", tuple(self._lines(i)))
            for i, cost in self.worst[:WORST]
        ]

    def _picture(self, image_id: int, note: str, lines: tuple[str, ...] = ()) -> Pictured:
        record = self.truth.records.of_id(image_id)
        image, target = record.reduced(SIDE), self.truth.target(image_id)
        found = self.found[image_id].above(self.threshold).resized((image.shape[1], image.shape[2]))
        counts = f"{int((~target.is_crowd).sum())} true, {len(found)} found"
        drawn = draw_truth(image, target, self.subset.categories, SIDE)
        return Pictured(record.file_name, " · ".join(filter(None, (counts, note))), drawn,
                        draw_detections(image, found, SIDE), lines)  # fmt: skip

    def _lines(self, image: int) -> Iterator[str]:
        """The errors of an image, each with the AP50 that it alone costs, the costliest first."""
        errors, names = self.errors, self.subset.categories.names
        wrong = np.flatnonzero((errors.image == image) & (errors.kind >= 0) & (errors.score >= self.threshold))
        costs = [(errors.cost_of(detection=d), _said(errors, names, d)) for d in wrong.tolist()]
        lost = np.flatnonzero((errors.truth_image == image) & errors.missed)
        costs += [(errors.cost_of(missed=g), f"missed: {names[errors.truth_label[g]]}") for g in lost.tolist()]
        for cost, text in sorted(costs, key=lambda entry: -entry[0])[:ERRORS]:
            yield f"{text} — costs {max(cost, 0.0):.4f} AP50"
        if len(costs) > ERRORS:
            yield f"and {len(costs) - ERRORS} more errors"


def _said(errors: Errors, names: tuple[str, ...], detection: int) -> str:
    kind, name = TYPES[errors.kind[detection]], names[errors.label[detection]]
    true = f", in truth {names[errors.truth_label[errors.truth[detection]]]}" if kind == "class" else ""
    return f"{kind}: {name} {errors.score[detection]:.2f}{true}"
