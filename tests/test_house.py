"""The house rules can be broken. That this checkout keeps them is checked by `make lint`."""

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


def planted(house: ModuleType, root: Path, page: str = "", code: str = "", config: str = "") -> list[str]:
    """What the check says of a small checkout that holds one verb, one experiment and these texts."""
    write(root, "pyproject.toml", '[tool.line-budgets]\n"*" = 100\n')
    write(root, "detr_mini/cli.py", 'VERBS = {\n    "data check": Verb(),\n    "train": Verb(),\n}\n')
    write(root, "configs/data_check.yaml", "fix: false\n")
    write(root, "configs/experiment/cells.yaml", "# @package _global_\ntrainer: {max_minutes: 5}\n")
    write(root, "configs/model/mini.yaml", f"# {config}\ndim: 32\nextra: null\n")
    write(root, "docs/page.md", page)
    write(root, "detr_mini/code.py", f'"""{code}"""\n')
    return list(house.complaints(root))


@pytest.mark.parametrize(
    ("stale", "sound"),
    [
        ("detr_mini/gone.py", "detr_mini/cli.py"),
        ("configs/gone.yaml", "configs/model/mini.yaml"),
        ("docs/gone.md", "docs/page.md"),
        ("`detr-mini gone`", "`detr-mini train model.dim=8`"),
        ("`detr-mini data gone`", "`detr-mini data check fix=true`"),
        ("`experiment=gone`", "`experiment=cells`"),
    ],
)
def test_a_stale_name_in_a_page_a_docstring_or_a_config_is_named(
    house: ModuleType, tmp_path: Path, stale: str, sound: str
) -> None:
    for place, file in {
        "page": "docs/page.md",
        "code": "detr_mini/code.py",
        "config": "configs/model/mini.yaml",
    }.items():
        assert [line.split()[0] for line in planted(house, tmp_path, **{place: f"see {stale}"})] == [file]
        assert planted(house, tmp_path, **{place: f"see {sound}"}) == []


def test_stale_settings_of_a_page_are_named(house: ModuleType, tmp_path: Path) -> None:
    fence = "```bash\ndetr-mini train model.dims=8 model=large experiment=cells\n```\n"
    assert len(planted(house, tmp_path, page=f"{fence}`model.dim=8 model.extra.any=1 other.key=2`")) == 2
    assert planted(house, tmp_path, page="in prose model.dims=8 is not looked at; `experiment=NAME`") == []


def test_prose_of_code_and_tests_is_checked_and_their_other_text_is_not(house: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "scripts/run.py", "# see tests/gone.py\n")
    write(tmp_path, "tests/test_a.py", '"""As docs/gone.md says."""\nNAME = "docs/missing.md"\n')
    assert planted(house, tmp_path, code="Set model.dims=8, or `model=large`; model.dim=8 is sound") == [
        "detr_mini/code.py names model.dims=, which does not exist",
        "detr_mini/code.py names model=large, which does not exist",
        "scripts/run.py names tests/gone.py, which does not exist",
        "tests/test_a.py names docs/gone.md, which does not exist",
    ]


def test_every_key_on_a_command_line_exists(house: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "configs/train.yaml", "seed: 0\n")
    assert planted(house, tmp_path, page="`detr-mini train seed=1`, `detr-mini data`, `other sed=1`") == []
    assert planted(house, tmp_path, page="```bash\ndetr-mini train 'model.dim=8' sed=1\n```") == [
        "docs/page.md names sed=, which does not exist"
    ]
