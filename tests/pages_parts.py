"""What tests of the pages share: a run folder with a broken or a strange part, and a reader of references in HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

LOADING = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "background")


class References(HTMLParser):
    """Collects tags, scripts, handlers, and every attribute that makes a browser load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)
        self.loaded += re.findall(r"url\(([^)]*)\)|@import ([^;]*)", text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            if name.startswith("on"):
                self.handlers.append(name)
            if name in LOADING:
                self.loaded.append(value)
