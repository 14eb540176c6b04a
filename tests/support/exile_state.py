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

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import obstore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore.exceptions import BaseError

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import Card, IssuingCa, Pki, make_pki, pem
from exclave.formats.paths import statement_key
from exclave.ids import Fingerprint, Instant, RegisterId, now
from exclave.serve.card_door import DOOR_PATH
from exclave.serve.nginx import NginxSettings, nginx_config
from exclave.sites.opening import open_site
from support import seaweed
from support.apache_oidc import write_site
from support.knot import UPDATER, ZONE, key_file
from support.login_nginx import FRAME
from support.login_site import web_eid_token
from support.netns import Host, Network, Running
from support.small_home import Register, SmallHome, command

WORLD, SECONDARY, HOME, EMBASSY, LUX, NORD = (f"10.77.0.{n}" for n in (1, 2, 10, 20, 30, 31))
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": seaweed.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": seaweed.SECRET_KEY, "GOMEMLIMIT": "300MiB",
}  # fmt: skip
LOGIN, AIA, CARD = (f"{name}.{ZONE}" for name in ("login", "aia", "card"))
ISSUER = f"https://{LOGIN}"
LOGIN_PORT, APACHE_PORT = 8422, 8080
S3_PORTS = {"home": 18_320, "lux": 18_330, "nord": 18_340}
CAS = ("esteid-2018", "esteid-2025")
_KNOT = """\
server:
    rundir: "{run}"
    listen: {address}@53
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{run}/db"
    journal-db-max-size: 32M
    timer-db-max-size: 8M
key:
  - id: {key[1]}
    algorithm: {key[0]}
    secret: "{key[2]}"
remote:
  - id: other
    address: {other}@53
acl:
  - id: updates
    key: {key[1]}
    action: [query, update]
  - id: between
    address: [{address}, {other}]
    action: [query, transfer, notify]
zone:
  - domain: {zone}
    storage: "{run}"
    file: "zone"
    acl: [updates, between]
    {role}: other
    zonefile-sync: -1
    zonefile-load: {load}
    journal-content: all
    journal-max-usage: 8M
"""
_ZONE = f"""\
$ORIGIN {ZONE}.
$TTL 5
@ SOA ns.{ZONE}. hostmaster.{ZONE}. 1 60 20 86400 5
@ NS ns
ns A {WORLD}
login A {HOME}
card A {HOME}
aia A {HOME}
"""
_NAMES = f"""\
zone = "{ZONE}"
servers = ["{WORLD}"]
key_file = "dns.key"
ttl_s = 5
resolvers = ["{SECONDARY}"]
""" + "".join(
    f'\n[[record]]\nname = "{name}"\ntype = "A"\nhome = ["{HOME}"]\nembassy = {{ lux = ["{EMBASSY}"] }}\n'
    for name in (LOGIN, CARD, AIA)
)


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
        """JSON of ``exclave ARGUMENTS``, run on ``host``; it must succeed."""
        return host.call(SmallHome.ok, self.small, *arguments)

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


def make_state(net: Network, root: Path) -> ExileState:
    """All of it, running: home decides, the embassy stands by, and a version of the journal is at the sites."""
    world = net.host("world", WORLD, SECONDARY, nameserver=SECONDARY)
    home, embassy = net.host("home", HOME), net.host("embassy", EMBASSY)
    sites = {"home": home, "lux": net.host("lux", LUX), "nord": net.host("nord", NORD)}
    started = {name: _start_site(host, root / "s3" / name, name) for name, host in sites.items()}
    _start_names(world, root / "names")
    urls = {name: _site_url(sites[name], name, running) for name, running in started.items()}
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
    for host in (home, embassy):
        _start_nginx(state, host)
    _start_apache(state)
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
        (folder / "names.toml").write_text(_NAMES)
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


# Machines


def _start_site(host: Host, folder: Path, name: str) -> Running:
    """A site's S3 engine; it has sockets in /tmp by its ports' numbers, which all namespaces see."""
    seaweed.write_files(folder)
    port = S3_PORTS[name]
    return host.start("s3", *seaweed.weed_command([*range(port, port + 5)], host.address), cwd=folder)


def _site_url(host: Host, name: str, running: Running) -> str:
    """The site's address, once it takes writes."""
    host.wait_listening(S3_PORTS[name], running, 60)
    endpoint = f"http://{host.address}:{S3_PORTS[name]}"
    host.call(wait_writable, endpoint)
    return f"s3://{seaweed.BUCKETS[0]}/{name}?endpoint={endpoint}&region=us-east-1"


def wait_writable(endpoint: str) -> None:
    """Until the engine takes a write: the bucket comes a moment after the port."""
    deadline = time.monotonic() + 50
    store = seaweed.open_buckets(endpoint)[0]
    while True:
        try:
            obstore.put(store, "ready", b"")
        except (BaseError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _start_names(world: Host, folder: Path) -> None:
    """A primary that takes updates at one address, a secondary that citizens ask at another."""
    for name, address, other, role in (
        ("primary", WORLD, SECONDARY, "notify"),
        ("secondary", SECONDARY, WORLD, "master"),
    ):
        run = folder / name
        (run / "db").mkdir(parents=True)
        load = "none"
        if role == "notify":
            (run / "zone").write_text(_ZONE)
            load = "difference-no-serial"
        conf = _KNOT.format(run=run, address=address, other=other, key=UPDATER, zone=ZONE, role=role, load=load)
        (run / "knot.conf").write_text(conf)
        running = world.start(f"knot-{name}", "knotd", "-c", str(run / "knot.conf"))
        world.wait_listening(53, running)


def _start_nginx(state: ExileState, host: Host) -> None:
    """By the configuration that Exclave writes, with a TLS certificate of its own for the same names."""
    folder = state.root / "tls" / host.label
    folder.mkdir(parents=True)
    tls_files(folder, state.root / "tls", LOGIN, CARD)
    place = state.at_home if host is state.home else state.at_embassy
    (folder / "issuers.pem").write_bytes(pem(state.pki.first.certificate) + pem(state.pki.second.certificate))
    settings = NginxSettings(
        ISSUER, f"https://{CARD}", f"{host.address}:443", f"{host.address}:443", f"{folder}/server.pem",
        f"{folder}/server.key", f"{folder}/issuers.pem", f"127.0.0.1:{LOGIN_PORT}", f"unix:{place}/card.sock",
    )  # fmt: skip
    (folder / "exclave.conf").write_text(nginx_config(settings))
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user="user root;"))
    running = host.start("nginx", "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    host.wait_listening(443, running)


def tls_files(folder: Path, at: Path, *names: str) -> None:
    """``server.pem`` and ``server.key`` in ``folder`` for ``names``, by the CA in ``at/ca.pem``, made at first."""
    if not (at / "ca.pem").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        (at / "ca.pem").write_bytes(pem(_certificate("CA of this test", key, key, "CA of this test", ())))
        (at / "ca.key").write_bytes(_key_pem(key))
    signer = serialization.load_pem_private_key((at / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "server.pem").write_bytes(pem(_certificate(names[0], key, signer, "CA of this test", names)))
    (folder / "server.key").write_bytes(_key_pem(key))


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: str,
    names: tuple[str, ...],
) -> x509.Certificate:  # fmt: skip
    begin = datetime.now(UTC) - timedelta(hours=1)
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (subject, issuer)]
    builder = (
        x509.CertificateBuilder().subject_name(named[0]).issuer_name(named[1]).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _start_apache(state: ExileState) -> None:
    """The relying service: configured once, and never touched again."""
    root = Path(os.path.realpath(state.root / "apache"))
    root.mkdir()
    ca = (state.root / "tls" / "ca.pem").read_bytes()
    command_line = write_site(root, APACHE_PORT, ISSUER, "tax", state.secrets["tax"], ca)
    for folder in root.parents:
        if folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    state.world.wait_listening(APACHE_PORT, state.world.start("apache", *command_line))


# In the world


@dataclass(frozen=True)
class Seen:
    """What a citizen's browser saw in the end."""

    status: int
    """0: no answer."""
    text: str
    user: str
    """As the relying service knows the citizen; empty: nobody logged in."""


def log_in(card: bytes, key: bytes, ca: Path) -> Seen:
    """A citizen opens the relying service's page and logs in with a card (DER, PEM key), as the pages' script does."""
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    mine = Card(x509.load_der_x509_certificate(card), loaded)
    try:
        with httpx.Client(follow_redirects=True, timeout=3, verify=str(ca)) as browser:
            answer = _log_in(browser, mine)
    except httpx.HTTPError as error:
        return Seen(0, repr(error), "")
    return Seen(answer.status_code, answer.text, answer.headers.get("x-remote-user", ""))


def _log_in(browser: httpx.Client, card: Card) -> httpx.Response:
    page = browser.get(f"http://127.0.0.1:{APACHE_PORT}/")
    interaction = page.url.params.get("i", "")
    if page.status_code != 200 or not interaction:
        return page
    origin = {"origin": ISSUER}
    asked = browser.post(f"{ISSUER}/login/web-eid/challenge", json={"i": interaction}, headers=origin)
    if asked.status_code != 200:
        return asked
    token = web_eid_token(card, asked.json()["nonce"], ISSUER)
    done = browser.post(f"{ISSUER}/login/web-eid", json={"i": interaction, "token": token}, headers=origin)
    return browser.get(done.json()["location"]) if done.status_code == 200 else done


def log_in_by_tls(card: Path, key: Path, ca: Path) -> Seen:
    """The same with the card's certificate shown to nginx at the door, another name of the same place."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(card, key)
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=3, verify=str(ca)) as browser,
            httpx.Client(timeout=3, verify=context) as with_card,
        ):
            page = browser.get(f"http://127.0.0.1:{APACHE_PORT}/")
            shown = with_card.get(f"https://{CARD}{DOOR_PATH}", params={"i": page.url.params.get("i", "")})
            answer = browser.get(shown.headers["location"]) if shown.status_code == 303 else shown
    except httpx.HTTPError as error:
        return Seen(0, repr(error), "")
    return Seen(answer.status_code, answer.text, answer.headers.get("x-remote-user", ""))


def read_statement(url: str, fingerprint: str, register: str, note: bytes) -> bytes:
    """A statement as a site has it."""
    return open_site(url).get(statement_key(Fingerprint(fingerprint), RegisterId(register), note))


def key_of(card: Card) -> bytes:
    """PEM."""
    assert isinstance(card.key, ec.EllipticCurvePrivateKey)
    return _key_pem(card.key)


def ask_token(address: str, client: str, secret: str, ca: Path) -> tuple[int, Any]:
    """A relying service redeems a code that nobody gave, at one place's address: 401 for a wrong secret, else 400."""
    form = {"grant_type": "authorization_code", "code": "A" * 43, "redirect_uri": f"http://127.0.0.1:{APACHE_PORT}/cb"}
    with httpx.Client(timeout=5, verify=str(ca)) as asking:
        answer = asking.post(
            f"https://{address}/oidc/token", data=form, auth=(client, secret), headers={"host": LOGIN},
            extensions={"sni_hostname": LOGIN},
        )  # fmt: skip
    return answer.status_code, answer.text


def fetch(url: str, ca: Path | None = None) -> tuple[int, Any]:
    """Status, and the JSON or text; (0, reason) if there is no answer."""
    try:
        with httpx.Client(timeout=5, trust_env=False, verify=str(ca) if ca else True) as client:
            answer = client.get(url)
    except httpx.HTTPError as error:
        return 0, repr(error)
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.status_code, answer.json() if is_json else answer.text


def until(holds: Callable[[], bool], what: str, tails: Callable[[], str], seconds: float = 30) -> float:
    """Waits until ``holds``; so many seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not after {seconds} s: {what}\n{tails()}"
        time.sleep(0.1)
    return time.monotonic() - began
