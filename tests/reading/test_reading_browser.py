"""A reader with a browser: finds an act, follows its permanent address, takes document and proof home, checks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from support.gazette_room import EVIL, FIRST, Press, RunningRoom, running_room
from support.gazette_state import gazette_home, serving
from support.login_browser import running_chromium
from support.small_home import SmallHome, run

PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}
CONTRAST = 4.5


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRoom]:
    press = Press()
    press.publish(FIRST)
    with running_room(press, tmp_path_factory.mktemp("room")) as running:
        yield running


def opened(chromium: Browser, **more: object) -> tuple[BrowserContext, Page]:
    """A browser without scripts, as readers may have it; everything that it asks anybody is noted."""
    context = chromium.new_context(java_script_enabled=False, accept_downloads=True, **more)  # type: ignore[arg-type]
    return context, context.new_page()


def test_find_an_act_and_prove_it(chromium: Browser, tmp_path: Path) -> None:
    """Search, open, permanent address, two downloads; then the verifier, with nothing but the fingerprint, says yes."""
    home, _ = gazette_home(tmp_path)
    home.backup()
    home.ok("publish", "gazette", "--yes", *home.home)
    context, page = opened(chromium, viewport=WIDE)
    with serving(home, tmp_path / "room", "lux", "nord") as running:
        page.goto(running.url)
        expect(page.frame_locator("iframe").locator("strong")).to_have_text("Verified copy.")
        page.get_by_label("Search the acts in force").fill("võrgu")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Kalapüügiseadus").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Kalapüügiseadus")
        page.get_by_role("link", name="/v/1/act/2024/0002/v2").first.click()
        assert page.url == f"{running.url}/v/1/act/2024/0002/v2"
        expect(page.get_by_text("It does not change.")).to_be_visible()
        with page.expect_download() as proof:
            page.get_by_role("link", name="Proof", exact=True).click()
        proof.value.save_as(tmp_path / "act.proof")
        page.get_by_role("link", name="Original document").click()
        (tmp_path / "act.txt").write_bytes(running.get(page.url.removeprefix(running.url)).body)
    context.close()
    _check(home, tmp_path)


def _check(home: SmallHome, folder: Path) -> None:
    document, proof = folder / "act.txt", folder / "act.proof"
    good = run("verify", str(document), "--proof", str(proof), "--fingerprint", home.fingerprint)
    assert good.code == 0, good.err
    document.write_bytes(document.read_bytes().replace("võrgu".encode(), "dünamiidi".encode()))
    bad = run("verify", str(document), "--proof", str(proof), "--fingerprint", home.fingerprint)
    assert bad.code == 21


def test_nothing_runs_and_nobody_else_is_asked(room: RunningRoom, chromium: Browser) -> None:
    """With scripts allowed, the hostile act runs none; no request leaves for elsewhere; nothing is stored."""
    context = chromium.new_context(viewport=WIDE)
    page = context.new_page()
    asked: list[str] = []
    alarms: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda line: alarms.append(line.text) if line.type == "error" else None)
    for path in (
        "/act/2023/0100",
        "/v/1/act/2023/0100/v1",
        "/",
        "/acts/2023",
        "/v/1/",
        "/search?q=script",
        "/act/2023/0200",
    ):
        page.goto(room.url + path)
        page.wait_for_load_state("load")
    assert alarms == []
    assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{room.port}"}
    assert context.cookies() == []
    page.goto(room.url + "/act/2023/0100")
    assert page.locator("h1").inner_text() == EVIL.replace("\u202e", "[U+202E]")
    context.close()


def test_keyboard_alone(room: RunningRoom, chromium: Browser) -> None:
    """The first tab offers to skip to the text; search and links follow in the order in which they are read."""
    context, page = opened(chromium, viewport=WIDE)
    page.goto(room.url + "/act/2024/0002")
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.locator(":focus").evaluate("e => (e.textContent || e.name || e.tagName).trim()"))
    assert order[:4] == ["Skip to the text", "State Gazette", "q", "Search"]
    page.goto(room.url + "/act/2024/0002")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_can_be_read_by_everybody(
    room: RunningRoom, chromium: Browser, scheme: str, size: dict[str, int]
) -> None:
    """Nothing is wider than the screen; text stands out (WCAG AA); one h1, a language, names for fields and frames."""
    context = chromium.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ("/", "/acts/", "/acts/2024", "/act/2024/0002", "/act/2023/0100", "/act/2023/0200", "/search?q=kala",
                 "/search?q=nothing+here", f"/search?q={'w' * 190}", "/check", "/versions", "/v/1/",
                 "/nothing"):  # fmt: skip
        page.goto(room.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.locator("h1").count() == 1
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.evaluate(_UNNAMED) == [], path
        low = [found for found in page.evaluate(_CONTRASTS) if found[1] < CONTRAST]
        assert low == [], (path, low)
        low = [found for found in page.frames[1].evaluate(_CONTRASTS) if found[1] < CONTRAST]
        assert low == [], (path, low)
        fits = page.frames[1].evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert fits, f"{path}: the line about the copy is cut off"
    context.close()


def test_on_paper_the_act_its_address_and_its_digest_remain(room: RunningRoom, chromium: Browser) -> None:
    """Printed: text, permanent address and SHA-256 are there; search, menus and buttons are not."""
    context, page = opened(chromium, viewport=WIDE)
    page.emulate_media(media="print")
    page.goto(room.url + "/act/2024/0002")
    for shown in ("§ 1. Section 1", "/v/1/act/2024/0002/v2"):
        expect(page.get_by_text(shown).first).to_be_visible()
    for hidden in ("form", ".top nav", ".button >> nth=0", "footer"):
        expect(page.locator(hidden)).to_be_hidden()
    context.close()


_UNNAMED = """() => [
  ...[...document.querySelectorAll('input')].filter(e => !e.labels.length),
  ...[...document.querySelectorAll('iframe')].filter(e => !e.title),
  ...[...document.querySelectorAll('a')].filter(e => !e.textContent.trim()),
  ...[...document.querySelectorAll('nav')].filter(e => !e.getAttribute('aria-label')),
].map(e => e.outerHTML)"""
_CONTRASTS = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > .5) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.body.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.classList.contains('skip') || !e.getClientRects().length) continue;
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    found.push([e.tagName + ' ' + e.textContent.trim().slice(0, 30), (a + .05) / (b + .05)]);
  }
  return found;
}"""
