"""The machines around the identity services of ``exile_state``: sites, name servers, nginx, Apache."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore.exceptions import BaseError

from exclave.demo.pki import Pki, pem
from exclave.serve.nginx import NginxSettings, nginx_config
from support import seaweed
from support.apache_oidc import write_site
from support.knot import UPDATER, ZONE
from support.login_nginx import FRAME
from support.netns import Host, Running

WORLD, SECONDARY, HOME, EMBASSY, LUX, NORD = (f"10.77.0.{n}" for n in (1, 2, 10, 20, 30, 31))
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": seaweed.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": seaweed.SECRET_KEY, "GOMEMLIMIT": "300MiB",
}  # fmt: skip
LOGIN, AIA, CARD = (f"{name}.{ZONE}" for name in ("login", "aia", "card"))
ISSUER = f"https://{LOGIN}"
LOGIN_PORT, APACHE_PORT = 8422, 8080
_PORTS_EACH = 5
# The engine has sockets in /tmp by its ports' numbers, which all namespaces see: two runs need different ones.
S3_PORTS = {
    name: 15_000 + os.getpid() % 900 * 15 + number * _PORTS_EACH for number, name in enumerate(("home", "lux", "nord"))
}
"""In the process that starts the engines."""
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
NAMES = f"""\
zone = "{ZONE}"
servers = ["{WORLD}"]
key_file = "dns.key"
ttl_s = 5
resolvers = ["{SECONDARY}"]
""" + "".join(
    f'\n[[record]]\nname = "{name}"\ntype = "A"\nhome = ["{HOME}"]\nembassy = {{ lux = ["{EMBASSY}"] }}\n'
    for name in (LOGIN, CARD, AIA)
)
"""``names.toml`` of both places."""


def start_site(host: Host, folder: Path, name: str) -> Running:
    """A site's S3 engine."""
    seaweed.write_files(folder)
    port = S3_PORTS[name]
    command = seaweed.weed_command([*range(port, port + _PORTS_EACH)], host.address)
    return host.start("s3", *command, cwd=folder)


def remove_sockets() -> None:
    """What engines that were killed left in /tmp."""
    for first in S3_PORTS.values():
        for port in range(first, first + _PORTS_EACH):
            for path in (
                *Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
                *Path("/tmp").glob(f"seaweedfs-*-{port + 10_000}.sock"),
            ):
                path.unlink(missing_ok=True)


def site_url(host: Host, name: str, running: Running) -> str:
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


def start_names(world: Host, folder: Path) -> None:
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


def start_nginx(host: Host, root: Path, place: Path, pki: Pki) -> None:
    """By the configuration that Exclave writes, with a TLS certificate of its own for the same names.

    ``place``: the folder of the place's identity services, with the socket of its door.
    """
    folder = root / "tls" / host.label
    folder.mkdir(parents=True)
    tls_files(folder, root / "tls", LOGIN, CARD)
    (folder / "issuers.pem").write_bytes(pem(pki.first.certificate) + pem(pki.second.certificate))
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
        (at / "ca.key").write_bytes(key_pem(key))
    signer = serialization.load_pem_private_key((at / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "server.pem").write_bytes(pem(_certificate(names[0], key, signer, "CA of this test", names)))
    (folder / "server.key").write_bytes(key_pem(key))


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


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def start_apache(world: Host, root: Path, folder: Path, secret: str) -> None:
    """The relying service ``tax``: configured once, and never touched again. ``folder``: one that www-data reaches."""
    command = write_site(folder, APACHE_PORT, ISSUER, "tax", secret, (root / "tls" / "ca.pem").read_bytes())
    world.wait_listening(APACHE_PORT, world.start("apache", *command))
