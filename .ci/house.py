"""House rules that no linter knows: line budgets, one reader of pickled files, no machine's paths, no stale names."""

from __future__ import annotations

import re
import sys
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
RECORD = "results.md"
"""Says what was done with which command then; its names may be old."""


def complaints(root: Path) -> Iterator[str]:
    """One sentence for each broken rule in the checkout `root`."""
    yield from over_budget(root)
    yield from stale_names(root)
    for path in sorted(root.glob("detr_mini/**/*.py")):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(root)
        if re.search(r"\btorch\.load\b|\bpickle\.loads?\b", text) and place != READER:
            yield f"{place} reads pickled data; only {READER} may (use pretrained.checkpoints.read_checkpoint)"
    for pattern in ("detr_mini/**/*.py", "tests/**/*.py", "configs/**/*.yaml", "docs/*.md", "*.md"):
        for path in sorted(root.glob(pattern)):
            found = re.search(r"/(?:home|root|work|Users)/\w+", path.read_text(encoding="utf-8"))
            if found:
                yield f"{path.relative_to(root)} names a path of one machine: {found[0]}"


def stale_names(root: Path) -> Iterator[str]:
    """Files, verbs, options and settings that a page names and that do not exist; files and verbs in code, too."""
    verbs, options = _verbs(root), _options(root)
    keys = _keys(root) if options else set()
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("configs/**/*.yaml")]
    for path in sorted({*pages, *root.glob("detr_mini/**/*.py")}):
        if path.name in (RECORD, "CHANGELOG.md"):
            continue
        place, text = path.relative_to(root), path.read_text(encoding="utf-8")
        wrong = {name for name in re.findall(r"\b(?:detr_mini|configs|docs)/[\w/.-]*\w\.(?:py|yaml|md)\b", text)
                 if not re.search(r"[A-Z]{3}", name) and not (root / name).exists()}  # fmt: skip
        wrong |= {f"detr-mini {first}" for first, second in re.findall(
            r"(?:^|[`'\"])detr-mini ([a-z]\w*)(?: ([a-z]\w*)(?![\w=.]))?", text, re.MULTILINE)
            if not {first, f"{first} {second}"} & verbs}  # fmt: skip
        spans = re.findall(r"^```.*?^```|`[^`\n]+`", text, re.MULTILINE | re.DOTALL) if path.suffix == ".md" else []
        words = " ".join(span for span in spans if not span.startswith(("```python", "```yaml")))
        wrong |= set(_wrong_settings(words, options, keys))
        if path.suffix != ".md":
            wrong |= {f"experiment={name}" for name in re.findall(r"\bexperiment=([a-z]\w*)", text)
                      if name not in options.get("experiment", {name})}  # fmt: skip
        yield from (f"{place} names {name}, which does not exist" for name in sorted(wrong))


def _wrong_settings(text: str, options: Mapping[str, set[str]], keys: set[str]) -> Iterator[str]:
    for key, values in re.findall(r"(?<![\w.~/])([a-z_]+(?:\.[a-z_]+)*)=([a-z][\w|,]*)?", text):
        chosen = set(re.split(r"[|,]", values)) - {"", "null"}
        if key in options and chosen - options[key]:
            yield f"{key}={values}"
        known = key in keys or any(f"{start}.*" in keys for start in accumulate(key.split("."), "{}.{}".format))
        if "." in key and key.split(".")[0] in options and not known:
            yield f"{key}="


def _verbs(root: Path) -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in root.glob("detr_mini/*.py")]
    return {name for text in texts for name in re.findall(r'^    "([a-z_ ]+)": Verb\(', text, re.MULTILINE)}


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
