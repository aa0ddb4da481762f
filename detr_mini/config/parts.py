"""The closed table of what a config may build, by name, and the builder that reads it.

Checkpoints and run folders are untrusted files, and their configs name classes. Only names in this table are built,
from plain values; any other name is refused before a module is imported. A user's own class is built only if the
command names its module (`modules=[my_models]`).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from detr_mini.errors import ConfigError, UserError, nearest

TABLE: Mapping[str, Mapping[str, str]] = {
    "model": {
        "detr_mini.models.MiniDETR": "detr_mini.models.mini",
        "detr_mini.models.GroundedDETR": "detr_mini.models.grounded",
        "detr_mini.models.DETR": "detr_mini.models.detr",
        "detr_mini.peers.HFDetector": "detr_mini.peers.detector",
    },
    "backbone": {
        "detr_mini.vision.ConvNet": "detr_mini.vision.convnet",
        "detr_mini.vision.efficientnet_lite0": "detr_mini.vision.backbone",
        "detr_mini.vision.mobilenet_v3": "detr_mini.vision.backbone",
        "detr_mini.vision.resnet": "detr_mini.vision.backbone",
        "detr_mini.peers.OwnBackbone": "detr_mini.peers.detector",
    },
    "criterion": {
        "detr_mini.losses.DetectionCriterion": "detr_mini.losses.criterion",
        "detr_mini.losses.GroundedCriterion": "detr_mini.losses.grounding",
        "detr_mini.losses.SetCriterion": "detr_mini.losses.set_criterion",
        "detr_mini.peers.PeerCriterion": "detr_mini.peers.loss",
    },
    "formula": {
        "detr_mini.losses.focal_cost": "detr_mini.losses.matcher",
        "detr_mini.losses.giou_cost": "detr_mini.losses.matcher",
        "detr_mini.losses.softmax_cost": "detr_mini.losses.matcher",
        "detr_mini.losses.matchability_loss": "detr_mini.losses.criterion",
        "detr_mini.losses.no_object_cross_entropy": "detr_mini.losses.criterion",
    },
    "optimizer": {"detr_mini.optim.adamw": "detr_mini.optim.groups", "detr_mini.optim.muon": "detr_mini.optim.muon"},
    "data": {
        "detr_mini.data.DetectionData": "detr_mini.data.module",
        "detr_mini.captions.CaptionData": "detr_mini.captions.datamodule",
    },
    "transform": {
        **{
            f"detr_mini.data.{name}": "detr_mini.data.augment"
            for name in ("RandomHorizontalFlip", "RandomVerticalFlip", "RandomTranspose", "RandomQuarterTurn",
                         "RandomChannelPermutation", "RandomInversion", "RandomScaleCrop")
        },
        **{f"detr_mini.data.{name}": "detr_mini.data.mosaic" for name in ("Mosaic", "Mixup", "RandomWindow")},
        "detr_mini.data.RandomColourJitter": "detr_mini.data.colour",
    },
    "sweep": {
        "detr_mini.experiments.Serial": "detr_mini.experiments.launch",
        "detr_mini.experiments.Joblib": "detr_mini.experiments.launch",
        "detr_mini.experiments.Optuna": "detr_mini.experiments.search",
        "detr_mini.experiments.Submitit": "detr_mini.experiments.cluster",
    },
}  # fmt: skip
"""Kind of part, public name, and the module that defines it today. Moving a part changes this line only."""
_FORMER: Mapping[str, tuple[str, ...]] = {
    "detr_mini.models.mini": ("detr_mini.models.MiniDETR",),
    "detr_mini.models.grounded": ("detr_mini.models.GroundedDETR",),
    "detr_mini.models.detr": ("detr_mini.models.DETR",),
    "detr_mini.models.hf": ("detr_mini.peers.HFDetector", "detr_mini.peers.OwnBackbone"),
    "detr_mini.models": ("detr_mini.peers.HFDetector", "detr_mini.peers.OwnBackbone"),
    "detr_mini.vision.convnet": ("detr_mini.vision.ConvNet",),
    "detr_mini.vision.backbone": tuple(name for name in TABLE["backbone"] if name.startswith("detr_mini.vision.")),
    "detr_mini.losses.criterion": ("detr_mini.losses.DetectionCriterion", "detr_mini.losses.matchability_loss",
                                   "detr_mini.losses.no_object_cross_entropy"),
    "detr_mini.losses.grounding": ("detr_mini.losses.GroundedCriterion",),
    "detr_mini.losses.matcher": ("detr_mini.losses.focal_cost", "detr_mini.losses.softmax_cost"),
    "detr_mini.losses.peer": ("detr_mini.peers.PeerCriterion",),
    "detr_mini.losses": ("detr_mini.peers.PeerCriterion",),
    "detr_mini.optim.groups": ("detr_mini.optim.adamw",),
    "detr_mini.optim.muon": ("detr_mini.optim.muon",),
    "detr_mini.data.module": ("detr_mini.data.DetectionData",),
    "detr_mini.data.captions.module": ("detr_mini.captions.CaptionData",),
    "detr_mini.data": ("detr_mini.captions.CaptionData",),
    "detr_mini.data.transforms": tuple(TABLE["transform"]),
    "detr_mini.data.windows": tuple(TABLE["transform"]),
    "detr_mini.sweeps.launch": ("detr_mini.experiments.Serial", "detr_mini.experiments.Joblib"),
    "detr_mini.sweeps.search": ("detr_mini.experiments.Optuna",),
    "detr_mini.sweeps.cluster": ("detr_mini.experiments.Submitit",),
    "detr_mini.sweeps": tuple(TABLE["sweep"]),
}  # fmt: skip
"""Modules that defined these parts when older checkpoints and the packaged weights were written."""
OLDER: Mapping[str, str] = {
    f"{module}.{name.rpartition('.')[2]}": name for module, names in _FORMER.items() for name in names
}
"""Older dotted path: today's public name."""
INSIDE: Mapping[str, tuple[str, ...]] = {"criterion": ("formula",), "data": ("transform",), "transform": ("transform",)}
"""Kinds that may appear inside a part's own config."""
TRANSFORMS = "torchvision.transforms.v2"
"""data.augment may name every transform class of this module except `Lambda`, which takes code."""
DEEPEST, MOST, LONGEST, LARGEST = 40, 200_000, 1_000_000, 2**63
"""Limits of a plain config: levels, values, characters of a string, and size of a whole number."""
CONVERSIONS = ("all", "none", "partial", "object")
"""Values of `_convert_` in older files. They change nothing, because every value is plain."""
_NAMED: set[str] = set()


def name_modules(modules: Iterable[str]) -> None:
    """Let configs name classes of these modules from now on, in this process: the user's command named them."""
    for module in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", str(module)):
            raise ConfigError(f"modules holds {module!r}, which is not a module name; write modules=[my_models]")
        _NAMED.add(str(module))


def plain(config: Any, where: str) -> Any:
    """A copy of `config` with plain values only: sections, lists, strings, numbers, true, false and null.

    ConfigError for anything else: interpolations ("${...}"), a key that steers a builder, a section that contains
    itself, and excessive sizes. Older names of parts become today's, so that configs of any age compare.
    `_partial_` and `_convert_` of older files pass here; `build_part` reads them.
    """
    return _plain(config, where, 0, [0])


def _plain(node: Any, where: str, depth: int, count: list[int]) -> Any:
    count[0] += 1
    if depth > DEEPEST or count[0] > MOST:
        raise ConfigError(
            f"{where[:100]} is nested too deeply or holds too many values to be a config; use another file"
        )
    if node is None or isinstance(node, bool | float):
        return node
    if isinstance(node, int):
        if abs(node) > LARGEST:
            raise ConfigError(f"{where} is a whole number of more than 63 bits, larger than any setting can be")
        return node
    if isinstance(node, str):
        if "${" in node or len(node) > LONGEST:
            raise ConfigError(f"{where} is '{node[:80]}', an interpolation or too long; write the value itself")
        return node
    if isinstance(node, Mapping):
        for key in node:
            if not isinstance(key, str | int) or (re.fullmatch(r"_[a-z]+_", str(key)) and key not in _STEERING):
                raise ConfigError(f"{where} holds the key {str(key)[:80]!r}, which is not a setting; remove it")
        settings = {key: _plain(value, f"{where}.{key}", depth + 1, count) for key, value in node.items()}
        if isinstance(settings.get("_target_"), str):
            settings["_target_"] = OLDER.get(settings["_target_"], settings["_target_"])
        return settings
    if isinstance(node, Sequence) and not isinstance(node, bytes | bytearray | memoryview | range):
        if count[0] + len(node) <= MOST and all(type(value) is int and abs(value) <= LARGEST for value in node):
            count[0] += len(node)
            return list(node)  # such as the ids of a subset
        return [_plain(value, f"{where}[{index}]", depth + 1, count) for index, value in enumerate(node)]
    raise ConfigError(f"{where} is a {type(node).__name__}; only plain values are read here")


_STEERING = ("_target_", "_partial_", "_convert_")


def find(
    target: Any, where: str, kinds: Iterable[str] = tuple(TABLE), modules: Iterable[str] = ()
) -> Callable[..., Any]:
    """The class or function that the name `target` means. ConfigError, before any import, for an unknown name.

    `kinds`: the kinds it may be. `modules`: the user's own, besides those of `name_modules`.
    """
    name = OLDER.get(target, target) if isinstance(target, str) else ""
    for kind in kinds:
        if name in TABLE[kind]:
            found: Callable[..., Any] = getattr(import_module(TABLE[kind][name]), name.rpartition(".")[2])
            return found
    module, _, last = name.rpartition(".")
    if module == TRANSFORMS and "transform" in kinds and last != "Lambda":
        from torchvision.transforms import v2

        transform: Any = getattr(v2, last, None)
        if inspect.isclass(transform) and issubclass(transform, v2.Transform):
            return transform
    for named in {*_NAMED, *modules}:
        if module == named or module.startswith(f"{named}."):
            return _of_user(module, last, named, where)
    raise ConfigError(_refusal(str(target)[:100], where, tuple(kinds)))


def _of_user(module: str, name: str, named: str, where: str) -> Callable[..., Any]:
    here = str(Path.cwd())
    sys.path.append(here)  # last, so that a file here never replaces an installed package
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}._target_ names '{module}.{name}', which cannot be imported ({error})") from error
    finally:
        sys.path.remove(here)
    home = str(getattr(found, "__module__", ""))  # 'my_models.torch' is in that module but not its own
    if not callable(found) or not (home == named or home.startswith(f"{named}.")):
        raise ConfigError(
            f"{where}._target_ is '{module}.{name}', which {named} does not define; name a class of its own"
        )
    return found


def _refusal(target: str, where: str, kinds: tuple[str, ...]) -> str:
    known = sorted(name for kind in kinds for name in TABLE[kind])
    module = target.rpartition(".")[0]
    own = f"; if it is your own class, add modules=[{module}]" if re.fullmatch(r"[\w.]+", module) else ""
    shown = f", for example {', '.join(known[:4])}" if known else ""
    return (f"{where}._target_ is '{target}', which is not in the list of what a config may build{shown}"
            f"{nearest(target, known)}{own}")  # fmt: skip


def build_part(what: str, config: Mapping[str, Any], *, modules: Iterable[str] = (), **parts: Any) -> Any:
    """Build what `config` names by `_target_`, from its other keys and from `parts`, which are not settings.

    `what`: "model", "backbone", "criterion", "data", "optim.optimizer" or "sweep"; errors quote it, and its last word
    is the kind. ConfigError for a name outside the table, an unknown key, and a value that is not plain or does not
    fit.
    """
    settings, kind = plain(config, what), what.rpartition(".")[2]
    if "_target_" not in settings:
        raise ConfigError(f"the {what} config has no _target_; name the class to build")
    refuse_unknown(settings, what, (kind,), modules)
    return _build(settings, what, (kind,), modules, parts)


def refuse_unknown(node: Any, where: str, kinds: tuple[str, ...], modules: Iterable[str] = ()) -> None:
    """ConfigError for a name that is not allowed, at any level of a plain config. Nothing is built yet."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            refuse_unknown(value, f"{where}[{index}]", kinds, modules)
    if not isinstance(node, dict):
        return
    inside = kinds
    if "_target_" in node:
        find(node["_target_"], where, kinds, modules)
        kind = _kind_of(node["_target_"], kinds)
        inside = tuple(TABLE) if kind is None else INSIDE.get(kind, ())
        if kind is not None and node.get("_partial_", kind == "formula") is not (kind == "formula"):
            raise ConfigError(f"{where}._partial_ is not a setting of {node['_target_']}; remove it")
        if node.get("_convert_", "all") not in CONVERSIONS:
            raise ConfigError(f"{where}._convert_ is not a setting; remove it")
    elif any(key in node for key in _STEERING):
        raise ConfigError(f"{where} has _partial_ or _convert_ but no _target_; remove it")
    for key, value in node.items():
        refuse_unknown(value, f"{where}.{key}", inside, modules)


def _kind_of(target: str, kinds: Iterable[str]) -> str | None:
    """The kind of a name that `find` has found, in a plain config; None for a user's own class."""
    if target.startswith(f"{TRANSFORMS}."):
        return "transform"
    return next((kind for kind in kinds if target in TABLE[kind]), None)


def _build(node: Any, where: str, kinds: tuple[str, ...], modules: Iterable[str], parts: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_build(value, f"{where}[{index}]", kinds, modules, {}) for index, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, f"{where}.{key}", kinds, modules, {}) for key, value in node.items()}
    target = node["_target_"]
    made, kind = find(target, where, kinds, modules), _kind_of(target, kinds)
    inside = tuple(TABLE) if kind is None else INSIDE.get(kind, ())
    known, settings = takes(made), {key: value for key, value in node.items() if key not in _STEERING}
    for key in settings:
        if known is not None and key not in known:
            raise ConfigError(f"{where}.{key} is not a setting of {target}{nearest(str(key), sorted(known))}")
    arguments = {key: _build(value, f"{where}.{key}", inside, modules, {}) for key, value in settings.items()}
    own_formula = kind is None and kinds == ("formula",)
    if kind == "formula" or own_formula or node.get("_partial_"):
        return partial(made, **arguments)
    try:
        return made(**{**arguments, **parts})
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"the {where} of {target} cannot be built: {reason}") from error


def takes(made: Callable[..., Any]) -> set[str] | None:
    """The keyword arguments of `made`; None where it takes any."""
    parameters = inspect.signature(made).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters)
