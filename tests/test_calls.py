"""The verbs as Python functions: the same settings, the same results, exceptions in place of exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import detr_mini
from detector_parts import MODEL
from detr_mini.config.compose import compose
from detr_mini.config.words import words_of
from detr_mini.errors import CheckpointError, ConfigError


def test_keyword_arguments_compose_the_config_of_the_command_line(tmp_path: Path) -> None:
    made = compose("train", words_of({
        "data": {"root": tmp_path / "it's [mine]", "size": 96}, "optim": "adamw", "seed": 3, "name": "null",
        "init": None, "augment": None, "trainer.max_minutes": 2.5, "modules": [],
    }))  # fmt: skip
    typed = ["optim=adamw", f"data.root={tmp_path}/it's [mine]", "data.size=96", "seed=3", "name='null'",
             "augment=null", "trainer.max_minutes=2.5"]  # fmt: skip
    assert made == compose("train", typed)


def test_a_split_is_a_mapping_in_python_too() -> None:
    train = {"images": "new photos", "annotations": "train.json"}
    made = compose("train", words_of({"experiment": "finetune", "data": {"train": train, "val": None, "test": train}}))
    assert (made.data.train, made.data.val, made.data.test) == (train, None, train)


def test_a_mapping_is_taken_where_the_configs_have_null() -> None:
    made = compose("train", words_of({"experiment": "finetune", "data": {"subset": {"share": 0.1, "seed": 2}}}))
    assert made.data.subset == {"share": 0.1, "seed": 2}
    made = compose("train", words_of({"optim": {"optimizer": {"lr": 0.5}}}))
    assert made.optim.optimizer.lr == 0.5 and made.optim.optimizer._target_
    with pytest.raises(ConfigError, match=r"optim\.optimizer\.lrr does not exist"):
        compose("train", words_of({"optim": {"optimizer": {"lrr": 0.5}}}))


def test_mappings_from_words_to_words_are_values() -> None:
    names = {"white blood cell": "white cell", "RBC": "red cell"}
    (word,) = words_of({"data": {"refer": {"names": names}}})
    assert OmegaConf.to_container(compose("data_refer", [word.removeprefix("++data.refer.")]).names) == names


def test_a_wrong_key_or_value_is_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.sizze does not exist; did you mean"):
        detr_mini.train(data={"sizze": 3})
    with pytest.raises(ConfigError, match="is no value of a setting"):
        detr_mini.train(seed=object())
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        detr_mini.evaluate(checkpoint=tmp_path / "none")
    with pytest.raises(ConfigError, match="output is not set"):
        detr_mini.export(checkpoint=tmp_path / "none")
    with pytest.raises(ConfigError, match="several processes"):
        detr_mini.train(trainer={"devices": 2})


def test_a_checkpoint_is_exported_from_python(checkpoint: Path, tmp_path: Path) -> None:
    written = detr_mini.export(checkpoint=checkpoint, output=tmp_path / "small.safetensors")
    loaded = detr_mini.load(written)
    assert loaded.categories.names == ("bolt", "nut", "washer")
    assert "million parameters" in repr(loaded) and "64 pixels" in repr(loaded) and "threshold" in repr(loaded)
    assert MODEL["queries"] == 8


def test_importing_the_package_stays_light() -> None:
    code = "import sys, detr_mini; assert not {'torch', 'hydra', 'yaml', 'jinja2', 'starlette'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
