"""A composed config as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def plain_dict(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """A copy of a section: dicts, lists, strings, numbers, true, false and null. `resolve`: replace `${key}`, too."""
    from omegaconf import OmegaConf

    section = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items()}
