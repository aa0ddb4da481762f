"""House rules that no linter knows: line budgets, one reader of pickled files, no machine's paths, no stale names."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import yaml

READER = Path("detr_mini/tensor_files.py")
FILE = re.compile(r"\b(?:detr_mini|configs|docs|scripts|tests)/[\w/.-]*\w\.(?:py|yaml|md)\b")
RECORDS = ("CHANGELOG.md", "docs/results.md", "docs/log", "tests/golden/make.py")
"""These say what was done at older commits; their names may be old."""


def complaints(root: Path) -> Iterator[str]:
    """One sentence for each broken rule in the checkout `root`."""
    yield from over_budget(root)
    yield from stale_names(root)
    for path in sorted(root.glob("detr_mini/**/*.py")):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(root)
        if re.search(r"\btorch\.load\b|\bpickle\.loads?\b", text) and place != READER:
            yield f"{place} reads pickled data; only {READER} may (use pretrained.checkpoints.read_checkpoint)"
    for pattern in ("detr_mini/**/*.py", "tests/**/*.py", "configs/**/*.yaml", "docs/**/*.md", "*.md"):
        for path in sorted(root.glob(pattern)):
            found = re.search(r"/(?:home|root|work|Users)/\w+", path.read_text(encoding="utf-8"))
            if found:
                yield f"{path.relative_to(root)} names a path of one machine: {found[0]}"


def stale_names(root: Path) -> Iterator[str]:
    """Files, verbs, options and settings that prose names and that do not exist."""
    verbs, options = _verbs(root), _options(root)
    keys = _keys(root) if options else set()
    families = {verb.partition(" ")[0] for verb in verbs if " " in verb}
    for place, text in _prose(root):
        wrong = {name for name in FILE.findall(text)
                 if not re.search(r"[A-Z]{3}", name) and not (root / name).exists()}  # fmt: skip
        wrong |= {f"detr-mini {first}" for first, second in re.findall(
            r"(?:^|[`'\"])detr-mini ([a-z]\w*)(?: ([a-z]\w*)(?![\w=.]))?", text, re.MULTILINE)
            if not {first, f"{first} {second}"} & verbs and (second or first not in families)}  # fmt: skip
        if place.suffix == ".md":
            spans = re.findall(r"^```.*?^```|`[^`\n]+`", text, re.MULTILINE | re.DOTALL)
            text = "\n".join(span for span in spans if not span.startswith(("```python", "```yaml")))
        wrong |= set(_wrong_settings(text, options, keys))
        yield from (f"{place} names {name}, which does not exist" for name in sorted(wrong))


def _prose(root: Path) -> Iterator[tuple[Path, str]]:
    """Pages, comments of configs, comments and strings of code.

    Of tests, comments and docstrings only: their other strings name what must not exist.
    """
    code = (f"{folder}/**/*.py" for folder in ("detr_mini", "docs", "scripts", "tests"))
    patterns = ("*.md", "docs/**/*.md", "configs/**/*.yaml", *code)
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        place, text = path.relative_to(root), path.read_text(encoding="utf-8")
        if {place.as_posix(), place.parent.as_posix()} & {*RECORDS}:
            continue
        if path.suffix == ".yaml":
            text = "\n".join(re.findall(r"(?:^|\s)# ?(.*)", text))
        elif path.suffix == ".py":
            is_test = place.parts[0] == "tests"
            kinds = ("COMMENT",) if is_test else ("COMMENT", "STRING", "FSTRING_MIDDLE")
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            parts = [t.string.removeprefix("# ") for t in tokens if tokenize.tok_name[t.type] in kinds]
            if is_test:
                documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
                nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
                parts += [ast.get_docstring(node) or "" for node in nodes]
            text = "\n".join(parts)
        yield place, text


def _wrong_settings(text: str, options: Mapping[str, set[str]], keys: set[str]) -> Iterator[str]:
    for key, values in re.findall(r"(?<![\w.~/])([a-z_]+(?:\.[a-z_]+)*)=([a-z][\w|,]*)?", text):
        chosen = set(re.split(r"[|,]", values)) - {"", "null"}
        if key in options and chosen - options[key]:
            yield f"{key}={values}"
        known = key in keys or any(f"{start}.*" in keys for start in accumulate(key.split("."), "{}.{}".format))
        if "." in key and key.split(".")[0] in options and not known:
            yield f"{key}="
    for command in re.findall(r"(?:^|[`'\"])detr-mini [a-z].*", text, re.MULTILINE):
        for key in re.findall(r"(?<=[ '\"])([a-z_]+)=(?!=)", command):
            if options and key not in options and key not in keys:
                yield f"{key}="


def _verbs(root: Path) -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in root.glob("detr_mini/*.py")]
    found = {name for text in texts for name in re.findall(r'^    "([a-z_ ]+)": Verb\(', text, re.MULTILINE)}
    return found | {"completion"} if found else found  # it has no settings, and so no config


def _options(root: Path) -> dict[str, set[str]]:
    """The names of the files of each folder of configs/."""
    folders = [folder for folder in root.glob("configs/*") if folder.is_dir()]
    return {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in folders}


def _keys(root: Path) -> set[str]:
    """Every setting of configs/ in its dotted form; "data.train.*" where a setting may hold others of any name."""
    keys: set[str] = set()

    def add(node: Any, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            keys.update({f"{prefix}{key}", f"{prefix}{key}.*"} if value in (None, {}) else {f"{prefix}{key}"})
            add(value, f"{prefix}{key}.")

    for path in root.glob("configs/**/*.yaml"):
        text = path.read_text(encoding="utf-8")
        inside = path.parent != root / "configs" and "@package _global_" not in text
        add(yaml.safe_load(text), f"{path.parent.name}." if inside else "")
    return keys


def over_budget(root: Path) -> Iterator[str]:
    """Folders with more lines than [tool.line-budgets] allows; "*" is everything without a budget of its own."""
    budgets = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["line-budgets"]
    lines = dict.fromkeys(budgets, 0)
    for path in root.glob("detr_mini/**/*.py"):
        folder = path.relative_to(root / "detr_mini").parts[0]
        count = len(path.read_text(encoding="utf-8").splitlines())
        lines[folder if folder in budgets else "*"] += count
    for folder, count in lines.items():
        if count > budgets[folder]:
            yield f"{folder} has {count} lines, its budget is {budgets[folder]} (pyproject.toml, [tool.line-budgets])"


if __name__ == "__main__":
    broken = list(complaints(Path(__file__).resolve().parents[1]))
    print("\n".join(broken) if broken else "the house is in order")
    sys.exit(1 if broken else 0)
