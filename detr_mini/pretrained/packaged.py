"""Weights in small files: safetensors, half precision, all that a detector needs and nothing to resume from.

Some come with the package, by name (`names`): they work right after installation, offline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detr_mini.config.run_folder import whole
from detr_mini.errors import CheckpointError, UserError

SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent / "files"
KEY = "detr_mini"
LONGEST_HEADER = 1 << 24
KEPT = ("categories", "tokeniser", "attributes", "threshold", "operating_point", "image", "config", "recipe",
        "sources", "box_sizes", "tiles")  # fmt: skip
"""What stands beside the weights, as JSON in the file's header."""
FOR_TRAINING = ("data", "optim", "trainer", "logger", "debug", "experiment", "run_folder", "resume", "init", "name",
                "modules")  # fmt: skip
"""Parts of a config that say nothing of what the weights are."""


def names() -> tuple[str, ...]:
    """Of the weights that come with the package."""
    return tuple(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))


def boxed(name: str | Path) -> Path | None:
    """The file that comes with the package under `name`; None where there is none."""
    return FOLDER / f"{name}{SUFFIX}" if str(name) in names() else None


def pack(checkpoint: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: str | Path) -> int:
    """Write `weights` in half precision, with what `checkpoint` says of them; the file's bytes.

    UserError where another file is there, for example the published weights themselves.
    """
    path = Path(path)
    if path.exists() and not _is_ours(path):
        raise UserError(f"{path} is there already, and 'detr-mini export' did not write it; choose another output, or "
                        "remove it")  # fmt: skip
    content = {key: checkpoint.get(key) for key in KEPT}
    content["config"] = {key: part for key, part in checkpoint["config"].items() if key not in FOR_TRAINING}
    halved = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in weights.items()}
    with whole(path) as temporary:  # save_file would make it the owner's alone
        return temporary.write_bytes(save(halved, {KEY: json.dumps(content)}))


def _is_ours(path: Path) -> bool:
    try:
        check_header(path)
        with safe_open(str(path), "pt") as file:
            return KEY in (file.metadata() or {})
    except (OSError, ValueError, SafetensorError):
        return False


def is_packed(path: str | Path) -> bool:
    """Whether a file is one of `pack`, or so damaged that only `unpack` can say so."""
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LONGEST_HEADER:
                return True
            header = json.loads(stream.read(length))
        return not isinstance(header, dict) or KEY in header.get("__metadata__", {}) or len(header) < 2
    except (OSError, ValueError, TypeError, RecursionError):
        return True


def check_header(path: str | Path) -> None:
    """ValueError where a safetensors file claims a header that is longer than any: it would be read whole."""
    with open(path, "rb") as stream:
        if int.from_bytes(stream.read(8), "little") > LONGEST_HEADER:
            raise ValueError("its header is longer than that of any file of weights")


def unpack(path: str | Path) -> dict[str, Any]:
    """A file of `pack` as `read_checkpoint` has it, weights in float32. CheckpointError for any other file."""
    try:
        check_header(path)
        with safe_open(str(path), "pt") as file:
            content = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if any(tensor.is_complex() for tensor in tensors.values()):
            raise ValueError("it holds complex numbers")
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{path} is no file of 'detr-mini export': it is damaged, or another program's; get it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is no file of 'detr-mini export': it does not describe its weights; get it again"
        )
    weights = {f"model.{name}": t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return {**content, "state_dict": weights}
