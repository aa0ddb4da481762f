"""Pages of the site that are made when it is built: the reference, from configs and `--help`, and the notebook.

A hook of MkDocs (mkdocs.yml): `make docs` runs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from detr_mini.config.files import config_folder, groups, options
from detr_mini.help_texts import VERBS, Verb

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

SETTING = re.compile(r"^(?P<key>[\w.]+): *(?P<value>.*?)(?: {2}# (?P<says>.*))?$")
PUBLIC = ("detr_mini.load", "detr_mini.Detector", "detr_mini.Detections", "detr_mini.Categories", "detr_mini.train",
          "detr_mini.evaluate", "detr_mini.export")  # fmt: skip


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages to those that are files."""
    from mkdocs.structure.files import File

    notebook = (Path(config.docs_dir) / "tour.ipynb").read_text(encoding="utf-8")
    pages = {"reference/verbs.md": verbs(), "reference/settings.md": settings(), "reference/python.md": python(),
             "tour.md": tour(notebook)}  # fmt: skip
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def verbs() -> str:
    """Every verb of the command line: what it does, examples, and its settings with their defaults."""
    lines = ["# Verbs", "", "This page is generated from `configs/` and the texts of `--help`.", ""]
    for name, verb in VERBS.items():
        examples = "\n".join(verb.examples)
        does = verb.summary[0].upper() + verb.summary[1:]
        lines += [f"## {name}", "", f"{does}.", "", f"```bash\n{examples}\n```", ""]
        lines += _of_a_verb(name, verb)
    return "\n".join(lines)


def _of_a_verb(name: str, verb: Verb) -> Iterator[str]:
    """The table of a verb's settings; for verbs that take a training's, what most people use of them."""
    if verb.keys:
        yield f"```text\n{verb.keys}\n```\n"
    text = (config_folder() / f"{verb.config}.yaml").read_text(encoding="utf-8")
    if name == "train":
        yield "All of them are on the page of the [training settings](settings.md).\n"
    elif re.search(r"^  - train$", text, re.MULTILINE):
        yield "It also accepts the [training settings](settings.md).\n"
    found = filter(None, map(SETTING.match, text.splitlines()))
    rows = [row for row in found if row["key"] not in ("defaults", "hydra")]
    if name != "train" and rows:
        yield "| setting | default | |\n| --- | --- | --- |"
        for row in rows:
            default = "(required)" if row["value"] == "???" else f"`{row['value']}`" if row["value"] else ""
            yield f"| `{row['key']}` | {_cell(default)} | {_cell(row['says'] or '')} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def settings() -> str:
    """Every file of `configs/` that `group=option` chooses, as it stands."""
    lines = ["# Training settings", "",
             "These are the files of `configs/`. `group=option` chooses a file (`model=detr`), and `group.key=value` "
             "changes a value (`model.queries=50`). An experiment changes several values at once.", "",
             "## train.yaml", "", _yaml(config_folder() / "train.yaml")]  # fmt: skip
    for group in groups():
        lines += [f"## {group}", ""]
        for option in options(group):
            lines += [f"### {group}={option}", "", _yaml(config_folder() / group / f"{option}.yaml")]
    return "\n".join(lines)


def _yaml(file: Path) -> str:
    return f"```yaml\n{file.read_text(encoding='utf-8').strip()}\n```\n"


def python() -> str:
    """The public names, from their docstrings."""
    lines = ["# Python", "", "What `import detr_mini` offers. These names and their arguments are stable "
             "([stability](../stability.md)).", ""]  # fmt: skip
    return "\n".join([*lines, *(f"::: {name}\n" for name in PUBLIC)])


def tour(notebook: str) -> str:
    """The notebook as a page: its texts and its code, without outputs."""
    parts = ["> This page is the notebook `docs/tour.ipynb`: open it with Jupyter to run it."]
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    head, rest = parts[1], parts[2:]
    title, _, body = head.partition("\n")
    return "\n\n".join([title, parts[0], body.strip(), *rest]) + "\n"
