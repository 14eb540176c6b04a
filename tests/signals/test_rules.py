"""The rules of suspicion as a table, and as many simulated months: honest ones stay quiet, slow attacks do not."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate

import pytest

from exclave.formats.signals import Signals, TableSignal, TableState
from exclave.ids import Instant
from exclave.rules.signals import Verdict, VersionSignals, judge

DAY = 86_400_000_000
QUIET = Signals(True, files=1000)


def line(*days: Signals, every_us: int = DAY) -> list[VersionSignals]:
    """One version for each, the first of them compared with nothing."""
    seen = [replace(days[0], compared=False), *days[1:]]
    return [VersionSignals(n, Instant(n * every_us), {"docs": s}) for n, s in enumerate(seen, 1)]


def poisson(rng: random.Random, mean: float) -> int:
    """Events of a day when so many are usual."""
    return sum(1 for at in accumulate(rng.expovariate(max(mean, 1e-9)) for _ in range(int(mean * 5) + 20)) if at < 1)


def office(
    seed: int, days: int, *, files: int = 2000, false_names: float = 0.0, a_day: int = 1
) -> list[VersionSignals]:
    """An office with weekends, months in which many old files are put right at once, and a few oddities."""
    rng, made = random.Random(seed), []
    for number in range(days * a_day):
        busy = (number // a_day) % 7 < 5
        new, amended = poisson(rng, (12 if busy else 2) / a_day), poisson(rng, (30 if busy else 3) / a_day)
        old = min(amended, poisson(rng, (4 if busy else 0.4) / a_day))
        if rng.random() < 1 / 30 / a_day:
            batch = rng.randint(5, 25)
            old, amended = old + batch, amended + batch
        gone = poisson(rng, 1 / a_day)
        files += new - gone
        made.append(
            Signals(
                True, files=files, new=new, changed=amended, gone=gone, old=old, touched=poisson(rng, 2),
                mismatch=poisson(rng, false_names / a_day), silent=poisson(rng, 0.05 / a_day),
                random=poisson(rng, 0.02 / a_day), new_bytes=new * 80_000 + amended * 30_000,
                dense_bytes=sum(80_000 for _ in range(new) if rng.random() < 0.5),
            )
        )  # fmt: skip
    return line(*made, every_us=DAY // a_day)


def attacked(versions: list[VersionSignals], start: int, share: float, kinds: tuple[str, ...]) -> list[VersionSignals]:
    """From version ``start`` on, ``share`` of the files a day are done something to that counts as ``kinds``."""
    made, rest = [], 0.0
    for version in versions:
        seen = version.datasets["docs"]
        if version.sequence >= start:
            rest += share * seen.files
            done, rest = int(rest), rest % 1
            seen = replace(seen, **{kind: getattr(seen, kind) + done for kind in kinds})
        made.append(replace(version, datasets={"docs": seen}))
    return made


@pytest.mark.parametrize(
    "how", [{}, {"false_names": 0.3}, {"false_names": 1.0}, {"files": 200}, {"files": 100_000}, {"a_day": 24}], ids=str
)
def test_honest_months_are_quiet(how: dict[str, float]) -> None:
    """In 25 offices of two months there is at most one finding (one month, where a version is made each hour)."""
    months = [judge(office(seed, 30 if "a_day" in how else 60, **how)) for seed in range(25)]  # type: ignore[arg-type]
    assert sum(len(verdict.findings) for verdict in months) <= 1


@pytest.mark.parametrize(
    ("share", "kinds", "latest"),
    [
        (0.05, ("old", "mismatch", "changed"), 0),
        (0.01, ("old", "mismatch", "changed"), 0),
        (0.01, ("silent", "changed"), 0),
        (0.01, ("old", "changed"), 6),
        (0.002, ("mismatch", "changed"), 3),
        (0.0005, ("mismatch", "changed"), 14),
        (0.0005, ("random", "changed"), 14),
    ],
)
def test_slow_attacks_are_found(share: float, kinds: tuple[str, ...], latest: int) -> None:
    """In each of 20 offices, within ``latest`` days; the proposed version is clean, and mostly the very last one."""
    start, exact = 40, 0
    for seed in range(20):
        verdict = judge(attacked(office(seed, 90), start, share, kinds))
        assert verdict.findings
        assert min(f.found for f in verdict.findings if f.found >= start) <= start + latest
        assert verdict.clean is not None
        assert verdict.clean <= start + int(1 / (share * 2000))
        exact += verdict.clean >= start - 1
    assert exact >= 12


def test_attacker_who_speeds_up_slowly_does_not_become_usual() -> None:
    """Half as many again each three weeks, from one file in three days on: found before two per cent are gone."""
    rng = random.Random(1)
    days = [replace(QUIET, files=2000)] * 30
    rates = [0.3 * 1.5 ** (day / 21) for day in range(150)]
    days += [replace(QUIET, files=2000, mismatch=poisson(rng, rate)) for rate in rates]
    verdict = judge(line(*days))
    found = min(f.found for f in verdict.findings)
    assert sum(day.mismatch for day in days[:found]) <= 40


def only(verdict: Verdict) -> tuple[str, int, int, int | None]:
    (finding,) = verdict.findings
    return finding.code, finding.since, finding.found, verdict.clean


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (replace(QUIET, sealed=1), "sealed"),
        (replace(QUIET, silent=9), "silent"),
        (replace(QUIET, suffix=9, ending="locked"), "suffix"),
        (replace(QUIET, gone=300, files=700), "gone"),
        (replace(QUIET, changed=400), "changed"),
        (replace(QUIET, new_bytes=9_000_000, dense_bytes=9_000_000), None),
        (replace(QUIET, new=900, files=1900), None),
        (replace(QUIET, touched=1000), None),
        (replace(QUIET, mismatch=3), None),
        (replace(QUIET, old=20, changed=20), None),
    ],
)
def test_one_odd_day(odd: Signals, code: str | None) -> None:
    """After twenty quiet days: what is loud enough by itself, and what is not."""
    verdict = judge(line(*[QUIET] * 20, odd, *[QUIET] * 5))
    if code is None:
        assert (verdict.findings, verdict.clean) == ((), 26)
    else:
        assert only(verdict) == (code, 21, 21, 20)
        assert verdict.suspicious(26)
        assert not verdict.suspicious(20)


def test_compression_that_is_lost() -> None:
    """What is new compresses no longer, day after day; days on which it varies as ever are usual."""
    usual = [replace(QUIET, new_bytes=1 << 20, dense_bytes=(n % 3) << 17) for n in range(20)]
    lost = replace(QUIET, new_bytes=1 << 20, dense_bytes=1 << 20)
    code, since, _, clean = only(judge(line(*usual, *[lost] * 6)))
    assert (code, since, clean) == ("dense", 21, 20)
    assert judge(line(*usual, *usual)).findings == ()


def table(state: TableState, rows: int, former: int | None, broken: int = 0) -> Signals:
    return Signals(True, files=1, tables=(TableSignal("deed", rows, former, state, broken),))


GROWN, ALTERED, SHRUNK = TableState.GROWN, TableState.ALTERED, TableState.SHRUNK


@pytest.mark.parametrize(
    ("before", "odd", "code"),
    [
        ([], table(ALTERED, 100, 100, broken=1), "append-only"),
        ([], table(ALTERED, 100, 100), None),
        ([table(GROWN, 100, 90)] * 10, table(ALTERED, 110, 100), "altered"),
        ([table(GROWN, 100, 90)] * 10, table(SHRUNK, 99, 100), "rows-gone"),
        ([table(GROWN, 100, 90)] * 10, table(TableState.RESHAPED, 100, 100), "reshaped"),
        ([*[table(GROWN, 9, 8)] * 5, table(ALTERED, 9, 9), *[table(GROWN, 9, 8)] * 9], table(ALTERED, 9, 9), None),
        ([table(ALTERED, 100, 100)] * 10, table(SHRUNK, 60, 100), "rows-gone"),
        ([table(SHRUNK, 60, 100)] * 10, table(SHRUNK, 60, 100), None),
        ([], table(SHRUNK, 60, 100), None),
        ([table(GROWN, 100, 90)], table(TableState.GONE, 0, 100), "table-gone"),
        ([], table(TableState.NEW, 5, None), None),
    ],
)  # fmt: skip
def test_tables(before: list[Signals], odd: Signals, code: str | None) -> None:
    """What may happen to rows, and what may not: declared, learnt, or by how many are gone at once."""
    noise = [table(TableState.SAME, 100, 100)]
    verdict = judge(line(*noise, *before, odd))
    codes = [f.code for f in verdict.findings if f.since == len(before) + 2]
    assert codes == ([code] if code else [])


def test_accepted_findings_and_blind_versions() -> None:
    """An accepted finding no longer counts, a later one does; a version that was compared with nothing is named."""
    days = [QUIET] * 5 + [replace(QUIET, sealed=1)] + [replace(QUIET, compared=False)] + [replace(QUIET, sealed=2)]
    assert judge(line(*days)).clean == 5
    verdict = judge(line(*days), {6})
    assert (verdict.clean, verdict.since, verdict.blind) == (7, 8, (7,))
    assert [f.accepted for f in verdict.findings] == [True, False]
    assert judge(line(*days), {6, 8}).since is None
    assert judge([]).clean is None


def test_clocks_and_hostile_numbers_do_no_harm() -> None:
    """Times that stand, go back or leap, and numbers at their limits, give a verdict all the same."""
    most = 2**63 - 1
    wild = Signals(True, files=most, new=most, gone=most, changed=most, mismatch=most, new_bytes=most, dense_bytes=most)
    times = [5, 5, 4, 1, 2**62, 0, 7]
    versions = [VersionSignals(n, Instant(t), {"docs": wild}) for n, t in enumerate(times, 1)]
    assert judge(versions).since == 1 or judge(versions).findings
