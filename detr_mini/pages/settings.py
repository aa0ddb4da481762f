"""What a run's config changes of the defaults, and the command that trains it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detr_mini.config.changed_settings import changes, settings_of
from detr_mini.config.compose import compose
from detr_mini.config.files import config_folder, options
from detr_mini.config.plain import plain_dict
from detr_mini.config.words import in_hydra

GROUPS = ("data", "model", "backbone", "optim")
"""Sections that a file of configs/ chooses as a whole."""
NOT_SET = ("recipe", "run_folder", "resume", "modules", "categories", "explicit")
"""Settings that training itself writes, or that are new in each run."""


@dataclass(frozen=True)
class Changed:
    """A setting that differs from its default."""

    key: str
    value: str
    default: str


def command(config: Mapping[str, Any]) -> tuple[list[str], list[Changed]]:
    """(the words of `detr-mini train` that make `config` again, its settings that differ from the defaults)."""
    default = plain_dict(compose("train"))
    groups = [word for group in GROUPS if (word := _chosen(group, config, default))]
    base = plain_dict(compose("train", groups))
    known, own, before = dict(settings_of(base)), dict(settings_of(config)), dict(settings_of(_short(base)))
    sections = {key[:place] for key in known for place, sign in enumerate(key) if sign == "."}
    words = [*groups]
    rows = [Changed(group, option, "") for group, _, option in (word.partition("=") for word in groups)]
    for key, new in sorted(settings_of(_short(config)), key=lambda pair: pair[0]):
        if key.split(".")[0] in NOT_SET or key.endswith(("_convert_", "_partial_")):
            continue
        if key in sections or before.get(key) != new:  # null or a word in place of a whole section
            rows.append(Changed(key, _shown(new), "" if key in sections else _shown(before.get(key))))
            words.append(f"{'' if key in sections or key in known else '+'}{key}={in_hydra(own[key])}")
    replaced = {row.key.removesuffix("_target_") for row in rows if row.key.endswith("._target_")}
    words += [f"~{key}" for key in known if key not in own and f"{key.rpartition('.')[0]}." in replaced]
    return words, rows


def shell_line(words: list[str]) -> str:
    """A command that a shell takes as it stands, one setting a line."""
    return " \\\n  ".join(["detr-mini train", *map(shlex.quote, words)])


def _chosen(group: str, config: Mapping[str, Any], default: Mapping[str, Any]) -> str | None:
    """The option of a group whose section differs least from the run's; None where the default's own does."""
    section = config.get(group)
    if not isinstance(section, Mapping):
        return None
    same = _tail(section) == _tail(default[group])
    if same and group != "data":  # the files of data/ build the same class and differ in their settings
        return None
    fewest = (len(changes(_short(default[group]), _short(section))), "") if same else None
    for option in options(group):
        if not _may_build(group, option, _tail(section)):
            continue
        made = plain_dict(compose("train", [f"{group}={option}"]))[group]
        count = len(changes(_short(made), _short(section)))
        if _tail(made) == _tail(section) and (fewest is None or count < fewest[0]):
            fewest = count, option
    return f"{group}={fewest[1]}" if fewest and fewest[1] else None


def _may_build(group: str, option: str, tail: str) -> bool:
    """Whether a file may build a class: it names it, or is made of other files. To compose each takes long."""
    text = (config_folder() / group / f"{option}.yaml").read_text(encoding="utf-8")
    return "defaults:" in text or f".{tail}\n" in f"{text}\n"


def _tail(section: Mapping[str, Any]) -> str:
    """The class that a section builds, by its last name; of the optimizer's section, the optimizer's."""
    built = section.get("optimizer", section)
    return str(built.get("_target_") if isinstance(built, Mapping) else None).rpartition(".")[2]


def _short(node: Any) -> Any:
    """A config in which classes go by their last name: files move, and older runs name them by older paths."""
    if isinstance(node, Mapping):
        return {k: str(v).rpartition(".")[2] if k == "_target_" else _short(v) for k, v in node.items()}
    return [_short(each) for each in node] if isinstance(node, list) else node


def _shown(value: Any) -> str:
    return in_hydra(value) if not isinstance(value, str) else value
