"""A real browser goes the whole way round, with JavaScript and without, and every page is looked at for what a picture would show."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from smalltale.hackathon.app import create_app
from smalltale.hackathon.scripted import ScriptedPanel
from smalltale.hackathon.worker import work

from .conftest import PASSWORD, Fair, stories

pytestmark = pytest.mark.all


@pytest.fixture
def site(fair: Fair) -> Iterator[str]:
    """A real server, and a worker beside it."""
    fair.person("ada")
    fair.person("bob")
    fair.hand_in(fair.team("eve"), content=stories("and sang"))
    server = uvicorn.Server(uvicorn.Config(create_app(fair.store), port=0, log_level="critical", ws="none"))
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.run),
        threading.Thread(target=work, args=(fair.store, lambda _edition, _panel: ScriptedPanel(), stop)),
    ]
    for each in threads:
        each.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    stop.set()
    server.should_exit = True
    for each in threads:
        each.join()


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
@pytest.mark.parametrize("width", [1280, 380])
def test_a_browser_goes_from_sign_in_to_export(site: str, tmp_path: Path, script: bool, width: int) -> None:
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    wrong, right = tmp_path / "wrong.csv", tmp_path / "right.csv"
    wrong.write_text("prompt,completion\nhello,there\n")
    right.write_bytes(stories())
    said: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(java_script_enabled=script, viewport={"width": width, "height": 800})
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.goto(site)
        page.click("text=Sign in to take part")
        page.fill("#handle", "ada")
        page.fill("#password", PASSWORD)
        page.click("main button.button")
        page.goto(f"{site}/team")
        page.fill("#name", "Two Foxes")
        page.fill("#hardware", "MacBook Air M2")
        page.click("text=Make the team")
        page.fill("#handle", "bob")
        page.click("button:has-text('Invite')")
        expect(page.locator("dl.facts")).to_contain_text("bob")
        page.goto(f"{site}/hand-in")
        page.fill("#counted_parameters", "29000000")
        page.fill("#model_hash", "ab" * 32)
        page.fill("#data", "TinyStories")
        page.check("[name=from_scratch]")
        page.set_input_files("#file", wrong)
        page.click("button[value=hand-in]")
        expect(page.locator(".errors li")).to_have_count(7)
        assert page.input_value("#counted_parameters") == "29000000"
        page.set_input_files("#file", right)
        page.click("button[value=hand-in]")
        expect(page.locator("h1")).to_contain_text("Hand-in 2")
        for _ in range(60):
            if page.locator(".state").inner_text() == "judged":
                break
            time.sleep(0.5)
            page.reload()
        expect(page.locator(".grand b")).to_be_visible()
        page.goto(f"{site}/e/first/leaderboard")
        for _ in range(20):
            if page.locator("table.board tbody tr").count() == 2:
                break
            time.sleep(0.5)
            page.reload()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") if script else True
        with page.expect_download() as download:
            page.click("text=CSV")
        assert "Two Foxes" in Path(download.value.path()).read_text(encoding="utf-8-sig")
        page.click("text=Compare the two picked")
        expect(page.locator(".duel")).to_have_count(3)
        expect(page.locator("h1")).to_contain_text("Two Foxes")
        page.keyboard.press("Tab")
        browser.close()
    assert [each for each in said if "422" not in each] == []
