"""Chromium uses the site from sign-in to export, with and without JavaScript, and checks every page for contrast, labels and width."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from smalltale.server.database.session import Database
from smalltale.server.demo import PASSWORD as DEMO_PASSWORD
from smalltale.server.demo import create_demo_edition
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.web.app import create_app
from smalltale.server.worker import run_worker

from .conftest import PASSWORD, Hackathon, submission_csv

pytestmark = pytest.mark.all


@pytest.fixture
def site(hackathon: Hackathon) -> Iterator[str]:
    """The address of a running server with a worker."""
    hackathon.add_person("ada")
    hackathon.add_person("bob")
    hackathon.submit(hackathon.add_team("eve"), content=submission_csv("and sang"))
    yield from serve(hackathon.database)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """The address of the demo, as `smalltale serve --demo` serves it."""
    database = Database(f"sqlite:///{tmp_path / 'demo.db'}")
    database.migrate()
    create_demo_edition(database)
    yield from serve(database, demo=True)
    database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def serve(database: Database, *, demo: bool = False) -> Iterator[str]:
    """Run a server and a worker on a database; yields the address."""
    app = create_app(database, demo=demo)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none"))
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.run),
        threading.Thread(target=run_worker, args=(database, lambda _edition, _panel: ScriptedPanel(), stop)),
    ]
    for thread in threads:
        thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    stop.set()
    server.should_exit = True
    for thread in threads:
        thread.join()


def sign_in(page: Page, site: str, handle: str, password: str) -> None:
    page.goto(f"{site}/sign-in")
    page.fill("#handle", handle)
    page.fill("#password", password)
    page.click("main button.button")


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_goes_from_sign_in_to_export(
    browser: Browser, site: str, tmp_path: Path, script: bool, width: int
) -> None:
    wrong, right = tmp_path / "wrong.csv", tmp_path / "right.csv"
    wrong.write_text("prompt,completion\nhello,there\n")
    right.write_bytes(submission_csv())
    console: list[str] = []
    contexts = [
        browser.new_context(java_script_enabled=script, viewport={"width": width, "height": 800})
        for _ in range(2)
    ]
    page, bobs_page = (context.new_page() for context in contexts)
    for opened_page in (page, bobs_page):
        opened_page.on("console", lambda message: console.append(message.text))
    page.goto(site)
    expect(page.locator(".dates")).to_contain_text("1 Mar 2026, 00:00 AOE · 1 Mar 12:00 UTC")
    assert ("your time" in page.locator(".dates").inner_text()) is script
    page.click("text=Sign in to take part")
    sign_in(page, site, "ada", PASSWORD)
    page.click("nav >> text=Team")
    page.fill("#name", "Two Foxes")
    page.fill("#hardware", "MacBook Air M2")
    page.click("text=Create team")
    page.fill("#handle", "bob")
    page.click("button:has-text('Invite')")
    expect(page.locator("dl.facts")).to_contain_text("bob")
    sign_in(bobs_page, site, "bob", PASSWORD)
    bobs_page.click("nav >> text=Team")
    bobs_page.click("text=Join")
    expect(bobs_page.locator("dl.facts")).to_contain_text("ada, bob")
    page.click("nav >> text=Submit")
    page.fill("#counted_parameters", "29000000")
    page.fill("#model_hash", "ab" * 32)
    page.fill("#data", "TinyStories")
    page.check("[name=from_scratch]")
    page.set_input_files("#file", wrong)
    page.click("button[value=submit]")
    expect(page.locator(".errors li")).to_have_count(7)
    assert page.input_value("#counted_parameters") == "29000000"
    page.set_input_files("#file", right)
    page.click("button[value=check]")
    expect(page.locator("[role=status]")).to_contain_text("passes the check")
    page.set_input_files("#file", right)
    page.click("button[value=submit]")
    expect(page.locator("h1")).to_contain_text("Submission 2")
    assert page.locator(".state").inner_text() in {"queued", "judging", "judged"}
    for _ in range(60):
        if page.locator(".state").inner_text() == "judged":
            break
        time.sleep(0.5)
        page.reload()
    expect(page.locator(".headline-score b")).to_be_visible()
    with page.expect_download() as download:
        page.click("text=JSON")
    assert len(json.loads(Path(download.value.path()).read_text())) == 36
    bobs_page.click("nav >> text=Queue")
    expect(bobs_page.locator("main")).to_contain_text("Two Foxes")
    page.click("nav >> text=Leaderboard")
    for _ in range(20):
        if page.locator("table.board tbody tr").count() == 2:
            break
        time.sleep(0.5)
        page.reload()
    if script:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with page.expect_download() as download:
        page.click("text=CSV")
    assert "Two Foxes" in Path(download.value.path()).read_text(encoding="utf-8-sig")
    page.click("text=Compare the selected submissions")
    expect(page.locator(".comparison")).to_have_count(3)
    expect(page.locator("h1")).to_contain_text("Two Foxes")
    page.click("text=Sign out")
    expect(page.locator("text=Sign in to take part")).to_be_visible()
    for context in contexts:
        context.close()
    assert [message for message in console if "422" not in message] == []


def test_sign_in_works_by_keyboard(browser: Browser, site: str) -> None:
    page = browser.new_page()
    page.goto(f"{site}/sign-in")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "handle"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator(".account-menu")).to_contain_text("ada")
    page.close()


FIND_DEFECTS = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const part = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const defects = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!text || !e.getClientRects().length || e.closest(".visually-hidden, script, option")) continue;
    const a = light(rgb(e.closest("svg") ? style.fill : style.color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < least) defects.push(`${text.slice(0, 30)} has contrast ${ratio.toFixed(2)}`);
  }
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!e.labels.length && !e.ariaLabel) defects.push(`${e.name} has no label`);
  if (document.documentElement.scrollWidth > innerWidth) defects.push("the page is wider than the window");
  return defects;
}"""
"""JavaScript that lists texts with too little contrast (WCAG AA), fields without a label, and pages wider than the window."""
PAGES = {
    "": [
        "/", "/e/demo/leaderboard", "/e/demo/leaderboard?class=small", "/e/demo/rules", "/e/demo/queue",
        "/submissions/4?order=best", "/teams/1", "/compare?a=4&b=8", "/sign-in", "/join/code",
    ],
    "ada": ["/team", "/submit", "/account", "/submissions/4"],
    "organiser": ["/organise", "/organise/audit", "/submissions/4", "/e/demo/leaderboard?kind=daily&side=all"],
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_has_contrast_and_labels_and_fits_the_window(
    browser: Browser, demo: str, scheme: str
) -> None:
    defects: list[str] = []
    for width in (1280, 390):
        for handle, paths in PAGES.items():
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.on("console", lambda message: defects.append(message.text))
            if handle:
                sign_in(page, demo, handle, DEMO_PASSWORD)
            for path in paths:
                page.goto(demo + path)
                defects.extend(f"{path} at {width}: {defect}" for defect in page.evaluate(FIND_DEFECTS))
            context.close()
    assert defects == []
