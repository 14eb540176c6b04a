"""A thief of home's keys against the embassy's backups: chunk tables, numbers and times that lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.crypto.aead import ObjectCipher
from exclave.errors import Fenced, MalformedError
from exclave.formats.entry import Entry
from exclave.formats.leaf import MAX_SEQUENCE, VersionLeaf, parse_version_leaf
from exclave.formats.manifest import Ref
from exclave.formats.pack import (
    HEADER_BYTES,
    SEALED_KEY_BYTES,
    TableRow,
    encode_header,
    encode_locator,
    encode_table,
    size_class,
)
from exclave.formats.paths import pack_key
from exclave.ids import ChunkId, Digest, Epoch, Instant, Key, Label, RegisterId, Sequence, now, sha256
from exclave.operations import backup_begin
from exclave.operations.backup import least_time
from exclave.operations.failover import stop_all
from exclave.operations.home import Home
from exclave.operations.status import status
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from exclave.vault.catchup import catch_up
from exclave.vault.index import ChunkIndex
from exclave.vault.reindex import reconcile
from exclave.vault.restore import WINDOW_PLACES, _Window
from exclave.vault.sealer import table_key
from exclave.vault.seed import Seeds, collect_seeds
from exclave.verify.state import read_state
from support.hostile import FlippingSite
from support.small_home import SmallHome, served, tree_of
from support.vault import REGISTER, SECRETS, STATE, Vault, packs, restore_root, tables

ONE, TWO = Label("one"), Label("two")


class _Counting:
    """Notes how many bytes are read of each object; -1: all."""

    def __init__(self, site: Site) -> None:
        self.asked: list[int] = []
        self._site, self.stat, self.list = site, site.stat, site.list

    def get(self, key: Key, *, limit: int = 1 << 26) -> bytes:
        self.asked.append(-1)
        return self._site.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self.asked.append(length)
        return self._site.get_range(key, offset, length)


def _poison(index_key: bytes, rows: list[TableRow]) -> tuple[Digest, bytes]:
    """A pack whose table, sealed with the stolen key, claims the chunks of ``rows`` over noise."""
    at, claimed = HEADER_BYTES, []
    for row in rows:
        claimed.append(TableRow(row.id, at, row.length, row.raw))
        at += row.length
    salt = os.urandom(32)
    seals = ObjectCipher(table_key(index_key, salt))
    table = seals.seal(1, encode_table(claimed), b"exclave/table/v1")
    locator = seals.seal(0, encode_locator(at, len(table)), b"exclave/table/v1")
    head = encode_header(os.urandom(SEALED_KEY_BYTES), salt, locator)
    body = head + os.urandom(at - HEADER_BYTES) + table
    data = body + os.urandom(size_class(len(body)) - len(body))
    return sha256(data), data


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    for n in range(30):
        (folder / f"f{n}").write_bytes(os.urandom(40_000))
    return folder


@pytest.fixture
def vault(src: Path, tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "cache", {ONE: MemorySite("one")})
    made.back_up(src)
    return made


def _restored(vault: Vault, src: Path, cache: Path, target: Path) -> Seeds:
    """The seeds that a successor has after it restored the vault's version."""
    cache.mkdir()
    reader = vault.reader()
    root = reader.root(vault.back_up(src).manifest)
    with collect_seeds(reader, cache):
        restore_root(reader, root, target)
    return Seeds(cache)


def test_a_successor_adopts_what_it_opened_and_nothing_that_a_table_claims(
    vault: Vault, src: Path, tmp_path: Path
) -> None:
    """With a former epoch's key a thief claims every chunk; the successor refers to none of his places."""
    site = vault.sites[ONE]
    seeds = _restored(vault, src, tmp_path / "new", tmp_path / "out")
    truth = {row.id: (name, row.offset) for name, rows in tables(site).items() for row in rows}
    name, data = _poison(SECRETS.index_keys[1], [row for rows in tables(site).values() for row in rows])
    site.put_new(pack_key(STATE, REGISTER, name), data)
    index = ChunkIndex(tmp_path / "new" / "index.sqlite")
    new_key = {Epoch(2): b"n" * 32}
    done = reconcile(index, ONE, site, STATE, REGISTER, new_key, whole=True, seeds=seeds, epoch=Epoch(2))
    assert done.adopted >= 1
    assert not index.knows(name)
    found = index.lookup([ChunkId(c) for c in truth])
    assert found, "what was restored is known"
    assert all((ref.pack, ref.offset) == truth[chunk] for chunk, ref in found.items())
    again = reconcile(index, ONE, site, STATE, REGISTER, new_key, whole=True, seeds=seeds, epoch=Epoch(2))
    assert (again.adopted, again.unreadable) == (0, 0), "what was refused is not read again"
    assert not index.forget_before(Epoch(2))
    assert index.forget_before(Epoch(3))
    assert not index.sizes()
    seeds.close()
    index.close()


def test_a_site_that_showed_other_bytes_in_the_restore_is_not_believed(vault: Vault, src: Path, tmp_path: Path) -> None:
    """Bytes that opened in a restore, but are not those of the pack by its hash, make no seed."""
    site = vault.sites[ONE]
    seeds = _restored(vault, src, tmp_path / "new", tmp_path / "out")
    name = max(packs(site), key=lambda n: packs(site)[n])
    data = site.get(pack_key(STATE, REGISTER, name))
    rows = seeds.rows(name, data)
    assert rows
    bad = bytearray(data)
    bad[rows[0].offset] ^= 1
    assert seeds.rows(name, bytes(bad)) is None
    bad = bytearray(data)
    bad[100] ^= 1
    assert seeds.rows(name, bytes(bad)) is None, "the header counts too: it holds the pack's key"
    seeds.close()


def test_damaged_seeds_only_cost_work(vault: Vault, src: Path, tmp_path: Path) -> None:
    """A file of seeds that cannot be read is as good as none."""
    seeds = _restored(vault, src, tmp_path / "new", tmp_path / "out")
    seeds.close()
    (tmp_path / "new" / "seeds.sqlite").write_bytes(b"no database at all" * 100)
    seeds = Seeds(tmp_path / "new")
    assert not seeds.knows(Digest(b"p" * 32))
    seeds.close()


def test_rubbish_is_refused_after_its_first_kilobyte_and_only_once(vault: Vault, src: Path, tmp_path: Path) -> None:
    """Foreign packs of 16 MiB cost a kilobyte each at the first backup, and nothing at the next."""
    site = vault.sites[ONE]
    rubbish = os.urandom(4096)
    site.put_new(pack_key(STATE, REGISTER, sha256(rubbish)), rubbish)
    counting = _Counting(site)
    index = ChunkIndex(tmp_path / "index.sqlite")
    for asked in ([HEADER_BYTES] * len(packs(site)), []):
        counting.asked.clear()
        reconcile(index, ONE, counting, STATE, REGISTER, {Epoch(2): b"n" * 32}, whole=True)
        assert counting.asked == asked
    index.close()


@pytest.mark.parametrize("cold", [False, True])
def test_an_old_pack_that_is_spoilt_at_one_site_stops_nothing(
    vault: Vault, src: Path, tmp_path: Path, cold: bool
) -> None:
    """The version goes on without that pack, whole at both sites; the rest of the index is kept."""
    vault.sites = {ONE: vault.sites[ONE], TWO: MemorySite("two")}
    site = vault.sites[ONE]
    for name in packs(site):
        vault.sites[TWO].put_same(pack_key(STATE, REGISTER, name), site.get(pack_key(STATE, REGISTER, name)))
    vault.back_up(src)
    name = max(packs(site), key=lambda n: packs(site)[n])
    spoilt = FlippingSite(vault.sites[TWO], lambda key: name.hex() in key)
    vault.sites = {TWO: spoilt, ONE: site}  # the bad one is looked at first
    index = ChunkIndex(vault.cache / "index.sqlite")
    if cold:
        index.close()
        shutil.rmtree(vault.cache)
        vault.cache.mkdir()
        index = ChunkIndex(vault.cache / "index.sqlite")
    else:
        index.refuse(name, packs(site)[name], TWO)
    keys = {Epoch(1): SECRETS.index_keys[1]}
    for label, at in vault.sites.items():
        reconcile(index, label, at, STATE, REGISTER, keys, whole=True)
    assert index.spoilt_at(TWO) == {name}
    index.close()
    version = vault.back_up(src)
    assert name not in version.needs
    assert not vault.failed
    for label, at in vault.sites.items():
        vault.restore(version, tmp_path / f"out-{label}", {label: at})
        assert tree_of(tmp_path / f"out-{label}") == tree_of(src)


def test_numbers_and_times_of_a_thief() -> None:
    """A leaf's number has 53 bits at most; a last version from the future does not drag the next one there."""
    leaf = VersionLeaf(
        RegisterId("a" * 32), Epoch(1), Sequence(MAX_SEQUENCE), Instant(0), Digest(bytes(32)), Digest(bytes(32)), 1, 1
    )
    assert parse_version_leaf(leaf.encode()) == leaf
    with pytest.raises(MalformedError):
        parse_version_leaf(leaf.encode().replace(str(MAX_SEQUENCE).encode(), str(MAX_SEQUENCE + 1).encode()))
    here = Instant(1_800_000_000_000_000)
    assert least_time(Instant(here + 60_000_000), here) == here + 60_000_000
    assert least_time(Instant(here + 3_600_000_000), here) == 0


@pytest.fixture
def embassy(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "embassy"
    yield folder
    if (folder / "state" / "progress.json").exists():
        stop_all(folder)


def test_the_embassy_survives_a_thief_of_home(tmp_path: Path, embassy: Path) -> None:
    """Poison at every site: the embassy's first backup ships little, and its version restores elsewhere."""
    home = SmallHome(tmp_path, [served("gazette", tmp_path / "systems")]).found()
    home.backup()
    opened = Home.open(home.folder)
    register = RegisterId(home.id_of())
    index = ChunkIndex(opened.cache(register) / "index.sqlite")
    with index._using() as db:
        rows = [
            TableRow(ChunkId(chunk), 0, length, raw)
            for chunk, length, raw in db.execute("SELECT id, length, raw FROM chunk")
        ]
    index.close()
    name, data = _poison(opened.register_secrets(register).index_keys[1], rows)
    for site in home.sites:
        path = home.site(site) / pack_key(opened.fingerprint(), register, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    granted = home.granted("failover", sites=("lux", "nord"))
    home.ok("failover", "run", *home.where("lux", "nord"), *granted, "--dir", str(embassy))
    receipt = home.ok("backup", "--home", str(embassy))["receipts"][0]
    assert receipt["sequence"] == 2
    assert receipt["shipped_bytes"] < 40_000, "the register's 50 kB are known from the restore"
    target = tmp_path / "again"
    again = home.granted("restore", machine="third", sites=("lux", "nord"))
    home.ok("restore", *home.where("lux", "nord"), *again, "--target", str(target), "--version", "2", "--compare")
    assert tree_of(target / "acts") == tree_of(tmp_path / "systems" / "acts")


def test_a_pen_that_moved_during_a_backup_is_noticed(tmp_path: Path, embassy: Path) -> None:
    """Where no witness is needed, the epochs are looked at again before the version is entered."""
    home = SmallHome(tmp_path, [served("gazette", tmp_path / "systems")]).found()
    home.backup()
    opened = Home.open(home.folder)
    register = RegisterId(home.id_of())
    sites = {Label(name): DirectorySite(str(home.site(name))) for name in home.sites}
    run = backup_begin.begin(opened, register, sites, (), now())
    backup_begin.require_pen_still(run, sites)
    granted = home.granted("failover", sites=("lux", "nord"))
    home.ok("failover", "run", *home.where("lux", "nord"), *granted, "--dir", str(embassy))
    with pytest.raises(Fenced):
        backup_begin.require_pen_still(run, sites)


def test_a_version_from_the_future_is_no_protection(tmp_path: Path) -> None:
    """Status calls it a problem, whatever its age seems to be."""
    home = SmallHome(tmp_path).found()
    home.backup()
    opened = Home.open(home.folder)
    sites = {Label(name): DirectorySite(str(home.site(name))) for name in home.sites}
    view = read_state(sites, opened.fingerprint())
    shown = status(view, sites, {}, None, now=now())
    assert shown.registers[0].protected
    early = status(view, sites, {}, None, now=Instant(now() - 3_600_000_000)).registers[0]
    assert not early.protected
    assert "lies in the future" in early.problem


@pytest.mark.parametrize("old", [False, True])
def test_a_refused_pack_does_not_cost_a_site_the_others(vault: Vault, src: Path, tmp_path: Path, old: bool) -> None:
    """Other bytes under one pack's name: the site gets all other packs, and only a pack of this version counts."""
    version = vault.back_up(src)
    site, other = vault.sites[ONE], MemorySite("two")
    name = max(version.needs, key=lambda n: packs(site)[n])
    other.put_new(pack_key(STATE, REGISTER, name), b"junk" * 1024)
    index = ChunkIndex(vault.cache / "index.sqlite")
    sizes = dict(index.size_of(version.needs))
    needs = {n: size for n, size in sizes.items() if not (old and n == name)}
    sites = {ONE: site, TWO: other}
    done = catch_up(
        state=STATE, register=REGISTER, needs=needs, lists=version.objects.nodes, sites=sites, index=index,
        others={name: sizes[name]} if old else {},
    )  # fmt: skip
    assert index.spoilt_at(TWO) == {name}
    assert index.placed_at(TWO) == version.needs - {name}
    assert set(done.failed) == (set() if old else {TWO})
    assert old or "scrub two --days 1" in done.failed[TWO]
    index.close()
    vault.sites = sites
    again = vault.back_up(src)
    assert name not in again.needs, "the next version goes on without it"
    vault.sites[TWO] = other
    index = ChunkIndex(vault.cache / "index.sqlite")
    del other._objects[pack_key(STATE, REGISTER, name)]
    reconcile(index, TWO, other, STATE, REGISTER, {Epoch(1): SECRETS.index_keys[1]}, whole=True)
    assert not index.spoilt_at(TWO), "whoever removes it is believed again"
    index.close()


def test_a_manifest_of_one_byte_extents_does_not_fill_memory() -> None:
    """A window counts the places it has to write to, not only their bytes."""
    window = _Window()
    ref = Ref(b"p" * 32, HEADER_BYTES, 100, 8, b"c" * 32)
    entry = Entry(b"f", 0, 0o644, 0, 0, 0, WINDOW_PLACES)
    for at in range(WINDOW_PLACES):
        assert not window.full
        window.want(ref, entry, at, 0, 1)
    assert window.full
