"""Published weights of `transformers` into a detector of other categories: rows of class heads go over by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detr_mini.errors import CheckpointError, some_of
from detr_mini.peers.kinds import Kind, build_library, library, own_settings
from detr_mini.text.names import rows_by_name

_LISTED = 8


def take_published(model: Any, kind: Kind, names: Sequence[str]) -> str:
    """Load `kind`'s published weights into `model` (the library's, for categories `names`); a sentence about it.

    What belongs to a category goes to the one of the same name (`rows_by_name`); others keep their random rows.
    CheckpointError where weights are missing or made for other settings.
    """
    given = _published(kind)
    own, heads = model.state_dict(), per_category(model)
    rows = rows_by_name(kind.labels, names)
    taken: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name not in given:
            raise CheckpointError(f"the weights of {kind.source} have no '{name}'; remove the settings in "
                                  "model.config and model.queries that need it")  # fmt: skip
        if name in heads:
            taken[name] = _rows_over(tensor, given[name], rows, len(names), len(kind.labels))
        elif tensor.shape != given[name].shape:
            raise CheckpointError(
                f"'{name}' of {kind.source} has shape {list(given[name].shape)}, with model.config and model.queries "
                f"it would have {list(tensor.shape)}; leave out what changes it"
            )
        else:
            taken[name] = given[name]
    _load(model, taken)
    return _said(kind, names, rows)


def per_category(model: Any) -> list[str]:
    """Of the library's model those tensors that have a row a category: they change with the number of categories."""
    own, other = model.state_dict(), copy.deepcopy(model.config)
    other.num_labels += 1
    return [name for name, t in build_library(other).state_dict().items() if t.shape != own[name].shape]


def published_weights(
    kind: Kind, tensors: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The published weights of `kind` by the library's own names of today, and the settings of their model.

    `tensors`: of a file that the library is not to read itself. CheckpointError where some are missing.
    """
    model = _published_model(kind, tensors)
    settings = own_settings(model.config)
    if "tie_word_embeddings" in settings:
        settings["tie_word_embeddings"] = False  # the file may have apart what the library ties
    return dict(model.state_dict()), settings


def _published(kind: Kind) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = _published_model(kind).state_dict()
    return weights


def _published_model(kind: Kind, tensors: Mapping[str, Tensor] | None = None) -> Any:
    source = str(kind.source)
    found: dict[str, Any] = {"use_safetensors": True, "local_files_only": Path(source).is_dir()}
    try:
        config = library().AutoConfig.from_pretrained(source, local_files_only=Path(source).is_dir())
        if tensors is not None:
            found = {"state_dict": dict(tensors), "config": config}
        backend = library().MODEL_FOR_OBJECT_DETECTION_MAPPING[type(config)]
        model, loading = backend.from_pretrained(
            source if tensors is None else None, dtype=torch.float32, output_loading_info=True, **found,
        )  # fmt: skip
    except Exception as error:  # files of tensors that are damaged raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the weights of {source} cannot be read ({reason}); a file model.safetensors is "
                              "needed, and no other is read") from error  # fmt: skip
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:
        raise CheckpointError(f"{source} does not hold a whole {kind.name}: {len(missing)} tensors are missing, such "
                              f"as '{missing[0]}'; give the weights of a detector")  # fmt: skip
    return model


def _rows_over(own: Tensor, given: Tensor, rows: Mapping[int, int], new: int, old: int) -> Tensor:
    """`own` with the rows of known categories from `given`, and what comes after the categories ("no object")."""
    tensor = own.clone()
    for to, origin in rows.items():
        tensor[to] = given[origin]
    tensor[new:] = given[old : old + len(own) - new]
    return tensor


def _load(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Load `weights`; parameters that the library holds to be one, and that these weights have apart, become two."""
    model.load_state_dict(weights)
    if all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()):
        return
    pairs: dict[str, str] = dict(model.all_tied_weights_keys)
    for name in pairs:
        _put(model, name, nn.Parameter(model.get_parameter(name).detach().clone()))
    model.load_state_dict(weights)
    tied = [*dict.fromkeys(pairs.values()), *pairs]
    for index, name in enumerate(tied):
        twin = next((first for first in tied[:index] if torch.equal(weights[first], weights[name])), None)
        if twin is not None:
            _put(model, name, model.get_parameter(twin))
    model.config.tie_word_embeddings = False


def _put(model: Any, name: str, parameter: nn.Parameter) -> None:
    place, _, last = name.rpartition(".")
    setattr(model.get_submodule(place), last, parameter)


def _said(kind: Kind, names: Sequence[str], rows: Mapping[int, int]) -> str:
    known, new = [names[i] for i in rows], [name for i, name in enumerate(names) if i not in rows]
    size = dict((kind.images or {}).get("size") or {})
    sides = ", ".join(f"{key} {value}" for key, value in size.items() if value)
    return (
        f"weights of {kind.source} ({kind.name}, {len(kind.labels)} categories): heads carried over by name for "
        f"{len(known)} of {len(names)} categories{_listed(known)}; new: {len(new)}{_listed(new)}"
        + (f"; their images were of {sides}" if sides else "")
    )


def _listed(names: Sequence[str]) -> str:
    return f" ({some_of(names, _LISTED)})" if names else ""
