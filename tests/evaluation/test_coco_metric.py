"""COCO's metric equals pycocotools' summary where that is defined, without its pitfalls."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_mini.errors import DataError
from detr_mini.evaluation.metrics.coco import evaluate, score
from detr_mini.structures import Categories

CATEGORIES = Categories((2, 5, 9), ("bolt", "nut", "washer"))
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def made(seed: int, images: int = 6, objects: int = 5, noise: float = 0.15) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, objects + 1)):
            box = np.concatenate([rng.uniform(0, 300, 2), np.exp(rng.uniform(2, 5.5, 2))])
            category = int(rng.choice(CATEGORIES.ids))
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box.tolist(),
                "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.1),
            })  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                guess = box + rng.normal(0, noise, 4) * np.tile(box[2:], 2)
                guess[2:] = np.maximum(guess[2:], 1)
                results.append({
                    "image_id": image, "category_id": category if rng.random() < 0.8 else 2,
                    "bbox": guess.tolist(), "score": float(rng.random()),
                })  # fmt: skip
    truth = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": CATEGORIES.records(),
    }
    return truth, results


def reference(truth: dict, results: list[dict]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        ours = COCO()
        ours.dataset = copy.deepcopy(truth)
        ours.createIndex()
        judge = COCOeval(ours, ours.loadRes(copy.deepcopy(results)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_twelve_numbers_equal_those_of_pycocotools(seed: int) -> None:
    truth, results = made(seed)
    metrics = evaluate(truth, results, CATEGORIES)
    expected = [None if v == -1 else pytest.approx(v, abs=1e-12) for v in reference(truth, results)]
    assert [metrics[name] for name in TWELVE] == expected


def test_evaluation_prints_nothing_and_changes_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = made(1)
    before = json.dumps([truth, results])
    evaluate(truth, results, CATEGORIES)
    assert json.dumps([truth, results]) == before
    assert capsys.readouterr() == ("", "")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.randoms())
def test_neither_order_nor_annotation_ids_matter(seed: int, random: object) -> None:
    truth, results = made(seed, images=3, objects=3)
    expected = evaluate(truth, results, CATEGORIES)
    for record in truth["annotations"]:
        record["id"] = 7 * record["id"] - 7
    for records in (truth["annotations"], truth["images"], results):
        random.shuffle(records)  # type: ignore[attr-defined]
    assert evaluate(truth, results, CATEGORIES) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 7, 100, 300]))
def test_every_value_is_between_0_and_1_or_none(seed: int, limit: int) -> None:
    truth, results = made(seed, images=2, objects=2)
    metrics = evaluate(truth, results, CATEGORIES, detection_limit=limit)
    counts = {"images", "categories_scored", "detection_limit"}
    assert all(v is None or 0 <= v <= 1 for k, v in metrics.items() if k not in counts)


def test_ap_is_the_mean_over_the_scored_categories() -> None:
    truth, results = made(3)
    metrics = evaluate(truth, results, CATEGORIES)
    per_class = [metrics[f"AP/{name}"] for name in CATEGORIES.names]
    scored = [v for v in per_class if v is not None]
    assert metrics["AP"] == pytest.approx(np.mean(scored))
    assert metrics["categories_scored"] == len(scored)


def test_an_empty_truth_and_no_predictions_give_none_instead_of_minus_one() -> None:
    truth = {"images": [{"id": 1}], "annotations": [], "categories": CATEGORIES.records()}
    metrics = evaluate(truth, [], CATEGORIES)
    assert all(metrics[name] is None for name in TWELVE)
    assert metrics["images"] == 1
    assert metrics["categories_scored"] == 0


def test_a_subset_is_evaluated_as_if_the_rest_did_not_exist() -> None:
    truth, results = made(4)
    part = {**truth, "images": truth["images"][:3]}
    part["annotations"] = [a for a in truth["annotations"] if a["image_id"] <= 3]
    alone = evaluate(part, [r for r in results if r["image_id"] <= 3], CATEGORIES)
    assert evaluate(truth, results, CATEGORIES, image_ids=[3, 1, 2]) == alone
    assert alone["images"] == 3


def test_crowd_regions_are_ignored() -> None:
    truth = {
        "images": [{"id": 1}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [100, 0, 200, 200], "area": 40000, "iscrowd": 1},
        ],
    }
    results = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 40], "score": 0.5}]
    results += [{"image_id": 1, "category_id": 2, "bbox": [110.0 + i, 10, 50, 50], "score": 0.9} for i in range(9)]
    assert evaluate(truth, results, CATEGORIES)["AP"] == pytest.approx(1)
    assert score(truth, results, CATEGORIES).classes[0].truths == 1


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ({"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.1}, "image 99"),
        ({"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 0.1}, "category id 4"),
        ({"image_id": 1, "category_id": 2, "bbox": [0, 0, math.nan, 1], "score": 0.1}, "not finite"),
        ({"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": math.inf}, "not finite"),
    ],
)
def test_an_invalid_record_is_refused(record: dict, part: str) -> None:
    truth, _ = made(0)
    with pytest.raises(DataError, match=part):
        evaluate(truth, [record], CATEGORIES)


def test_the_class_table_counts_images_objects_and_detections() -> None:
    truth, results = made(2)
    for row, category_id in zip(score(truth, results, CATEGORIES).classes, CATEGORIES.ids, strict=True):
        own = [a for a in truth["annotations"] if a["category_id"] == category_id and not a["iscrowd"]]
        assert row.truths == len(own)
        assert row.images == len({a["image_id"] for a in own})
        assert row.detections == sum(r["category_id"] == category_id for r in results)
