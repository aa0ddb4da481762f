"""From words on the command line to a checked config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from detr_mini.config import files, parts
from detr_mini.config.check import check_config, dotted_keys
from detr_mini.config.number_settings import check_numbers
from detr_mini.config.path_settings import is_text, literal, plain, quoted, references, split
from detr_mini.config.plain import plain_dict
from detr_mini.config.run_config import parsed_value, resumed_config
from detr_mini.config.suggestions import suggest
from detr_mini.errors import ConfigError, first_line, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


OPTIONAL = ("augment", "sentences", "experiment", "debug")
"""Groups that may be left out."""
STEERED = ("model", "backbone", "criterion", "optim", "recipe", "data", "trainer")
"""Sections that published weights may change (`training.begin_published`)."""
TRAININGS = ("train", "benchmark_step", "learning_curve", "benchmark_datasets")
"""Configs whose settings are written into run folders."""


def compose(primary: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config configs/`primary`.yaml with Hydra's `overrides`; every key exists and every value has its type.

    A path is taken literally, whatever characters it has (`path_settings`). With `resume=RUN` the config is that
    run's own, with the other overrides on top. ConfigError where a key or an option does not exist; it names the
    nearest one.
    """
    run = next((plain(word) for word in overrides if word.startswith("resume=")), None)
    if primary == "train" and run and run not in ("null", "auto"):  # auto: the run folder decides, in training/resume
        return resumed_config(run, [word for word in overrides if not word.startswith("resume=")])
    from omegaconf import DictConfig, OmegaConf, open_dict

    file = plain_dict(cast(DictConfig, OmegaConf.load(files.config_folder() / f"{primary}.yaml")))
    verbatim = _verbatim(primary, overrides)
    overrides = _whole_splits([_with_quotes(literal(word)) for word in _without_null_groups(file, overrides)])
    values = _values_named_like_groups(file, overrides)
    overrides = [word for word in overrides if word.partition("=")[0] not in values]
    said = _explicit(overrides)
    config = _compose(primary, overrides, hydra=True)
    choices = _choices(config)
    with open_dict(config):
        del config["hydra"]
    config.update(values)
    if config.get("init") is not None and "explicit" in config:
        config.explicit = said
    parts.name_modules(config.get("modules") or ())
    known = _before_overrides(files.config_folder(), primary, tuple(choices))
    _leave_out_other_models(config, known, overrides)
    check_config(plain_dict(config), known)
    config = _resolve(config)
    check_numbers(plain_dict(config), known)
    for key, text in verbatim.items():
        OmegaConf.update(config, key, text)
    return config


def _leave_out_other_models(config: DictConfig, known: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """With `model=NAME`, leave out what an experiment sets of another model and this one does not have."""
    from omegaconf import OmegaConf, open_dict

    if "model" not in config or not any(word.startswith("model=") for word in overrides):
        return
    named = {word.lstrip("+").split("=")[0].split(".")[1] for word in overrides if re.match(r"\+*model\.", word)}
    extra = set(config.model) - set(known["model"]) - named
    if not extra:
        return
    folder = files.config_folder() / "model"
    models = [OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml")) for name in files.options("model")]
    with open_dict(config):
        for key in extra & {key for model in models if isinstance(model, dict) for key in model.get("model", ())}:
            del config.model[key]


def _explicit(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that the command line names, which published weights do not change."""
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    return [key for key in keys if key.partition(".")[0] in STEERED]


def _verbatim(primary: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Paths that contain `${`, escaped so that it refers to nothing. ConfigError where a run would store one."""
    found: dict[str, Any] = {}
    for key, value in references(overrides).items():
        if primary in TRAININGS:
            raise ConfigError(f"{key} is '{value}'; the config.yaml of a run cannot hold '${{', which refers to "
                              "another setting there. Rename the folder, or make a link to it")  # fmt: skip
        escaped = [each.replace("${", "\\${") for each in ([value] if isinstance(value, str) else value)]
        found[key] = escaped[0] if isinstance(value, str) else escaped
    return found


def _without_null_groups(file: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """The overrides of a verb's `file`, with `augment=null` in Hydra's form `~augment`.

    ConfigError for a group that is needed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    groups, kept = files.groups(), []
    for word in overrides:
        group, _, choice = word.partition("=")
        if group not in groups or group in file:
            kept.append(word)
            continue
        try:
            value = OverridesParser.create().parse_override(word).value()
        except HydraException:
            value = choice
        if value is None and group == "logger":
            kept.append("logger=csv")
        elif value is None and group not in OPTIONAL:
            raise ConfigError(f"{word}: training needs one; choose one of {', '.join(files.options(group))}")
        elif value is None:
            kept.append(f"~{group}")
        elif not isinstance(value, str | Mapping):
            raise ConfigError(f"there is no {word} (there are: {', '.join(files.options(group))})")
        else:
            kept.append(word)
    return kept


def _with_quotes(word: str) -> str:
    """`overrides=[data.size=256]` with quotes around the elements that contain `=`, which Hydra's grammar requires."""
    key, _, value = word.partition("=")
    if is_text(key.lstrip("+")) or "=" not in value or not (value.startswith("[") and value.endswith("]")):
        return word
    elements = [quoted(e) if re.match(r"[\w./@+~-]+=", e) else e for e in map(str.strip, split(value[1:-1]))]
    return f"{key}=[{','.join(elements)}]"


def _whole_splits(overrides: Sequence[str]) -> list[str]:
    """`data.train.images=a data.train.annotations=b` as `data.train={images:a,annotations:b}`, where the first stood.

    Where a split is `auto` or null, it has no keys that Hydra could override one by one.
    """
    words, splits = [], dict[str, list[str]]()
    for word in overrides:
        match = re.match(r"\+*(data\.(?:train|val|test))\.(\w+)=(.*)", word, re.DOTALL)
        if match is None:
            words.append(word)
            continue
        if match[1] not in splits:
            words.append(match[1])
        splits.setdefault(match[1], []).append(f"{match[2]}:{match[3]}")
    return [f"{word}={{{','.join(splits[word])}}}" if word in splits else word for word in words]


def _values_named_like_groups(file: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides of the `file`'s own keys that share a group's name, where Hydra would look for a file."""
    own = {key for key in files.groups() if key in file and not isinstance(file[key], dict)}
    words = (word.partition("=") for word in overrides)
    return {key: parsed_value(value) for key, equals, value in words if equals and key in own}


def _choices(config: DictConfig) -> list[str]:
    """The chosen files as overrides, except experiment and debug, whose own keys are checked, too."""
    chosen, groups = plain_dict(config.hydra.runtime.choices), files.groups()
    return [f"{g}={o}" for g, o in chosen.items() if g in groups and o and g not in ("experiment", "debug")]


@lru_cache(64)
def _before_overrides(folder: Path, primary: str, choices: tuple[str, ...]) -> Mapping[str, Any]:
    """The config of the chosen files in `folder` alone. It is kept: composing takes a third of a second."""
    return plain_dict(_compose(primary, choices))


def _resolve(config: DictConfig) -> DictConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"a setting that refers to another cannot be read: {first_line(error)}") from error
    return config


def _compose(primary: str, overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    """`hydra`: with Hydra's own section, which says which files were chosen."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is not a setting; write key=value, for example data.root=my_data")
    try:
        with initialize_config_dir(str(files.config_folder()), version_base="1.3"):
            return hydra_compose(primary, list(overrides), return_hydra_config=hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, primary, overrides)) from error


def _explain(error: Exception, primary: str, overrides: Sequence[str]) -> str:
    """Hydra's complaint as one sentence that names the nearest key or option."""
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, option = missing[1].rpartition("/")
        options = files.options(group)
        return f"there is no {group}={option}{nearest(option, options)} (there are: {', '.join(options)})"
    match = re.search(r"Could not (?:override|append to|delete) '([^']+)'|Key '([^']+)' is not in struct", text)
    if match:
        key = (match[1] or match[2]).lstrip("+~")
        words = [w for w in overrides if w.lstrip("+~").partition("=")[0].partition("@")[0] != key]
        try:
            known = dotted_keys(_compose(primary, words if len(words) < len(overrides) else ()))
        except ConfigError:
            known = dotted_keys(_compose(primary, ()))
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))
        if inner and key in known:  # trainer={max_stepz: 3}: the section exists, the key inside does not
            key = inner[1]
        return f"{key} does not exist{suggest(key, _with_optional(known))}"
    return _unreadable(primary, overrides) or f"the settings cannot be read: {first_line(error)}"


def _unreadable(primary: str, overrides: Sequence[str]) -> str | None:
    """A sentence about an override that Hydra's grammar cannot read, with the quotes it needs; None if it reads all."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in overrides:
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            key, _, value = word.partition("=")
            known = _with_optional(dotted_keys(_compose(primary, ())))
            if key.lstrip("+~") not in known and re.fullmatch(r"[\w.]+", key):
                return f"{key} does not exist{suggest(key, known)}"
            line = f"{key}={quoted(value)}"
            shell = line.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
            return f'the value of {key} cannot be read: {value}; if it is text, put it in quotes: "{shell}"'
    return None


def _with_optional(known: Sequence[str]) -> list[str]:
    """Keys that a verb has, and where it trains those of groups that may be left out; the others are sections of it."""
    return [*known, *(OPTIONAL if "trainer" in known else ())]


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a multirun, by Hydra's own sweep syntax: seed=0,1 optim=muon,adamw, range(1,4)."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([_with_quotes(literal(w, sweep=True)) for w in overrides])
        batches = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        if "INTERVAL_SWEEP" in str(error):
            raise ConfigError("an interval has infinitely many values; add sweep=optuna to search it") from error
        raise ConfigError(f"the sweep cannot be read: {first_line(error)}") from error
    return [list(run) for batch in batches for run in batch]


def swept(overrides: Sequence[str]) -> set[str]:
    """The keys for which a multirun's overrides give several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides([_with_quotes(literal(w, sweep=True)) for w in overrides])
    return {override.get_key_element().lstrip("+~") for override in parsed if override.is_sweep_override()}
