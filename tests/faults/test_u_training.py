"""What a training says of itself, and what it does not leave unsaid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_parts import write_coco
from detector_parts import CATEGORIES, IMAGE, untrained
from detr_mini import progress
from detr_mini.evaluation.report.same_predictions import MOST, predictions_hardly_differ, same_predictions_warning
from detr_mini.formats.coco import read_coco
from detr_mini.inference.detector import Detector
from detr_mini.structures import Detections
from detr_mini.training.build import build
from detr_mini.training.device import usable_precision
from detr_mini.training.remarks import few_steps_notice, objects_notice
from detr_mini.training.run import train
from training_parts import small_config


def test_u09_half_precision_on_a_cpu_is_said_and_stands_in_the_config(scenes_root: Path) -> None:
    parts = build(small_config(scenes_root, "trainer.max_steps=1", "trainer.precision=16-mixed"))
    assert parts.options.precision == parts.task.metadata["config"]["trainer"]["precision"] == "bf16-mixed"
    assert any(
        "16-mixed needs a GPU; this CPU uses bf16-mixed instead" in notice for notice in parts.data.report.notices
    )
    assert usable_precision("32-true", "cpu") == ("32-true", None)
    assert usable_precision("16-mixed", "gpu") == ("16-mixed", None)


def test_u13_a_training_of_few_steps_says_that_its_numbers_mean_nothing_and_is_never_silent(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    words = ["trainer.max_steps=2", f"run_folder={tmp_path / 'run'}", "trainer.progress=true"]
    train(small_config(scenes_root, *words))
    said = " ".join(capsys.readouterr().out.split())
    assert "2 steps are too few to say anything about this detector" in said
    assert "too few to say anything" in (tmp_path / "run" / "run.log").read_text()
    assert few_steps_notice(5_000) is None
    assert "50% step 1" in said, "and at intervals, where there is no terminal, how far it is"


def test_u14_more_objects_than_queries_is_said_at_the_start(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, "train", annotations=[{"bbox": [1, 1, 4, 4]}] * 30)
    coco = read_coco(path, images)
    said = objects_notice(coco, 20)
    assert said is not None
    assert "more objects than model.queries=20, at most 30" in said
    assert "model.queries=40" in said
    assert objects_notice(coco, 30) is None


def test_u14_detect_says_where_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    import detr_mini.inference.detector as module

    monkeypatch.setattr(module, "USUAL_LIMIT", 3)
    detector = Detector(untrained(), CATEGORIES, IMAGE)
    with pytest.warns(UserWarning, match=r"1 of 1 images have 3 detections, the most that are given; limit=\.\.\."):
        detector.detect(np.zeros((40, 40, 3), np.uint8), threshold=0)
    assert len(detector.detect(np.zeros((40, 40, 3), np.uint8), threshold=0, limit=5)) == 5


def found(boxes: list[list[float]], size: tuple[int, int] = (100, 100)) -> Detections:
    scores = torch.linspace(0.9, 0.1, len(boxes))
    return Detections(torch.tensor(boxes), scores, torch.zeros(len(boxes)).long(), CATEGORIES, None, size)


def test_u15_detections_that_hardly_differ_between_pictures_are_a_warning() -> None:
    same = [found([[10.0, 10, 50, 50], [20, 30, 80 + i / 9, 90]]) for i in range(8)]
    said = same_predictions_warning(same)
    assert said is not None
    assert "nearly the same in all 8 images" in said
    assert predictions_hardly_differ([found([[10.0, 10, 50, 50]]), *[found([[20.0, 20, 100, 100]], (200, 200))] * 4])
    other = [found([[10.0 + 9 * i, 10, 20 + 9 * i, 50], [20, 30, 40, 30 + 8 * (i + 1)]]) for i in range(8)]
    assert same_predictions_warning(other) is None
    assert same_predictions_warning(same[:3]) is None
    assert same_predictions_warning([found([[1.0, 1, 2, 2]])[:0]] * 8) is None


@pytest.mark.parametrize("count", [MOST, MOST + 1, 1000])
def test_u15_the_warning_speaks_of_the_images_that_were_compared_only(count: int) -> None:
    warning = same_predictions_warning([found([[10.0, 10, 50, 50]])] * count)  # predict gives MOST of any number
    assert warning is not None
    assert f"nearly the same in the first {MOST} images." in warning
    few = same_predictions_warning([found([[10.0, 10, 50, 50]])] * (MOST - 1))
    assert few is not None and f"nearly the same in all {MOST - 1} images." in few
