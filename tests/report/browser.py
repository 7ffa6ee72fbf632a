"""A real headless Chromium, and what a page did in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")

OFFLINE = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""Nothing but loopback is asked, whatever the browser itself would like to fetch."""


PATIENCE = 120_000
"""Milliseconds that a page may take for anything: other tests may have all cores."""


def find_chromium() -> str | None:
    """Return $CKPTLAB_CHROMIUM, a browser on the path or the one of playwright; None if none is."""
    named = os.environ.get("CKPTLAB_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def chromium() -> str:
    """Return the browser; without one leave the test out, but never in CI."""
    found = find_chromium()
    if found is None and os.environ.get("CI"):
        pytest.fail("CI needs a browser: make browser")
    if found is None:
        pytest.skip("needs a browser: make browser")
    return found


def wait_until(tab: Any, expression: str) -> None:
    """Wait until an expression holds.

    The page's policy forbids what playwright's `wait_for_function` does from its second try on.
    """
    until = time.monotonic() + PATIENCE / 1000
    while not tab.evaluate(expression):
        assert time.monotonic() < until, f"it does not come true that {expression}"
        tab.wait_for_timeout(20)


@dataclass
class Opened:
    """A page in a tab, and everything it said or asked for."""

    tab: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until everything is drawn as the switches say."""
        # Changes of colour scheme and of size reach the page with its next frame.
        self.tab.evaluate(
            """() => new Promise((done) =>
              requestAnimationFrame(() => requestAnimationFrame(done)))"""
        )
        self.tab.wait_for_selector(".plot[data-stale]", state="detached")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression holds: `wait_until` of its tab."""
        wait_until(self.tab, expression)

    def prefer(self, scheme: str) -> None:
        """Switch the reader's colour scheme and wait until the page has taken it up."""
        self.tab.emulate_media(color_scheme=scheme)
        self.wait_until(f"ckptlab.state.theme === '{scheme}'")
        self.settle()

    def print(self) -> bytes:
        """Print the page; return the PDF when the page is again as on the screen."""
        printed: bytes = self.tab.pdf(prefer_css_page_size=True)
        self.wait_until("!ckptlab.state.printing")
        self.settle()
        return printed

    def reset(self) -> None:
        """Set every switch back, as if the page had just been opened."""
        self.tab.evaluate(
            """() => {
              const choose = (name, value) =>
                document.querySelector(`input[name="${name}"][value="${value}"]`)?.click();
              choose("axis", "log");
              choose("theme", "auto");
              choose("run-layers", "0");
              const hidden = document.querySelectorAll("input[name=shown]:not(:checked)");
              hidden.forEach((input) => input.click());
              document.querySelectorAll("[aria-expanded=true]").forEach((e) => e.click());
              choose("level-bars", "0");
              document.querySelector("[data-do=reset]:not([hidden])")?.click();
              scrollTo({ top: 0, behavior: "instant" });
            }"""
        )
        self.tab.mouse.move(1, 1)
        self.settle()

    def charts(self) -> list[str]:
        """Return the keys of the charts."""
        return list(self.tab.eval_on_selector_all(".plot", "all => all.map(p => p.dataset.chart)"))

    def drawn(self, key: str, expression: str) -> Any:
        """Evaluate an expression on the figure `plot` that plotly holds for a chart."""
        return self.tab.eval_on_selector(f'[data-chart="{key}"]', f"plot => {expression}")

    def all_drawn(self, expression: str) -> list[Any]:
        """Evaluate an expression on the figure of every chart."""
        return list(self.tab.eval_on_selector_all(".plot", f"all => all.map(plot => {expression})"))

    def key_text(self, chart: str) -> str:
        """Return what the key of a chart says."""
        return str(self.tab.inner_text(f"#{chart} .key"))


@contextmanager
def new_tab(browser: Any) -> Iterator[Any]:
    """Open an empty tab in a context of its own."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def visit(
    tab: Any, what: Path | str, *, width: int = 1280, theme: str = "light", offline: bool = True
) -> Iterator[Opened]:
    """Open a page in an empty tab, wait until it is drawn, watch it, and empty the tab again."""
    assert tab.url == "about:blank", "a tab shows one page at a time"
    tab.context.set_offline(offline)
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(color_scheme=theme)
    tab.mouse.move(1, 1)
    page = Opened(tab)
    watched = {
        "console": lambda message: page.console.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: page.console.append(f"error: {error}"),
        "request": lambda request: page.requests.append(request.url),
    }
    for event, hear in watched.items():
        tab.on(event, hear)
    try:
        tab.goto(what.as_uri() if isinstance(what, Path) else what)
        tab.wait_for_selector("html[data-drawn]", state="attached")
        yield page
    finally:
        for event, hear in watched.items():
            tab.remove_listener(event, hear)
        tab.goto("about:blank")


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 1280, theme: str = "light"
) -> Iterator[Opened]:
    """Open a page in a new tab, which costs three times as much as in one that has had another."""
    with new_tab(browser) as tab, visit(tab, path, width=width, theme=theme) as page:
        yield page
