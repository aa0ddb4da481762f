"""House rules that no linter knows: line budgets, one reader of pickled files, no machine's paths."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READER = Path("detr_mini/tensor_files.py")


def complaints(root: Path) -> Iterator[str]:
    """One sentence for each broken rule in the checkout `root`."""
    yield from over_budget(root)
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
