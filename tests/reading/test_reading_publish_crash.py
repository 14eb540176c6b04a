"""A publication that dies or loses an answer at any of its writes: readers see the former version, then the new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from exclave.app import open_home, open_publishing, open_sites
from exclave.errors import IntegrityError, OutcomeUnknown, SiteUnavailable
from exclave.ids import Fingerprint, Key, Label, now
from exclave.operations import publish as verb
from exclave.operations.publish import PublishReceipt, publish
from exclave.operations.reading_room import look
from exclave.sites.contract import Site
from support.gazette_room import act_files, law
from support.gazette_state import TITLE, gazette_home, put
from support.small_home import SmallHome

SECOND = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads over the ice.")])


class Died(Exception):
    """The process is gone."""


class Frail:
    """Sites whose writes, counted together, go wrong at one point."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.count = at, how, 0

    def around(self, site: Site) -> Site:
        outer = self

        class One:
            def __getattr__(self, name: str) -> object:
                return getattr(site, name)

            def put_same(self, key: Key, data: bytes) -> None:
                outer.write(lambda: site.put_same(key, data))

            def put_new(self, key: Key, data: bytes) -> None:
                outer.write(lambda: site.put_new(key, data))

            def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
                return str(outer.write(lambda: site.replace_if(key, data, expected)))

        return One()  # type: ignore[return-value]

    def write(self, act) -> object:  # type: ignore[no-untyped-def]
        self.count += 1
        if self.count != self.at:
            return act()
        if self.how == "lost":
            act()
        if self.how == "killed before":
            raise Died
        raise SiteUnavailable("a test") if self.how == "refused" else OutcomeUnknown("a test")


def attempt(home: SmallHome, sites: Mapping[Label, Site]) -> PublishReceipt:
    opened = open_home(home.folder)
    source, prover = open_publishing(opened, "gazette", "")
    return publish(opened, "gazette", source, prover, sites=sites, witnesses={}, now=now())


def shown(home: SmallHome, *names: str) -> int:
    sites = {label: site for label, site in open_sites(open_home(home.folder)).items() if not names or label in names}
    return look(sites, Fingerprint(home.fingerprint), TITLE)[1].published.edition.sequence


@pytest.mark.parametrize("how", ["killed before", "refused", "lost"])
def test_dying_at_any_write(tmp_path: Path, how: str) -> None:
    """Killed, refused, an answer lost at each write in turn: the next run ends the work, the verifier is content."""
    home, acts = gazette_home(tmp_path)
    home.backup()
    attempt(home, open_sites(open_home(home.folder)))
    versions = 1
    for at in range(1, 40):
        put(acts, {**SECOND, "acts/2025/0001/v1.txt": f"Ice Road Act\n\nNumber {at}.\n".encode()})
        home.backup()
        versions += 1
        frail = Frail(at, how)
        sites = {label: frail.around(site) for label, site in open_sites(open_home(home.folder)).items()}
        try:
            attempt(home, sites)
        except (Died, SiteUnavailable, OutcomeUnknown, IntegrityError):
            assert shown(home) in (versions - 1, versions)
        attempt(home, open_sites(open_home(home.folder)))
        assert shown(home) == versions
        if frail.count < at:
            break
    else:
        raise AssertionError("a publication has more writes than this test looks at")
    assert at > 8
    assert [shown(home, name) for name in home.sites] == [versions] * 3
    home.verify()


def test_a_site_that_was_away_gets_everything_with_the_next_publication(tmp_path: Path) -> None:
    """One site lacked a whole edition; after the next publication it alone is enough for a new room."""
    home, acts = gazette_home(tmp_path)
    home.backup()
    away = tmp_path / "away"
    home.site("nord").rename(away)
    receipt = attempt(home, open_sites(open_home(home.folder)))
    assert receipt.sites == ("home", "lux")
    away.rename(home.site("nord"))
    put(acts, SECOND)
    home.backup()
    assert attempt(home, open_sites(open_home(home.folder))).sites == ("home", "lux", "nord")
    assert shown(home, "nord") == 2


def test_two_publications_at_once_are_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The register's lock is held: what is public cannot be composed from two versions."""
    home, _ = gazette_home(tmp_path)
    home.backup()
    opened = open_home(home.folder)
    taken: list[bool] = []

    def in_between(*arguments: object) -> object:
        with pytest.raises(Exception, match="another process"), opened.alone(opened.register_id("gazette")):
            taken.append(True)
        return real(*arguments)  # type: ignore[arg-type]

    real = verb.published_files
    monkeypatch.setattr(verb, "published_files", in_between)
    attempt(home, open_sites(opened))
    assert taken == []
