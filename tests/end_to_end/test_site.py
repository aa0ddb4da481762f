"""`make docs` builds the site without a warning; it opens from disk, loads nothing from elsewhere, can be searched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from browser_parts import CHROMIUM, NO_CHROMIUM, chromium, guarded_page
from detr_mini.help_texts import VERBS

ROOT = Path(__file__).parents[2]
SHORTER = (
    ('"max_steps": 450', '"max_steps": 150'),
    ('"train": 1500', '"train": 300'),
    ('data={"make"', 'data={"batch_size": 8, "make"'),
)
"""What is changed in the notebook's training: a detector of less training shows as much, for a test."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_reference_has_every_verb_and_every_public_name(site: Path) -> None:
    verbs = (site / "reference" / "verbs.html").read_text(encoding="utf-8")
    for name in VERBS:
        assert f'id="{name.replace(" ", "-")}"' in verbs, name
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("load", "Detector.detect", "Detections.to_pandas", "train", "export"):
        assert f'id="detr_mini.{name}"' in python, name
    assert "distinct_iou" in (site / "reference" / "settings.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_search_works_from_disk_and_nothing_is_asked_for_elsewhere(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    elsewhere: list[str] = []
    with chromium(sync_api) as browser:
        page = guarded_page(browser, "file:", elsewhere)
        page.goto((site / "index.html").as_uri())
        page.click("input[name=query]")
        page.keyboard.type("suppress_iou")
        found = page.wait_for_selector(".md-search-result__item a", timeout=20_000)
        assert found is not None
        assert "suppress_iou" in page.inner_text(".md-search-result")
        found.click()
        page.wait_for_load_state()
        assert "suppress_iou" in page.inner_text("article")
    assert elsewhere == []


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "save it without outputs"
    (training,) = (cell for cell in notebook.cells if "detr_mini.train(" in cell.source)
    for usual, short in SHORTER:
        assert training.source.count(usual) == 1, f"docs/tour.ipynb no longer has {usual}"
        training["source"] = training.source.replace(usual, short)
    nbclient.NotebookClient(notebook, timeout=560, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert (tmp_path / "outputs" / "tour" / "metrics.json").is_file()
