"""What the pages show runs, as it stands, in order."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from detr_mini.config.compose import compose, sweep
from detr_mini.formats.discover import FORMATS
from detr_mini.help_texts import VERBS
from detr_mini.training.options import TrainerOptions

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
    """Every command line of detr-mini on a page or in the help, with its place."""
    for page in (*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"):
        for block in COMMANDS.findall(page.read_text(encoding="utf-8")):
            for line in map(str.strip, block.replace("\\\n", " ").splitlines()):
                if line.startswith("detr-mini "):
                    yield page.relative_to(DOCS.parent).as_posix(), " ".join(line.split())
    for name, verb in VERBS.items():
        yield from ((f"help of {name}", example) for example in verb.examples)


@cache
def _configs(line: str) -> list[tuple[list[str], DictConfig]]:
    """The settings and the config of a command line; of a sweep, those of its first two runs."""
    words = shlex.split(line, comments=True)[1:]
    elsewhere = r"-|completion$|resume=|modules=\[my_parts\]"  # no settings, a run that is not here, test_extending.py
    if any(re.match(elsewhere, word) for word in words if word != "-m"):
        return []
    name = next(verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS)
    settings = words[len(name.split()) :]
    runs = [settings]
    if "-m" in words:
        searched = r"sweep[.=]|.*=(tag|int|interval|choice)\("
        runs = sweep([word for word in settings if word != "-m" and not re.match(searched, word)])
    return [(run, compose(VERBS[name].config, run)) for run in runs[:2]]


EVERY_COMMAND = pytest.mark.parametrize(
    ("place", "line"), sorted(set(_commands())), ids=lambda text: text.replace("/", " ")
)


@EVERY_COMMAND
def test_the_settings_of_every_command_on_a_page_exist_and_have_their_type(place: str, line: str) -> None:
    _configs(line)


@EVERY_COMMAND
def test_every_command_that_trains_has_a_length(place: str, line: str) -> None:
    for _, config in _configs(line):
        if "trainer" in config:
            TrainerOptions.of(OmegaConf.to_container(config.trainer, resolve=True))  # type: ignore[arg-type]


def test_commands_for_the_readers_own_images_detect_their_format() -> None:
    own = "data.root=my_photos"
    lines = sorted({line for _, line in _commands() if own in line})
    formats = [(line, config.data.format) for line in lines for settings, config in _configs(line) if own in settings]
    assert len(formats) > 15
    assert [line for line, format in formats if format != "auto"] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("configs/data/folder.yaml", r"\A(# .*\n)+"),
        ("configs/experiment/finetune.yaml", r"^# The format .*"),
        ("configs/data_ground.yaml", r"^format: .*"),
        ("configs/data_refer.yaml", r"^format: .*"),
    ],
)
def test_a_comment_that_lists_the_formats_names_them_all(file: str, line: str) -> None:
    found = re.search(line, (DOCS.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    listed = found[0].lower().replace("label studio", "label_studio").replace("shards", "litdata")
    missing = set(FORMATS) - set(re.findall(r"\w+", listed))
    assert not missing, f"{file}: add {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", sorted(path.name for path in (DOCS / "log").glob("*.md")))
def test_every_test_that_a_page_of_the_log_names_exists(page: str) -> None:
    tests = Path(__file__).parent
    known = {path.name: path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py")}
    text = (DOCS / "log" / page).read_text(encoding="utf-8")
    for file in re.findall(r"tests/[\w/]+\.py", text):
        assert (tests.parent / file).is_file(), file
    for file, name in re.findall(r"(test_\w+\.py)`?::(test_\w+)", text):
        assert f"def {name}(" in known[file], f"{file}::{name}"
