"""Other places for a training's numbers, each written without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from detr_mini.config.compose import compose
from detr_mini.errors import UserError
from detr_mini.training.loggers import loggers
from training_parts import small_config


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever connects to another machine fails."""
    import socket

    connect = socket.socket.connect

    def only_here(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            raise AssertionError(f"a connection to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.chdir(tmp_path)


def test_mlflow_writes_its_files_into_the_run_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (logger,) = loggers(compose("train", ["logger=mlflow"]).logger, tmp_path / "run", "first")
    for step, value in ((10, 2.5), (20, 1.5)):
        logger.log_metrics({"train/loss": value}, step)
    logger.finalize("success")
    (written,) = (tmp_path / "run" / "mlruns").rglob("metrics/train/loss")
    assert [line.split()[1:] for line in written.read_text().splitlines()] == [["2.5", "10"], ["1.5", "20"]]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_wandb_writes_its_files_into_the_run_folder(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    (tmp_path / "run").mkdir()
    (logger,) = loggers(compose("train", ["logger=wandb"]).logger, tmp_path / "run", "first")
    logger.log_metrics({"train/loss": 2.5}, 10)
    wandb.finish()
    assert [*(tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_aim_writes_its_files_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim = pytest.importorskip("aim", reason="the extra 'aim' is not installed")
    monkeypatch.setenv("HOME", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (logger,) = loggers(compose("train", ["logger=aim"]).logger, tmp_path / "run", "first")
    for step, value in ((10, 2.5), (20, 1.5)):
        logger.log_metrics({"train/loss": value, "val/AP": value / 10}, step)
    logger.finalize("success")
    (metric,) = aim.Repo(str(tmp_path / "run")).query_metrics("metric.name == 'loss'").iter_runs()
    assert metric.run.name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("name", "extra"), [("wandb", "track"), ("mlflow", "track"), ("aim", "aim")])
def test_a_logger_that_is_not_installed_says_what_to_install(
    name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"logger={name} needs the package {name}.*\[{extra}\]"):
        loggers(compose("train", [f"logger={name}"]).logger, tmp_path, "first")


def test_only_what_was_asked_for_is_written(scenes_root: Path, tmp_path: Path) -> None:
    assert loggers(small_config(scenes_root).logger, tmp_path, "x") == []
    assert loggers({"tensorboard": False}, tmp_path, "x") == []  # a run of an earlier version
