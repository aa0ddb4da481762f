"""Settings whose value is a path or free text: they bypass Hydra's grammar, so every character is taken literally."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

_SPLITS = r"data\.(train|val|test)\.(images|annotations|list|labels|names)"
PATHS = re.compile(
    r"checkpoint|source|pictures?|output|run_folder|folder|init|resume|root|runs?|report|nouns|captions"
    r"|backgrounds|pseudo|pseudo_checkpoint|prelabels|labelled"
    rf"|data\.(root|shard_cache|refer\.folder|annotation_cache)|data\.captions\.(train|val|test)|{_SPLITS}|boxes\.\w+"
    r"|sweep\.folder|backbone\.weights|model\.name|model\.pretrained_text\.weights|data\.tokenizer\.weights"
)
"""Keys whose value is a path, or a list of paths."""
TEXTS = re.compile(r"name|caption|device|host")
"""Keys whose value is text, or a list of texts: like `PATHS`, but '~' is not the home folder."""
WORDS = ("null", "true", "false", "???")
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list|str|int|float|bool|json_str)\(.*\)")
"""Hydra's functions, which a sweep may use."""


def is_text(key: str, value: str = "") -> bool:
    """Whether the value of `key` is a path or free text."""
    if key == "pictures" and value.isdecimal():  # a path of `export`, a number of `data refer` and `data ground`
        return False
    return bool(PATHS.fullmatch(key) or TEXTS.fullmatch(key))


def literal(word: str, *, sweep: bool = False) -> str:
    """An override with its value in Hydra's quotes if it is a path or text; any other override unchanged.

    `sweep`: commas outside quotes separate values, and Hydra's functions keep their meaning.
    """
    mark, key, value = _parts(word)
    if not is_text(key, value) or (sweep and FUNCTION.fullmatch(value)):
        return word
    values = split(value) if sweep and not os.path.lexists(_home(key, value)) else [value]
    return f"{mark}{key}={','.join(_one(key, each) for each in values)}"


def references(words: Sequence[str]) -> dict[str, str | list[str]]:
    """Paths and texts that contain `${`, by key: OmegaConf would read it as a reference to another setting."""
    found: dict[str, str | list[str]] = {}
    for mark, key, value in map(_parts, words):
        if "${" in value and is_text(key, value) and not value.startswith("{"):
            found[key] = (
                [_plain(key, each.strip()) for each in _elements(value)]
                if _is_list(key, value)
                else plain(f"{mark}{key}={value}")
            )
    return found


def plain(word: str) -> str:
    """The path or text in an override, without quotes around it."""
    _, key, value = _parts(word)
    return _plain(key, value)


def quoted(value: str) -> str:
    """`value` in Hydra's single quotes."""
    inner = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, inner) + "'"


def split(text: str) -> list[str]:
    """`text` divided at the commas outside quotes and brackets."""
    elements, depth, quote, before = [""], 0, "", ""
    for character in text:
        if character in "'\"" and quote in ("", character) and before != "\\":
            opens = quote == "" and elements[-1].strip() == ""  # an apostrophe inside a word opens nothing
            quote = character if opens else ""
        elif not quote:
            depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth <= 0 and not quote:
            elements.append("")
        else:
            elements[-1] += character
        before = character
    return elements


def _parts(word: str) -> tuple[str, str, str]:
    """ "+", "++" or nothing; the key; the value."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    return (key[: len(key) - len(name)], name, value) if equals else ("", "", word)


def _one(key: str, value: str) -> str:
    if value in WORDS or (value.startswith("{") and value.endswith("}") and not os.path.lexists(value)):
        return value
    if _is_list(key, value):
        return f"[{','.join(_one(key, each.strip()) for each in _elements(value))}]"
    return quoted(_plain(key, value).replace("${", "$ {"))  # the real value is inserted later: see `references`


def _is_list(key: str, value: str) -> bool:
    """Whether a value is a list, and not a path whose name begins and ends with brackets."""
    lists = value.startswith("[") and value.endswith("]") and "]" not in _outside_quotes(value[1:-1])
    return lists and not os.path.lexists(_home(key, value))


def _plain(key: str, value: str) -> str:
    return _home(key, value if os.path.lexists(_home(key, value)) else _unquoted(value))


def _elements(value: str) -> Iterator[str]:
    inner = value[1:-1].strip()
    yield from split(inner) if inner else ()


def _outside_quotes(text: str) -> str:
    return re.sub(r"'(\\.|[^'])*'|\"(\\.|[^\"])*\"", "", text)


def _unquoted(value: str) -> str:
    """`value` without the quotes that a user put around it for Hydra."""
    match = re.fullmatch(r"(['\"])((?:\\.|(?!\1)[^\\]|\\)*)\1", value, re.DOTALL)
    if match is None:
        return value
    inner = re.sub(rf"(\\*)\\{match[1]}", lambda m: m[1][: len(m[1]) // 2] + match[1], match[2])
    return re.sub(r"(\\\\)+$", lambda m: m[0][: len(m[0]) // 2], inner)


def _home(key: str, value: str) -> str:
    """`value` with a leading `~` replaced by the user's home."""
    return os.path.expanduser(value) if PATHS.fullmatch(key) else value
