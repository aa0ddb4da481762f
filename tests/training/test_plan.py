"""What a training chooses from the time that it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_parts import write_images
from detr_mini.config.compose import compose
from detr_mini.data.auto_settings import SMALLEST
from detr_mini.training.build import build
from detr_mini.training.image_growth import ImageGrowth
from detr_mini.training.plan import (
    BATCHES,
    ENOUGH_IMAGES,
    LONGEST_STRONG,
    LONGEST_WARMUP,
    Speed,
    Trainable,
    measure_speed,
    plan,
    probe_sides,
    rhythm,
    strong_share,
)  # fmt: skip
from training_parts import small_config

# two cores: 16 images of 256 x 256 pixels a second
SPEED = Speed(step=0.09, image=0.01, pixel=0.04 / 256**2)
GROWING = ImageGrowth(0.5, 0.75, grow=True)
MINUTES = st.floats(0.1, 600)


def planned(minutes: float, wanted: int = 576, **more: object) -> object:
    settings = {"wanted": wanted, "shape": 0.75, "train_images": 400, "growth": GROWING, **more}
    return plan(SPEED, minutes * 60, **settings)  # type: ignore[arg-type]


@given(MINUTES, MINUTES)
def test_more_time_never_gives_smaller_images_or_batches(one: float, other: float) -> None:
    short, long = planned(min(one, other)), planned(max(one, other))
    assert short.size <= long.size  # type: ignore[attr-defined]
    assert short.batch_size <= long.batch_size  # type: ignore[attr-defined]


@given(MINUTES, st.sampled_from([96, 224, 320, 576, 640]))
def test_the_size_lies_between_the_smallest_and_what_the_boxes_ask_for(minutes: float, wanted: int) -> None:
    chosen = planned(minutes, wanted)
    assert min(SMALLEST, wanted) <= chosen.size <= wanted  # type: ignore[attr-defined]
    assert chosen.size % 32 == 0  # type: ignore[attr-defined]
    assert chosen.batch_size in BATCHES  # type: ignore[attr-defined]
    if min(SMALLEST, wanted) < chosen.size < wanted:  # type: ignore[attr-defined]
        assert chosen.images >= ENOUGH_IMAGES  # type: ignore[attr-defined]


def test_plenty_of_time_gives_what_the_boxes_ask_for_and_too_little_the_smallest() -> None:
    assert planned(600).size == 576  # type: ignore[attr-defined]
    assert planned(0.5).size == SMALLEST  # type: ignore[attr-defined]


def test_what_the_user_gives_stays() -> None:
    chosen = planned(0.5, fixed={"size": 480, "batch_size": 4})
    assert (chosen.size, chosen.batch_size) == (480, 4)  # type: ignore[attr-defined]


def test_accumulated_batches_are_planned_as_one_large_batch(scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr_mini.training.plan.measure_speed", lambda *_: SPEED)
    found = []
    for batch, accumulate in ((16, 1), (4, 4)):
        words = ["trainer.max_minutes=0.5", "optim.warmup_steps=auto", "optim.average=auto"]
        words += [f"data.batch_size={batch}", f"trainer.accumulate={accumulate}"]
        parts = build(small_config(scenes_root, *words))
        optim = parts.task.metadata["config"]["optim"]
        reasons = [notice for notice in parts.data.report.notices if "optim." in notice]
        found.append((optim["warmup_steps"], optim["average"], reasons))
    assert found[0] == found[1]
    assert len(found[0][2]) == 2


@pytest.mark.parametrize(("epochs", "accumulate"), [(14, 1), (14, 3), (3, 4)])
def test_images_that_are_seen_are_those_of_all_accumulated_batches(
    scenes_root: Path, epochs: int, accumulate: int
) -> None:
    words = (f"trainer.max_epochs={epochs}", f"trainer.accumulate={accumulate}", "data.strong_until=auto")
    data = build(small_config(scenes_root, *words)).data
    assert data.strong_until == strong_share(epochs)
    assert "less than one pass" not in " ".join(data.report.notices)


def test_growing_images_leave_time_for_more_of_them() -> None:
    same = planned(10, fixed={"size": 320, "batch_size": 8}, growth=ImageGrowth())
    growing = planned(10, fixed={"size": 320, "batch_size": 8})
    assert growing.images > 1.2 * same.images  # type: ignore[attr-defined]


@given(st.floats(1, 1e6))
def test_warm_up_and_average_are_a_part_of_the_training(steps: float) -> None:
    warmup, average = rhythm(steps)
    assert 1 <= warmup <= LONGEST_WARMUP
    assert warmup <= 0.1 * steps + 1
    assert 0 < average < 1


def test_images_that_are_seen_a_few_times_only_need_no_strong_augmentation() -> None:
    assert strong_share(2) == 0
    assert 0 < strong_share(12) < LONGEST_STRONG
    assert strong_share(500) == LONGEST_STRONG


def test_images_grow_evenly_from_their_scale_to_their_size() -> None:
    sizes = [GROWING.scale_at(p) for p in (0.0, 0.375, 0.7499, 0.75, 1.0)]
    assert sizes == pytest.approx([0.5, 0.75, 1.0, 1.0, 1.0], abs=1e-3)
    assert [ImageGrowth(0.5, 0.4).scale_at(p) for p in (0.0, 0.39, 0.4)] == [0.5, 0.5, 1.0]
    assert ImageGrowth().scale_at(0.0) == 1.0


def test_measuring_the_speed_changes_neither_the_model_nor_the_random_numbers() -> None:
    from detr_mini.losses.criterion import DetectionCriterion, matchability_loss
    from detr_mini.losses.matcher import focal_cost
    from detr_mini.models.mini import MiniDETR
    from detr_mini.optim.muon import muon
    from detr_mini.vision.convnet import ConvNet

    model = MiniDETR(
        backbone=ConvNet(channels=[8, 8, 8], blocks=[1, 1, 1]),
        num_classes=3,
        dim=16,
        heads=2,
        queries=4,
        sample_channels=32,
    )
    criterion = DetectionCriterion(class_cost=focal_cost, class_loss=matchability_loss, cost_class=2.0, weight_giou=2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    speed = measure_speed(Trainable(model, criterion, muon), 3, torch.device("cpu"), torch.float32, (96, 160))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert min(speed.step, speed.pixel) > 0
    assert speed.image >= 0
    assert speed.seconds(8, 300**2) > speed.seconds(4, 200**2)


@given(st.integers(64, 1333), st.floats(0.2, 1), st.sampled_from([8, 16, 32, 64]), st.floats(0.25, 1))
def test_the_speed_is_measured_on_sizes_of_the_training(size: int, shape: float, stride: int, scale: float) -> None:
    small, large = probe_sides(size, shape, ImageGrowth(scale, 0.75, True), stride)
    assert 0 < small < large
    assert small % stride == large % stride == 0
    assert abs(large - size * shape**0.5) <= stride / 2 or large == 2 * stride


def test_too_little_time_and_objects_too_far_apart_in_size_are_reported_at_the_start(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"], size=(300, 400))
    boxes = [(1, [0, 0, 390, 290]), (2, [5, 5, 2, 2])]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, box) in enumerate(boxes, 1)
    ]
    images = [{"id": i, "file_name": f"{n}.png", "width": 400, "height": 300} for i, n in enumerate("ab", 1)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    split = "{images: images, annotations: train.json}"
    words = [
        "experiment=finetune", f"data.root={tmp_path}", "data.format=coco", f"data.train={split}", f"data.val={split}",
        "data.test=null", "backbone=convnet", "backbone.channels=[8,8,8]", "backbone.blocks=[1,1,1]", "model.dim=16",
        "model.heads=2", "trainer.max_minutes=0.0001", "data.workers=0",
    ]  # fmt: skip
    report = build(compose("train", words)).data.report
    assert any("less than one pass over the 2 of train" in notice for notice in report.notices)
    assert any("times as large as the smallest" in notice for notice in report.notices)
    assert report.chosen["data.size"] == 224


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "time does not end the training"),
        (("trainer.max_minutes=9",), "steps or epochs may end the training before its minutes do"),
        (("trainer=ddp", "trainer.devices=2", "trainer.max_minutes=9", "trainer.max_steps=null"),
         "the speed of several processes is not measured"),
    ],
)  # fmt: skip
def test_usual_values_have_the_reason_why_the_speed_does_not_decide(
    scenes_root: Path, words: tuple[str, ...], why: str
) -> None:
    auto = ("trainer.max_steps=50", "data.batch_size=auto", "optim.warmup_steps=auto")
    notices = build(small_config(scenes_root, *auto, *words)).data.report.notices
    chosen = dict(notice.split(" is chosen: ") for notice in notices if " is chosen: " in notice)
    reasons = {setting.partition("=")[0]: because for setting, because in chosen.items()}
    assert reasons["data.batch_size"] == f"the usual value, because {why}"
    paced = "for 50 steps of training" if len(words) < 4 else f"for 30 steps of training, 30 passes over train: {why}"
    assert reasons["optim.warmup_steps"] == paced
