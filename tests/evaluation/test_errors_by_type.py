"""Each type of error is recognised, and its cost is the AP50 that correcting it gains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.errors_by_type import TYPES, errors_by_type
from made_detections import CATEGORIES, Records, made

BOX = [100.0, 100.0, 100.0, 100.0]
BOLT, NUT = 2, 5


def annotation(box: list[float], category: int = BOLT, crowd: int = 0) -> dict:
    return {"id": 1, "image_id": 1, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}


def found(box: list[float], score: float, category: int = BOLT) -> dict:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def shifted(by: float) -> list[float]:
    return [BOX[0] + by, *BOX[1:]]


def counts(annotations: Records, records: Records) -> dict[str, int]:
    truth = {"images": [{"id": 1}], "annotations": annotations}
    counted = errors_by_type(truth, records, CATEGORIES.ids, [1]).counts()
    return {kind: count for kind, count in counted.items() if count}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([found(BOX, 0.9)], {}),
        ([found(shifted(60), 0.9)], {"localisation": 1}),  # IoU 0.25
        ([found(BOX, 0.9, NUT)], {"class": 1}),
        ([found(shifted(60), 0.9, NUT)], {"both": 1, "missed": 1}),
        ([found(BOX, 0.9), found(shifted(10), 0.5)], {"duplicate": 1}),
        ([found(shifted(95), 0.9)], {"background": 1, "missed": 1}),  # IoU 0.03
        ([], {"missed": 1}),
    ],
)
def test_each_error_has_its_type(records: Records, expected: dict[str, int]) -> None:
    assert counts([annotation(BOX)], records) == expected


def test_a_detection_in_a_crowd_region_is_no_error() -> None:
    crowd = annotation([0.0, 0.0, 300.0, 300.0], crowd=1)
    assert counts([crowd], [found([20.0, 20.0, 50.0, 50.0], 0.9)]) == {}


def test_the_cost_of_a_type_is_the_gain_from_correcting_it() -> None:
    other = [400.0, 100.0, 50.0, 50.0]
    truth = {"images": [{"id": 1}], "annotations": [annotation(BOX), annotation(other)]}
    records = [found(shifted(60), 0.9), found(other, 0.5)]
    costs = errors_by_type(truth, records, CATEGORIES.ids, [1]).costs()
    assert costs["AP50"] == pytest.approx(0.5 * 51 / 101)  # one of two, behind a false alarm
    assert costs["localisation"] == pytest.approx(1 - 0.5 * 51 / 101)
    assert costs["missed"] == costs["background"] == costs["class"] == 0


def test_only_one_of_several_corrected_detections_of_an_object_counts() -> None:
    truth = {"images": [{"id": 1}], "annotations": [annotation(BOX)]}
    records = [found(shifted(60), 0.9), found(shifted(55), 0.8), found(BOX, 0.7, NUT)]
    costs = errors_by_type(truth, records, CATEGORIES.ids, [1]).costs()
    assert costs["localisation"] == pytest.approx(1)
    assert costs["class"] == pytest.approx(1 / 3)  # the nut becomes a bolt, behind two false alarms


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_ap50_equals_cocoevals_and_no_correction_lowers_it(seed: int) -> None:
    truth, (records,) = made(8, seed, objects=4, crowd=0.1)
    costs = errors_by_type(truth, records, CATEGORIES.ids, range(1, 9)).costs()
    assert costs.pop("AP50") == pytest.approx(evaluate(truth, records, CATEGORIES)["AP50"])
    assert set(costs) == set(TYPES)
    # both may let another false alarm in: a duplicate removed does not, a find moved to another class may
    assert all(costs[kind] >= -1e-12 for kind in ("both", "duplicate", "background", "localisation", "missed"))


def test_every_detection_is_right_an_error_or_in_a_crowd_region() -> None:
    truth, (records,) = made(30, 3)
    errors = errors_by_type(truth, records, CATEGORIES.ids, range(1, 31))
    assert len(errors.kind) == len(records)
    assert (errors.kind < 0).sum() + sum(errors.counts().values()) - errors.counts()["missed"] == len(records)


def test_without_objects_there_are_no_costs() -> None:
    errors = errors_by_type({"images": [{"id": 1}], "annotations": []}, [found(BOX, 0.4)], CATEGORIES.ids, [1])
    assert errors.counts()["background"] == 1
    assert set(errors.costs().values()) == {None}
