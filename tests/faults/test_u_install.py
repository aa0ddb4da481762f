"""What is said about installing works: the package is in no index."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from detr_mini import errors
from detr_mini.training import final_scores

ROOT = Path(__file__).parents[2]


def test_u19_no_page_and_no_message_asks_an_index_for_us() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    for path in (*pages, *(ROOT / "detr_mini").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install ['\"]?detr[-_]mini(\[\w+\])?['\"]?(?![\w./-])", text), path


def test_u19_a_checkout_installs_itself_and_a_wheel_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert errors.install("text") == f"pip install -e '{ROOT}[text]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "detr_mini" / "errors.py"))
    needs = ["torch>=2", "timm>=1.0.12; extra == 'timm'", 'optuna>=4.0; extra == "sweep"', "joblib ; extra=='sweep'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    assert errors.install("sweep") == "pip install 'optuna>=4.0' 'joblib'"


def test_the_commit_of_a_run_is_this_codes_and_not_that_of_the_users_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in (tmp_path, ROOT):
        installed = folder / ".venv" / "site-packages" / "detr_mini" / "training" / "final_scores.py"
        monkeypatch.setattr(final_scores, "__file__", str(installed))
        assert final_scores._git_commit() is None
