"""The index rebuilt from what lies at the sites, and sites brought what they lack."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, MissingObject, SiteUnavailable, UnavailableError
from exclave.formats.pack import TableRow
from exclave.formats.paths import list_key, pack_key
from exclave.ids import ChunkId, Digest, Epoch, Key, Label, RegisterId, sha256
from exclave.sites.contract import Site
from exclave.sites.memory import MemorySite
from exclave.vault.catchup import catch_up, copy_objects, read_list
from exclave.vault.index import ChunkIndex
from exclave.vault.reindex import finish_intents, reconcile
from exclave.vault.sealer import PackKeys, PackSealer, SealedPack, Slot
from exclave.vault.writer import SealedVersion
from support.hostile import FailingSite, Fault, FlippingSite, MissingSite, PassThrough, SwappingSite, containing
from support.vault import (
    INDEX_KEYS,
    OPENING,
    REGISTER,
    SECRETS,
    STATE,
    Vault,
    packs,
    picture,
    repeated_chunks,
    tables,
)

ONE, TWO, THREE = Label("one"), Label("two"), Label("three")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    root.mkdir()
    noise = random.Random(9)
    for n in range(6):
        (root / f"{n}").write_bytes(noise.randbytes(6 << 20))
    return root


@pytest.fixture
def vault(src: Path, tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "cache", {ONE: MemorySite("one")})
    made.back_up(src)
    return made


@pytest.fixture
def index(tmp_path: Path) -> ChunkIndex:
    return ChunkIndex(tmp_path / "fresh.sqlite")


def test_an_empty_index_adopts_every_pack(vault: Vault, index: ChunkIndex) -> None:
    """Every chunk is found again at the place that the pack's own table names; a second look finds nothing new."""
    site = vault.sites[ONE]
    done = reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS)
    assert (done.adopted, done.confirmed, done.lost, done.unreadable) == (len(packs(site)), 0, 0, 0)
    for name, rows in tables(site).items():
        found = index.lookup([row.id for row in rows])
        assert all(found[row.id].offset == row.offset and found[row.id].pack == name for row in rows)
    assert index.sizes() == packs(site)
    again = reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS)
    assert (again.adopted, again.confirmed, again.lost, again.unreadable) == (0, 0, 0, 0)


def test_known_packs_are_confirmed_and_missing_ones_lost(vault: Vault) -> None:
    """An intent that arrived is confirmed, one that did not is forgotten, a pack that is gone or cut is lost."""
    site = vault.sites[ONE]
    index = ChunkIndex(vault.cache / "index.sqlite")
    names = sorted(packs(site))
    for name in names:
        index.lost(name, ONE)
    never = Digest(b"n" * 32)
    index.intend(never, 4096, Epoch(1), [TableRow(ChunkId(b"c" * 32), 2000, 30, 10)])
    done = reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS)
    assert (done.adopted, done.confirmed, done.lost) == (0, len(names), 0)
    assert index.knows(never)
    assert finish_intents(index) == 1
    assert not index.knows(never)
    short = FlippingSite(site, lambda key: False)
    short.list = lambda prefix: (  # type: ignore[method-assign]
        item if names[0].hex() not in item.key else type(item)(item.key, 4096)
        for item in site.list(prefix)
        if names[1].hex() not in item.key
    )
    done = reconcile(index, ONE, short, STATE, REGISTER, INDEX_KEYS)
    assert (done.adopted, done.confirmed, done.lost, done.unreadable) == (0, 0, 2, 0)
    assert index.placed_at(ONE) == set(names) - {names[0], names[1]}
    index.close()


def test_foreign_and_broken_packs_are_counted_and_left(vault: Vault, index: ChunkIndex) -> None:
    """Other writers' packs, noise under packs' names and names that are none: none of them is referred to."""
    site = vault.sites[ONE]
    ours = len(packs(site))
    noise = random.Random(1)
    for _n in range(3):
        data = noise.randbytes(4096)
        site.put_new(pack_key(STATE, REGISTER, sha256(data)), data)
    site.put_new(Key(f"{STATE}/{REGISTER}/pack/ab/notes.txt"), b"hello")
    site.put_new(Key(f"{STATE}/{REGISTER}/pack/ff/" + "0" * 64), b"x" * 4096)
    foreign = _pack(b"k" * 32, [b"their chunk"])
    site.put_new(pack_key(STATE, REGISTER, foreign.name), foreign.data)
    done = reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS)
    assert done.unreadable == 4
    assert done.adopted == ours
    assert not index.knows(foreign.name)
    index.close()


def _pack(index_key: bytes, chunks: list[bytes], epoch: Epoch = Epoch(1)) -> SealedPack:  # noqa: B008
    made: list[SealedPack] = []
    keys = PackKeys(REGISTER, epoch, OPENING.public, SECRETS.id_key, index_key)
    sealer = PackSealer(keys, lambda finish: made.append(finish()))
    for n, chunk in enumerate(chunks):
        slot = Slot(len(chunk))
        slot.id = ChunkId(sha256(chunk + bytes([n])))
        sealer.add(slot, chunk)
    sealer.flush()
    return made[0]


def test_each_epochs_key_is_tried(vault: Vault, index: ChunkIndex) -> None:
    """Packs of several epochs are adopted with their own epoch's index key."""
    site = vault.sites[ONE]
    later = _pack(b"L" * 32, [b"later chunk"], Epoch(2))
    site.put_new(pack_key(STATE, REGISTER, later.name), later.data)
    done = reconcile(index, ONE, site, STATE, REGISTER, {**INDEX_KEYS, Epoch(2): b"L" * 32})
    assert done.unreadable == 0
    assert index.knows(later.name)


def test_a_swapped_pack_is_seen_when_packs_are_read_whole(vault: Vault, index: ChunkIndex) -> None:
    """A host that shows one pack under another's name deceives a quick look, but not a whole one."""
    site = vault.sites[ONE]
    first, second = [pack_key(STATE, REGISTER, name) for name, size in packs(site).items() if size == 16 << 20][:2]
    liar = SwappingSite(site, {first: second})
    done = reconcile(index, ONE, liar, STATE, REGISTER, INDEX_KEYS, whole=True)
    assert done.unreadable == 1
    assert done.adopted == len(packs(site)) - 1


def test_a_site_that_fails_midway_changes_nothing_wrongly(vault: Vault, index: ChunkIndex) -> None:
    """What was adopted until then stays, nothing is called lost, and the next look completes it."""
    site = vault.sites[ONE]
    before = reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS)

    class Breaks(PassThrough):
        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            for n, item in enumerate(site.list(prefix)):
                if n == 1:
                    raise SiteUnavailable("gone")
                yield item

    with pytest.raises(UnavailableError):
        reconcile(index, ONE, Breaks(site), STATE, REGISTER, INDEX_KEYS)
    assert len(index.placed_at(ONE)) == before.adopted


def test_many_packs_are_reconciled_fast(tmp_path: Path, index: ChunkIndex) -> None:
    """5 000 packs: adopted in seconds, confirmed in well under one."""
    site = MemorySite()
    pack = _pack(INDEX_KEYS[Epoch(1)], [b"x"])
    for n in range(5000):
        name = sha256(n.to_bytes(4, "big"))
        site.put_new(pack_key(STATE, REGISTER, name), pack.data)
    start = time.monotonic()
    assert reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS).adopted == 5000
    middle = time.monotonic()
    assert reconcile(index, ONE, site, STATE, REGISTER, INDEX_KEYS).adopted == 0
    assert middle - start < 20
    assert time.monotonic() - middle < 4


def test_two_sites_one_index(vault: Vault, src: Path, tmp_path: Path) -> None:
    """Packs that lie at one of two sites only are shipped to neither again, and the other one is brought them."""
    vault.sites = {ONE: vault.sites[ONE], TWO: MemorySite("two")}
    version = vault.back_up(src)
    assert version.new_raw_bytes <= 64 << 10
    done = _catch_up(vault, version)
    assert not done.failed
    assert done.complete == {ONE, TWO}
    vault.restore(version, tmp_path / "out", {TWO: vault.sites[TWO]})
    assert picture(tmp_path / "out") == picture(src)
    assert not repeated_chunks(vault.sites[TWO])
    assert not _catch_up(vault, version).copied_bytes


def _catch_up(vault: Vault, version: SealedVersion):  # type: ignore[no-untyped-def]
    index = ChunkIndex(vault.cache / "index.sqlite")
    try:
        return catch_up(
            state=STATE, register=REGISTER, needs=dict(index.size_of(version.needs)), lists=version.objects.nodes,
            sites=vault.sites, index=index,
        )  # fmt: skip
    finally:
        index.close()


@pytest.mark.parametrize("kind", ["flipped", "missing", "swapped"])
def test_a_bad_source_is_not_copied_from(kind: str, vault: Vault, src: Path, tmp_path: Path) -> None:
    """What a source shows wrongly comes from another one, and the index no longer believes in the bad copy."""
    good = vault.sites[ONE]
    vault.sites = {ONE: good, TWO: MemorySite("two")}
    version = vault.back_up(src)
    _catch_up(vault, version)
    keys = [pack_key(STATE, REGISTER, name) for name in sorted(version.needs)]
    bad: Site = {
        "flipped": FlippingSite(good, containing("/pack/")),
        "missing": MissingSite(good, containing("/pack/")),
        "swapped": SwappingSite(good, dict(zip(keys, keys[1:] + keys[:1], strict=True))),
    }[kind]
    vault.sites = {ONE: bad, TWO: vault.sites[TWO], THREE: MemorySite("three")}
    done = _catch_up(vault, version)
    assert THREE in done.complete
    assert {label for label, _ in done.faults} == {ONE}
    vault.restore(version, tmp_path / "out", {THREE: vault.sites[THREE]})
    assert picture(tmp_path / "out") == picture(src)
    if kind == "missing":
        assert not done.failed, "what it had lost was brought to it in turn"
    alone = copy_objects(
        STATE, REGISTER, dict.fromkeys(version.needs, 1), {ONE: set(version.needs)}, {ONE: bad, TWO: MemorySite()},
        targets=[TWO],
    )  # fmt: skip
    assert alone.lacking[TWO] == set(version.needs)
    assert TWO in alone.failed


def test_a_target_that_fails_is_left_out(vault: Vault, src: Path, tmp_path: Path) -> None:
    """One target refuses a write: it is named, and the other one gets everything."""
    version = vault.back_up(src)
    broken = FailingSite(MemorySite("two"), nth=2, fault=Fault.REFUSED, times=1000)
    vault.sites = {ONE: vault.sites[ONE], TWO: broken, THREE: MemorySite("three")}
    done = _catch_up(vault, version)
    assert set(done.failed) == {TWO}
    assert THREE in done.complete
    assert broken.writes <= 6
    vault.restore(version, tmp_path / "out", {THREE: vault.sites[THREE]})
    assert picture(tmp_path / "out") == picture(src)


def test_a_lost_site_is_rebuilt_from_the_list_alone(vault: Vault, src: Path, tmp_path: Path) -> None:
    """From the list's root, without keys or cache, an empty site gets a version that restores."""
    version = vault.back_up(src)
    source = vault.sites[ONE]
    listed = read_list(STATE, REGISTER, version.objects.root, {ONE: source})
    assert (len(listed.packs), sum(listed.packs.values())) == (version.objects.count, version.objects.size_bytes)
    assert set(listed.packs) == version.needs
    have = {ONE: set(listed.packs) | listed.nodes}
    sites: dict[Label, Site] = {ONE: source, TWO: MemorySite("two")}
    done = copy_objects(STATE, REGISTER, listed.packs, have, sites, targets=[TWO], list_nodes=listed.nodes)
    assert done.complete == {TWO}
    assert read_list(STATE, REGISTER, version.objects.root, {TWO: sites[TWO]}) == listed
    vault.restore(version, tmp_path / "out", {TWO: sites[TWO]})
    assert picture(tmp_path / "out") == picture(src)


def test_lists_from_bad_sites(vault: Vault, src: Path) -> None:
    """A changed or missing list node comes from another site, or from none."""
    version = vault.back_up(src)
    good = vault.sites[ONE]
    for bad in (FlippingSite(good), MissingSite(good)):
        assert read_list(STATE, REGISTER, version.objects.root, {ONE: bad, TWO: good}).packs
        with pytest.raises(MissingObject):
            read_list(STATE, REGISTER, version.objects.root, {ONE: bad})
    with pytest.raises(MissingObject):
        read_list(STATE, RegisterId("c" * 32), version.objects.root, {ONE: good})


def test_a_list_that_does_not_add_up(vault: Vault) -> None:
    """A node whose numbers are not those of what is below it is refused, wherever it comes from."""
    from exclave.formats.objectlist import ListLine, ListNode

    site = vault.sites[ONE]
    leaf = ListNode(0, (ListLine(Digest(b"p" * 32), 1, 4096),))
    name = sha256(leaf.encode())
    site.put_same(list_key(STATE, REGISTER, name), leaf.encode())
    for lines, level in [
        ((ListLine(name, 2, 4096),), 1), ((ListLine(name, 1, 1),), 1), ((ListLine(name, 1, 4096),), 2),
        ((ListLine(name, 1, 4096), ListLine(name, 1, 4096)), 1),
    ]:  # fmt: skip
        top = ListNode(level, lines)
        site.put_same(list_key(STATE, REGISTER, sha256(top.encode())), top.encode())
        with pytest.raises(CorruptObject):
            read_list(STATE, REGISTER, sha256(top.encode()), {ONE: site})
