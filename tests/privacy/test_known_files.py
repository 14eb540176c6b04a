"""Whether a host, who sees names, sizes and order of objects, can tell that a register holds files that he knows.

He has the best case: the register's secrets are the same in every trial, he may train on as many registers as he is
tested on, knows which of them hold the set, and the set is large in each. His programs are naive Bayes over what he
sees and the nearest neighbour; whichever does better on the registers of the test counts.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from exclave.formats.entry import Captured, Entry, Kind
from exclave.ids import Key, Label
from exclave.sites.memory import MemorySite
from support.postgres import open_folder
from support.vault import Vault

TRIALS = 440
BOUND = 1e-3
"""Chance that an honest store fails the test."""
SMALL, LARGE = 30, 1


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def blocks(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), 1 << 20):
            yield self._data[at : at + (1 << 20)]


class Host(MemorySite):
    """Keeps what he is given, and notes it: (name, size), in order of arrival."""

    def __init__(self) -> None:
        super().__init__("host")
        self.seen: list[tuple[str, int]] = []

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self.seen.append((key, len(data)))
        super().put_same(key, bytes(data))


@dataclass(frozen=True, slots=True)
class Sight:
    """What one register's host sees of it."""

    has_set: bool
    objects: tuple[tuple[str, int], ...]
    records: tuple[int, ...]
    """Lengths of sealed chunks, which he does not see; a store that keeps each as an object of its own shows them."""

    @property
    def total(self) -> int:
        return sum(size for _, size in self.objects)


def files(rng: random.Random, prefix: str) -> dict[bytes, bytes]:
    """A set of documents: small ones, and one that is a stream of chunks of its own."""
    made = {}
    for number in range(SMALL + LARGE):
        size = rng.randint(200, 9000) if number < SMALL else rng.randint(1_100_000, 1_500_000)
        half = rng.randbytes(size // 3)
        made[f"{prefix}{number:03d}".encode()] = half + half.hex().encode()  # compresses to about two thirds
    return made


KNOWN = files(random.Random("the known set"), "k")


def captured(tree: dict[bytes, bytes]) -> Iterator[Captured]:
    yield Captured(Entry(b"", Kind.FOLDER, 0o755, 0, 0, 0))
    for path in sorted(tree):
        data = tree[path]
        yield Captured(Entry(path, Kind.FILE, 0o644, 0, 0, 0, len(data)), content=_Bytes(data))


def seen(folder: Path, seed: int) -> Sight:
    """One register with random files, and besides either the known set or another one that is made like it."""
    rng = random.Random(seed)
    has_set = rng.random() < 0.5
    tree = files(rng, "a") | (KNOWN if has_set else files(rng, "k"))
    host = Host()
    vault = Vault(folder, {Label("host"): host})
    vault.back_up(captured(tree), reconciling=False)
    with closing(sqlite3.connect(folder / "index.sqlite")) as index:
        records = tuple(row[0] for row in index.execute("SELECT length FROM chunk ORDER BY pack, offset"))
    return Sight(has_set, tuple(host.seen), records)


@pytest.fixture(scope="module")
def sights() -> list[Sight]:
    """Many registers, as many with the set as without among those of each padded total."""
    groups: dict[int, dict[bool, list[Sight]]] = {}
    for seed in range(TRIALS):
        with open_folder() as folder:
            sight = seen(folder, seed)
        groups.setdefault(sight.total, {True: [], False: []})[sight.has_set].append(sight)
    even = [s for group in groups.values() for pair in zip(group[True], group[False], strict=False) for s in pair]
    random.Random(1).shuffle(even)
    return even


def traits(sight: Sight) -> Counter[str]:
    """Of a host: how many objects, which sizes, in which order, and how their names begin."""
    sizes = [size for _, size in sight.objects]
    made = Counter(f"size {size}" for size in sizes)
    made.update(f"{at} is {size}" for at, size in enumerate(sizes))
    made.update(f"{one} then {two}" for one, two in pairwise(sizes))
    made.update(f"name {name.rpartition('/')[2][:2]}" for name, _ in sight.objects)
    made[f"count {len(sizes)}"] += 1
    made[f"total {sum(sizes)}"] += 1
    return made


def bare_traits(sight: Sight) -> Counter[str]:
    """The same of a store that keeps each chunk as an object, without padding."""
    return Counter(f"size {size}" for size in sight.records)


def bayes(train: Sequence[tuple[Counter[str], bool]], asked: Counter[str]) -> bool:
    common = [trait for trait, n in Counter(trait for traits, _ in train for trait in traits).items() if n > 1]
    score = 0.0
    for label in (True, False):
        of = [traits for traits, has in train if has is label]
        for trait in common:
            likely = (sum(trait in t for t in of) + 1) / (len(of) + 2)
            score += (1 if label else -1) * math.log(likely if trait in asked else 1 - likely)
    return score > 0


def nearest(train: Sequence[tuple[Counter[str], bool]], asked: Counter[str]) -> bool:
    votes = sorted(train, key=lambda item: -sum((item[0] & asked).values()) / max(1, sum((item[0] | asked).values())))
    return sum(has for _, has in votes[:5]) > 2


def right(sights: Sequence[Sight], look: object) -> tuple[int, int]:
    """(right answers of the better program, questions): trained on one half and asked about the other."""
    known = [(look(s), s.has_set) for s in sights]  # type: ignore[operator]
    train, test = known[: len(known) // 2], known[len(known) // 2 :]
    return max(sum(guess(train, t) is has for t, has in test) for guess in (bayes, nearest)), len(test)


def chance(asked: int) -> float:
    """Share of right answers that two guessing programs do not exceed but with probability ``BOUND`` (Hoeffding)."""
    return 0.5 + math.sqrt(math.log(2 / BOUND) / (2 * asked))


def test_a_host_guesses(sights: list[Sight]) -> None:
    """Among registers of equal padded total, the host is right no more often than guessing allows."""
    good, asked = right(sights, traits)
    assert asked >= 100, "too few registers of equal total to say anything"
    assert good / asked <= chance(asked)


def test_the_same_host_knows_where_nothing_is_padded(sights: list[Sight]) -> None:
    """The control: by the lengths of chunks the same programs tell nearly every time, so the test above can fail."""
    good, asked = right(sights, bare_traits)
    assert good / asked >= 0.95 > chance(asked)


def test_sizes_are_of_few_kinds(sights: list[Sight]) -> None:
    """All packs of all registers together have a few padded sizes; their chunks have thousands."""
    packs = {size for sight in sights for name, size in sight.objects if "/pack/" in name}
    records = {length for sight in sights for length in sight.records}
    assert len(packs) <= 12
    assert len(records) > 20 * len(packs)


def test_what_remains_is_as_the_page_says(tmp_path: Path) -> None:
    """Whoever may have a file stored and sees how much the next version ships learns whether it was there already."""
    shipped = []
    for mine in (KNOWN, files(random.Random("another set"), "n")):
        host = Host()
        vault = Vault(tmp_path / str(len(shipped)), {Label("host"): host})
        tree = files(random.Random(5), "a") | KNOWN
        vault.back_up(captured(tree))
        before = len(host.seen)
        vault.back_up(captured(tree | {b"z" + path: data for path, data in mine.items()}))
        shipped.append(sum(size for name, size in host.seen[before:] if "/pack/" in name))
    assert shipped[0] < shipped[1] / 4
