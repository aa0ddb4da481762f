"""The demo and a report in headless Chromium: used as a person does, with every request elsewhere blocked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser_parts import CHROMIUM, NO_CHROMIUM, chromium, guarded_page
from detr_mini.pages.report import find_runs, write_report
from run_parts import write_run

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytest.importorskip("starlette")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(sync_api) as opened:
        yield opened


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "detr_mini", "demo", "port=0", "checkpoint=[shapes_captions,shapes_captions]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


def opened_page(browser: Any, width: int, scheme: str, elsewhere: list[str], own: str) -> Any:
    return guarded_page(browser, own, elsewhere, viewport={"width": width, "height": 800}, color_scheme=scheme)


def faults_for_people(page: Any) -> list[str]:
    """What axe-core finds that keeps people who see badly, or use no mouse, from using the page."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{fault['id']}: {fault['help']} ({[node['html'][:80] for node in fault['nodes'][:3]]})"
            for fault in found if fault["impact"] in ("serious", "critical")]  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_pictures_are_found_explained_and_downloaded(
    browser: Any, address: str, scenes_root: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    elsewhere: list[str] = []
    page = opened_page(browser, width, scheme, elsewhere, address)
    page.goto(address)
    page.wait_for_selector("#boxes input")
    picture = sorted((scenes_root / "val").iterdir())[0]
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copy(picture, evil)
    page.set_input_files("#files", [str(evil)])
    page.wait_for_selector("rect.found")
    page.wait_for_selector("[data-format=coco]:enabled")
    assert page.query_selector("h2").text_content() == evil.name
    assert len(page.query_selector_all(".side")) == 2
    assert len(page.query_selector_all("img")) == 2  # no name has become an element

    page.locator("#threshold").fill("0.05")
    most = page.locator("rect.found").count()
    page.locator("#threshold").fill("0.6")
    assert 0 < page.locator("rect.found").count() < most
    page.locator("rect.found").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".trace canvas")

    with page.expect_download() as download:
        page.click("[data-format=coco]")
    content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert len(content["annotations"]) == page.locator(".side").first.locator("rect.found").count()
    assert [image["file_name"] for image in content["images"]] == [evil.name]

    page.fill("#caption", "the circles")
    page.click("#ask button")
    page.wait_for_selector(".asked")
    assert faults_for_people(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert not elsewhere


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_report_opens_from_disk_fits_a_phone_and_prints(
    browser: Any, scenes_root: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    run, output = write_run(tmp_path / "run", scenes_root, 0.2), tmp_path / "report.html"
    write_report(find_runs(str(run)), output)
    elsewhere: list[str] = []
    page = opened_page(browser, width, scheme, elsewhere, output.as_uri())
    page.goto(output.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate("() => [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert faults_for_people(page) == []
    assert len(page.pdf(format="A4")) > 10_000
    assert not elsewhere
