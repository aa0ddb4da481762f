"""95 % intervals contain the true value in 95 % of all cases: one size here, three sizes in the slow test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.evaluation.comparison.intervals import _least_mean, draws, interval, intervals
from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches, match
from made_detections import CATEGORIES, made
from training_parts import unchecked

NAMES = CATEGORIES.names
POPULATION = 12_000
"""The number of images that samples are drawn from. AP over all of them is the true value."""


def matched(images: int, seed: int = 0, **quality: float) -> Matches:
    truth, (records,) = made(images, seed, **quality)  # type: ignore[arg-type]
    return match(truth, records, CATEGORIES.ids, range(1, images + 1), areas=1)


def covered(population: Matches, images: int, samples: int, resamples: int) -> dict[str, float]:
    """How often the interval of a sample holds the population's value."""
    size = len(population.image_ids)
    true = headline_metrics(WeightedAP(population)(np.ones((1, size), int)), NAMES)
    rng = np.random.default_rng(images)
    held = dict.fromkeys(("AP", "AP50"), 0)
    for sample in range(samples):
        found = intervals(population.take(rng.integers(0, size, images)), NAMES, resamples, seed=sample)
        for name in held:
            low, high = found[name]
            held[name] += low <= true[name][0] <= high
    return {name: count / samples for name, count in held.items()}


def test_intervals_contain_the_true_value_at_72_images() -> None:
    with unchecked():
        shares = covered(matched(2000), 72, 150, 150)
    for share in shares.values():
        assert 0.90 <= share <= 0.99  # 95 %, within the uncertainty of 150 samples


@pytest.fixture(scope="module")
def population() -> Matches:
    with unchecked():
        return matched(POPULATION, seed=4, objects=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("images", [72, 300, 1000])
def test_95_percent_intervals_cover_93_to_97_percent(population: Matches, images: int) -> None:
    with unchecked():
        shares = covered(population, images, 1000, 200)
    for share in shares.values():
        assert 0.93 <= share <= 0.97


def test_every_defined_metric_lies_in_its_interval() -> None:
    truth, (records,) = made(40, 2)
    metrics = evaluate(truth, records, CATEGORIES)
    found = intervals(match(truth, records, CATEGORIES.ids, range(1, 41)), NAMES, 200)
    assert set(found) == {"AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP/{name}" for name in NAMES)}
    for name, (low, high) in found.items():
        assert 0 <= low <= metrics[name] <= high <= 1


def test_more_images_give_a_narrower_interval() -> None:
    few, many = (intervals(matched(n, seed=3), NAMES, 200)["AP"] for n in (50, 800))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_the_same_seed_gives_the_same_interval() -> None:
    matches = matched(30)
    assert intervals(matches, NAMES, 150) == intervals(matches, NAMES, 150)
    assert intervals(matches, NAMES, 150) != intervals(matches, NAMES, 150, seed=1)


def test_undefined_metrics_have_no_interval() -> None:
    truth, (records,) = made(20, 1)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 9]
    found = intervals(match(truth, records, CATEGORIES.ids, range(1, 21)), NAMES, 50)
    assert "AP/washer" not in found
    assert "AP/bolt" in found


def in_images(*objects: int, found: bool, others: int = 0) -> Matches:
    """One object of each of these categories (by index) in an image of its own, all found or none; `others`: images."""
    ids = [CATEGORIES.ids[k] for k in objects]
    truth = {"annotations": [{"image_id": i, "category_id": k, "bbox": [0, 0, 50, 50]} for i, k in enumerate(ids)]}
    records = [{**annotation, "score": 0.9} for annotation in truth["annotations"]] if found else []
    return match(truth, records, CATEGORIES.ids, range(len(ids) + others), areas=1)


@pytest.mark.parametrize("others", [0, 90])
def test_where_all_or_nothing_is_found_the_interval_has_a_binomial_end(others: int) -> None:
    limit = 0.05 ** (1 / 10)  # ten images without a fault: at least 74 % of all images are like them
    found = intervals(in_images(*[0] * 10, found=True, others=others), NAMES, 100)
    for name in ("AP", "AP50", "AP/bolt"):
        assert found[name] == pytest.approx((limit, 1))
    found = intervals(in_images(*[0] * 10, found=False, others=others), NAMES, 100)
    for name in ("AP", "AP50", "AP/bolt"):
        assert found[name] == pytest.approx((0, 1 - limit))


def test_a_category_in_one_image_leaves_its_share_of_ap_open() -> None:
    found = intervals(in_images(*[0] * 500, *[1] * 500, 2, found=True), NAMES, 100)
    assert found["AP/washer"][0] == pytest.approx(0.05)
    assert 0.99 < found["AP/bolt"][0] < 1
    assert found["AP"][0] == pytest.approx((2 + 0.05) / 3, abs=0.01)


@pytest.mark.parametrize("others", [0, 50])
def test_one_image_with_objects_says_next_to_nothing(others: int) -> None:
    truth = {"annotations": [{"image_id": 0, "category_id": 2, "bbox": [60 * k, 0, 50, 50]} for k in range(4)]}
    boxes = [[0, 0, 50, 50], [0, 90, 50, 50], [60, 0, 50, 50]]  # right, wrong, right
    records = [{"image_id": 0, "category_id": 2, "bbox": box, "score": 0.9 - k / 10} for k, box in enumerate(boxes)]
    found = intervals(match(truth, records, CATEGORIES.ids, range(1 + others), areas=1), NAMES, 100)
    low, high = found["AP/bolt"]
    assert low < 0.05 and high > 0.95


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_images_that_count_unequally_say_less_than_as_many_that_count_alike(counts: list[int]) -> None:
    shares = np.array(counts) / sum(counts)
    least, largest = _least_mean(shares, 0.95), shares.max()
    assert 0.05 - 1e-9 <= least <= 0.05 ** (1 / len(counts)) + 1e-9
    assert least <= 1 - 0.95 * largest + 1e-9, "the image that counts most may be an exception"
    assert least == pytest.approx(_least_mean(np.append(shares, 0.0), 0.95))


def test_every_resample_draws_as_many_images_as_there_are() -> None:
    drawn = draws(np.random.default_rng(0), 400, 25)
    assert drawn.shape == (400, 25)
    assert (drawn.sum(1) == 25).all()
    assert drawn.max() > 2
    assert drawn.mean(0) == pytest.approx(np.ones(25), abs=0.2)


def test_near_1_the_interval_is_wider_below_the_value() -> None:
    low, high = interval(0.96, np.random.default_rng(0).normal(0.96, 0.01, 500), 100)
    assert 0.96 - low > high - 0.96
    assert high < 1
