"""From what writers noticed of versions to which are suspicious, why, and which is the last clean one.

Three kinds of rules, each for every dataset by itself:

- *loud*: something happened that was declared never to happen;
- *slow*: a sum over time (CUSUM) of what goes beyond the usual, so that one per cent a day is found as well as all at
  once. The usual is learnt from days that lie ``LAG_DAYS`` back, so an attacker who goes slowly does not become usual
  soon; and a second sum over a year has the register's first month as its measure and never gets used to anything;
- *at once*: one version in which far more changed than ever before.

A finding has the version that it begins with. What was damaged there is damaged in every later version, so the last
clean version is the one before the earliest finding. ADR 21 says what this does not see.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from exclave.formats.signals import Signals
from exclave.ids import Instant
from exclave.rules.signals_tables import TableFinding, table_findings

LAG_DAYS = 21.0
WINDOW_DAYS = 90.0
FIRST_DAYS = 30.0
YEAR_DAYS = 365.0
LEARN_VERSIONS = 10
LEARN_DAYS = 7.0
_DAY_US = 86_400_000_000
_LONGEST_DAYS = 10.0
"""A longer time without versions allows no more than this one."""


@dataclass(frozen=True, slots=True)
class VersionSignals:
    """One version: what was noticed in each of its datasets. A dataset that is not named tells nothing."""

    sequence: int
    time: Instant
    datasets: Mapping[str, Signals]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an honest register does not do, or very rarely."""

    dataset: str
    code: str
    since: int
    """The first version that may be damaged."""
    found: int
    """The version at which it became clear."""
    text: str
    """For a registrar."""
    examples: tuple[bytes, ...] = ()
    accepted: bool = False
    """People looked and said that it was meant to be."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all versions together say."""

    findings: tuple[Finding, ...]
    clean: int | None
    """The last version before the first finding that nobody accepted; None if there is none."""
    since: int | None
    """The first version that may be damaged; None if none is."""
    blind: tuple[int, ...]
    """Versions after the first that were compared with nothing: what came with them was not seen."""

    def suspicious(self, sequence: int) -> bool:
        """Whether the version may hold damage."""
        return self.since is not None and sequence >= self.since

    def at(self, sequence: int) -> tuple[Finding, ...]:
        """Findings that begin with this version or became clear at it."""
        return tuple(f for f in self.findings if sequence in (f.since, f.found))


@dataclass(frozen=True, slots=True)
class _Limit:
    """What goes by unnoticed of one count: so many a day, and a sum of so many beyond that."""

    per_day: float
    per_day_share: float
    """Of the dataset's files, in addition."""
    least: float
    least_share: float
    long: bool
    """Also summed up over a year against the first month."""
    text: str


_LIMITS = {
    "silent": _Limit(0.25, 1e-4, 4, 3e-4, True, "{n} files have other content under their old date"),
    "mismatch": _Limit(0.25, 1e-4, 4, 3e-4, True, "{n} files are not what their names say: encrypted, or damaged"),
    "random": _Limit(0.25, 1e-4, 4, 3e-4, True, "{n} files turned into noise: encrypted, or overwritten"),
    "suffix": _Limit(0.25, 1e-4, 4, 3e-4, True, "{n} files got an ending added to their names"),
    "old": _Limit(1, 1e-3, 20, 2e-2, False, "{n} files that had been left alone for a month were changed"),
}  # fmt: skip
_SHARES = {"gone": (0.05, 10, "{share} of the files are gone at once"),
           "changed": (0.25, 10, "{share} of the files changed at once")}  # fmt: skip
"""Count → (share that is never usual if so far less was, files at least, text)."""
DENSE_BYTES = 64 << 10
_DENSE_SLACK, _DENSE_SUM = 0.25, 1.0


def judge(versions: Sequence[VersionSignals], accepted: Collection[int] = ()) -> Verdict:
    """``versions`` in order. ``accepted``: versions whose findings were looked at by people and are in order."""
    labels = sorted({label for version in versions for label in version.datasets})
    found: list[Finding] = []
    blind: set[int] = set()
    for label in labels:
        line = [_Point.of(v, v.datasets[label]) for v in versions if label in v.datasets]
        blind.update(p.sequence for p in line[1:] if not p.seen.compared)
        points = _spaced(line)
        found += _loud(label, points)
        for code in _LIMITS:
            found += _slow(label, code, points)
        for code in _SHARES:
            found += _at_once(label, code, points)
        found += _dense(label, points)
        tables = [(p.sequence, p.seen.tables) for p in points]
        found += [_of_table(label, t) for t in table_findings(tables)]
    found = [replace(f, accepted=f.since in accepted or f.found in accepted) for f in found]
    found.sort(key=lambda f: (f.since, f.found, f.dataset, f.code))
    since = min((f.since for f in found if not f.accepted), default=None)
    numbers = [v.sequence for v in versions]
    clean = max((n for n in numbers if since is None or n < since), default=None)
    return Verdict(tuple(found), clean, since, tuple(sorted(blind)))


@dataclass(frozen=True, slots=True)
class _Point:
    sequence: int
    day: float
    seen: Signals
    days: float = 1.0
    """Since the version before."""

    @classmethod
    def of(cls, version: VersionSignals, seen: Signals) -> _Point:
        return cls(version.sequence, version.time / _DAY_US, seen)

    def count(self, code: str) -> int:
        value: int = getattr(self.seen, code)
        return value


def _spaced(line: Sequence[_Point]) -> list[_Point]:
    """Compared versions, each with the time since the one before; clocks that went back count as standing."""
    made, last = [], None
    for point in line:
        days = 1.0 if last is None else min(max(point.day - last, 0.0), _LONGEST_DAYS)
        last = point.day if last is None else max(point.day, last)
        if point.seen.compared:
            made.append(replace(point, days=days))
    return made


def _examples(points: Sequence[_Point], code: str) -> tuple[bytes, ...]:
    return tuple(path for p in points for name, path in p.seen.examples if name == code)[:3]


def _loud(label: str, points: Sequence[_Point]) -> Iterator[Finding]:
    for p in points:
        if p.seen.sealed:
            text = f"{_files(p.seen.sealed)} changed or gone, although declared never to change"
            yield Finding(label, "sealed", p.sequence, p.sequence, text, _examples([p], "sealed"))


class _Usual:
    """Of one count, per day: what the days between ``WINDOW_DAYS`` and ``LAG_DAYS`` ago had.

    The tenth of the versions with the most is left out. A register that is younger is measured by its first days.
    """

    def __init__(self, points: Sequence[_Point], code: str) -> None:
        self._points, self._code = points, code
        self._days = list(accumulate((p.day for p in points), max))
        self._known: dict[int, float] = {}

    def before(self, at: int) -> float:
        """As known at the version ``at``."""
        if at == 0:
            return 0.0
        day = int(self._days[at])
        if day not in self._known:
            low, high = bisect_left(self._days, day - WINDOW_DAYS), bisect_right(self._days, day - LAG_DAYS, hi=at)
            first = bisect_right(self._days, self._days[0] + LEARN_DAYS, hi=at)
            self._known[day] = self._mean(low, high) if high > low else self._mean(0, first)
        return self._known[day]

    def _mean(self, low: int, high: int) -> float:
        known = sorted(self._points[low:high], key=lambda p: p.count(self._code))
        known = known[: max(1, len(known) - len(known) // 10)]
        days = sum(p.days for p in known)
        if days < 1:
            return 0.0
        mean = sum(p.count(self._code) for p in known) / days
        return float(mean + 2 * (mean / days) ** 0.5)  # what is known from few days may be too low by chance


def _slow(label: str, code: str, points: Sequence[_Point]) -> Iterator[Finding]:
    limit = _LIMITS[code]
    total, start, alarmed, usually = 0.0, 0, False, _Usual(points, code)
    for at, p in enumerate(points):
        if not limit.long and not _learnt(points, at):
            continue
        files = max(p.seen.files, 1)
        free = limit.per_day + limit.per_day_share * files
        usual = usually.before(at)
        before, total = total, max(0.0, total + p.count(code) - p.days * (free + 1.5 * usual))
        if total == 0.0:
            alarmed = False
            continue
        if before == 0.0:
            start = at
        most = limit.least + limit.least_share * files + 5 * usual**0.5
        if total > most and not alarmed:
            alarmed = True
            yield _counted(label, code, points[start : at + 1], usual)
        total = min(total, 3 * most)  # so that it comes to an end some time after the attack does
    if limit.long:
        yield from _over_a_year(label, code, points)


def _over_a_year(label: str, code: str, points: Sequence[_Point]) -> Iterator[Finding]:
    """More than a hundredth of the files in a year, beyond twice what the first month had."""
    if not points:
        return
    first = [p for p in points if p.day <= points[0].day + FIRST_DAYS]
    usual = sum(p.count(code) for p in first) / max(sum(p.days for p in first), 1.0)
    total, start = 0.0, 0
    for at, p in enumerate(points):
        excess = p.count(code) - 2 * p.days * usual - p.days * 0.01 * p.seen.files / YEAR_DAYS / 2
        if total <= 0.0:
            total, start = 0.0, at
        total += excess
        if total > max(10.0, 0.005 * p.seen.files):
            yield _counted(label, code, points[start : at + 1], usual)
            return


def _counted(label: str, code: str, span: Sequence[_Point], usual: float) -> Finding:
    first = next((at for at, p in enumerate(span) if p.count(code)), 0)
    span = span[first:]
    text = _LIMITS[code].text.format(n=sum(p.count(code) for p in span))
    text = text.replace("1 files have", "1 file has") if text.startswith("1 ") else text
    endings = {p.seen.ending for p in span if p.seen.ending and code == "suffix"}
    if endings:
        text += f" (.{', .'.join(sorted(endings)[:3])})"
    if len(span) > 1:
        text += f", in versions {span[0].sequence} to {span[-1].sequence}"
    if usual >= 0.05:
        text += f"; usual are {usual:.1f} a day"
    return Finding(label, code, span[0].sequence, span[-1].sequence, text, _examples(span, code))


def _learnt(points: Sequence[_Point], at: int) -> bool:
    return at >= LEARN_VERSIONS and points[at].day - points[0].day >= LEARN_DAYS


def _at_once(label: str, code: str, points: Sequence[_Point]) -> Iterator[Finding]:
    share, least, text = _SHARES[code]
    highest = 0.0
    for at, p in enumerate(points):
        had = max(p.seen.files - p.seen.new + p.seen.gone, 1)
        part = p.count(code) / had
        if part > max(share, 3 * highest) and p.count(code) >= least and (code == "gone" or _learnt(points, at)):
            usual = f"; at most {highest:.1%} did so before" if at else ""
            yield Finding(label, code, p.sequence, p.sequence, text.format(share=f"{part:.0%}") + usual)
        else:
            highest = max(highest, part)


def _dense(label: str, points: Sequence[_Point]) -> Iterator[Finding]:
    """What is new compresses no longer."""
    shares: list[tuple[_Point, float]] = [
        (p, p.seen.dense_bytes / p.seen.new_bytes) for p in points if p.seen.new_bytes >= DENSE_BYTES
    ]
    total, start, alarmed = 0.0, 0, False
    for at, (p, share) in enumerate(shares):
        known = [s for _, s in shares[: max(0, at - LEARN_VERSIONS // 2)]]
        if len(known) < LEARN_VERSIONS:
            continue
        mean = sum(known) / len(known)
        spread = (sum((s - mean) ** 2 for s in known) / len(known)) ** 0.5
        before, total = total, max(0.0, total + share - mean - _DENSE_SLACK - 2 * spread)
        if total == 0.0:
            alarmed = False
        elif before == 0.0:
            start = at
        if total > _DENSE_SUM and not alarmed:
            alarmed = True
            text = f"what is new does not compress any more: {share:.0%} of it, usual is {mean:.0%}"
            yield Finding(label, "dense", shares[start][0].sequence, p.sequence, text)


def _of_table(label: str, found: TableFinding) -> Finding:
    return Finding(label, found.code, found.sequence, found.sequence, found.text)


def _files(number: int) -> str:
    return "1 file is" if number == 1 else f"{number} files are"
