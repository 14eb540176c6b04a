"""A deletion is killed at each of its writes, and at each erasure: nothing that lives is ever harmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exclave.app import open_named_sites
from exclave.cli.output import plain
from exclave.formats.warrant import Act
from exclave.ids import Instant, Key, now
from exclave.operations import act_fact, deletion
from exclave.operations.custody import grant
from exclave.sites.contract import Site
from exclave.sites.erasing import DirectoryEraser, Locked
from exclave.verify.embassy import verify_embassy
from support.deleting import AgeingHome, DyingEraser, Killed, facts_of


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_every_erasure(home: AgeingHome, before: bool) -> None:
    """Whatever is left is harmless: living versions are whole at every moment, and the next run goes on."""
    total = home.erase("lux", look=True).pending
    assert len(total) >= 3
    for _ in total:
        with pytest.raises(Killed):
            home.erase("lux", power=DyingEraser(DirectoryEraser(str(home.site("lux"))), 1, before=before))
        if before:
            home.erase("lux", power=_Once(home))
        assert [v["complete"] for v in shown_at_31_days(home) if v["site"] == "lux"] == [1]
    done = home.erase("lux")
    assert (done.complete, done.erased, done.absent) == (True, 0, len(total))


class _Once:
    """Erases one object and leaves the rest as if it had been killed after it."""

    def __init__(self, home: AgeingHome) -> None:
        self._inner, self._done = DirectoryEraser(str(home.site("lux"))), False

    def shown_since(self, key: Key) -> Any:
        return self._inner.shown_since(key)

    def erase(self, key: Key) -> Locked | None:
        if self._done:
            return Locked(None, "another day")
        self._done = True
        return self._inner.erase(key)


def shown_at_31_days(home: AgeingHome) -> list[dict[str, Any]]:
    sites = open_named_sites(f"{name}={home.urls[name]}" for name in home.sites)
    report = verify_embassy(sites, home.pinned, now=Instant(now() + 31 * 86_400_000_000))
    assert not [f for f in report.findings if f.grave and f.fault in ("missing-object", "corrupt-object")]
    return list(plain(report)["registers"][0]["sites"])


class _DyingSite:
    """A site whose user is killed at its ``at``-th write, before or after it."""

    def __init__(self, inner: Site, count: list[int], at: int, *, before: bool) -> None:
        self._inner, self._count, self._at, self._before = inner, count, at, before

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in ("put_new", "put_same", "replace_if"):
            return real

        def write(*parts: Any) -> Any:
            self._count[0] += 1
            if self._count[0] == self._at and self._before:
                raise Killed
            found = real(*parts)
            if self._count[0] == self._at:
                raise Killed
            return found

        return write


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_every_write_of_publishing(home: AgeingHome, before: bool) -> None:
    """The order is in the ledger once or not at all, and the same command finishes it."""
    home.grown(1)
    order = home.propose("dying")
    signed = home.signed(order)
    parsed = deletion.read_order_file(order)
    at = 0
    while True:
        at += 1
        view, facts, history = facts_of(home)
        count = [0]
        sites = {n: _DyingSite(s, count, at, before=before) for n, s in facts.sites.items()}
        dying = act_fact.RegisterFacts(
            view,
            parsed.register,
            facts.machine,
            sites,
            {},
            facts.outbox,
            facts.alone,  # type: ignore[arg-type]
        )
        granted = deletion_grant(view, facts, signed, parsed)
        try:
            deletion.publish(view, parsed, granted, dying, sites, now=now())  # type: ignore[arg-type]
        except Killed:
            assert sum(f.fact.say[:1] == (parsed.digest.hex(),) for f in history.facts) <= 1
            continue
        break
    assert at > 6
    _, _, history = facts_of(home)
    assert sum(f.fact.say[:1] == (parsed.digest.hex(),) for f in history.facts) == 1
    assert home.verify()["ok"]


def deletion_grant(view: Any, facts: Any, signed: list[str], parsed: Any) -> Any:
    answers = [Path(path) for name, path in zip(signed[2::2], signed[3::2], strict=True) if name == "--answer"]
    return grant(view, Path(signed[1]), answers, act=Act.DELETE, place=None, machine=facts.machine, now=now(),
                 object=parsed.digest)  # fmt: skip
