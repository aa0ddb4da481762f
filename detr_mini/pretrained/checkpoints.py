"""The one reader of checkpoints. Tensors and plain values only: a file that holds code is refused, never run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from detr_mini.config import parts
from detr_mini.errors import CheckpointError, ConfigError, nearest, some_of
from detr_mini.images.tiling import SMALLEST, BoxSizes, are_box_sizes
from detr_mini.models.build import LARGEST_SIDE
from detr_mini.pretrained import hub, published
from detr_mini.pretrained import packaged as box
from detr_mini.structures import Categories, OperatingPoint
from detr_mini.tensor_files import load_weights

REQUIRED = ("state_dict", "categories", "image", "config")
"""Keys without which a checkpoint cannot be used. DESIGN's others are there for resuming."""
PROGRAM = ("{} is an exported program, whose weights cannot be trained or read out; give the run or the checkpoint "
           "that it was made from, or a .safetensors file")  # fmt: skip
PREFIX = "model."
_LISTED = 10


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file of ours, or of a run folder's best.ckpt (last.ckpt where there is no best).

    Also of a .safetensors file of `detr-mini export`, and of weights that come with the package, by name (`box`); and
    of a published detector (`published`): a file, a folder, or a name of the hub, from which it is downloaded. Tensors
    are on the CPU.
    CheckpointError where nothing is there, where the file is cut off, and where it holds no detector.
    """
    file = checkpoint_file(path)
    if file.suffix in (".onnx", ".pt2", ".xml"):
        raise CheckpointError(PROGRAM.format(file))
    if not file.exists():
        folder, revision = hub.fetch(str(path))
        return checked(published.read_folder(folder, str(path), revision), file)
    if file.is_dir():
        return checked(published.read_folder(file), file)
    if file.suffix == box.SUFFIX:
        return checked(box.unpack(file) if box.is_packed(file) else published.read_file(file), file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files, which the error speaks of
            content = load_weights(file)
    except CheckpointError as error:
        raise CheckpointError(_unreadable(file, error)) from error
    tensors = published.tensors_in(content)
    if tensors is not None and "config" not in content:
        return checked(published.read_file(file, tensors), file)
    missing = [key for key in REQUIRED if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise CheckpointError(
            f"{file} is no checkpoint of detr-mini (it has no '{missing[0]}'); give a best.ckpt or last.ckpt of a run"
        )
    return checked(content, file)


def checked(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """`content` of a checkpoint file, each part of the kind that a training writes. CheckpointError for another."""
    for key, right in _RIGHT.items():
        if not right(content.get(key)):
            raise CheckpointError(f"{file} is no checkpoint of detr-mini: its '{key}' is not what a training writes; "
                                  "give a best.ckpt or last.ckpt of a run")  # fmt: skip
    try:
        return {**content, "config": parts.plain(content["config"], "config")}
    except ConfigError as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _is_average(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and _are_weights(value.get("weights") or {}))


def _are_categories(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    ids, names = value.get("ids"), value.get("names")
    if not isinstance(ids, list | tuple) or not isinstance(names, list | tuple):
        return False
    whole = all(type(i) is int for i in ids) and all(isinstance(name, str) for name in names)
    return whole and len(ids) == len(names) == len({*ids}) == len({*names})


def _is_image(value: Any) -> bool:
    def is_side(side: Any) -> bool:
        return type(side) is int and 1 <= side <= LARGEST_SIDE

    if not isinstance(value, Mapping) or not is_side(value.get("size")):
        return False
    for numbers in (value.get("mean"), value.get("std")):
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            return False
        if not all(isinstance(n, int | float) and isfinite(n) for n in numbers):
            return False
    exact, multiple = value.get("exact"), value.get("multiple", 1)
    whole = exact is None or (isinstance(exact, list | tuple) and len(exact) == 2 and all(map(is_side, exact)))
    sides = (value["shorter_side"],) if value.get("shorter_side") is not None else ()
    return whole and all(map(is_side, (*sides, multiple))) and min(value["std"]) > 0


def _are_sources(value: Any) -> bool:
    """What `formats.licences` gives; None in checkpoints of older versions."""
    return value is None or (
        isinstance(value, list)
        and all(isinstance(one, dict) and {"name", "images", "licence"} <= one.keys() for one in value)
        and all(isinstance(one["name"], str) and isinstance(one["licence"], str | None) for one in value)
    )


def box_sizes(checkpoint: Mapping[str, Any]) -> BoxSizes | None:
    """How large the boxes of the training were; None where the file does not say."""
    kept = checkpoint.get("box_sizes")
    return None if kept is None else BoxSizes(**kept)


_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "state_dict": _are_weights,
    "averaged": _is_average,
    "categories": _are_categories,
    "image": _is_image,
    "config": lambda value: isinstance(value, Mapping),
    "tokeniser": lambda value: value is None or isinstance(value, dict),
    "attributes": lambda value: value is None or (isinstance(value, list) and all(isinstance(w, str) for w in value)),
    "sources": _are_sources,
    "box_sizes": lambda value: value is None or are_box_sizes(value),
    "tiles": lambda value: value is None or (isinstance(value, int) and value >= SMALLEST),
    "kept": lambda value: value is None or isinstance(value, Mapping),
    "pseudo": lambda value: value is None or isinstance(value, Mapping),
    "threshold": lambda value: value is None or (isinstance(value, int | float) and isfinite(value)),
}
"""What each part of a checkpoint must be; one that is not there is None."""


def checkpoint_file(path: str | Path) -> Path:
    """The file that `path` means: itself, or the best.ckpt, else the last.ckpt, of the run folder it is.

    A folder of transformers is itself, and so is a name of the hub, under which no file is. A name of weights that
    come with the package is their file, where nothing else bears it.
    """
    given, path = path, Path(path).expanduser()
    packaged = box.boxed(given)
    if packaged is not None and not path.exists():
        return packaged
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / name).is_file():
                return path / name
        if published.is_folder(path):
            return path
        if (path / "model.xml").is_file():
            raise CheckpointError(PROGRAM.format(path))
        raise CheckpointError(f"the folder {path} holds neither best.ckpt nor last.ckpt; give a run folder or a file "
                              "(or a folder of transformers, with config.json and model.safetensors)")  # fmt: skip
    if hub.is_name(str(given)):
        return path
    if not path.is_file():
        known = f" (with the package come: {', '.join(box.names())})" if box.names() else ""
        raise CheckpointError(f"there is no checkpoint {path}{nearest(str(given), box.names())}; check the path{known}")
    return path


def _unreadable(file: Path, error: Exception) -> str:
    if not os.access(file, os.R_OK):
        return f"{file} may not be read; check the file's rights"
    size = file.stat().st_size
    with file.open("rb") as stream:
        begins_as_archive = stream.read(4) == b"PK\x03\x04"
    if not size:
        return f"{file} is empty; the writing of this checkpoint was cut off, use another one"
    if begins_as_archive and not _ends_as_archive(file):
        return f"{file} is cut off after {size:,} bytes; copy it again, or use another checkpoint"
    named = re.search(r"it names ([\w.]+)", str(error))
    code = f" (it names {named[1]}, which is not loaded)" if named else ""
    return f"{file} is no checkpoint of detr-mini: it is damaged, or holds more than tensors and plain values{code}"


def _ends_as_archive(file: Path) -> bool:
    """Whether a zip file's directory is there, which stands at its end."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 66_000))
        return b"PK\x05\x06" in stream.read()


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights by the model's own names, or the plain ones where no average was kept."""
    averaged = checkpoint.get("averaged") or {}
    if averaged.get("weights"):
        return dict(averaged["weights"])
    return model_weights(checkpoint)


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain weights by the model's own names."""
    return {name[len(PREFIX) :]: v for name, v in checkpoint["state_dict"].items() if name.startswith(PREFIX)}


def operating_point(checkpoint: Mapping[str, Any]) -> OperatingPoint:
    """What the detector reports: chosen on val, or the defaults where the file says nothing (or nothing that fits)."""
    kept = checkpoint.get("operating_point")
    kept = kept if isinstance(kept, Mapping) else {}
    values = {key: _share(kept.get(key)) for key in ("threshold", "suppress_iou")}
    return OperatingPoint(**{key: value for key, value in values.items() if value is not None})


def _share(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if fits else None


def check_categories(checkpoint_categories: Categories, data_categories: Categories) -> None:
    """CheckpointError, naming what differs, unless both have the same names. Ids are the data's own business."""
    known, wanted = set(checkpoint_categories.names), set(data_categories.names)
    if known == wanted:
        return
    parts = []
    if wanted - known:
        parts.append(f"the checkpoint does not know {quoted(wanted - known)}")
    if known - wanted:
        parts.append(f"the data lack its {quoted(known - wanted)}")
    raise CheckpointError(
        f"the checkpoint has {len(known)} categories, the data have {len(wanted)}, and they differ: "
        f"{'; '.join(parts)}; use a checkpoint of these data, or train one"
    )


def check_knows(known: Sequence[str], names: Iterable[str]) -> None:
    """CheckpointError where `names` (of categories with objects) are not among a checkpoint's `known` ones."""
    unknown = set(names) - set(known)
    if unknown:
        raise CheckpointError(
            f"the data have objects of {quoted(unknown)}, which the checkpoint was not trained for (it knows "
            f"{quoted(known)}); use a checkpoint of these data, or train one"
        )


def quoted(names: Iterable[str]) -> str:
    """Names for a sentence, the first ones of many."""
    return some_of([repr(name) for name in sorted(names)], _LISTED)
