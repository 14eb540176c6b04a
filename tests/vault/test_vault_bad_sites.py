"""Hosts that lose, change or swap packs: right data from another site, or none; never wrong data."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, IntegrityError, MissingObject, SiteUnavailable
from exclave.formats.pack import HEADER_BYTES
from exclave.formats.paths import pack_key
from exclave.ids import Digest, Key, Label
from exclave.sites.contract import Site
from exclave.sites.memory import MemorySite
from exclave.vault.writer import SealedVersion
from support.hostile import FlippingSite, MissingSite, PassThrough, SwappingSite, TruncatingSite, _Rewriting
from support.vault import REGISTER, STATE, Vault, picture

ONE, TWO = Label("one"), Label("two")


class GarbageSite(_Rewriting):
    """Shows noise of the right length."""

    def rewrite(self, key: Key, data: bytes) -> bytes:
        return random.Random(key).randbytes(len(data))


class HeadSwappingSite(SwappingSite):
    """Shows another pack's header before the right records."""

    def rewrite(self, key: Key, data: bytes) -> bytes:
        return self.inner.get(self.swaps[key])[:HEADER_BYTES] + data[HEADER_BYTES:]


class BodySwappingSite(SwappingSite):
    """Shows the right header before another pack's records."""

    def rewrite(self, key: Key, data: bytes) -> bytes:
        return data[:HEADER_BYTES] + self.inner.get(self.swaps[key])[HEADER_BYTES:]


class DeadSite(PassThrough):
    """Never answers; counts how often it was asked."""

    asked = 0

    def get(self, key: Key, *, limit: int = 0) -> bytes:
        self.asked += 1
        raise SiteUnavailable("no answer")

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self.asked += 1
        raise SiteUnavailable("no answer")


class OnlyHeaders(PassThrough):
    """Has every pack's header and nothing behind it."""

    def get(self, key: Key, *, limit: int = 64 << 20) -> bytes:
        return self.inner.get(key)[:HEADER_BYTES]

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        if offset + length > HEADER_BYTES:
            raise CorruptObject("too short")
        return self.inner.get_range(key, offset, length)


class NoHeaders(PassThrough):
    """Shows another pack's header, and cannot show the records: both sites' parts would have to be mixed."""

    def __init__(self, inner: Site, swaps: Mapping[Key, Key]) -> None:
        super().__init__(inner)
        self.swaps = swaps

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        if offset + length > HEADER_BYTES:
            raise SiteUnavailable("no answer")
        return self.inner.get_range(self.swaps.get(key, key), offset, length)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemorySite, SealedVersion, SealedVersion]:
    """A tree of some packs at one site: its first and second version."""
    work = tmp_path_factory.mktemp("shipped")
    src = work / "src"
    noise = random.Random(7)
    for folder in "abc":
        (src / folder).mkdir(parents=True)
        for n in range(30):
            (src / folder / f"{n}").write_bytes(noise.randbytes(n * 5000))
    (src / "large").write_bytes(noise.randbytes(20 << 20))
    site = MemorySite()
    vault = Vault(work / "cache", {ONE: site})
    first = vault.back_up(src)
    (src / "more").write_bytes(noise.randbytes(2 << 20))
    return src, site, first, vault.back_up(src)


def _swaps(site: Site, version: SealedVersion) -> dict[Key, Key]:
    """Each pack's name → another one's that comes before it in size."""
    keys = [pack_key(STATE, REGISTER, name) for name in sorted(version.needs)]
    sizes = {key: site.get(key).__len__() for key in keys}
    order = sorted(keys, key=lambda key: sizes[key])
    return dict(zip(order, order[1:] + order[:1], strict=True))


KINDS: dict[str, Callable[[Site, SealedVersion], Site]] = {
    "header flipped": lambda site, _: FlippingSite(site, position=700),
    "magic flipped": lambda site, _: FlippingSite(site, position=0),
    "record flipped": lambda site, _: FlippingSite(site, position=HEADER_BYTES + 40),
    "truncated": lambda site, _: TruncatingSite(site),
    "cut after the header": lambda site, _: OnlyHeaders(site),
    "dropped": lambda site, _: MissingSite(site),
    "garbage": lambda site, _: GarbageSite(site),
    "swapped": lambda site, version: SwappingSite(site, _swaps(site, version)),
    "headers swapped": lambda site, version: HeadSwappingSite(site, _swaps(site, version)),
    "records swapped": lambda site, version: BodySwappingSite(site, _swaps(site, version)),
    "wrong headers, no records": lambda site, version: NoHeaders(site, _swaps(site, version)),
    "dead": lambda site, _: DeadSite(site),
}


@pytest.mark.parametrize("bad_first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_site_of_two(
    kind: str, bad_first: bool, shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path
) -> None:
    """The right data comes from the good site, and what was wrong is recorded under the bad one alone."""
    src, site, _, version = shipped
    bad = KINDS[kind](site, version)
    sites: dict[Label, Site] = {ONE: bad, TWO: site} if bad_first else {TWO: site, ONE: bad}
    vault = Vault(tmp_path / "cache", sites)
    sink, reader = vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)
    assert sink.unrestored.count == 0
    if bad_first:
        assert reader.faults
        names = {pack.hex() for pack in version.needs}
        assert all(pack in names for _, pack in reader.faults)
    assert all(label == ONE for label, _ in reader.faults)


@pytest.mark.parametrize("kind", KINDS)
def test_both_sites_bad(
    kind: str, shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path
) -> None:
    """With the same fault at both sites there is an integrity error, and every file that was written is right."""
    _src, site, _, version = shipped
    sites = {ONE: KINDS[kind](site, version), TWO: KINDS[kind](site, version)}
    with pytest.raises(MissingObject):
        Vault(tmp_path / "cache", sites).restore(version, tmp_path / "out")


@pytest.mark.parametrize("kind", ["record flipped", "swapped", "garbage", "truncated", "dropped", "headers swapped"])
def test_manifest_good_but_data_bad_at_both(
    kind: str, shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path
) -> None:
    """Whatever small file is there after the failed restore has its right content."""
    src, site, _, version = shipped
    manifest = pack_key(STATE, REGISTER, version.manifest)
    tree = max(_sizes(site, version), key=lambda key: _sizes(site, version)[key])
    bad = KINDS[kind](site, version)
    mixed = _Mixed(site, bad, set(_sizes(site, version)) - {manifest, tree})
    with pytest.raises(IntegrityError):
        Vault(tmp_path / "cache", {ONE: mixed, TWO: mixed}).restore(version, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.stat().st_size < 100_000 and path.stat().st_mode & 0o777 != 0o600:
            assert path.read_bytes() == (src / path.relative_to(tmp_path / "out")).read_bytes()


def _sizes(site: Site, version: SealedVersion) -> dict[Key, int]:
    return {key: len(site.get(key)) for key in (pack_key(STATE, REGISTER, name) for name in version.needs)}


class _Mixed(PassThrough):
    """Bad for the names in ``bad_names``, good for all others."""

    def __init__(self, good: Site, bad: Site, bad_names: set[Key]) -> None:
        super().__init__(good)
        self.bad = bad
        self.bad_names = bad_names

    def get(self, key: Key, *, limit: int = 64 << 20) -> bytes:
        return (self.bad if key in self.bad_names else self.inner).get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return (self.bad if key in self.bad_names else self.inner).get_range(key, offset, length)


def test_halves_at_two_sites(shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path) -> None:
    """Each site has lost other packs: together they still have everything."""
    src, site, _, version = shipped
    keys = sorted(pack_key(STATE, REGISTER, name) for name in version.needs)
    odd, even = set(keys[::2]), set(keys[1::2])
    sites: dict[Label, Site] = {ONE: MissingSite(site, odd.__contains__), TWO: GarbageSite(site, even.__contains__)}
    vault = Vault(tmp_path / "cache", sites)
    _, reader = vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(src)
    assert ONE in {label for label, _ in reader.faults}


def test_an_older_manifest_replayed_under_the_name(
    shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path
) -> None:
    """The former version's manifest pack, shown as the latest one's, is not taken for it."""
    src, site, first, second = shipped
    swap = {pack_key(STATE, REGISTER, second.manifest): pack_key(STATE, REGISTER, first.manifest)}
    replayed = SwappingSite(site, swap)
    with pytest.raises(MissingObject):
        Vault(tmp_path / "c", {ONE: replayed}).restore(second, tmp_path / "out1")
    _, reader = Vault(tmp_path / "c", {ONE: replayed, TWO: site}).restore(second, tmp_path / "out2")
    assert picture(tmp_path / "out2") == picture(src)
    assert set(reader.faults) == {(ONE, second.manifest.hex())}


def test_every_flipped_byte_of_small_packs_is_found_or_harmless(tmp_path: Path) -> None:
    """Any single byte of a small version's packs may flip: the restore is right, or it fails."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "file").write_bytes(b"content " * 20)
    site = MemorySite()
    vault = Vault(tmp_path / "cache", {ONE: site})
    version = vault.back_up(src)
    good = picture(src)
    noise = random.Random(11)
    for round_ in range(60):
        bad = FlippingSite(site, position=noise.randrange(4096), bit=noise.randrange(8))
        out = tmp_path / f"out{round_}"
        try:
            vault.restore(version, out, {ONE: bad})
        except IntegrityError:
            continue
        assert picture(out) == good


def test_a_dead_site_is_asked_seldom(
    shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path
) -> None:
    """A site that does not answer is tried last from then on, so that a restore does not wait for it each time."""
    _, site, _, version = shipped
    dead = DeadSite(site)
    Vault(tmp_path / "cache", {ONE: dead, TWO: site}).restore(version, tmp_path / "out")
    assert dead.asked <= 3


def test_keys_of_another_epoch(shipped: tuple[Path, MemorySite, SealedVersion, SealedVersion], tmp_path: Path) -> None:
    """With another opening key nothing opens, and it is said so."""
    from exclave.crypto.hpke import OpeningKey
    from exclave.ids import Epoch
    from exclave.vault.opener import PackReader

    _, site, _, version = shipped
    reader = PackReader(STATE, REGISTER, {ONE: site}, {Epoch(2): OpeningKey(b"q" * 32)})
    with pytest.raises(MissingObject):
        reader.root(Digest(version.manifest))
    assert isinstance(next(iter(reader.faults.values())), CorruptObject)
