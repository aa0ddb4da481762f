"""The data settings that a checkpoint or a run folder stores: what counts of them where it may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detr_mini.data.module import OF_TRAINING
from detr_mini.errors import CheckpointError, DataError
from detr_mini.images.model_input import IMAGE_KEYS
from detr_mini.shards.remote import is_address

FROM_TRAINING = ("stride", "seed", *IMAGE_KEYS)
"""Settings of the data module that the checkpoint decides, whatever the data's config says."""
CACHES = ("annotation_cache", "shard_cache")
"""Folders outside the dataset that reading it writes to."""


def data_settings(given: Any, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data module's settings: those of training (`trained`), replaced where `given` has a value other than None.

    Where `given` names a kind of data (`_target_`), the settings of training do not count. Augmentation and what the
    model decides are left out. `trained` may be a stranger's: images (`make`) and files of captions (`refer`) are made
    only below this folder, such files also where `given` says, caches are the user's own, and nothing is fetched:
    DataError for data at an address, unless `given` has a root.
    """
    chosen = {key: _without_none(value) for key, value in (given or {}).items()}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    if "_target_" in chosen:
        settings = {"train": None, "val": None, **chosen}
    elif trained is None and "root" in chosen:  # of a published detector: a folder in any layout
        settings = {"_target_": "detr_mini.data.DetectionData", "format": "auto", "train": "auto", "val": "auto",
                    "test": "auto", **chosen}  # fmt: skip
    elif trained is None:
        raise CheckpointError("the checkpoint holds no data config; choose the data with data=coco data.root=...")
    else:
        settings = {key: value for key, value in trained.items() if key not in CACHES or value is None}
        for key, value in chosen.items():
            old = settings.get(key)
            settings[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        root = str(settings.get("root"))
        if "root" not in chosen and is_address(root):
            raise DataError(f"the stored settings name data at {root}, and nothing is fetched unless a command names "
                            f"it: detr-mini evaluate checkpoint=... data.root={root} (compare and report need a folder "
                            "there, such as a copy of the shards)")  # fmt: skip
        if "root" in chosen or not _is_below_here(root):
            settings["make"] = None
        if isinstance(settings.get("refer"), Mapping):
            settings["refer"] = {**settings["refer"], "read_only": _read_only(settings, chosen)}
    return {key: value for key, value in settings.items() if key not in (*FROM_TRAINING, *OF_TRAINING)}


def _read_only(settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    """The splits with a file of captions that stored settings alone, not `chosen` ones, have outside this folder."""
    refer, files = settings["refer"], settings.get("captions")
    stored = [str(refer.get("folder") or settings.get("root"))]
    if "folder" in (chosen.get("refer") or ()) or (not refer.get("folder") and "root" in chosen):
        stored = []
    outside = []
    for split, file in files.items() if isinstance(files, Mapping) else ():
        parts = [] if Path(str(file)).is_absolute() else stored
        if not all(map(_is_below_here, parts if split in (chosen.get("captions") or ()) else [*parts, str(file)])):
            outside.append(split)
    return outside


def _is_below_here(root: str) -> bool:
    """Whether a path leads nowhere but below the current folder."""
    return not (Path(root).is_absolute() or ".." in Path(root).parts or root.startswith("~"))


def _without_none(value: Any) -> Any:
    """`value` without the Nones in it; None where nothing is left."""
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None} or None
    return value
