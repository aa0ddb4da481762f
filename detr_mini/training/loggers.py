"""Where a training's numbers go beside history.csv: TensorBoard, Weights & Biases, MLflow, Aim; without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.errors import ConfigError, UserError, install


def loggers(settings: Mapping[str, Any], folder: Path, name: str) -> list[Any]:
    """Lightning's loggers that a config's `logger` section asks for; they write into `folder`.

    `settings`: tensorboard (true: where the package is installed), wandb, mlflow and aim (null, or their settings).
    UserError where a package that was asked for is missing, ConfigError where its server cannot be used.
    """
    found: list[Any] = []
    if settings.get("tensorboard"):
        found += _tensorboard(folder)
    for key, extra, make in (("wandb", "track", _wandb), ("mlflow", "track", _mlflow), ("aim", "aim", _aim)):
        if settings.get(key) is None:
            continue
        try:
            found.append(make(settings[key], folder, name))
        except ModuleNotFoundError as error:
            raise UserError(f"logger={key} needs the package {key}, which is not installed; install it with: "
                            f"{install(extra)}") from error  # fmt: skip
    return found


def _tensorboard(folder: Path) -> list[Any]:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return []
    from pytorch_lightning.loggers import TensorBoardLogger

    return [TensorBoardLogger(folder, name="tensorboard", version="")]


def _wandb(settings: Mapping[str, Any], folder: Path, name: str) -> Any:
    """Offline, it writes folder/wandb, which `wandb sync` sends later."""
    import wandb  # noqa: F401
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(name, save_dir=folder, offline=settings["offline"], project=settings["project"], log_model=False)


def _mlflow(settings: Mapping[str, Any], folder: Path, name: str) -> Any:
    """Without a server, it writes folder/mlruns."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = settings["uri"]
    if uri is None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.7 and later advise against it
        uri = (folder / "mlruns").resolve().as_uri()
    import mlflow  # noqa: F401
    from pytorch_lightning.loggers import MLFlowLogger

    try:
        return MLFlowLogger(settings["project"], name, tracking_uri=uri)
    except (OSError, ValueError) as error:
        raise ConfigError(f"logger.mlflow.uri is {uri}, which cannot be used ({error}); leave it null for files in the "
                          "run folder") from error  # fmt: skip


def _aim(settings: Mapping[str, Any], folder: Path, name: str) -> Any:
    """Without another place, it writes folder/.aim, which `aim up --repo folder` shows."""
    import aim  # noqa: F401
    from aim.pytorch_lightning import AimLogger

    return AimLogger(
        settings["repo"] or str(folder),
        settings["project"],
        run_name=name,
        context_prefixes={"subset": {split: f"{split}/" for split in ("train", "val", "test")}},
        system_tracking_interval=None,
        log_system_params=False,
        capture_terminal_logs=False,
    )
