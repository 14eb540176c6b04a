"""A small state with identity services at home and at an embassy, in network namespaces.

It is made by the ``exclave`` command as its operators would make it.

::

    home      the writer's machine: CAs' index.txt, identity services, nginx with TLS; a site, which is lost with it
    embassy   stands by in Luxembourg: identity services, nginx with TLS
    lux nord  sites: an S3 engine each. All that goes from home to the embassy goes through them
    world     a citizen's browser, Apache with mod_auth_openidc, two name servers (primary and secondary)

In the world ``login.demo.test`` and ``aia.demo.test`` are resolved by the secondary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import Card, IssuingCa, Pki, make_pki, pem
from exclave.ids import Instant, now
from support.exile_machines import (
    AIA,
    APACHE_PORT,
    CARD,
    EMBASSY,
    HOME,
    ISSUER,
    LOGIN_PORT,
    LUX,
    NAMES,
    NORD,
    SECONDARY,
    WORLD,
    site_url,
    start_apache,
    start_names,
    start_nginx,
    start_site,
)
from support.exile_world import fetch
from support.knot import UPDATER, key_file
from support.netns import Host, Network, Running
from support.small_home import Register, SmallHome, command, run

CAS = ("esteid-2018", "esteid-2025")


@dataclass
class ExileState:
    """Everything, once ``make_state`` is through. Paths are the same in all namespaces; each host uses its own only."""

    net: Network
    root: Path
    world: Host
    home: Host
    embassy: Host
    sites: dict[str, Host]
    pki: Pki
    small: SmallHome
    cards: dict[str, Card] = field(default_factory=dict)
    revoked: dict[int, str] = field(default_factory=dict)
    """Serials that home's CA has revoked, with the time as ``index.txt`` writes it."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Of relying services: ``tax`` is Apache's and stays as it is, ``bank``'s is changed in exile."""
    served: dict[str, Running] = field(default_factory=dict)
    """The identity services of home and embassy."""

    @property
    def at_home(self) -> Path:
        """Home's folder of identity services."""
        return self.root / "home-identity"

    @property
    def exile(self) -> Path:
        """The folder in which the failover is made."""
        return self.root / "embassy"

    @property
    def at_embassy(self) -> Path:
        return self.exile / "identity"

    def ok(self, host: Host, *arguments: str) -> Any:
        """JSON of ``exclave ARGUMENTS``, run on ``host``; it must succeed. What it remarks goes to a log."""
        said = host.call(run, *arguments, "--json")
        with (self.net.folder / f"{host.label}-commands.log").open("a") as log:
            log.write(f"$ exclave {' '.join(arguments[:2])}\n{said.err}")
        assert said.code == 0, f"exclave {' '.join(arguments)}: {said.code}\n{said.out}\n{said.err}"
        return said.json

    def where(self) -> list[str]:
        """Sites that are there also when home is lost."""
        return self.small.where("lux", "nord")

    # What a CA does

    def issue(self, name: str, ca: IssuingCa, **wanted: Any) -> Card:
        """A citizen's card, listed in the CA's ``index.txt`` at home."""
        self.cards[name] = ca.card(**wanted)
        self.write_index()
        return self.cards[name]

    def revoke_at_home(self, name: str) -> None:
        """As ``openssl ca -revoke`` does."""
        self.revoked[self.cards[name].serial] = f"{datetime.now(UTC):%y%m%d%H%M%S}Z,keyCompromise"
        self.write_index()

    def write_index(self) -> None:
        for label, ca in zip(CAS, (self.pki.first, self.pki.second), strict=True):
            lines = "".join(self._index_line(serial) for serial in ca.issued)
            draft = self.at_home / f"{label}.new"
            draft.write_text(lines)
            draft.replace(self.at_home / f"{label}.index.txt")

    def _index_line(self, serial: int) -> str:
        digits = f"{serial:X}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        stop = self.revoked.get(serial, "")
        return f"{'R' if stop else 'V'}\t311231235959Z\t{stop}\t{digits}\tunknown\t/CN=citizen\n"

    # Processes

    def add_service(self, name: str, host: Host) -> str:
        """A relying service, or a new secret for it; the secret."""
        folder = str(self.at_home if host is self.home else self.at_embassy)
        added = self.ok(
            host, "identity", "service", "add", name, "--dir", folder, "--name", f"en={name}",
            "--redirect-uri", f"http://127.0.0.1:{APACHE_PORT}/cb",
        )  # fmt: skip
        self.ok(host, "identity", "enter", "--dir", folder)
        return str(added["secret"])

    def restart(self, host: Host) -> Running:
        """Killed, as by a power cut, and started again from the same disk."""
        self.served[host.label].process.kill()
        self.served[host.label].process.wait(10)
        return self.serve(host)

    def serve(self, host: Host) -> Running:
        """The place's identity services; returns once they listen."""
        folder = self.at_home if host is self.home else self.at_embassy
        self.served[host.label] = host.start("identity", *command("serve", "identity", "--dir", str(folder)))
        host.wait_listening(LOGIN_PORT, self.served[host.label], 30)
        return self.served[host.label]

    def health(self, host: Host, path: str = "/health/ready") -> tuple[int, Any]:
        """Status and JSON of a place's own address, asked from that machine."""
        return host.call(fetch, f"http://127.0.0.1:{LOGIN_PORT}{path}")

    # Warrants

    def warrant(self, act: str, host: Host, place: str, key: Path, order: Path | None = None) -> list[str]:
        """Requested on ``host``, signed by two custodians in the world: the options for the command that uses it."""
        path = self.root / "warrants" / f"{act}-{now()}.warrant"
        with_order = ["--object", str(order)] if order else []
        self.ok(
            host, "warrant", "request", str(path), "--act", act, "--place", place, "--reason", "A test asks for it",
            "--key", str(key), *with_order, *self.where(),
        )  # fmt: skip
        options = ["--warrant", str(path)]
        for custodian in ("kaja", "luc"):
            signed = self.ok(
                self.world, "warrant", "sign", str(path), "--yes", "--key", str(self.small.key(custodian)),
                *with_order, *self.where(),
            )  # fmt: skip
            options += ["--answer", signed["path"]]
        return options

    def act_in_exile(self, act: str, *names: str) -> Any:
        """Revoke, hold or release cards by warrant at the embassy; what the command said."""
        order = self.root / "orders" / f"{act}-{now()}.order"
        order.parent.mkdir(exist_ok=True)
        table = order.with_suffix(".csv")
        more = ["--reason", "keyCompromise", "--since", f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"] * (act == "revoke")
        table.write_text("serial_hex\n" + "".join(f"{self.cards[name].serial:x}\n" for name in names))
        self.ok(
            self.embassy, "identity", "order", "status", "--act", act, "--csv", str(table), "--issuer",
            issuer_id(self.pki.second.der).hex(), *more, "--out", str(order),
        )  # fmt: skip
        signed = self.warrant(act, self.embassy, "lux", self.at_embassy / "machine.key", order)
        return self.ok(self.embassy, "identity", act, "--dir", str(self.at_embassy), *signed, "--order", str(order))


def make_state(net: Network, root: Path, public: Path) -> ExileState:
    """All of it, running: home decides, the embassy stands by, and a version of the journal is at the sites.

    ``public``: an empty folder for Apache's pages.
    """
    world = net.host("world", WORLD, SECONDARY, nameserver=SECONDARY)
    home, embassy = net.host("home", HOME), net.host("embassy", EMBASSY)
    sites = {"home": home, "lux": net.host("lux", LUX), "nord": net.host("nord", NORD)}
    started = {name: start_site(host, root / "s3" / name, name) for name, host in sites.items()}
    start_names(world, root / "names")
    urls = {name: site_url(sites[name], name, running) for name, running in started.items()}
    small = home.call(found, root, urls)
    state = ExileState(net, root, world, home, embassy, sites, make_pki(now()), small)
    _place(state)
    state.issue("mari", state.pki.second)
    state.issue("jaan", state.pki.first, given_name="JAAN", family_name="TAMM", code="37605030299")
    for name in ("stolen", "late", "lost", "found", "kept"):
        state.issue(name, state.pki.second)
    for name in ("tax", "bank"):
        state.secrets[name] = state.add_service(name, home)
    state.serve(home)
    state.serve(embassy)
    until(lambda: state.health(embassy)[0] == 200, "the embassy has home's settings", net.tails)
    _equip(state)
    state.ok(home, "backup", *small.home)
    for host, place in ((home, state.at_home), (embassy, state.at_embassy)):
        start_nginx(host, root, place, state.pki)
    start_apache(world, root, public, state.secrets["tax"])
    return state


# The state


def found(root: Path, urls: dict[str, str]) -> SmallHome:
    """On home's machine: custodians, charter, sites, the register of identities."""
    journal = root / "home-identity" / "journal"
    journal.mkdir(parents=True)
    register = Register(
        "identity", [("journal", "identity", {"path": str(journal)})], at=tuple(urls),
        services=[{"name": "identity", "kind": "identity", "dataset": "journal", "port": 0}],
    )  # fmt: skip
    return SmallHome(root, [register], sites=tuple(urls), urls=urls).found()


def _place(state: ExileState) -> None:
    """Home's place and the embassy's, the settings, and home's sources."""
    small, at_home = state.small, state.at_home
    state.ok(
        state.home, "identity", "init", "--dir", str(at_home), *small.home,
        "--status", f"{HOME}:80", "--login", f"127.0.0.1:{LOGIN_PORT}",
    )  # fmt: skip
    register = state.home.call(SmallHome.id_of, small, "identity")
    state.ok(
        state.embassy, "identity", "init", "--dir", str(state.at_embassy), "--place", "lux", "--register", register,
        *state.small.where(), "--status", f"{EMBASSY}:80", "--login", f"127.0.0.1:{LOGIN_PORT}",
    )  # fmt: skip
    (at_home / "lux.card").write_bytes((state.at_embassy / "machine.card").read_bytes())
    more = '\n[[embassy]]\nplace = "lux"\ncard = "lux.card"\n'
    for label, ca in zip(CAS, (state.pki.first, state.pki.second), strict=True):
        (at_home / f"{label}.pem").write_bytes(pem(ca.certificate))
        more += f'\n[[source]]\nissuer = "{label}"\ncertificate = "{label}.pem"\nkind = "index-txt"\n'
        more += f'path = "{label}.index.txt"\n'
    for folder in (at_home, state.at_embassy):
        path = folder / "place.toml"
        door = f'card_socket = "unix:{folder}/card.sock"\n'
        text = "poll_s = 0.5\nverify_s = 1.0\n" + path.read_text() + door
        path.write_text(text + (more if folder == at_home else ""))
        (folder / "names.toml").write_text(NAMES)
        key_file(folder / "dns.key", UPDATER)
    (at_home / "identity.toml").write_text(
        f'issuer = "{ISSUER}"\ncard_origin = "https://{CARD}"\naia_hosts = ["{AIA}"]\n[state_name]\nen = "Demo"\n'
    )


def _equip(state: ExileState) -> None:
    """Responders' certificates and token keys of both places; home's CAs issue, home enters."""
    for host, folder in ((state.home, state.at_home), (state.embassy, state.at_embassy)):
        kit = state.root / "kits" / host.label
        made = _certify(state, kit, state.ok(
            host, "identity", "csr", "--dir", str(folder), "--out", str(kit), "--country", "EE",
            "--organization", "Demo", "--rungs", "2",
        )["requests"])  # fmt: skip
        carried = state.root / "kits" / f"{host.label}-carried"
        at_embassy = ["--out", str(carried)] if host is state.embassy else []
        state.ok(host, "identity", "accept", *made, "--dir", str(folder), *at_embassy)
        if at_embassy:
            state.ok(state.home, "identity", "enter-kit", "lux", str(carried), "--dir", str(state.at_home))
        else:
            state.ok(host, "identity", "enter", "--dir", str(folder))
    until(
        lambda: state.health(state.embassy)[1]["entries"] == state.health(state.home)[1]["entries"],
        "the embassy has the kits' certificates", state.net.tails,
    )  # fmt: skip


def _certify(state: ExileState, kit: Path, requests: list[dict[str, str]]) -> list[str]:
    """What home's CAs do with requests, by the manifest; the certificates' files."""
    found = []
    for asked in requests:
        request = x509.load_pem_x509_csr((kit / asked["file"]).read_bytes())
        ca = state.pki.first if asked["issuer"] == CAS[0] else state.pki.second
        begin, end = (datetime.fromisoformat(asked[name]).replace(tzinfo=UTC) for name in ("from", "to"))
        made = ca.certify(request, begin=Instant(int(begin.timestamp() * 1e6)), days=(end - begin).days)
        path = kit / f"{asked['file']}.pem"
        path.write_bytes(pem(made))
        found.append(str(path))
    return found


def until(holds: Callable[[], bool], what: str, tails: Callable[[], str], seconds: float = 30) -> float:
    """Waits until ``holds``; so many seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not after {seconds} s: {what}\n{tails()}"
        time.sleep(0.1)
    return time.monotonic() - began
