"""A thief with all of home's credentials, and a malicious state, at a running gateway with all its duties."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import ExclaveError, Fenced, Forked, RolledBack, SiteFull
from exclave.formats.paths import card_key, deletion_key, pack_key, warrant_key
from exclave.formats.tile import Tile, bundle_key, encode_bundle, encode_tile, stage_key, tile_key
from exclave.formats.warrant import Act
from exclave.ids import Fingerprint, Key, Label, now, sha256
from exclave.operations.host_erasure import HostErasure
from exclave.rules.tree import leaf_hash
from exclave.serve.host_duties import Signers, make_duties, read_views
from exclave.serve.site import Gateway, read_hosting
from exclave.serve.site_counts import GatewayCounts
from exclave.sites.erasing import DirectoryEraser
from exclave.sites.gateway import GatewaySite
from support.custody import actor, machine, signed
from support.fault_table import FaultTable
from support.gateway import NORTH, SOUTH, HostPlace, host_place
from support.hosted import ENTRIES, Hosted

KNOWN = "Act 1: everybody may read this, and no host may."


class Town(Hosted):
    """A host with two states: the thief's victim, whose folder is a site of a small state, and a neighbour."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "state")
        source = root / "acts"
        source.mkdir()
        (source / "act-1").write_text(KNOWN * 200)
        self.state.write_version(source)
        (root / "host").mkdir()
        self.place: HostPlace = host_place(root / "host", south="quota_bytes = 2000000\nquota_objects = 50")
        config = self.place.folder / "host.toml"
        text = config.read_text().replace('"disk-north"', f'"{self.folder}"').replace(NORTH, self.state.state)
        config.write_text(text)
        self.port = 0

    def client(self, name: str = "north") -> GatewaySite:
        """With the state's own certificate: what a thief of home has."""
        site = self.place.site(self.port, name)
        if name == "north":
            fingerprint = Fingerprint(self.state.state)
            site._place = type(site._place)(site._place.host, site._place.port, fingerprint)
        return site

    def ask(self, method: str, path: str, body: bytes = b"", *, name: str | None = "north") -> tuple[int, bytes]:
        """A request as it stands, with or without a certificate."""
        context = ssl.create_default_context(cafile=self.place.folder / "ca.pem")
        if name is not None:
            context.load_cert_chain(self.place.folder / f"{name}.pem", self.place.folder / f"{name}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def snapshot(self, folder: Path | None = None) -> dict[str, bytes]:
        """Every object in a folder, as the disk has it."""
        root = folder or self.folder
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*") if path.is_file() and ".tmp" not in path.parts and "probe" not in path.parts
        }  # fmt: skip


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    hosting = read_hosting(made.place.config, str(made.place.folder))
    states = tuple(hosting.states)
    erasures = {
        s.fingerprint: HostErasure(Label("host"), s.site, DirectoryEraser(s.folder), s.fingerprint, dict,
                                   s.usage.recount) for s in states
    }  # fmt: skip
    duties = make_duties(read_views(states, now), Signers(), erasures, now, str)
    gateway = Gateway(hosting, duties, GatewayCounts())
    made.port = gateway.start(("127.0.0.1", 0))
    try:
        yield made
    finally:
        gateway.stop(within_s=0)


def kept(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Nothing was altered, nothing deleted."""
    assert {name: after.get(name) for name in before} == before


def test_the_state_itself_goes_on(town: Town) -> None:
    """Its writer's next entries reach the gateway through the guard: stage, tiles, head."""
    thief = town.client()
    town.state.append(b"next\n", publish_to=())
    from exclave.ledger.publish import publish

    log = town.state.open_log()
    assert log.checkpoint is not None
    done = publish(log.reader, log.checkpoint, thief)
    assert (done.before, done.after) == (4, 5)


def test_a_thief_alters_and_deletes_nothing(town: Town, fault_table: FaultTable) -> None:
    """Everything that the gateway offers, tried on every object: nothing that was there is other than before."""
    before, neighbour = town.snapshot(), town.snapshot(town.place.folder / "disk-south")
    thief = town.client()
    junk = b"junk" * 10
    for name in before:
        key, data = Key(name), before[name]
        for attempt in (
            lambda k=key: thief.put_new(k, junk),
            lambda k=key: thief.put_same(k, junk),
            lambda k=key, d=data: thief.replace_if(k, junk, sha256(d).hex()),
            lambda k=key, d=data: thief.replace_if(k, b"", sha256(d).hex()),
            lambda k=key, d=data: thief.replace_spoilt(k, junk, sha256(d)),
            lambda k=key: thief.replace_spoilt(k, junk, None),
        ):  # fmt: skip
            with pytest.raises(ExclaveError):
                attempt()
        for method in ("DELETE", "PATCH", "MOVE", "POST", "PROPPATCH"):
            status, _ = town.ask(method, f"/v1/{town.state.state}/o/{name}", junk)
            assert status >= 400, method
    kept(before, town.snapshot())
    assert town.snapshot(town.place.folder / "disk-south") == neighbour
    fault_table.suite("gateway", "thief with all credentials", 11 * len(before))


def test_a_head_is_not_rolled_back_or_forked(town: Town, fault_table: FaultTable) -> None:
    """With the writer's own key, too: an old head, another of the same size, a fork with all its tiles."""
    before, thief = town.snapshot(), town.client()
    whole = [entry for _, entry in _tree(town).entries()]
    shown = thief.read_head(town.head_key)
    assert shown is not None
    with pytest.raises(RolledBack):
        thief.replace_if(town.head_key, town.head(ENTRIES[:2]), shown.tag)
    with pytest.raises(Forked):
        thief.replace_if(town.head_key, town.head([*whole[:-1], b"forged\n"]), shown.tag)
    fork = [b"forged\n", *whole[1:], b"more\n"]
    thief.put_same(bundle_key(town.prefix, 0, len(fork)), encode_bundle(fork))
    thief.put_same(tile_key(town.prefix, Tile(0, 0, len(fork))), encode_tile([leaf_hash(e) for e in fork]))
    with pytest.raises(Forked):
        thief.replace_if(town.head_key, town.head(fork), shown.tag)
    kept(before, town.snapshot())
    fault_table.suite("gateway", "thief with all credentials", 3)


def _tree(town: Town):  # type: ignore[no-untyped-def]
    reader = town.view.log(town.view.find(town.state.register, town.state.epochs[0].note.epoch))
    return reader.tree(reader.head())


def test_an_ended_epoch_writes_no_more(town: Town, fault_table: FaultTable) -> None:
    """The quorum gives the pen away: from then on home's key and certificate move no head and decide no append."""
    thief = town.client()
    whole = [entry for _, entry in _tree(town).entries()]
    more = [*whole, b"late\n"]
    thief.put_same(bundle_key(town.prefix, 0, len(more)), encode_bundle(more))
    thief.put_same(tile_key(town.prefix, Tile(0, 0, len(more))), encode_tile([leaf_hash(e) for e in more]))
    town.state.new_epoch(Act.FAILOVER, by=machine("rescue"))
    shown = thief.read_head(town.head_key)
    assert shown is not None
    with pytest.raises(Fenced):
        thief.replace_if(town.head_key, town.head(more), shown.tag)
    with pytest.raises(Fenced):
        thief.put_new(stage_key(town.prefix, len(whole)), b"any")
    fault_table.suite("gateway", "thief with all credentials", 2)


def test_names_outside_and_beside(town: Town, fault_table: FaultTable) -> None:
    """Tricks with paths reach no file: not the host's, not another state's, none that the layout does not name."""
    before, neighbour = town.snapshot(), town.snapshot(town.place.folder)
    fp = town.state.state
    for path in (
        f"/v1/{fp}/o/../x", f"/v1/{fp}/o/..%2fx", f"/v1/{fp}/o/%2e%2e/%2e%2e/host.toml", f"/v1/{fp}/o//etc/passwd",
        f"/v1/{fp}/o/.tmp/usage", f"/v1/{fp}/o/x\\..\\y", f"/v1/{fp}/../{SOUTH}/o/x", f"/v1/{SOUTH}/o/x/y",
        f"/v1/{fp}/o/{SOUTH}/charter/{'0' * 64}", f"/v1/{fp}/o/{fp}/charter", f"/v1/{fp}/o/{'a/' * 200}b",
    ):  # fmt: skip
        for method in ("GET", "PUT", "POST", "DELETE"):
            status, _ = town.ask(method, path, b"junk")
            assert status >= 400, (method, path)
    assert town.ask("GET", f"/v1/{SOUTH}/list?prefix=", name="north")[0] in (200, 401, 403)
    kept(before, town.snapshot())
    kept(neighbour, town.snapshot(town.place.folder))
    fault_table.suite("gateway", "thief with all credentials", 4 * 11)


def test_only_a_states_certificate_writes_for_it(town: Town, fault_table: FaultTable) -> None:
    """Nobody, and the neighbour's certificate, write nothing for this state; nor this one's for the neighbour."""
    data = b"right bytes"
    key = pack_key(town.state.state, town.state.register, sha256(data))
    for name, state in ((None, town.state.state), ("south", town.state.state), ("north", SOUTH)):
        status, _ = town.ask("PUT", f"/v1/{state}/o/{key}", data, name=name)
        assert status in (400, 401, 403)
    assert town.site.stat(key) is None
    fault_table.suite("gateway", "thief with all credentials", 3)


def test_forged_orders_erase_nothing(town: Town, fault_table: FaultTable) -> None:
    """Anybody may ask the host to erase; an order that a quorum did not sign, or that no ledger names, does nothing."""
    before, thief = town.snapshot(), town.client()
    order = (
        f"exclave/deletion/v1\nstate {town.state.state}\nregister {town.state.register}\nledger 1 4\ndelay 1\n"
        f"objections 1\nkeys none\nreason theft\nversion 1 1 {'ab' * 32} 2026-01-01T00:00:00.000000Z\n"
    ).encode()
    thief.put_same(deletion_key(Fingerprint(town.state.state), town.state.register, sha256(order)), order)
    forger = actor("forger")
    text = town.state.warrant_text(Act.FAILOVER, forger).replace("act failover", "act delete")
    note = signed(text.replace("object none", f"object {sha256(order).hex()}"), forger).encode()
    thief.put_same(warrant_key(Fingerprint(town.state.state), note), note)
    for name in (None, "north", "south"):
        for method in ("POST", "DELETE", "PUT", "GET"):
            town.ask(method, f"/v1/{town.state.state}/erase", name=name)
    kept(before, town.snapshot())
    fault_table.suite("gateway", "thief with all credentials", 3 * 4)


def test_a_flood_of_notes_is_bounded(town: Town, monkeypatch: pytest.MonkeyPatch, fault_table: FaultTable) -> None:
    """Cards of strangers fill their folder up to the bound; the state's own custodians' notes still come in."""
    from exclave.ledger import write_guard

    monkeypatch.setattr(write_guard, "MAX_UNVOUCHED", 20)
    thief = town.client()
    state = Fingerprint(town.state.state)
    taken = 0
    for number in range(40):
        card = actor(f"flood-{number}").card
        try:
            thief.put_same(card_key(state, card.digest), card.encode().encode())
            taken += 1
        except SiteFull:
            continue
    assert taken < 20
    rescue = machine("rescue-in-flood")
    good = signed(town.state.warrant_text(Act.FAILOVER, rescue), rescue, *town.state.custodians[:3]).encode()
    thief.put_same(warrant_key(state, good), good)
    assert town.site.stat(warrant_key(state, good)) is not None
    fault_table.suite("gateway", "malicious neighbour", 1)


def test_a_malicious_neighbour_takes_nothing_from_others(town: Town, fault_table: FaultTable) -> None:
    """Its quota ends its own writes; the other state's writer goes on."""
    bad, good = town.client("south"), town.client()
    full = 0
    for number in range(60):
        data = bytes([number]) * 100_000
        try:
            bad.put_same(Key(f"probe/fill/{number}"), data)
        except SiteFull:
            full += 1
    assert full >= 10
    data = b"the state's own"
    key = pack_key(Fingerprint(town.state.state), town.state.register, sha256(data))
    good.put_same(key, data)
    assert good.get(key) == data
    fault_table.suite("gateway", "malicious neighbour", full)


def test_the_hosts_disk_holds_no_plaintext(town: Town, fault_table: FaultTable) -> None:
    """Neither the known text, nor a file's name, nor a key stands anywhere below the host's folders."""
    everything = b"".join(town.snapshot().values()) + b"".join(town.snapshot(town.place.folder / "disk-south").values())
    names = "\n".join(town.snapshot())
    assert len(everything) > 30_000
    for secret in (KNOWN.encode(), b"act-1", b"land register", bytes(town.state.epochs[0].seed)):
        assert secret not in everything
    assert "act" not in names
    fault_table.suite("hosts", "search for plaintext", 4)


def test_what_is_asked_again_is_the_same(town: Town) -> None:
    """A replayed request changes nothing: heads are compared, objects are the same, orders are judged anew."""
    thief = town.client()
    shown = thief.read_head(town.head_key)
    assert shown is not None
    before = town.snapshot()
    for _ in range(3):
        thief.replace_if(town.head_key, shown.data, shown.tag)
        status, body = town.ask("POST", f"/v1/{town.state.state}/erase", name=None)
        assert status == 200
        assert json.loads(body) == {"orders": []}
    assert town.snapshot() == before
