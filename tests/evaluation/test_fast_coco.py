"""faster-coco-eval equals pycocotools."""

from __future__ import annotations

import sys

import pytest

from detr_mini.errors import ConfigError
from detr_mini.evaluation.metrics.coco import score
from made_detections import CATEGORIES, made


@pytest.mark.parametrize(("seed", "limit"), [(0, 100), (1, 3), (2, 300)])
def test_fast_evaluation_gives_equal_metrics(seed: int, limit: int) -> None:
    pytest.importorskip("faster_coco_eval", reason="the extra 'fast' is not installed")
    truth, (records,) = made(60, seed, objects=5, crowd=0.1)
    slow, fast = (score(truth, records, CATEGORIES, detection_limit=limit, fast=fast) for fast in (False, True))
    assert fast.metrics == pytest.approx(slow.metrics, abs=1e-9)
    assert [(row.name, row.truths) for row in fast.classes] == [(row.name, row.truths) for row in slow.classes]


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    truth, (records,) = made(3)
    with pytest.raises(ConfigError, match=r"pip install .*\[fast\]"):
        score(truth, records, CATEGORIES, fast=True)
