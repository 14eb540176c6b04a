"""The console's pages by themselves: what they show, and that nothing that is shown can become markup."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.console.latest import FRESH_S, Latest
from exclave.console.page import STYLE_HASH, age_text, failure_page, status_page
from exclave.errors import SiteUnavailable
from exclave.ids import Instant, Label, RegisterId
from exclave.operations.status import RegisterStatus, SiteStatus, StateStatus
from exclave.verify.state import Finding

T = Instant(1_790_000_000_000_000)
ID = RegisterId("0123456789abcdef0123456789abcdef")
HOSTILE = "</h2><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u202e"


def register(name: str = "gazette", *, problem: str = "", sequence: int = 7, whole: bool = True) -> RegisterStatus:
    sites = (SiteStatus(Label("lux"), 7, T, 90.0, whole=whole), SiteStatus(Label("nord"), 5, T, 7300.0))
    none = SiteStatus(Label("home"), 0, Instant(0), 0.0)
    return RegisterStatus(
        name, ID, 2, Label("writer"), True, sequence, T, 90.0, 3600, 900, not problem, problem, (*sites, none)
    )


def status(*registers: RegisterStatus, findings: tuple[Finding, ...] = (), state: str = "Small State") -> StateStatus:
    return StateStatus(state, "ab" * 32, 3, 2, 5, 1, registers, findings)


class Seen(HTMLParser):
    """Elements and text as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_all_is_well() -> None:
    """Each register and site with its age; one that is behind says by how much."""
    seen = Seen(status_page(status(register()), T))
    text = "|".join(seen.text)
    assert "The register is protected." in text
    assert "|lux|7|1 min|nord|5 (2 behind)|2 h 1 min|home|none|–|" in text
    assert "|number 3|" in text
    assert "|any 2 of 5|" in text
    assert "ab" * 32 in text
    assert "2026-09-21 14:13:20 UTC" in text


def test_a_site_that_lacks_something_is_not_shown_as_whole() -> None:
    """Beside the last version there stands that not all of it is there."""
    text = "|".join(Seen(status_page(status(register(whole=False)), T)).text)
    assert "|lux|7 (not whole)|1 min|" in text


def test_what_needs_attention_comes_first() -> None:
    """An unprotected register stands above the others, with its reason; a grave finding above notes."""
    findings = (
        Finding("lux", "site-unavailable", "site", "it is away", grave=False),
        Finding("nord", "corrupt-object", "pack/x", "it is damaged", ID),
    )
    found = status(register("a"), register("z", problem="older than its RPO"), findings=findings)
    text = "|".join(Seen(status_page(found, T)).text)
    assert "Needs attention: 1 of 2 registers not protected; 1 grave finding." in text
    assert text.index("older than its RPO") < text.index("|a|")
    assert text.index("it is damaged") < text.index("it is away")


def test_a_register_without_versions() -> None:
    """Nothing is made up for a register that has no version or could not be read."""
    empty = RegisterStatus("new", ID, 0, Label("?"), False, 0, Instant(0), 0.0, 3600, 900, False, "no version yet", ())
    text = "|".join(Seen(status_page(status(empty), T)).text)
    assert "no version|" in text
    assert "1970" not in text
    assert "not known" in text


@given(st.text() | st.just(HOSTILE))
def test_hostile_words(words: str) -> None:
    """Whatever stands in a name, reason or finding, the elements of the page are those of harmless words."""
    pages = []
    for said in (words, "harmless"):
        finding = Finding(said, said, said, said, ID)
        found = status(register(said, problem=said or "x"), findings=(finding,), state=said)
        pages.append(Seen(status_page(found, T)).tags + Seen(failure_page(said, said, said or "x")).tags)
    assert pages[0] == pages[1]


def test_accessible() -> None:
    """Language, title, viewport, headers of columns and rows; nothing is fetched from anywhere."""
    page = status_page(status(register(), findings=(Finding("a", "b", "c", "d"),)), T)
    seen = Seen(page)
    assert seen.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in seen.all("meta")
    scopes = [a["scope"] for a in seen.all("th")]
    assert scopes == [*["col"] * 3, *["row"] * 3, *["col"] * 2, "row"]
    assert len(seen.all("h1")) == len(seen.all("main")) == len(seen.all("title")) == 1
    assert {a.get("href") for a in seen.all("a")} == {"/", "/status.json"}
    assert not {"script", "img", "link", "iframe", "form"} & {tag for tag, _ in seen.tags}
    assert not [a for _, attributes in seen.tags for a in attributes if a.startswith("on") or a in ("style", "src")]


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    """The hash in the header is that of the text in the page."""
    found = re.search(r"<style>(.*)</style>", status_page(status(), T), re.DOTALL)
    assert found is not None
    assert "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() == STYLE_HASH


def _light(colour: str) -> float:
    parts = [
        int(c * 2 if len(colour) == 3 else c, 16) / 255 for c in re.findall("." if len(colour) == 3 else "..", colour)
    ]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast() -> None:
    """Text stands out from its background by 4.5 to 1 or more, in light and in dark (WCAG 2.2, 1.4.3)."""
    page = status_page(status(), T)
    schemes = [dict(re.findall(r"--([a-z-]+):#([0-9a-f]+)", part)) for part in re.findall(r":root\{[^}]*\}", page)]
    assert len(schemes) == 2
    for scheme in schemes:
        pairs = [(ink, on) for ink in ("ink", "soft", "link", "bad") for on in ("paper", "card")]
        for ink, on in [*pairs, ("good", "good-soft"), ("bad", "bad-soft")]:
            dark, light = sorted((_light(scheme[ink]), _light(scheme[on])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, on)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (9000, "2 h 30 min"),
        (86400, "1 d"),
        (97300, "1 d 3 h"),
    ],
)
def test_ages(seconds: float, told: str) -> None:
    """As exact as a person wants it."""
    assert age_text(seconds) == told


class Looks:
    """A look that counts, and can be held up."""

    def __init__(self) -> None:
        self.count, self.time, self.fails = 0, 0.0, False
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Event()
        self.latest = Latest(self, lambda: Instant(T + self.count), lambda: self.time)

    def __call__(self) -> StateStatus:
        self.count += 1
        self.inside.set()
        assert self.go.wait(10)
        if self.fails:
            raise SiteUnavailable("away")
        return status(state=f"look {self.count}")


def test_reloads_do_not_hammer_the_sites() -> None:
    """Within the few seconds all get the same look, a failed one too; after them, a new one."""
    looks = Looks()
    first = looks.latest.get()
    looks.time = FRESH_S - 0.1
    assert looks.latest.get() is first
    looks.time, looks.fails = FRESH_S, True
    failed = looks.latest.get()
    assert isinstance(failed.found, SiteUnavailable)
    assert failed.at > first.at
    assert looks.latest.get() is failed
    assert looks.count == 2


def test_one_looks_for_all() -> None:
    """While one looks, the others get the look before, at once; the very first is waited for."""
    looks = Looks()
    looks.go.clear()
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(looks.latest.get())) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert looks.inside.wait(10)
    looks.go.set()
    for thread in threads:
        thread.join(10)
    assert (looks.count, len(set(map(id, got)))) == (1, 1)
    looks.time = FRESH_S
    looks.go.clear()
    looks.inside.clear()
    slow = threading.Thread(target=looks.latest.get)
    slow.start()
    assert looks.inside.wait(10)
    assert looks.latest.get() is got[0]
    looks.go.set()
    slow.join(10)
    assert looks.latest.get() is not got[0]
