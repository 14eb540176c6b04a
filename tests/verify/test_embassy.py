"""The outsider's verifier against hosts that do what they like: the right fault, at the right site and object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from exclave.errors import SiteUnavailable
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.fact import Fact
from exclave.formats.leaf import VersionLeaf, parse_version_leaf
from exclave.formats.paths import box_key, card_prefix, charter_prefix, epoch_prefix, list_key, warrant_prefix
from exclave.formats.stage import Stage
from exclave.formats.tile import encode_bundle, encode_tile, parse_bundle
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Key, Label, Sequence, sha256
from exclave.ledger.log import Log
from exclave.rules.checkpoints import sign_checkpoint
from exclave.rules.tree import Edge, leaf_hash
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat
from exclave.sites.memory import MemorySite
from exclave.verify.embassy import verify_embassy
from support.custody import actor, signed
from support.hostile import PassThrough
from support.shown_sites import FACTS, World, grave, world

LUX = "luxembourg"


def accused(w: World, *, read_packs: bool = True) -> set[tuple[str, str, str]]:
    """(site, fault, object) of every grave finding."""
    return {(f.site, f.fault, f.what) for f in grave(w.report(read_packs=read_packs))}


def log_of(w: World, site: str, epoch: int, *, time: Instant | None = None) -> Log:
    made = w.epoch(epoch)
    origin = f"exclave/{w.state}/{w.register}/{epoch}"
    prefix = w.small.ledger_prefix(made)
    return Log.open(w.sites[site], prefix, origin, made.by.card, made.by.pair, now=time or w.now)


def leaf(w: World, sequence: int, epoch: int) -> bytes:
    name = Digest(bytes(32))
    return VersionLeaf(w.register, Epoch(epoch), Sequence(sequence), w.now, name, name, 1, 4096).encode()


@pytest.mark.parametrize("read_packs", [True, False])
def test_an_untouched_embassy_is_fine(read_packs: bool) -> None:
    """Three sites, two epochs, three versions: not a single finding, and the report counts everything."""
    w = world()
    report = w.report(read_packs=read_packs)
    assert report.findings == ()
    assert report.ok
    assert report.charter == 1
    (register,) = report.registers
    assert (register.epoch, register.versions, register.latest, register.rpo_met) == (2, 3, 3, True)
    assert register.placement_lacks == ""
    assert [(s.versions, s.complete, s.latest_complete, s.entries) for s in register.sites] == [
        (3, 3, 3, FACTS + 1)
    ] * 3
    assert [s.country for s in register.sites] == ["EE", "LU", "MC"]
    assert msgspec.json.encode(msgspec.to_builtins(report))


def test_progress_counts_every_pack_at_every_site() -> None:
    """It never goes back, and the last call says that all are done."""
    w = world()
    seen: list[tuple[int, int]] = []
    report = verify_embassy(w.sites, w.state, now=w.now, workers=9, progress=lambda a, b: seen.append((a, b)))
    assert report.ok
    assert seen == sorted(seen)
    assert seen[0] == (0, report.packs_read)
    assert seen[-1] == (report.packs_read, report.packs_read)


@pytest.mark.parametrize("act", ["flip", "truncate", "grow", "drop", "swap", "oversize", "empty"])
def test_a_spoilt_pack_is_named(act: str) -> None:
    """Whatever a host does to one pack, that pack at that host is accused and nothing else."""
    w = world()
    key, other = w.key("/pack/"), w.key("/pack/", place=1)
    data = w.sites[LUX].get(key)
    shown = {
        "truncate": data[:-1],
        "grow": data + b"\0",
        "drop": None,
        "swap": w.sites[LUX].get(other),
        "oversize": bytes(17 << 20),
        "empty": b"",
    }
    if act == "flip":
        w.flip(LUX, key)
    else:
        w.put(LUX, key, shown[act])
    fault = "missing-object" if act == "drop" else "corrupt-object"
    assert accused(w) == {(LUX, fault, key)}
    (register,) = w.report().registers
    assert [s.complete == 3 for s in register.sites] == [True, False, True]


def test_without_reading_packs_presence_and_sizes_are_checked() -> None:
    """A missing pack and one of another length are found from listings alone; changed bytes are not."""
    w = world()
    gone, short, flipped = (w.key("/pack/", place=n) for n in range(3))
    w.put(LUX, gone, None)
    w.put("monaco", short, w.sites[LUX].get(short)[:-1])
    w.flip("home", flipped)
    assert accused(w, read_packs=False) == {(LUX, "missing-object", gone), ("monaco", "corrupt-object", short)}


@pytest.mark.parametrize("act", ["flip", "drop"])
@pytest.mark.parametrize(
    "part",
    ["/list/", "/box/", "tile/entries/000", "tile/entries/001.p/45", "tile/0/001.p/45", "tile/0/000", "tile/1/000.p/1"],
)
def test_a_spoilt_public_object_is_named(act: str, part: str) -> None:
    """List nodes, sealed boxes, bundles and tiles: that object at that site, nothing else."""
    w = world()
    key = w.log_key(part) if part.startswith("tile") else w.key(part)
    if act == "flip":
        w.flip(LUX, key)
    else:
        w.put(LUX, key, None)
    assert accused(w) == {(LUX, "missing-object" if act == "drop" else "corrupt-object", key)}


def test_a_list_node_lost_everywhere_leaves_older_versions_whole() -> None:
    """The version whose list is gone is incomplete at every site; the others are not."""
    w = world()
    log = log_of(w, "home", 2)
    tree = log.reader.tree(log.checkpoint) if log.checkpoint else None
    assert tree is not None
    newest = parse_version_leaf(tree.entry(FACTS))
    key = list_key(w.state, w.register, newest.objects)
    for site in w.sites:
        w.put(site, key, None)
    assert accused(w) == {(site, "missing-object", key) for site in w.sites}
    (register,) = w.report().registers
    assert {s.complete for s in register.sites} == {2}
    assert register.placement_lacks == "0 of 1 copies, 0 of 1 countries"


def test_a_replayed_checkpoint_is_a_rollback_there() -> None:
    """An old head over newer tiles convicts the site, once nobody can still be publishing."""
    w = world()
    key = w.log_key("checkpoint")
    w.put("monaco", key, _head_of(w, FACTS))
    assert accused(w) == set()
    assert {(f.site, f.fault) for f in w.report().findings} == {("monaco", "rolled-back")}
    w.now = Instant(w.now + 20 * 60_000_000)
    assert accused(w) == {("monaco", "rolled-back", key)}
    (register,) = w.report().registers
    assert (register.latest, [s.versions for s in register.sites]) == (3, [3, 3, 2])


def test_a_primary_that_goes_back_is_convicted_by_its_own_stage() -> None:
    """The writer's signed stages tell what the log was, even with no other site to compare with, and at once."""
    w = world()
    w.sites = {"home": w.sites["home"]}
    w.put("home", w.log_key("checkpoint"), _head_of(w, 100))
    assert accused(w) == {("home", "rolled-back", w.log_key("checkpoint"))}


def _head_of(w: World, size: int) -> bytes:
    log = log_of(w, "home", 2)
    assert log.checkpoint is not None
    hashes = [leaf_hash(entry) for _, entry in log.reader.tree(log.checkpoint).entries(0, size)]
    edge, _ = Edge().grow(hashes)
    return sign_checkpoint(Checkpoint(log.checkpoint.origin, size, edge.root), w.epoch(2).by.pair, w.now).encode()


@pytest.mark.parametrize("data", [None, b"garbage\n", b"x" * 70_000])
def test_a_lost_or_spoilt_checkpoint_is_named(data: bytes | None) -> None:
    """A site without a good head of a log that others show is accused."""
    w = world()
    w.now = Instant(w.now + 2 * 3_600_000_000)
    key = w.log_key("checkpoint", 1)
    w.put(LUX, key, data)
    assert accused(w) == {(LUX, "missing-object" if data is None else "corrupt-object", key)}


def test_a_fork_by_a_stolen_writer_key_is_named_where_it_is() -> None:
    """One site shows another history with the writer's own signature: it is accused, and what all share counts."""
    w = world()
    _fork(w, LUX)
    assert accused(w) == {(LUX, "forked", w.log_key("checkpoint"))}
    (register,) = w.report().registers
    assert register.latest == 2


def _fork(w: World, site: str) -> None:
    """Replaces ``site``'s second log by one of the writer's that has other entries."""
    prefix = w.log_key("")
    for key in w.names(site):
        if key.startswith(prefix):
            w.put(site, key, None)
    fresh = MemorySite("fork")
    made = w.epoch(2)
    log = Log.open(fresh, prefix, f"exclave/{w.state}/{w.register}/2", made.by.card, made.by.pair, now=w.now)
    log.append([leaf(w, 3, 2), leaf(w, 4, 2)], w.now)
    for stat in fresh.list(""):
        w.put(site, stat.key, fresh.get(stat.key))


def test_a_fenced_writer_is_named_and_does_not_count() -> None:
    """What the former writer adds after the cut is a finding with its numbers, never a version."""
    w = world()
    log_of(w, "home", 1).append([leaf(w, 3, 1), leaf(w, 9, 1)], w.now)
    (found,) = grave(w.report())
    assert (found.site, found.fault, found.what) == ("home", "fenced", w.log_key("checkpoint", 1))
    assert "versions 3, 9" in found.detail
    (register,) = w.report().registers
    assert (register.versions, register.latest) == (3, 3)


def test_a_former_log_that_contradicts_the_cut_is_forked() -> None:
    """The fenced writer rewrites his log at one site: its versions come from the others."""
    w = world()
    prefix = w.log_key("", 1)
    for key in w.names("monaco"):
        if key.startswith(prefix):
            w.put("monaco", key, None)
    log_of(w, "monaco", 1).append([leaf(w, n, 1) for n in (1, 2, 3)], w.now)
    assert accused(w) == {("monaco", "forked", w.log_key("checkpoint", 1))}
    (register,) = w.report().registers
    assert (register.versions, [s.versions for s in register.sites]) == (3, [3, 3, 1])


def test_planted_notes_and_cards_are_told_and_harm_nothing() -> None:
    """Well-named garbage is a finding that is not grave, at its own name; badly named objects are grave."""
    w = world()
    stranger = actor("stranger")
    forged = signed(w.small.charter.encode(), stranger).encode()
    other = signed(w.small.epoch.note.encode(), stranger).encode()
    planted = {
        f"{charter_prefix(w.state)}{sha256(b'junk').hex()}": b"junk",
        f"{warrant_prefix(w.state)}{sha256(b'junk').hex()}": b"junk",
        f"{card_prefix(w.state)}{sha256(b'junk').hex()}": b"junk",
        f"{epoch_prefix(w.state, w.register)}{sha256(b'junk').hex()}": b"junk",
        f"{charter_prefix(w.state)}readme": b"junk",
    }
    for name, data in planted.items():
        w.put(LUX, Key(name), data)
    for data, prefix in ((forged, charter_prefix(w.state)), (other, epoch_prefix(w.state, w.register))):
        w.put(LUX, Key(prefix + sha256(data).hex()), data)
    report = w.report()
    assert report.ok
    assert {f.what for f in report.findings} == set(planted)
    assert {(f.site, f.fault) for f in report.findings} == {(LUX, "malformed")}
    wrong = Key(f"{card_prefix(w.state)}{'0' * 64}")
    w.put(LUX, wrong, b"junk")
    assert accused(w) == {(LUX, "corrupt-object", wrong)}


def test_a_charter_that_too_few_signed_is_told_where_it_lies() -> None:
    """A forged successor changes nothing."""
    w = world()
    charter = replace(w.small.charter, number=2, previous=w.small.charter.digest)
    data = signed(charter.encode(), *w.small.custodians[:2]).encode()
    key = Key(charter_prefix(w.state) + sha256(data).hex())
    w.put("monaco", key, data)
    report = w.report()
    assert [(f.site, f.fault, f.what, f.grave) for f in report.findings] == [("monaco", "quorum-missing", key, False)]
    assert report.charter == 1


@pytest.mark.parametrize("part", ["/charter/", "/card/", "/warrant/", "/epoch/"])
def test_a_site_that_hides_signed_things_is_named(part: str) -> None:
    """Each site has to tell the whole story by itself: a hidden charter, card, warrant or epoch is missed there."""
    w = world()
    w.put(LUX, next(k for k in w.names() if part in k), None)
    report = w.report()
    assert not report.ok
    assert {f.site for f in report.findings} == {LUX}
    assert {f.fault for f in report.findings} <= {"missing-object", "rolled-back"}
    assert report.registers[0].versions == 3


def test_an_unreachable_site_is_not_accused() -> None:
    """It is told, not as grave, and the others are checked as ever."""
    w = world()
    report = w.report(sources={**w.sites, LUX: _Down(w.sites[LUX])})
    assert report.ok
    assert {(f.site, f.fault) for f in report.findings} == {(LUX, "site-unavailable")}
    assert [s.site for s in report.registers[0].sites] == ["home", "monaco"]


class _Down(PassThrough):
    """Answers nothing, or only until the first call whose name is chosen."""

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if self.only(key):
            raise SiteUnavailable("it does not answer")
        return super().get(key, limit=limit)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        if self.only(Key(prefix)):
            raise SiteUnavailable("it does not answer")
        return super().list(prefix)


def test_a_site_that_goes_away_meanwhile_stops_nothing() -> None:
    """Packs cannot be read there: not grave, nothing complete there, the others fine; and it is soon left alone."""
    w = world()
    report = w.report(sources={**w.sites, LUX: _Down(w.sites[LUX], lambda key: "/pack/" in key)})
    assert report.ok
    assert {(f.site, f.fault) for f in report.findings} == {(LUX, "site-unavailable")}
    assert [s.complete for s in report.registers[0].sites] == [3, 0, 3]


def test_no_site_at_all_is_a_grave_report() -> None:
    """Nothing could be checked, so nothing is fine; and the same for another state's fingerprint."""
    w = world()
    down = w.report(sources={name: _Down(site) for name, site in w.sites.items()})
    assert [f.fault for f in down.findings] == ["site-unavailable"]
    assert not down.ok
    wrong = verify_embassy(w.sites, Fingerprint("ab" * 32), now=w.now)
    assert [f.fault for f in wrong.findings] == ["wrong-fingerprint"]
    assert (wrong.ok, wrong.charter) == (False, 0)
    empty = verify_embassy({"one": MemorySite()}, w.state, now=w.now)
    assert [f.fault for f in empty.findings] == ["missing-object"]
    assert not verify_embassy({}, w.state, now=w.now).ok


def test_one_source_under_any_name_is_enough() -> None:
    """A copy opened by address alone is checked in full; its country is not known, so placement is open."""
    w = world()
    report = w.report(sources={"copy": w.sites["monaco"]})
    assert report.ok
    (site,) = report.registers[0].sites
    assert (site.country, site.complete) == (None, 3)
    assert [f.fault for f in report.findings] == ["placement-unmet"]
    w.put("monaco", w.key("/pack/", "monaco"), None)
    assert not w.report(sources={"copy": w.sites["monaco"]}).ok


class _Listing(PassThrough):
    """Lies in listings: sizes are off by one, and endless junk follows."""

    def __init__(self, inner: MemorySite, *, endless: bool = False) -> None:
        super().__init__(inner, lambda key: "/pack/" in key)
        self.endless = endless

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for stat in super().list(prefix):
            yield ObjectStat(stat.key, stat.size_bytes + (not self.endless)) if self.only(stat.key) else stat
        while self.endless and "/pack/" in prefix:
            yield ObjectStat(Key(f"{prefix}zz/{'f' * 64}"), 1)


@pytest.mark.parametrize("read_packs", [True, False])
def test_a_lying_listing_is_named(read_packs: bool) -> None:
    """Sizes that are not true, pack by pack; their bytes are found right when they are read."""
    w = world()
    report = w.report(read_packs=read_packs, sources={**w.sites, LUX: _Listing(w.sites[LUX])})
    assert {(f.site, f.fault) for f in grave(report)} == {(LUX, "corrupt-object")}
    assert {f.what for f in grave(report)} == {k for k in w.names() if "/pack/" in k}
    assert [s.complete for s in report.registers[0].sites] == [3, 3 if read_packs else 0, 3]


def test_an_endless_listing_ends() -> None:
    """Work is bounded whatever a site lists."""
    w = world()
    report = w.report(sources={**w.sites, LUX: _Listing(w.sites[LUX], endless=True)})
    assert report.ok
    assert [(f.site, f.grave) for f in report.findings] == [(LUX, False)]


def test_entries_that_are_no_versions_are_the_writers_fault() -> None:
    """Garbage in a ledger, a foreign leaf, a sequence that does not rise: told without accusing a site."""
    w = world()
    log = log_of(w, "home", 2)
    log.append([b"garbage", leaf(w, 9, 1), leaf(w, 2, 2)], w.now)
    for name in ("luxembourg", "monaco"):
        for key in w.names("home"):
            if key.startswith(w.log_key("")):
                w.put(name, key, w.sites["home"].get(key))
    report = w.report()
    assert {(f.site, f.fault) for f in grave(report)} == {("?", "corrupt-object")}
    assert len(grave(report)) == 3
    assert report.registers[0].latest == 3


def test_a_list_that_lies_is_the_writers_fault() -> None:
    """A version whose list does not exist is missing everywhere; the others stay whole."""
    w = world()
    log = log_of(w, "home", 2)
    log.append([leaf(w, 4, 2)], w.now)
    for name in ("luxembourg", "monaco"):
        for key in w.names("home"):
            if key.startswith(w.log_key("")):
                w.put(name, key, w.sites["home"].get(key))
    key = list_key(w.state, w.register, Digest(bytes(32)))
    assert accused(w) == {(site, "missing-object", key) for site in w.sites}
    assert {s.complete for s in w.report().registers[0].sites} == {3}


def test_an_old_version_misses_the_rpo_without_being_grave() -> None:
    """Too old is a finding that accuses nobody."""
    w = world()
    w.now = Instant(w.now + 3_600_000_000)
    report = w.report()
    assert report.ok
    assert [f.fault for f in report.findings] == ["rpo"]
    assert not report.registers[0].rpo_met


def test_a_spoilt_bundle_and_tile_together_are_both_named() -> None:
    """A host that rewrites an entry and its tile alike is still caught at both objects."""
    w = world()
    bundle, tile = w.log_key("tile/entries/001.p/45"), w.log_key("tile/0/001.p/45")
    entries = list(parse_bundle(w.sites[LUX].get(bundle), 45))
    entries[-1] = leaf(w, 3, 2)
    w.put(LUX, bundle, encode_bundle(entries))
    w.put(LUX, tile, encode_tile([leaf_hash(entry) for entry in entries]))
    assert accused(w) == {(LUX, "corrupt-object", bundle), (LUX, "corrupt-object", tile)}


def test_a_box_of_another_is_named() -> None:
    """A host swaps two custodians' shares."""
    w = world()
    one, other = (share.box for share in w.epoch(1).note.shares[:2])
    key, swapped = (box_key(w.state, w.register, digest) for digest in (one, other))
    w.put(LUX, key, w.sites[LUX].get(swapped))
    assert accused(w) == {(LUX, "corrupt-object", key)}


def _grown(w: World) -> Log:
    """The second log one entry longer, elsewhere; the sites do not show it yet."""
    fresh = MemorySite("primary")
    for key in w.names("home"):
        if not key.startswith(w.log_key("")):
            continue
        if key.endswith("checkpoint"):
            fresh.replace_if(key, w.sites["home"].get(key), None)
        else:
            fresh.put_new(key, w.sites["home"].get(key))
    made = w.epoch(2)
    origin = f"exclave/{w.state}/{w.register}/2"
    log = Log.open(fresh, w.log_key(""), origin, made.by.card, made.by.pair, now=w.now)
    log.append([Fact(w.register, Epoch(2), w.now, Label("drill")).encode()], w.now)
    return log


@pytest.mark.parametrize("part", ["stage/302", "stage/301", "tile/entries/001.p/46"])
def test_work_in_progress_is_told_and_not_grave(part: str) -> None:
    """A staged append, and entries that a publication laid out first: neither is a fault yet."""
    w = world()
    log = _grown(w)
    key = w.log_key(part)
    if part == "stage/302":  # nobody's: it has another number than what the writer signed
        w.put("home", key, log.reader.source.get(w.log_key("stage/301")))
        assert w.report().findings == ()
        return
    w.put("home", key, log.reader.source.get(key))
    report = w.report()
    assert [(f.site, f.fault, f.grave) for f in report.findings] == [("home", "rolled-back", False)]


def test_a_planted_stage_convicts_nobody() -> None:
    """Without the writer's signature a stage proves nothing."""
    w = world()
    text = Stage(f"exclave/{w.state}/{w.register}/2", 900, Digest(bytes(32)), (b"x",)).encode()
    w.put(LUX, w.log_key("stage/900"), signed(text, actor("stranger")).encode())
    assert w.report().findings == ()
    w.put(LUX, w.log_key("stage/900"), signed(text, w.epoch(2).by).encode())
    assert accused(w) == {(LUX, "rolled-back", w.log_key("checkpoint"))}


def test_a_note_under_a_wrong_name_is_told_and_still_read() -> None:
    """Its name is wrong, its signatures are right: the site is accused and nothing is lost."""
    w = world()
    key = next(k for k in w.names() if "/charter/" in k)
    data = w.sites[LUX].get(key)
    w.put(LUX, key, None)
    wrong = Key(f"{charter_prefix(w.state)}{'0' * 64}")
    w.put(LUX, wrong, data)
    assert accused(w) == {(LUX, "corrupt-object", wrong)}


def test_a_flood_of_notes_does_not_hide_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards are asked for by name when a site is so full of junk that its listing is cut off."""
    w = world()
    monkeypatch.setattr("exclave.verify.shown.MAX_NAMES", 3)
    for site in w.sites:
        for n in range(4):
            w.put(site, Key(f"{card_prefix(w.state)}{n:064x}"), b"junk")
    report = w.report()
    assert report.registers[0].versions == 3
    assert not report.ok


class _Elsewhere(PassThrough):
    """Lists objects of another place among the charters."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        if prefix.endswith("/charter/"):
            yield ObjectStat(Key("../../etc/passwd"), 1)
        yield from super().list(prefix)


def test_a_listing_of_other_places_is_refused() -> None:
    """A name that was not asked for is never fetched."""
    w = world()
    report = w.report(sources={**w.sites, LUX: _Elsewhere(w.sites[LUX])})
    assert [(f.site, f.fault, f.what) for f in grave(report)] == [(LUX, "corrupt-object", "../../etc/passwd")]


def test_a_register_at_a_site_without_legal_basis_is_told() -> None:
    """The charter takes a site away from the register; what still lies there is named, and not missed later."""
    w = world()
    rule = replace(w.small.charter.registers[0], at=(Label("home"), Label("monaco")), epoch=Epoch(2))
    rule = replace(rule, epoch_note=w.small.epoch.note.digest)
    charter = replace(w.small.charter, number=2, previous=w.small.charter.digest, registers=(rule,))
    data = signed(charter.encode(), *w.small.custodians[:3]).encode()
    for site in w.sites:
        w.put(site, Key(charter_prefix(w.state) + sha256(data).hex()), data)
    w.put(LUX, w.key("/box/"), None)
    report = w.report()
    assert [(f.site, f.fault, f.grave) for f in report.findings] == [(LUX, "legal-basis-missing", False)]
    assert (report.charter, report.registers[0].epoch) == (2, 2)


def test_a_site_without_the_newest_charter_is_behind() -> None:
    """It would tell an outdated story by itself."""
    w = world()
    rule = replace(w.small.charter.registers[0], epoch=Epoch(2), epoch_note=w.small.epoch.note.digest)
    charter = replace(w.small.charter, number=2, previous=w.small.charter.digest, registers=(rule,))
    data = signed(charter.encode(), *w.small.custodians[:3]).encode()
    for site in ("home", "monaco"):
        w.put(site, Key(charter_prefix(w.state) + sha256(data).hex()), data)
    assert accused(w) == {(LUX, "rolled-back", "charter")}


def test_a_site_without_the_newest_epoch_is_behind() -> None:
    """It would let the fenced writer go on."""
    w = world()
    note = w.epoch(2).signed.encode()
    w.put(LUX, Key(epoch_prefix(w.state, w.register) + sha256(note).hex()), None)
    assert accused(w) == {(LUX, "rolled-back", "epoch")}


def test_a_flooded_listing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many notes of one kind are read from one site."""
    w = world()
    monkeypatch.setattr("exclave.verify.shown.MAX_NAMES", 20)
    for n in range(40):
        w.put(LUX, Key(f"{warrant_prefix(w.state)}zz/{n}"), b"junk")
    report = w.report()
    assert [(f.site, f.fault, f.what) for f in grave(report)] == [(LUX, "corrupt-object", warrant_prefix(w.state))]
    assert len([f for f in report.findings if not f.grave]) == 19
