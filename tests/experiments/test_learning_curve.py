"""The verb `benchmark learning_curve`: one run a share, measured on the same images, and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from PIL import Image

from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError
from detr_mini.experiments.learning_curve import learning_curve
from detr_mini.training.callbacks import Checkpoints
from detr_mini.training.history import History
from training_parts import overrides


def test_a_run_a_share_and_finished_ones_stay(scenes_root: Path, tmp_path: Path) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith(("run_folder", "trainer.max"))]
    words += ["trainer.max_steps=2", "trainer.max_epochs=null", f"output={tmp_path / 'curve'}"]
    folder = learning_curve(compose("learning_curve", [*words, "shares=[0.5]"]))
    first = (folder / "8-images" / "metrics.json").read_bytes()
    folder = learning_curve(compose("learning_curve", [*words, "shares=[1.0,0.5]"]))
    assert (folder / "8-images" / "metrics.json").read_bytes() == first
    rows = json.loads((folder / "learning_curve.json").read_text())
    assert [row["images"] for row in rows] == [8, 16]
    assert all(row["AP_low"] <= row["AP"] <= row["AP_high"] for row in rows)
    assert json.loads((folder / "8-images" / "data_report.json").read_text())["splits"]["train"]["images"] == 8
    with Image.open(folder / "learning_curve.png") as picture:
        assert min(picture.size) > 300


def test_a_share_is_of_the_images_also_where_they_are_cut_into_tiles(scenes_root: Path, tmp_path: Path) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith(("run_folder", "trainer.max"))]
    words += ["trainer.max_steps=2", "trainer.max_epochs=null", f"output={tmp_path / 'curve'}", "data.tiles=48"]
    folder = learning_curve(compose("learning_curve", [*words, "shares=[0.5]"]))
    assert [row["images"] for row in json.loads((folder / "learning_curve.json").read_text())] == [8]
    assert OmegaConf.load(folder / "8-images" / "config.yaml").data.limit_train == 8


@pytest.mark.parametrize("shares", ["[]", "[0.0,1.0]", "[2.0]"])
def test_shares_that_make_no_sense_are_refused(scenes_root: Path, tmp_path: Path, shares: str) -> None:
    words = [*overrides(scenes_root), f"shares={shares}", f"output={tmp_path / 'curve'}"]
    with pytest.raises(ConfigError, match="shares"):
        learning_curve(compose("learning_curve", words))
    assert not (tmp_path / "curve").exists()


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(scenes_root: Path, tmp_path: Path) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith(("run_folder", "trainer.max"))]
    words += ["trainer.max_steps=1", "trainer.max_epochs=null", f"output={tmp_path / 'curve'}", "shares=[0.5]"]
    learning_curve(compose("learning_curve", words))
    with pytest.raises(ConfigError, match=r"curve were trained with data\.batch_size=4, not 2; give another"):
        learning_curve(compose("learning_curve", [*words, "data.batch_size=2"]))
    learning_curve(compose("learning_curve", [*words, "data.cache_megabytes=1"]))


def test_an_interrupted_curve_continues(scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in overrides(scenes_root) if not word.startswith(("run_folder", "trainer.max"))]
    words += ["trainer.max_steps=8", "trainer.max_epochs=null", f"output={tmp_path / 'curve'}", "shares=[1.0]"]
    end = Checkpoints.on_train_epoch_end

    def stop(self: Checkpoints, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._requests.stop = True
        end(self, trainer, pl_module)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            learning_curve(compose("learning_curve", words))
    run = tmp_path / "curve" / "16-images"
    assert (run / "last.ckpt").is_file() and not (run / "metrics.json").exists()
    folder = learning_curve(compose("learning_curve", words))
    assert [row["images"] for row in json.loads((folder / "learning_curve.json").read_text())] == [16]
    steps = [int(row["step"]) for row in History(run / "history.csv").rows()]
    assert steps == sorted(steps) and steps[-1] == 8
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["16-images"]


def test_a_curve_of_nothing_measured_and_a_resumed_one_are_refused(scenes_root: Path, tmp_path: Path) -> None:
    words = [*overrides(scenes_root), "trainer.max_steps=1", f"output={tmp_path / 'curve'}"]
    with pytest.raises(ConfigError, match="neither val nor test"):
        learning_curve(compose("learning_curve", [*words, "data.val=null", "data.test=null"]))
    with pytest.raises(ConfigError, match="resume is for one training"):
        learning_curve(compose("learning_curve", [*words, "resume=somewhere"]))
    assert not (tmp_path / "curve").exists()
