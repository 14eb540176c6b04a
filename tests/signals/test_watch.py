"""What the writer notices of a single file: false names, noise, old dates, added endings, broken promises."""

from __future__ import annotations

import base64
import io
import random
import zipfile

import pytest

from exclave.formats.entry import Entry, Kind
from exclave.formats.manifest import Record
from exclave.ids import Instant
from exclave.vault.catalogue import FlatRecord
from exclave.vault.signals import MOST_LOOKS, THINNING, Look, Watch, ending_of, is_mismatch, is_noise

NOW = Instant(1_800_000_000_000_000)
DAY_NS = 86_400 * 10**9
TEXT = b"Whereas the owner of parcel 7 has granted a right of way, it is entered. " * 80


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("word/document.xml", TEXT)
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        (b"a.pdf", b"%PDF-1.4 and so on\n%%EOF\n", False),
        (b"a.pdf", b"%PDF-1.4" + random.Random(1).randbytes(5000), True),
        (b"a.PDF", b"\x93\x11\x02 no more", True),
        (b"a.docx", archive(), False),
        (b"a.docx", archive()[:-200], True),
        (b"a.docx", b"PK\x03\x04" + random.Random(1).randbytes(5000), True),
        (b"a.txt", TEXT, False),
        (b"a.txt", "Õ, ä, 城, в".encode() * 200, False),
        (b"a.txt", "õ in Latin-1, ä too. ".encode("latin-1") * 200, False),
        (b"a.txt", "sixteen bits".encode("utf-16") * 50, False),
        (b"a.csv", random.Random(2).randbytes(5000), True),
        (b"a.xml", TEXT + random.Random(3).randbytes(4096), True),
        (b"a.jpg", b"\xff\xd8\xff\xe0 JFIF", False),
        (b"a.jpg", TEXT, True),
        (b"a.unknown", random.Random(4).randbytes(5000), False),
        (b"no-ending", random.Random(5).randbytes(5000), False),
        (b"folder.pdf/a", TEXT, False),
        (b".pdf", TEXT, False),
    ],
)
def test_false_names(name: bytes, content: bytes, wrong: bool) -> None:
    """Content is compared with what the ending promises, at its beginning and its end; other names promise nothing."""
    assert is_mismatch(ending_of(name), content[:4096], content[-4096:]) is wrong


def test_noise() -> None:
    """Random bytes are noise, nearly always; texts, tables, base64 and short files never are."""
    rng = random.Random(1)
    assert sum(is_noise(rng.randbytes(4096)) for _ in range(300)) >= 297
    assert not is_noise(TEXT[:4096])
    assert not is_noise(base64.b64encode(rng.randbytes(4096)))
    assert not is_noise(bytes(range(256)) * 8 + TEXT[:2048])
    assert not is_noise(rng.randbytes(1000))


def flat(path: bytes, content: bytes = b"1" * 32, *, age_days: float = 0, kind: Kind = Kind.FILE) -> FlatRecord:
    return FlatRecord(Entry(path, kind, 0o644, 0, 0, int(NOW * 1000 - age_days * DAY_NS)), None, (), content)


def former(path: bytes, content: bytes = b"1" * 32, *, age_days: float = 0) -> Record:
    record = flat(path, content, age_days=age_days)
    return Record(record.entry, (), record.hash)


def seen(watch: Watch) -> dict[str, int]:
    made = watch.signals(files=9, read=0, new=0, stored=0, dense=0)
    names = ("new", "changed", "touched", "gone", "old", "silent", "suffix", "sealed", "mismatch", "random")
    return {name: value for name in names if (value := getattr(made, name))}


def test_what_became_of_a_file() -> None:
    """New, touched, changed, of old, under the old date, and gone: each is counted as what it is."""
    watch = Watch(NOW)
    watch.read(None, flat(b"new"), None)
    watch.read(former(b"touched"), flat(b"touched"), None)
    watch.read(former(b"young", age_days=1), flat(b"young", b"2" * 32), None)
    watch.read(former(b"old", age_days=31), flat(b"old", b"2" * 32), None)
    watch.read(former(b"dated", age_days=2), flat(b"dated", b"2" * 32, age_days=2), None)
    watch.passed(former(b"gone"))
    watch.passed(Record(Entry(b"folder", Kind.FOLDER, 0o755, 0, 0, 0)))
    assert seen(watch) == {"new": 1, "touched": 1, "changed": 3, "old": 1, "silent": 1, "gone": 1}


def test_added_endings() -> None:
    """A file that is gone and stands there again with an ending added; other new files beside it do not count."""
    watch = Watch(NOW)
    for name in (b"a/1.pdf", b"a/2.pdf", b"a/3.pdf"):
        watch.passed(former(name))
    for name in (b"a/1.pdf.locked", b"a/2.pdf.locked", b"a/3.docx", b"b/3.pdf.locked"):
        watch.read(None, flat(name), None)
    made = watch.signals(files=4, read=0, new=0, stored=0, dense=0)
    assert (made.suffix, made.ending, made.new, made.gone) == (2, "locked", 4, 3)


def test_immutable_paths() -> None:
    """Patterns hold for the whole path, go over slashes, and speak of files that were there before."""
    watch = Watch(NOW, immutable=("acts/*.pdf", "seals/[0-9]*"))
    watch.read(None, flat(b"acts/new.pdf"), None)
    watch.read(former(b"acts/2019/a.pdf"), flat(b"acts/2019/a.pdf", b"2" * 32), None)
    watch.read(former(b"acts/a.txt"), flat(b"acts/a.txt", b"2" * 32), None)
    watch.read(former(b"seals/7"), flat(b"seals/7"), None)
    watch.passed(former(b"seals/8"))
    watch.passed(former(b"more/acts/b.pdf"))
    made = watch.signals(files=4, read=0, new=0, stored=0, dense=0)
    assert (made.sealed, [path for name, path in made.examples if name == "sealed"]) == (
        2,
        [b"acts/2019/a.pdf", b"seals/8"],
    )


def test_looks_are_thinned_out() -> None:
    """After some thousands only every sixteenth file is looked at, and counts for sixteen; at first none."""
    watch = Watch(NOW)
    assert not watch.wants()
    watch.compared = True
    looked = 0
    for number in range(MOST_LOOKS + 1600):
        if watch.wants():
            looked += 1
            look = watch.look(b"%d.pdf" % number, TEXT, TEXT, TEXT, None)
            watch.read(former(b"x"), flat(b"x", b"2" * 32), look)
    assert looked == MOST_LOOKS + 1600 // THINNING
    assert seen(watch)["mismatch"] == MOST_LOOKS + 1600


def test_noise_counts_only_where_a_file_was_before() -> None:
    """A new file may be noise; one that was there and became it is told, unless its name explains it."""
    watch = Watch(NOW)
    noise = random.Random(7).randbytes(4096)
    assert watch.look(b"a.dat", noise, noise, noise, former(b"a.dat")) == Look(mismatch=False, random=True)
    assert watch.look(b"a.dat", noise, noise, noise, None) == Look(mismatch=False, random=False)
    assert watch.look(b"a.mp4", noise, noise, noise, former(b"a.mp4")) == Look(mismatch=False, random=False)
    assert watch.look(b"a.bmp", b"BM" + noise, noise, noise, former(b"a.bmp")) == Look(mismatch=False, random=True)
