"""What is asked of Exclave, decided from the figures: a pure function for each goal, with met or MISSED beside it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rounds import CHANGED, COPY, FULL, OURS, RESTORE, UNCHANGED, VERIFY, Figures

MB, MIB = 1_000_000, 1 << 20
PEAK_BYTES = 350 * MIB
SIZE_RATIO = 1.02
VERIFY_RATIO = 0.8
COPY_RATIO = 1.3
SHIPPED_SHARE = 0.02
LINK_SHARE = 0.9
GROWTH_RATIO = 1.3
FASTER = {FULL: 2.0, UNCHANGED: 3.0, CHANGED: 2.0, RESTORE: 1.5}
UNCHANGED_TREES = ("usr", "million")
"""Trees on which a backup with nothing changed has a goal."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal on one tree. ``ours`` and ``other`` are texts with units; ``met`` is None where a figure is missing."""

    tree: str
    measure: str
    goal: str
    ours: str
    other: str
    reached: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "no figure" if self.met is None else "met" if self.met else "**MISSED**"


def tree_goals(name: str, figures: Mapping[str, Figures], tree_bytes: int) -> list[Goal]:
    """All goals of one tree. Figures are medians over the rounds."""
    ours = figures.get(OURS, Figures())
    peers = {tool: one for tool, one in figures.items() if tool not in (OURS, COPY)}
    goals = [
        _faster(name, operation, ours, peers)
        for operation in FASTER
        if operation != UNCHANGED or name in UNCHANGED_TREES
    ]
    if name == "usr":
        goals.append(_share_shipped(name, ours, tree_bytes))
    if name == "database":
        goals.append(_shipped_at_most(name, ours, peers))
    if name == "random":
        goals.append(_copy(name, ours, figures.get(COPY)))
    return [*goals, *_verify(name, ours), _peak(name, ours), _size(name, ours, peers)]


def wall_s(figures: Figures, operation: str) -> float | None:
    """The median of an operation's wall times."""
    return _median([run.wall_s for run in figures.runs.get(operation, [])])


def _faster(name: str, operation: str, ours: Figures, peers: Mapping[str, Figures]) -> Goal:
    times = {tool: wall for tool, one in peers.items() if (wall := wall_s(one, operation)) is not None}
    own, factor = wall_s(ours, operation), FASTER[operation]
    best = min(times, key=lambda tool: times[tool], default="")
    if own is None or not best:
        return Goal(name, operation, f"≥ {factor} × the faster peer", _seconds(own), "-", "-", None)
    ratio = times[best] / own
    other = f"{times[best]:.2f} s {best}"
    return Goal(
        name, operation, f"≥ {factor} × the faster peer", _seconds(own), other, f"{ratio:.2f} ×", ratio >= factor
    )


def _share_shipped(name: str, ours: Figures, tree_bytes: int) -> Goal:
    added = _median(ours.added_bytes)
    share = None if added is None else added / tree_bytes
    return Goal(
        name, "shipped after 1 % changed", f"≤ {SHIPPED_SHARE:.0%} of the volume", _mb(added), _mb(tree_bytes),
        "-" if share is None else f"{share:.2%}", None if share is None else share <= SHIPPED_SHARE,
    )  # fmt: skip


def _shipped_at_most(name: str, ours: Figures, peers: Mapping[str, Figures]) -> Goal:
    return _at_most(
        name, "shipped after 1 % changed", "≤ the better peer", 1.0, _median(ours.added_bytes),
        {tool: _median(one.added_bytes) for tool, one in peers.items()},
    )  # fmt: skip


def _size(name: str, ours: Figures, peers: Mapping[str, Figures]) -> Goal:
    return _at_most(
        name, "stored after the full backup", f"≤ {SIZE_RATIO} × the smaller peer", SIZE_RATIO,
        _median(ours.full_bytes), {tool: _median(one.full_bytes) for tool, one in peers.items()},
    )  # fmt: skip


def _at_most(
    name: str, measure: str, goal: str, factor: float, own: float | None, others: Mapping[str, float | None]
) -> Goal:
    known = {tool: size for tool, size in others.items() if size is not None}
    best = min(known, key=lambda tool: known[tool], default="")
    if own is None or not best:
        return Goal(name, measure, goal, _mb(own), "-", "-", None)
    ratio = own / known[best]
    return Goal(name, measure, goal, _mb(own), f"{_mb(known[best])} {best}", f"{ratio:.3f} ×", ratio <= factor)


def _copy(name: str, ours: Figures, copy: Figures | None) -> Goal:
    own, other = wall_s(ours, RESTORE), wall_s(copy, RESTORE) if copy else None
    goal = f"≤ {COPY_RATIO} × cp -a"
    if own is None or other is None:
        return Goal(name, "restore beside cp -a", goal, _seconds(own), "-", "-", None)
    return Goal(
        name,
        "restore beside cp -a",
        goal,
        _seconds(own),
        _seconds(other),
        f"{own / other:.2f} ×",
        own / other <= COPY_RATIO,
    )


def _verify(name: str, ours: Figures) -> list[Goal]:
    """The rate at which packs are read; on the tree whose site is largest also that of the whole command."""
    goal = f"≥ {VERIFY_RATIO} of SHA-256's speed"
    wall, fixed = wall_s(ours, VERIFY), _median(ours.fixed_s)
    size, limit = _median(ours.verified_bytes), _median(ours.sha256_rates)
    if wall is None or size is None or limit is None or fixed is None:
        return [Goal(name, "keyless verification", goal, "-", "-", "-", None)]
    spans = {"keyless verification, packs": max(wall - fixed, 0.001)}
    if name == "random":
        spans["keyless verification, whole command"] = wall
    made = []
    for what, span in spans.items():
        if span < fixed:  # hardly more than the start: nothing can be told from the difference of the two
            told = f"{wall:.2f} s, of it {fixed:.2f} s for all but packs"
            made.append(Goal(name, what, goal, told, f"{limit:.0f} MB/s", "too little to tell", None))
            continue
        rate = size / MB / span
        told = f"{rate:.0f} MB/s ({wall:.2f} s, of it {fixed:.2f} s for all but packs)"
        reached = f"{rate / limit:.2f}"
        made.append(Goal(name, what, goal, told, f"{limit:.0f} MB/s", reached, rate / limit >= VERIFY_RATIO))
    return made


def _peak(name: str, ours: Figures) -> Goal:
    peaks = {operation: max(run.peak_bytes for run in runs) for operation, runs in ours.runs.items() if runs}
    return peak_goal(name, peaks)


def peak_goal(name: str, peaks: Mapping[str, int]) -> Goal:
    """``peaks``: bytes by operation."""
    goal = f"≤ {PEAK_BYTES // MIB} MiB"
    worst = max(peaks, key=lambda operation: peaks[operation], default="")
    if not worst:
        return Goal(name, "peak memory", goal, "-", "-", "-", None)
    return Goal(
        name, "peak memory", goal, f"{peaks[worst] / MIB:.0f} MiB", f"in: {worst}",
        f"{peaks[worst] / PEAK_BYTES:.2f} ×", peaks[worst] <= PEAK_BYTES,
    )  # fmt: skip


def link_goal(operation: str, rate: float, link: float) -> Goal:
    """Both in MB/s; ``link`` is what plain TCP brings over it in the same run."""
    share = rate / link
    return Goal(
        "link", operation, f"≥ {LINK_SHARE} of the link", f"{rate:.1f} MB/s", f"{link:.1f} MB/s raw TCP",
        f"{share:.2f}", share >= LINK_SHARE,
    )  # fmt: skip


def growth_goals(small: tuple[int, int], large: tuple[int, int]) -> list[Goal]:
    """(bytes, objects) that the same change costs with 1 × and with 10 × the data."""
    made = []
    for what, one, ten in (("bytes", small[0], large[0]), ("objects", small[1], large[1])):
        ratio = ten / one
        made.append(
            Goal(
                "history",
                f"{what} of a new version",
                f"10 × the data: ≤ {GROWTH_RATIO} ×",
                f"{ten}",
                f"{one} with 1 ×",
                f"{ratio:.2f} ×",
                ratio <= GROWTH_RATIO,
            )
        )
    return made


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value / MB:.1f} MB"
