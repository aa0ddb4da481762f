"""Draws docs/images/architecture.png: which room of the package imports which.

python docs/architecture_picture.py
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "detr_mini"


def rows() -> list[list[str]]:
    """The layers of pyproject.toml, from the ground up; rooms that do not exist are left out."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [[room.strip(" ()") for room in layer.split("|")] for layer in reversed(contracts[0]["layers"])]
    present = [[room for room in layer if exists(room)] for layer in layers]
    return [layer for layer in present if layer]


def exists(room: str) -> bool:
    return (PACKAGE / room / "__init__.py").is_file() or (PACKAGE / f"{room}.py").is_file()


def imports() -> dict[str, Counter[str]]:
    """How many files of each room import each other room; imports for type checkers alone are left out."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        parts = [module.split(".") for module in _modules(ast.parse(path.read_text(encoding="utf-8")))]
        used = {part[1] for part in parts if part[0] == "detr_mini" and len(part) > 1 and exists(part[1])}
        found.setdefault(room, Counter()).update(used - {room})
    return found


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _modules(child)


def picture(path: Path) -> None:
    """A row for each room with a mark for each room that it imports; rooms stand in the order of the layers."""
    order, counts = [room for layer in rows() for room in layer], imports()
    size = len(order)
    figure, axes = plt.subplots(figsize=(12, 11))
    for index, room in enumerate(order):
        if index % 2 == 0:
            axes.axhspan(index - 0.5, index + 0.5, color="#f3f5f7", zorder=0)
        axes.add_patch(plt.Rectangle((index - 0.5, index - 0.5), 1, 1, color="#c9d3dd", zorder=1))
        for used, files in counts.get(room, {}).items():
            if used in order:
                axes.scatter(order.index(used), index, s=30 + 26 * min(files, 10), color="#2f6f9f", zorder=2)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(-0.5, size - 0.5)
    axes.set_xticks(range(size), order, rotation=60, ha="right", rotation_mode="anchor", fontsize=12)
    axes.set_yticks(range(size), order, fontsize=12)
    axes.set_ylabel("a room ...", fontsize=13)
    axes.set_xlabel("... uses these rooms (the larger the dot, the more of its files do, up to ten)", fontsize=13)
    rule = "No dot may stand on this side:\na room never uses one above it."
    axes.text(size - 1, 2, rule, ha="right", fontsize=15, color="#666666")
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.tight_layout(pad=0.5)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    picture(ROOT / "docs" / "images" / "architecture.png")
