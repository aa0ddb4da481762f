"""From words on the command line to a checked config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from detr_mini.config import parts
from detr_mini.config.changed_settings import refuse_changes
from detr_mini.config.number_settings import check_numbers
from detr_mini.config.path_settings import is_text, literal, plain, quoted, references, split
from detr_mini.config.run_folder import new_run_folder as new_run_folder
from detr_mini.config.run_folder import rank as rank
from detr_mini.config.run_folder import to_go_on as to_go_on
from detr_mini.config.suggestions import suggest
from detr_mini.errors import CheckpointError, ConfigError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


WORDS = {
    "data.size": ("auto",), "data.batch_size": ("auto",), "data.strong_until": ("auto",),
    "optim.warmup_steps": ("auto",), "optim.average": ("auto",), "model.queries": ("auto",), "suppress_iou": ("auto",),
    "operating_point.threshold": ("auto",), "operating_point.suppress_iou": ("auto",),
    "data.train": ("auto",), "data.val": ("auto", "train"), "data.test": ("auto",),
}  # fmt: skip
"""What may stand in place of a number, or of a section: the data then say which."""
WHEN_SET: Mapping[str, Any] = {"threshold": 0.5, "size": 320, "shorter_side": 320, "boxes": {}}
"""Of what kind a setting is that is null unless it is set."""
OPTIONAL = ("augment", "sentences", "experiment", "debug")
"""Groups of which none need be chosen."""
TRAININGS = ("train", "benchmark_step", "learning_curve", "benchmark_datasets")
"""Configs of verbs that write the settings into run folders."""

LARGEST_FILE = 256 * 1024
"""Bytes of a run folder's config.yaml, which is a few pages."""


def config_folder() -> Path:
    """`configs/`: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"there are no configs in {here} or beside it; install detr-mini again")


def compose(primary: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config `primary` with Hydra's `overrides`, checked: every key exists and has the right kind of value.

    A path is taken as it stands, whatever characters it has (`path_settings`).
    With `resume=RUN` among them it is that run's own config, with the other overrides on top. ConfigError, naming the
    nearest key or option, where something does not exist, or a run that has begun cannot change it any more.
    """
    run = next((plain(word) for word in overrides if word.startswith("resume=")), None)
    if primary == "train" and run and run != "null":
        return _resumed(run, [word for word in overrides if not word.startswith("resume=")])
    from omegaconf import OmegaConf

    verbatim = _verbatim(primary, overrides)
    overrides = [_with_quotes(literal(word)) for word in _without_null_groups(primary, overrides)]
    values = _values_named_like_groups(primary, overrides)
    overrides = [word for word in overrides if word.partition("=")[0] not in values]
    config = _compose(primary, overrides)
    config.update(values)
    parts.name_modules(config.get("modules") or ())
    known = _compose(primary, _choices(primary, overrides))
    check_config(config, known)
    config = _resolve(config)
    check_numbers(OmegaConf.to_container(config), OmegaConf.to_container(known))
    for key, text in verbatim.items():
        OmegaConf.update(config, key, text)
    return config


def _verbatim(primary: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Paths with `${` in them, marked as no references. ConfigError where a run's config.yaml would hold one."""
    found: dict[str, Any] = {}
    for key, value in references(overrides).items():
        if primary in TRAININGS:
            raise ConfigError(f"{key} is '{value}'; the config.yaml of a run cannot hold '${{', which refers to "
                              "another setting there. Rename the folder, or give a link to it")  # fmt: skip
        escaped = [each.replace("${", "\\${") for each in ([value] if isinstance(value, str) else value)]
        found[key] = escaped[0] if isinstance(value, str) else escaped
    return found


def _without_null_groups(primary: str, overrides: Sequence[str]) -> list[str]:
    """`augment=null` as Hydra says it, `~augment`. ConfigError for a group that is needed, or no name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    file = OmegaConf.to_container(OmegaConf.load(config_folder() / f"{primary}.yaml"))
    assert isinstance(file, dict)
    kept = []
    for word in overrides:
        group, _, choice = word.partition("=")
        if group not in _groups() or group in file:
            kept.append(word)
            continue
        try:
            value = OverridesParser.create().parse_override(word).value()
        except HydraException:
            value = choice
        if value is None and group == "logger":
            kept.append("logger=csv")
        elif value is None and group not in OPTIONAL:
            raise ConfigError(f"{word}: there is no training without it; choose one of {', '.join(_options(group))}")
        elif value is None:
            kept.append(f"~{group}")
        elif not isinstance(value, str | Mapping):
            raise ConfigError(f"there is no {word} (there are: {', '.join(_options(group))})")
        else:
            kept.append(word)
    return kept


def _options(group: str) -> list[str]:
    return [path.stem for path in sorted((config_folder() / group).glob("*.yaml"))]


def _with_quotes(word: str) -> str:
    """`overrides=[data.size=256]` with quotes around the elements that contain `=`, which Hydra's grammar requires."""
    key, _, value = word.partition("=")
    if is_text(key.lstrip("+")) or "=" not in value or not (value.startswith("[") and value.endswith("]")):
        return word
    elements = [quoted(e) if re.match(r"[\w./@+~-]+=", e) else e for e in map(str.strip, split(value[1:-1]))]
    return f"{key}=[{','.join(elements)}]"


def _values_named_like_groups(primary: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides of `primary`'s own keys that are named like a folder of configs: Hydra would choose a file by them."""
    from omegaconf import OmegaConf

    settings = cast("DictConfig", OmegaConf.load(config_folder() / f"{primary}.yaml"))
    own = {key for key in _groups() if key in settings and not OmegaConf.is_dict(settings[key])}
    words = (word.partition("=") for word in overrides)
    return {key: _value(value) for key, equals, value in words if equals and key in own}


def _choices(primary: str, overrides: Sequence[str]) -> list[str]:
    """The files that were chosen, as overrides; but for recipes, whose own keys are to be checked."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = hydra_compose(primary, list(overrides), return_hydra_config=True)
    chosen = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(chosen, dict)
    return [f"{g}={o}" for g, o in chosen.items() if g in _groups() and o and g not in ("experiment", "debug")]


def _resolve(config: DictConfig) -> DictConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"a setting that stands for another cannot be read: {_first_line(error)}") from error
    return config


def _resumed(run: str, overrides: Sequence[str]) -> DictConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = Path(run).expanduser()
    begun, start = (folder / "last.ckpt").is_file(), folder / ".start.yaml"
    file = start if start.is_file() and not begun else folder / "config.yaml"
    if not file.is_file():  # nor a pipe, which would never end
        raise CheckpointError(f"there is no {file}; resume=RUN takes the folder of a run, such as outputs/quickstart")
    try:
        config = read_config(file)
        config.modules = []  # those of this command alone: the file may be a stranger's
        before = config.copy()
        OmegaConf.set_struct(config, True)
        config.resume = run
        for word in overrides:
            key, _, value = word.partition("=")
            if not re.fullmatch(r"[\w.]+", key) or not _knows(config, key):
                raise ConfigError(f"{key} does not exist in {file}{suggest(key, _paths(config))}")
            given = plain(word) if is_text(key) and value not in ("null", "[]") else _value(value)
            OmegaConf.update(config, key, OmegaConf.create([given])[0])
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file} and the overrides do not fit together: {_first_line(error)}") from error
    if begun:
        refuse_changes(folder, OmegaConf.to_container(before), OmegaConf.to_container(config))  # type: ignore[arg-type]
    parts.name_modules(config.modules or ())
    check_config(config, before)
    check_numbers(OmegaConf.to_container(config), OmegaConf.to_container(before))
    return config


def read_config(file: Path) -> DictConfig:
    """The config of a run folder, plain values only (`parts.plain`): nothing in it is looked up, called or imported.

    ConfigError where the file is no config, or larger or more nested than one can be.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise ConfigError(f"{file} has {size:,} bytes, and a config at most {LARGEST_FILE:,}; give another run")
    try:
        depth, text = 0, file.read_text(encoding="utf-8-sig")
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > parts.DEEPEST:
                raise ConfigError(f"{file} repeats its own parts (&, *) or is nested too deeply; write every value out")
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a config ({_first_line(error)}); give another run") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file} is no config: it holds no settings by name; give the folder of a run")
    return OmegaConf.create(parts.plain(OmegaConf.to_container(config), str(file)))


def _value(text: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.from_dotlist([f"x={text}"]))["x"]  # type: ignore[index,call-overload]


def _compose(primary: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is no setting; write key=value, such as data.root=my_data")
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return hydra_compose(primary, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, primary, overrides)) from error


def _explain(error: Exception, primary: str, overrides: Sequence[str]) -> str:
    """Hydra's complaint as one sentence that names the nearest key or option."""
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, option = missing[1].rpartition("/")
        options = [path.stem for path in sorted((config_folder() / group).glob("*.yaml"))]
        return f"there is no {group}={option}{nearest(option, options)} (there are: {', '.join(options)})"
    match = re.search(r"Could not (?:override|append to|delete) '([^']+)'|Key '([^']+)' is not in struct", text)
    if match:
        key = (match[1] or match[2]).lstrip("+~")
        words = [w for w in overrides if w.lstrip("+~").partition("=")[0].partition("@")[0] != key]
        try:
            known = _paths(_compose(primary, words if len(words) < len(overrides) else ()))
        except ConfigError:
            known = _paths(_compose(primary, ()))
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))
        if inner and key in known:  # trainer={max_stepz: 3}: the section is there, not what it is given
            key = inner[1]
        return f"{key} does not exist{suggest(key, [*known, *_groups()])}"
    return _unreadable(primary, overrides) or f"the settings cannot be read: {_first_line(error)}"


def _unreadable(primary: str, overrides: Sequence[str]) -> str | None:
    """Which override Hydra's grammar cannot read, with the quotes that it needs; None where it reads them all."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in overrides:
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            key, _, value = word.partition("=")
            known = [*_paths(_compose(primary, ())), *_groups()]
            if key.lstrip("+~") not in known and re.fullmatch(r"[\w.]+", key):
                return f"{key} does not exist{suggest(key, known)}"
            line = f"{key}={quoted(value)}"
            shell = line.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
            return f'the value of {key} cannot be read: {value}; if it is text, put it in quotes: "{shell}"'
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _groups() -> list[str]:
    return [path.name for path in config_folder().iterdir() if path.is_dir()]


def _paths(node: Any, prefix: str = "") -> list[str]:
    """The dotted path of everything in a config."""
    found = []
    for key in node:
        path = f"{prefix}{key}"
        found.append(path)
        child = node._get_node(key)
        if hasattr(child, "keys") and not child._is_none():
            found += _paths(child, f"{path}.")
    return found


def _knows(config: Any, key: str) -> bool:
    return key in _paths(config)


def check_config(config: DictConfig, known: DictConfig) -> None:
    """ConfigError for a key that `known` (the same config without overrides) lacks, and for a value of another kind.

    Below a `_target_` the keys are what it takes. So '+new=1' and a slip in an experiment file are met, too.
    """
    from omegaconf import OmegaConf

    _check(OmegaConf.to_container(config), OmegaConf.to_container(known), "")


def _check(given: Any, known: Any, path: str) -> None:
    known = WHEN_SET.get(path) if known is None else known
    if isinstance(given, list | Mapping) and isinstance(known, int | float):
        kind = "true or false" if isinstance(known, bool) else "a number"
        raise ConfigError(f"{path} is {given!r}; it must be {kind}")
    if isinstance(given, list):
        for index, item in enumerate(given):
            _check(item, None, f"{path}[{index}]")
    elif isinstance(given, Mapping):
        same = isinstance(known, Mapping) and given.get("_target_") == known.get("_target_")
        keys = _taken_by(str(given["_target_"]), path) if "_target_" in given else None
        if keys is None and isinstance(known, Mapping) and same and known:
            keys = set(known)
        for key, value in given.items():
            inner = f"{path}.{key}" if path else str(key)
            unset = (
                isinstance(known, Mapping) and key in known and _says_nothing(value)
            )  # evaluate's data.captions: null
            if keys is not None and key not in keys and not str(key).startswith("_") and not unset:
                raise ConfigError(f"{inner} does not exist{nearest(str(key), sorted(map(str, keys)))}")
            _check(value, known.get(key) if same else None, inner)
    else:
        _check_kind(given, known, path)


def _says_nothing(value: Any) -> bool:
    return all(map(_says_nothing, value.values())) if isinstance(value, Mapping) else value is None


def _check_kind(given: Any, known: Any, path: str) -> None:
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"), ((int, float), "a number"), (str, "a word"),
    )  # fmt: skip
    if given is None or known is None or known == "???" or str(given).startswith("${"):
        return  # nothing to compare, or a value that stands elsewhere
    if given in WORDS.get(path, ()):
        return
    if isinstance(known, list | Mapping):
        raise ConfigError(f"{path} is {given!r}; it must be a {'list' if isinstance(known, list) else 'section'}")
    for kind, name in kinds:
        if isinstance(known, kind):
            fits = isinstance(given, kind) and (kind is bool or not isinstance(given, bool))
            if not fits and not (kind is str and isinstance(given, int | float)):
                raise ConfigError(f"{path} is {given!r}; it must be {name}")
            return


def _taken_by(target: str, path: str) -> set[str] | None:
    """The keyword arguments of what `target` names; None where it takes any."""
    return parts.takes(parts.find(target, path))


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a multirun, by Hydra's own sweep syntax: seed=0,1 optim=muon,adamw, range(1,4)."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([literal(word, sweep=True) for word in overrides])
        batches = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        if "INTERVAL_SWEEP" in str(error):
            raise ConfigError("an interval has no end of values; add sweep=optuna, which searches it") from error
        raise ConfigError(f"the sweep cannot be read: {_first_line(error)}") from error
    return [list(run) for batch in batches for run in batch]


def swept(overrides: Sequence[str]) -> set[str]:
    """The settings of which a multirun's overrides ask for several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides([literal(word, sweep=True) for word in overrides])
    return {override.get_key_element().lstrip("+~") for override in parsed if override.is_sweep_override()}
