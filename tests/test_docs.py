"""What the pages show runs, as it stands, in order."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["attention.md"])
def test_the_python_on_a_page_runs(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        line = text[: block.start()].count("\n") + 2
        exec(compile("\n" * (line - 1) + block[1], f"docs/{page}", "exec"), names)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_a_page_links_to_files_that_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert (DOCS / target).exists(), target


def test_the_architecture_page_names_each_file_once() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"detr_mini/[\w/]+\.py", text)
    assert len(named) == len(set(named)) > 20


def test_the_architecture_page_lists_every_room() -> None:
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## The path")[0]
    for room in " | ".join(layers).replace("(", "").replace(")", "").split(" | "):
        assert re.search(rf"^\| .*`{room}/?`.* \|", table, re.MULTILINE), room


def test_the_site_lists_every_page() -> None:
    nav = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    pages = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)) == pages


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links {target}"
