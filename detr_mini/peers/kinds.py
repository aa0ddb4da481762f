"""The detectors of `transformers`: which kinds there are, and the settings that make one.

The library is an extra and slow to import: it is imported late. Nothing of a model's own code is ever run
(`trust_remote_code`), and of published weights only safetensors files are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from detr_mini.errors import CheckpointError, ConfigError, install, nearest
from detr_mini.vision.backbone import IMAGENET_MEAN, IMAGENET_STD

DOCUMENTS = "pp_"
"""How the library's readers of document pages begin, which it cannot train."""
UNNORMALISED = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")
"""Kinds that take pixels in [0, 1] as they are. The others take them normalised as ImageNet's."""
MASKED = ("detr", "conditional_detr", "dab_detr", "deformable_detr", "table_transformer")
"""Kinds that take images of any shape and a mask of their padding. The others take squares."""
ANY_SHAPE = ("yolos",)
"""Kinds that were published on images of any shape, though they know no mask."""
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
OLDEST = (5, 24)
"""The oldest version of the library that is known to work."""
STRIDE = 32
"""Of the networks of convolutions: both sides of their images are multiples of it."""


@dataclass(frozen=True)
class Kind:
    """What a `name` stands for: a kind of detector, and weights of it where there are some."""

    name: str
    source: str | None = None
    """Folder or hub name of published weights; None: random ones."""
    settings: Mapping[str, Any] | None = None
    """What the published weights' config says."""
    labels: tuple[str, ...] = ()
    """The published weights' categories."""
    images: Mapping[str, Any] | None = None
    """How the published weights want their images (the library's preprocessor_config.json)."""

    @property
    def config_class(self) -> Any:
        """The library's class of this kind's settings."""
        return library().CONFIG_MAPPING[kinds()[self.name]]

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of images in [0, 1]."""
        said: dict[str, Any] = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        said |= {"do_normalize": self.name not in UNNORMALISED, **(self.images or {})}
        if not said["do_normalize"]:
            return (0.0,) * 3, (1.0,) * 3
        return tuple(said["image_mean"]), tuple(said["image_std"])


def library() -> ModuleType:
    """`transformers`; ConfigError where it is not installed, or older than what this package was written for."""
    oldest = ".".join(map(str, OLDEST))
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"this needs transformers {oldest}, which is not installed: {install('hf')}") from error
    there = transformers.__version__
    if tuple(map(int, re.findall(r"\d+", there)[:2])) < OLDEST:
        raise ConfigError(f"this needs transformers {oldest}, and {there} is installed: {install('hf')} (with Python "
                          "3.11 or newer, which it needs)")  # fmt: skip
    return transformers


def kinds() -> dict[str, str]:
    """The detectors that the installed library can train, and the library's own word for each."""
    library()
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as known

    return {name.replace("-", "_"): name for name in sorted(known) if not name.startswith(DOCUMENTS)}


def find(name: str | None) -> Kind:
    """What `name` stands for: a kind, a folder of published weights, or their hub name ("owner/model").

    A folder that is called like a kind is meant by ./NAME. A hub name is downloaded once; a folder needs no network.
    ConfigError for a name that is neither, CheckpointError for a folder or a hub name without a detector that can be
    trained.
    """
    if name is None:
        raise ConfigError(f"model.name is not set; with model=hf, set it to a kind of detector ({', '.join(kinds())}), "
                          "or to a folder or hub name of published weights")  # fmt: skip
    word = name.replace("-", "_").lower()
    if word in kinds():
        return Kind(word)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _published(str(folder), local=True)
    if HUB_NAME.fullmatch(name):
        return _published(name, local=False)
    if "/" in name:
        raise CheckpointError(f"there is no folder {folder} (model.name); check the path")
    if word.startswith(DOCUMENTS):
        raise ConfigError(f"model.name={name} reads pages of documents, and transformers cannot train it; say one of "
                          f"{', '.join(kinds())}")  # fmt: skip
    raise ConfigError(
        f"model.name={name} is not a detector of transformers {library().__version__}{nearest(word, kinds())} "
        f"(choose one of {', '.join(kinds())}, or a folder or hub name of published weights)"
    )


def _published(source: str, local: bool) -> Kind:
    library()
    from transformers import PreTrainedConfig
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        said, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
        if not said:  # the library's word for a folder without config.json
            raise OSError(source)
    except (OSError, ValueError) as error:
        if local:
            raise CheckpointError(
                f"the folder {source} holds no config.json that can be read; give a folder that 'save_pretrained' of "
                "transformers wrote, or a kind of detector"
            ) from error
        raise CheckpointError(
            f"there is no folder {source}, and no weights of that name can be had from the hub "
            f"({str(error).splitlines()[0]}); check the name, connect to the network once, or give a folder"
        ) from error
    word = str(said.get("model_type", "")).replace("-", "_")
    if word not in kinds():
        raise CheckpointError(f"{source} holds a '{word}', which is no detector that transformers can train (there "
                              f"are: {', '.join(kinds())})")  # fmt: skip
    try:
        images, _ = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=local)
    except (OSError, ValueError):
        images = {}
    published = Kind(word).config_class.from_dict(said)
    labels = tuple(str(published.id2label[i]) for i in sorted(published.id2label))
    return Kind(word, source, own_settings(published), labels, images)


def own_settings(config: Any) -> dict[str, Any]:
    """The settings of a library's config as plain values, without what every config of that library has."""
    said, known = config.to_dict(), _settings_of(type(config))
    settings = {key: value for key, value in said.items() if key in known}
    inner = getattr(config, "backbone_config", None)
    if inner is not None:
        extra = ("model_type", "out_features", "out_indices")
        there = {k: v for k, v in inner.to_dict().items() if k in (*_settings_of(type(inner)), *extra)}
        settings["backbone_config"] = {key: value for key, value in there.items() if not key.startswith("_")}
    return settings


def _settings_of(config_class: Any) -> set[str]:
    from transformers import PreTrainedConfig

    return {f.name for f in fields(config_class)} - {f.name for f in fields(PreTrainedConfig)}


def make_config(kind: Kind, settings: Mapping[str, Any], queries: int | None, num_classes: int) -> Any:
    """The library's config of `kind`: its defaults or the published settings, with `settings` and `queries` in place.

    Every decoder layer is trained (`auxiliary_loss`), as all these detectors were; norms of a backbone of random
    weights learn; LW-DETR works on one map of features, of which the library's defaults have none: unless `settings`
    say otherwise. ConfigError for a setting that does not exist or cannot be.
    """
    known = _settings_of(kind.config_class)
    _check_names(settings, known, kind.name, "model.config")
    values = {**(kind.settings or {})}
    if "decoder_layers" in known:
        values["auxiliary_loss"] = True
    afresh = {"freeze_backbone_batch_norms": False, "projector_scale_factors": [1.0]} if kind.source is None else {}
    values |= {key: value for key, value in afresh.items() if key in known}
    values |= settings
    if queries is not None:
        if queries < 1:
            raise ConfigError(f"model.queries is {queries}; it must be at least 1")
        values["num_queries" if "num_queries" in known else "num_detection_tokens"] = queries
    try:
        config = kind.config_class(**values, num_labels=num_classes)
    except Exception as error:  # the library's checks raise errors of their own
        raise ConfigError(f"model.config of {kind.name} cannot be used: {_last_line(error)}") from error
    _check_backbone(config)
    return config


def _check_names(settings: Mapping[str, Any], known: set[str], of: str, where: str) -> None:
    for key in settings:
        if key not in known:
            raise ConfigError(f"{where}.{key} is no setting of {of}{nearest(str(key), sorted(known))}")
    inner = settings.get("backbone_config")
    if isinstance(inner, Mapping):
        kind = inner.get("model_type")
        if kind not in library().CONFIG_MAPPING:
            raise ConfigError(f"{where}.backbone_config.model_type is {kind!r}; say which network it is, as "
                              "transformers names it")  # fmt: skip
        inner_known = _settings_of(library().CONFIG_MAPPING[kind]) | {"model_type", "out_features", "out_indices"}
        _check_names(inner, inner_known, str(kind), f"{where}.backbone_config")


def _check_backbone(config: Any) -> None:
    """ConfigError where a network of timm is named by an address: making it would ask the network."""
    inner = getattr(config, "backbone_config", None)
    name = getattr(inner, "backbone", None)
    if (
        getattr(inner, "model_type", "") == "timm_backbone"
        and not str(name).replace("_", "").replace(".", "").isalnum()
    ):
        raise ConfigError(f"model.config.backbone_config.backbone is {name!r}; give a plain name of timm")


def build_library(config: Any) -> nn.Module:
    """The library's model of `config`, with random weights. ConfigError where it cannot be built.

    Batch norms start at 1, as in the papers' own code: RT-DETR's start at 0.01 in the library, whose users start from
    published weights, and then learn nothing in the time in which others are done.
    """
    try:
        model: nn.Module = library().AutoModelForObjectDetection.from_config(config)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{config.model_type} needs a package that is not installed ({reason}): {install('hf')}"
        ) from error
    except Exception as error:  # sizes that do not fit raise nearly anything
        raise ConfigError(f"{config.model_type} with these settings cannot be built: {_last_line(error)}") from error
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model


def stride_of(config: Any) -> int:
    """What both sides of an image must be multiples of."""
    network = getattr(config, "backbone_config", None) or config
    patch = getattr(network, "patch_size", None)
    if patch is None:
        return STRIDE
    windows = getattr(network, "num_windows_side", getattr(network, "num_windows", 1))
    levels = getattr(config, "feat_strides", (1,))
    return math.lcm(windows * (patch if isinstance(patch, int) else max(patch)), max(levels))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
