"""Any part of a truth: pycocotools' own numbers with the same catIds and imgIds."""

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
from detr_mini.evaluation.measure import judge
from detr_mini.evaluation.subset import Part, chosen, chosen_images
from detr_mini.structures import Categories
from made_detections import CATEGORIES, Records, made

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def by_pycocotools(truth: dict, records: Records, part: Part) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = copy.deepcopy(truth)
        side.createIndex()
        judge = COCOeval(side, side.loadRes(copy.deepcopy(records)), "bbox")
        judge.params.imgIds, judge.params.catIds = list(part.image_ids), list(part.categories.ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


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
def test_parts_of_real_photographs_give_pycocotools_numbers(
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
    part = chosen(images, categories, subset)
    scores, _ = judge(truth, records, part, resamples=100)
    expected = [None if v == -1 else pytest.approx(v, abs=1e-12) for v in by_pycocotools(truth, records, part)]
    assert [scores.metrics[name] for name in TWELVE] == expected
    assert scores.metrics["images"] == len(part.image_ids)
    for name in ("AP", "AP50", *(f"AP/{row.name}" for row in scores.classes if row.AP is not None)):
        head, slash, category = name.partition("/")
        low, high = (scores.metrics[f"{head}_{end}{slash}{category}"] for end in ("low", "high"))
        assert low <= scores.metrics[name] <= high


def test_categories_outside_the_part_count_for_nothing() -> None:
    truth, (records,) = made(20, 1)
    part = chosen(range(1, 21), CATEGORIES, {"categories": ["nut"]})
    alone, _ = judge(truth, records, part, resamples=0)
    whole, _ = judge(truth, records, Part(range(1, 21), CATEGORIES), resamples=0)
    assert alone.metrics["AP"] == whole.metrics["AP/nut"]
    assert [row.name for row in alone.classes] == ["nut"]


def test_a_smaller_share_is_a_part_of_a_larger_one() -> None:
    shares = [chosen_images(range(100), share=share, seed=5) for share in (0.1, 0.35, 1.0)]
    assert [len(share) for share in shares] == [10, 35, 100]
    assert set(shares[0]) < set(shares[1]) < set(shares[2])
    assert shares[0] != chosen_images(range(100), share=0.1, seed=6)


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
def test_a_part_that_cannot_be_is_refused_in_a_sentence(subset: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        chosen(range(1, 21), CATEGORIES, subset)
