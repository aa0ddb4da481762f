"""The demo and a report in headless Chromium: used as a person does, with every request elsewhere blocked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
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


def demo_page(browser: Any, address: str) -> Any:
    page = opened_page(browser, 1200, "light", [], address)
    page.goto(address)
    page.wait_for_selector("#boxes input")
    return page


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_downloads_keep_the_folders_of_the_pictures(
    browser: Any, address: str, scenes_root: Path, tmp_path: Path, how: str
) -> None:
    for picture, name in zip(sorted((scenes_root / "val").iterdir()), ("a", "b"), strict=False):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "photos" / name / "1.png")
    page = demo_page(browser, address)
    page.set_input_files("#folder", str(tmp_path / "photos"))
    if how == "dropped":  # a script cannot drop a folder: these are the entries that a browser would give
        page.wait_for_selector("[data-format=yolo]:enabled")
        page.evaluate(DROP)
        page.wait_for_function("() => document.querySelectorAll('article rect.found').length > 0")
    page.wait_for_selector("[data-format=yolo]:enabled")
    with page.expect_download() as download:
        page.click("[data-format=yolo]")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(archive.namelist()) == ["data.yaml", "labels/a/1.txt", "labels/b/1.txt"]


DROP = """() => {
  const files = state.pictures.map((picture) => picture.file);
  document.getElementById("clear").click();
  const entry = (name, inside) => ({ name, isFile: inside instanceof File,
    file: (give) => give(inside), createReader: () => {
      const left = [inside, []];
      return { readEntries: (give) => give(left.shift()) };
    } });
  const folders = ["a", "b"].map((name, place) => entry(name, [entry("1.png", files[place])]));
  const event = new Event("drop");
  event.dataTransfer = { items: [{ webkitGetAsEntry: () => entry("photos", folders) }], files: [] };
  document.body.dispatchEvent(event);
}"""


def test_a_picture_that_failed_is_tried_again_with_the_next_one(browser: Any, address: str, scenes_root: Path) -> None:
    page = demo_page(browser, address)
    asked: list[str] = []

    def fail_first(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503, json={"error": "busy"})
        else:
            route.fallback()

    page.route("**/api/detect*", fail_first)
    first, second = (str(path) for path in sorted((scenes_root / "val").iterdir())[:2])
    page.set_input_files("#files", [first])
    page.wait_for_selector(".error")
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('1 picture')")
    assert len(asked) == 2, "two detectors, each asked once: no endless loop"
    page.set_input_files("#files", [second])
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('2 pictures')")
    assert len(asked) == 6 and page.locator(".error").count() == 0


def test_an_answer_is_shown_with_the_caption_that_it_answers(browser: Any, address: str, scenes_root: Path) -> None:
    page = demo_page(browser, address)
    page.set_input_files("#files", [str(sorted((scenes_root / "val").iterdir())[0])])
    page.wait_for_selector("[data-format=coco]:enabled")
    page.fill("#caption", "the circles")
    page.click("#ask button")
    page.wait_for_selector(".asked")
    page.wait_for_selector("[data-format=coco]:enabled")
    held: list[Any] = []
    page.route("**/api/detect*", lambda route: held.append(route))
    page.fill("#caption", "a square")
    page.click("#ask button")
    page.locator("#threshold").fill("0.1")  # draws everything again while the answer is on its way
    assert {line.text_content() for line in page.query_selector_all(".asked")} == {"the circles"}
    assert page.locator("[data-format=coco]:enabled").count() == 0
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.locator("rect.found").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".trace canvas")
    assert [url for url in urls if "/api/explain" in url and "caption=the+circles" in url]
    for route in held:
        route.abort()


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
