"""The house rules can be broken, and are met."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / ".ci" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_over_its_budget_and_a_second_reader_of_pickles_are_named(house: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", '[tool.line-budgets]\nmodels = 2\n"*" = 5\n')
    write(tmp_path, "detr_mini/models/a.py", "1\n2\n3\n")
    write(tmp_path, "detr_mini/b.py", "import torch\ntorch.load('x')\n")
    write(tmp_path, "detr_mini/tensor_files.py", "torch.load('x')\n")
    write(tmp_path, "docs/x.md", "look in /" + "home/someone\n")
    found = list(house.complaints(tmp_path))
    assert [line.split()[0] for line in found] == ["models", "detr_mini/b.py", "docs/x.md"]


def test_this_checkout_keeps_the_rules(house: ModuleType) -> None:
    assert list(house.complaints(ROOT)) == []
