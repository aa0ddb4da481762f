"""Where the files of configs/ are, and what there is to choose from."""

from __future__ import annotations

from pathlib import Path

from detr_mini.errors import ConfigError


def config_folder() -> Path:
    """`configs/`: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"there are no configs in {here} or beside it; install detr-mini again")


def groups() -> list[str]:
    """The folders of configs/, from which `group=option` chooses a file."""
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The files of a group, without their ending."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
