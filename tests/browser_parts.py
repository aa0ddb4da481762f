"""Headless Chromium for tests: a page that reaches nothing but one address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no Chromium on the path"
PATIENCE = 120_000


@contextmanager
def chromium(sync_api: Any) -> Iterator[Any]:
    """A browser. `sync_api`: Playwright's, which may not be installed."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def guarded_page(browser: Any, own: str, elsewhere: list[str], **context: Any) -> Any:
    """A page on which all requests but those to addresses that begin with `own` are blocked.

    They, and errors of the page's scripts, go into `elsewhere`. `context`: settings of the browser's context.
    """
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE)

    def guard(route: Any) -> None:
        if route.request.url.startswith((own, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    page.on("pageerror", lambda error: elsewhere.append(str(error)))
    return page
