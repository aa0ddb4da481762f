"""Metrics on a subset equal those of pycocotools with the same catIds and imgIds."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.subset import Subset, choose_images, choose_subset
from detr_mini.evaluation.report.measure import evaluate_subset
from detr_mini.structures import Categories
from made_detections import CATEGORIES, Records, made

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def by_pycocotools(truth: dict, records: Records, part: Subset) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = copy.deepcopy(truth)
        side.createIndex()
        evaluate_subset = COCOeval(side, side.loadRes(copy.deepcopy(records)), "bbox")
        evaluate_subset.params.imgIds, evaluate_subset.params.catIds = list(part.image_ids), list(part.categories.ids)
        evaluate_subset.evaluate()
        evaluate_subset.accumulate()
        evaluate_subset.summarize()
    return evaluate_subset.stats.tolist()


def detected(truth: dict, seed: int = 0) -> Records:
    """Made detections of a truth of any kind."""
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in truth["categories"]]
    records = []
    for a in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            box = np.array(a["bbox"], float) + rng.normal(0, 0.1, 4) * np.tile(a["bbox"][2:], 2)
            category = a["category_id"] if rng.random() < 0.85 else int(rng.choice(ids))
            records.append({"image_id": a["image_id"], "category_id": category, "score": float(rng.random()),
                            "bbox": [*box[:2].tolist(), *np.maximum(box[2:], 1).tolist()]})  # fmt: skip
    return records


@pytest.mark.parametrize(
    "subset",
    [{"categories": ["person", "chair", "bottle"]}, {"share": 0.4, "seed": 3}, {"ids": 25},
     {"ids": 40, "categories": ["person"], "share": 0.5}, None],
)  # fmt: skip
def test_subsets_of_real_photographs_equal_pycocotools(
    subset: dict[str, Any] | None, shared_data: Callable[[str], Path]
) -> None:
    file = shared_data("coco_mini") / "annotations" / "instances_val2017.json"
    truth = json.loads(file.read_bytes())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    categories = Categories(tuple(names), tuple(names.values()))
    images = sorted(image["id"] for image in truth["images"])
    if subset and "ids" in subset:
        subset = {**subset, "ids": images[: subset["ids"]]}
    records = detected(truth)
    part = choose_subset(images, categories, subset)
    scores, _ = evaluate_subset(truth, records, part, resamples=100)
    expected = [None if v == -1 else pytest.approx(v, abs=1e-12) for v in by_pycocotools(truth, records, part)]
    assert [scores.metrics[name] for name in TWELVE] == expected
    assert scores.metrics["images"] == len(part.image_ids)
    for name in ("AP", "AP50", *(f"AP/{row.name}" for row in scores.classes if row.AP is not None)):
        head, slash, category = name.partition("/")
        low, high = (scores.metrics[f"{head}_{end}{slash}{category}"] for end in ("low", "high"))
        assert low <= scores.metrics[name] <= high


def test_categories_outside_the_subset_do_not_count() -> None:
    truth, (records,) = made(20, 1)
    part = choose_subset(range(1, 21), CATEGORIES, {"categories": ["nut"]})
    alone, _ = evaluate_subset(truth, records, part, resamples=0)
    whole, _ = evaluate_subset(truth, records, Subset(range(1, 21), CATEGORIES), resamples=0)
    assert alone.metrics["AP"] == whole.metrics["AP/nut"]
    assert [row.name for row in alone.classes] == ["nut"]


def test_a_larger_share_contains_a_smaller_one() -> None:
    shares = [choose_images(range(100), share=share, seed=5) for share in (0.1, 0.35, 1.0)]
    assert [len(share) for share in shares] == [10, 35, 100]
    assert set(shares[0]) < set(shares[1]) < set(shares[2])
    assert shares[0] != choose_images(range(100), share=0.1, seed=6)


@pytest.mark.parametrize(
    ("subset", "part"),
    [
        ({"ids": [1, 99]}, "99"),
        ({"ids": []}, "no images"),
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"categories": ["nutt"]}, "did you mean 'nut'"),
        ({"categories": []}, "empty"),
        ({"categories": "nutt"}, "names 'nutt', .* did you mean 'nut'"),
        ({"share": "half"}, "share of a subset is 'half'; it must be a number"),
        ({"ids": 99}, "99"),
    ],
)
def test_an_impossible_subset_is_refused_with_an_explanation(subset: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        choose_subset(range(1, 21), CATEGORIES, subset)
