"""What people type: paths with any characters in them, and settings that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from detr_mini.config.compose import compose, sweep
from detr_mini.config.files import config_folder
from detr_mini.errors import ConfigError
from detr_mini.training.run import train

NAMES = [
    "~/photos", "IMG (1).jpg", "/data/müller", "a=b.jpg", "${x}", "pay$ {1}", "a,b.jpg", "two  blanks ", "[draft]",
    "x[1].jpg", "{a}", "it's", 'say "hi"', "back\\slash\\", "100%", "a:b", "#1", "!x", "*.jpg", "2024", "007", "1e5",
    "a&b;c", "写真", "na\udcefve", "photos/**/*.jpg", "@home", "a|b", "?.png", "tab\tx", "~", "-x",
]  # fmt: skip


KEYS = ("checkpoint", "output", "data.root", *(f"data.{s}.{k}" for s in ("val", "test") for k in ("images", "labels")))


@pytest.mark.parametrize("names", [NAMES[i : i + 7] for i in range(0, len(NAMES), 7)])
def test_u02_a_path_is_a_path_whatever_characters_it_has(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.chdir(tmp_path)
    for name in {"[draft]", "{a}"} & {*names}:  # elsewhere a list, or a section
        (tmp_path / name).mkdir()
    config = compose("evaluate", [f"{key}={name}" for key, name in zip(KEYS, names, strict=False)])
    plain = OmegaConf.to_container(config, resolve=True)
    for key, name in zip(KEYS, names, strict=False):
        wanted = name.replace("~", "/users/me") if name.startswith("~") else name
        assert OmegaConf.select(config, key) == wanted
        value: Any = plain
        for part in key.split("."):
            value = value[part]
        assert value == wanted


def test_u02_so_is_the_folder_of_the_data_and_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    given = ["data.root=~/photos (1)", "run_folder=/runs/a=b, c", "init=müller's", "data.train.images=1e5"]
    config = compose("train", ["data=coco", *given])
    assert (config.data.root, config.run_folder) == ("/users/me/photos (1)", "/runs/a=b, c")
    assert (config.init, config.data.train.images) == ("müller's", "1e5")
    OmegaConf.save(config, tmp_path / "config.yaml")
    again = compose("train", [f"resume={tmp_path}", "data.root=/elsewhere/IMG (2), a: b"])
    assert again.data.root == "/elsewhere/IMG (2), a: b"


def test_u02_a_path_that_a_runs_settings_cannot_hold_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"data\.root is '/data/\$\{x\}'; the config.yaml .* make a link to it"):
        compose("train", ["data.root=/data/${x}"])


def test_u02_lists_quotes_and_null_still_mean_what_they_did() -> None:
    def source(text: str) -> Any:
        return OmegaConf.to_container(compose("predict", [f"source={text}"]))["source"]  # type: ignore[index,call-overload]

    assert source("[a b/c.jpg,IMG (1).jpg]") == ["a b/c.jpg", "IMG (1).jpg"]
    assert source("['a, b.jpg',\"it's.jpg\"]") == ["a, b.jpg", "it's.jpg"]
    assert source("'my photos'") == "my photos"
    assert source("null") is None
    assert compose("predict", ["caption=the cup (red), left"]).caption == "the cup (red), left"
    assert compose("evaluate", ["report=true"]).report is True
    assert compose("data_refer", ["boxes={images: a b}"]).boxes.images == "a b"
    assert compose("compare", ["runs=[outputs/a=1,outputs/b]"]).runs == ["outputs/a=1", "outputs/b"]


@pytest.mark.parametrize(("verb", "key"), [("export", "pictures"), ("benchmark_latency", "picture")])
def test_u02_pictures_of_an_export_and_of_a_measurement_are_paths(verb: str, key: str) -> None:
    for name in ("/data/müller/IMG (1)", "a=b.jpg", "x, y.jpg", "*.jpg"):
        assert compose(verb, [f"{key}={name}"])[key] == name
    assert compose("data_refer", ["pictures=3"]).pictures == 3


def test_u02_a_sweep_takes_paths_and_separates_them_at_commas() -> None:
    runs = sweep(["data.root=/data/müller,/data/IMG (1),'/data/a,b'", "seed=0"])
    assert [compose("train", run).data.root for run in runs] == ["/data/müller", "/data/IMG (1)", "/data/a,b"]


def test_u02_any_other_text_that_the_grammar_refuses_is_shown_with_its_quotes() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("data_subset", ["categories=traffic (light)"])
    assert "cannot be read: traffic (light)" in str(caught.value)
    assert "\"categories='traffic (light)'\"" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.rot does not exist; did you mean 'data\.root'"):
        compose("train", ["data.rot=/data/müller (1)"])
    with pytest.raises(ConfigError, match=r"experiment .*quotes"):
        compose("train", ["experiment=my (1)"])


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("train", "seed=-1", "seed is -1; it must be a whole number from 0 to 4294967295"),
        ("train", "seed=1.5", "seed is 1.5; it must be a whole number"),
        ("train", "seed=null", "seed is null; it must be a number"),
        ("train", "data.batch_size=2.5", "data.batch_size is 2.5; it must be a whole number greater than 0"),
        ("train", "data.workers=-2", "data.workers is -2; it must be a whole number, 0 or more"),
        ("train", "data.strong_until=50", "from 0 to 1; for 50 % write 0.5"),
        ("train", "optim.optimizer.lr=-0.1", "optim.optimizer.lr is -0.1; it must be a number greater than 0"),
        ("train", "optim.optimizer.lr=nan", "optim.optimizer.lr is nan; it must be a number greater than 0"),
        ("train", "optim.optimizer.betas=[0.9,1.5]", "optim.optimizer.betas[1] is 1.5; it must be from 0 to below 1"),
        ("train", "criterion.weight_l1=-1", "criterion.weight_l1 is -1; it must be a number, 0 or more"),
        ("train", "model.decoder.layers=1.5", "model.decoder.layers is 1.5; it must be a whole number"),
        ("train", "model=null", "model=null: training needs one; choose one of detr, detr_r101, "),
        ("train", "model.encoder=null", "model.encoder is null; this section is needed"),
        ("train", "criterion=null", "criterion is null; this section is needed"),
        ("train", "data=5", "there is no data=5 (there are: bccd_captions, coco"),
        ("train", "trainer.compile=null", "trainer.compile is null; it must be true or false"),
        ("predict", "threshold=50", "threshold is 50; it must be a number from 0 to 1; for 50 % write 0.5"),
        ("predict", "batch_size=0", "batch_size is 0; it must be a whole number greater than 0"),
        ("evaluate", "resamples=-1", "resamples is -1; it must be a whole number, 0 or more"),
        ("data_split", "val=20", "val is 20; it must be"),
        ("data_subset", "count=1.5", "count is 1.5; it must be a whole number"),
        ("data_shapes", "train=-3", "train is -3; it must be a whole number, 0 or more"),
        ("learning_curve", "shares=[10]", "shares[0] is 10; it must be a number from 0 to 1"),
    ],
)
def test_u04_a_number_that_makes_no_sense_is_a_sentence(verb: str, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(verb, [word])
    assert said in str(caught.value)


def test_u04_an_optional_group_set_to_null_is_the_same_as_leaving_it_out() -> None:
    plain = compose("train", ["experiment=null", "debug=null", "sentences=null", "augment=null"])
    assert plain == compose("train")
    without = compose("train", ["experiment=finetune", "augment=null", "logger=null"])
    assert len(without.data.augment_strong) == 0, "what the data say, in place of what the experiment chose"
    assert without.logger.tensorboard is False


def test_u04_settings_that_may_be_null_still_may() -> None:
    words = ["trainer.max_minutes=null", "trainer.max_epochs=3", "data.val=null", "data.augment=null"]
    config = compose("train", ["experiment=finetune", *words, "data.hold_out=null"])
    assert config.trainer.max_minutes is None
    assert compose("evaluate", ["suppress_iou=null", "split=null"]).suppress_iou is None


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml")))
def test_u10_every_backbone_goes_with_every_experiment(experiment: str, tmp_path: Path) -> None:
    for backbone in sorted(path.stem for path in (config_folder() / "backbone").glob("*.yaml")):
        words = [f"experiment={experiment}", f"backbone={backbone}", f"data.root={tmp_path}"]
        assert compose("train", words).backbone._target_.startswith(("detr_mini.vision.", "detr_mini.peers."))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["convnet", "efficientnet_lite0", "resnet18"])
def test_u10_another_backbone_trains_with_the_recipe_for_photographs(
    backbone: str, scenes_root: Path, tmp_path: Path
) -> None:
    words = [
        "experiment=finetune", f"backbone={backbone}", "data=shapes", f"data.root={scenes_root}", "data.size=64",
        "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}", "data.batch_size=4", "trainer.max_steps=2",
        "trainer.max_minutes=null", "trainer.precision=32-true", "model.queries=8", f"run_folder={tmp_path / 'run'}",
    ]  # fmt: skip
    words += ["backbone.weights=none"] if backbone == "resnet18" else []
    train(compose("train", words))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["images"] == 6
