"""95 % intervals contain the true value in 95 % of all cases: one size here, three sizes in the slow test."""

from __future__ import annotations

import numpy as np
import pytest

from detr_mini.evaluation.comparison.intervals import draws, interval, intervals
from detr_mini.evaluation.metrics.average_precision import WeightedAP
from detr_mini.evaluation.metrics.coco import evaluate
from detr_mini.evaluation.metrics.headline import headline_metrics
from detr_mini.evaluation.metrics.matching import Matches, match
from made_detections import CATEGORIES, made

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
    for share in covered(matched(2000), 72, 150, 150).values():
        assert 0.90 <= share <= 0.99  # 95 %, within the uncertainty of 150 samples


@pytest.mark.slow
@pytest.mark.parametrize("images", [72, 300, 1000])
def test_95_percent_intervals_cover_93_to_97_percent(images: int) -> None:
    for share in covered(matched(POPULATION, seed=4, objects=1.5), images, 1000, 200).values():
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
