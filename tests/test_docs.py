"""What the pages show runs, as it stands, in order."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detr_mini.config.compose import compose, sweep
from detr_mini.help_texts import VERBS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
MADE = ("reference/verbs.md", "reference/settings.md", "reference/python.md", "tour.md")
"""Pages that `make docs` makes (docs/site_pages.py)."""


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
    assert sorted(re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)) == sorted([*pages, *MADE])


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links {target}"


def _commands() -> Iterator[tuple[str, str]]:
    """Every command line of detr-mini on a page, with the page's name."""
    for page in (*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"):
        for block in COMMANDS.findall(page.read_text(encoding="utf-8")):
            for line in map(str.strip, block.replace("\\\n", " ").splitlines()):
                if line.startswith("detr-mini "):
                    yield page.relative_to(DOCS.parent).as_posix(), " ".join(line.split())


@pytest.mark.parametrize(("page", "line"), sorted(set(_commands())), ids=lambda text: text.replace("/", " "))
def test_the_settings_of_every_command_on_a_page_exist_and_have_their_type(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    elsewhere = r"-|completion$|resume=|modules=\[my_parts\]"  # no settings, a run that is not here, test_extending.py
    if any(re.match(elsewhere, word) for word in words if word != "-m"):
        return
    name = next(verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS)
    settings = words[len(name.split()) :]
    runs = [settings]
    if "-m" in words:
        searched = r"sweep[.=]|.*=(tag|int|interval|choice)\("
        runs = sweep([word for word in settings if word != "-m" and not re.match(searched, word)])
    for run in runs[:2]:
        compose(VERBS[name].config, run)


@pytest.mark.parametrize("page", sorted(path.name for path in (DOCS / "log").glob("*.md")))
def test_every_test_that_a_page_of_the_log_names_exists(page: str) -> None:
    tests = Path(__file__).parent
    known = {path.name: path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py")}
    text = (DOCS / "log" / page).read_text(encoding="utf-8")
    for file in re.findall(r"tests/[\w/]+\.py", text):
        assert (tests.parent / file).is_file(), file
    for file, name in re.findall(r"(test_\w+\.py)`?::(test_\w+)", text):
        assert f"def {name}(" in known[file], f"{file}::{name}"
