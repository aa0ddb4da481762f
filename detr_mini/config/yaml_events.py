"""YAML that takes for ever to load, recognised from its events before anything is built."""

from __future__ import annotations

from typing import Any


def endless_yaml(text: str, loader: Any, deepest: int) -> str | None:
    """Why a YAML text must not be loaded, None where it may be.

    A few lines can stand for billions of entries (lists of references to lists of references), or nest a hundred
    thousand deep.
    """
    import yaml

    depth, anchors = 0, set()
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > deepest:
            return f"is nested more than {deepest} deep"
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.add(event.anchor)
        if isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            return f"repeats a part by its anchor (*{event.anchor})"
    return None
