"""Configs: every file composes, and a wrong setting gives one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detr_mini.config import files
from detr_mini.config.compose import compose, sweep, swept
from detr_mini.config.files import config_folder
from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.training.options import TrainerOptions

GROUPS = {
    "data": "train", "backbone": "train", "model": "train", "optim": "train", "trainer": "train", "logger": "train",
    "experiment": "train", "debug": "train", "sentences": "train", "sweep": "sweep", "augment": "train",
}  # fmt: skip
NEEDS = {"model=mini_grounded_minilm": ["data=shapes_captions"], "backbone=own": ["model=hf"]}
"""The first brings a tokeniser, which only data with captions have; the second belongs to peers."""


@pytest.mark.parametrize(
    "choice",
    [f"{group}={option.stem}" for group in GROUPS for option in sorted((config_folder() / group).glob("*.yaml"))],
)
def test_every_choice_of_every_group_composes_and_passes_the_check(choice: str) -> None:
    assert compose(GROUPS[choice.partition("=")[0]], [*NEEDS.get(choice, ()), choice])


def test_every_group_of_the_folder_is_tested() -> None:
    assert {path.name for path in config_folder().iterdir() if path.is_dir()} == set(GROUPS)


@pytest.mark.parametrize("experiment", sorted((config_folder() / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_experiment_fits_a_screen(experiment: Path) -> None:
    assert len(experiment.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.sise=3"], "data.sise does not exist; did you mean 'data.size'?"),
        (["+data.sise=3"], "data.sise does not exist; did you mean 'size'?"),
        (["+new=1"], "new does not exist"),
        (["trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'?"),
        (["+trainer.max_epoch=3"], "trainer.max_epoch does not exist; did you mean 'max_epochs'?"),
        (["modle=mini"], "modle does not exist; did you mean 'model'?"),
        (["experiment=quikstart"], "did you mean 'quickstart'?"),
        (["+model.dmi=3"], "model.dmi does not exist; did you mean 'dim'?"),
        (["+criterion.class_loss.gama=2"], "criterion.class_loss.gama does not exist; did you mean 'gamma'?"),
        (["data.size=large"], "data.size is 'large'; it must be a number"),
        (["trainer.compile=3"], "trainer.compile is 3; it must be true or false"),
        (["data.train=3"], "data.train is 3; it must be a section"),
        (["seed"], "'seed' is not a setting"),
        (["trainer={max_stepz: 3}"], "trainer.max_stepz does not exist; did you mean 'trainer.max_steps'?"),
        (["seed=[0,1]"], "seed is [0, 1]; it must be a number"),
        (["trainer.compile={a: 1}"], "trainer.compile is {'a': 1}; it must be true or false"),
        (["data.size=[1"], "the value of data.size cannot be read: [1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_that_exists(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", words)
    assert said in str(caught.value)


@pytest.mark.parametrize("chosen", ["experiment=finetune", "data=coco", "data=voc"])
def test_the_keys_of_a_split_can_be_set_one_by_one_whether_it_is_a_section_auto_or_null(chosen: str) -> None:
    words = ["data.train.images=my photos", "data.train.annotations=[a.json,b.json]",
             "data.test.images=/elsewhere/{test}", "data.test.annotations=t.json"]  # fmt: skip
    data = compose("train", [chosen, *words]).data
    before = compose("train", [chosen]).data
    kept = [{"list": before[split].list} if chosen == "data=voc" else {} for split in ("train", "test")]
    assert data.train == {"images": "my photos", "annotations": ["a.json", "b.json"], **kept[0]}
    assert data.test == {"images": "/elsewhere/{test}", "annotations": "t.json", **kept[1]}
    assert data.val == before.val


def test_a_wrong_key_of_a_split_that_is_a_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.train\.listt does not exist; did you mean 'data\.train\.list'"):
        compose("train", ["data=voc", "data.train.images=photos", "data.train.listt=x"])


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("predict", "threshold=40%", "threshold is '40%'; it must be a number"),
        ("evaluate", "size=big", "size is 'big'; it must be a number"),
        ("evaluate", "resamples=[1]", "resamples is [1]; it must be a number"),
        ("data_refer", "boxes=annotations/x.json", "boxes is 'annotations/x.json'; it must be a section"),
    ],
)
def test_a_setting_that_defaults_to_null_has_a_type(verb: str, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(verb, [word])
    assert str(caught.value) == said
    assert compose("predict", ["threshold=0.4"]).threshold == 0.4
    assert compose("data_refer", ["boxes={images: a, annotations: b}"]).boxes.images == "a"


@pytest.mark.parametrize(
    "key", ["data.workers", "data.pin_memory", "trainer.tf32", "trainer.precision", "trainer.channels_last"]
)
def test_null_is_refused_where_auto_chooses(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", ["data=coco", f"{key}=null"])
    assert str(caught.value) == f"{key} is null; leave it out for auto"


def test_null_stays_possible_where_it_means_none() -> None:
    assert compose("train", ["data=coco", "data.annotation_cache=null"]).data.annotation_cache is None
    assert compose("data_next", ["labelled=null"]).labelled is None


def test_a_typing_error_in_an_experiment_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "configs"
    for path in config_folder().rglob("*.yaml"):
        target = copy / path.relative_to(config_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    (copy / "experiment" / "own.yaml").write_text("# @package _global_\ntrainer: {max_epoch: 3}\n")
    monkeypatch.setattr(files, "config_folder", lambda: copy)
    with pytest.raises(ConfigError, match=r"trainer\.max_epoch does not exist; did you mean 'max_epochs'"):
        compose("train", ["experiment=own"])


def test_what_an_experiment_sets_of_its_model_does_not_follow_into_another_model() -> None:
    words = ["experiment=finetune", "data.root=photos"]
    assert compose("train", words).model.distinct_iou == 0.7
    assert "distinct_iou" not in compose("train", [*words, "model=hf", "model.name=rt_detr_v2"]).model
    with pytest.raises(ConfigError, match=r"model.distinct_iou does not exist"):
        compose("train", [*words, "model=hf", "model.name=rt_detr_v2", "model.distinct_iou=0.5"])


@pytest.mark.parametrize("value", ["abc", "-1", "0", "1.5", "true"])
def test_a_length_of_training_must_be_a_whole_number(value: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs is .* must be a whole number greater than 0"):
        TrainerOptions.of(compose("train", [f"trainer.max_epochs={value}"]).trainer)


def test_a_training_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="the training has no end"):
        TrainerOptions.of(compose("train").trainer)


def test_resuming_takes_the_runs_own_config_with_overrides_on_top(tmp_path: Path) -> None:
    OmegaConf.save(compose("train", ["seed=7", "trainer.max_epochs=3"]), tmp_path / "config.yaml")
    config = compose("train", [f"resume={tmp_path}", "trainer.max_epochs=5"])
    assert (config.seed, config.trainer.max_epochs, config.resume) == (7, 5, str(tmp_path))
    with pytest.raises(ConfigError, match=r"trainer\.max_epoch does not exist.*did you mean 'trainer\.max_epochs'"):
        compose("train", [f"resume={tmp_path}", "trainer.max_epoch=5"])
    with pytest.raises(ConfigError, match=r"trainer=gpu chooses a file of configs/; .* trainer\.NAME=VALUE"):
        compose("train", [f"resume={tmp_path}", "trainer=gpu"])
    with pytest.raises(CheckpointError, match="resume=RUN takes the folder of a run"):
        compose("train", [f"resume={tmp_path / 'none'}"])


def test_sweeps_use_hydras_syntax() -> None:
    assert sweep(["seed=0,1", "model=mini"]) == [["seed=0", "model=mini"], ["seed=1", "model=mini"]]
    assert sweep(["seed=range(0,3)"]) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert swept(["seed=0,1", "model=mini", "+data.size=range(1,3)", "a=interval(0,1)"]) == {"seed", "data.size", "a"}


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("coarse_scale", "0", "0.1"),
        ("coarse_until", "1.5", "0"),
        ("coarse_until", "-0.1", "0"),
    ],
)
def test_a_share_of_the_training_must_be_from_0_to_1(key: str, value: str, least: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key} is .* must be a number from {least} to 1"):
        TrainerOptions.of(compose("train", ["trainer.max_steps=1", f"trainer.{key}={value}"]).trainer)


def test_double_precision_which_no_training_supports_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.precision is '64-true'; choose one of auto, 32-true, bf16-mixed"):
        TrainerOptions.of(compose("train", ["trainer.max_steps=1", "trainer.precision=64-true"]).trainer)


@pytest.mark.parametrize(("verb", "word"), [("predict", "trainer=gpu"), ("export", "backbone=resnet50"),
                                            ("predict", "augment=light")])  # fmt: skip
def test_a_verb_is_not_offered_the_word_that_it_refuses(verb: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(verb, [word])
    assert f"did you mean '{word.partition('=')[0]}'" not in str(caught.value)


def test_a_sweep_takes_lists_of_settings_as_one_run_does() -> None:
    runs = sweep(["minutes=5,10", "overrides=[data.size=256]"])
    assert len(runs) == 2
    assert all(compose("benchmark_datasets", ["root=sets", *run]).overrides == ["data.size=256"] for run in runs)
