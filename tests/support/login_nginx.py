"""nginx in front of a log-in service, with a TLS certificate of its own, in the foreground on loopback."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exclave.demo.pki import Card, pem
from exclave.serve.nginx import NginxSettings, nginx_config
from support.login_site import Served, Site, free_socket

FRAME = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log info; {user}
events {{}}
http {{
    access_log {folder}/access.log; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/exclave.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx. The two ports are of ``localhost``."""

    folder: Path
    port: int
    card_port: int

    @property
    def root(self) -> Path:
        return self.folder / "server.pem"


def free_ports(count: int) -> list[int]:
    taken = [free_socket() for _ in range(count)]
    for sock, _ in taken:
        sock.close()
    return [port for _, port in taken]


def server_certificate(folder: Path) -> None:
    """``server.pem`` and ``server.key`` for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1)).not_valid_after(today + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "server.pem").write_bytes(pem(certificate))
    (folder / "server.key").write_bytes(_key_pem(key))


def card_files(folder: Path, card: Card, name: str = "card") -> tuple[Path, Path]:
    """Certificate and key as a TLS client reads them."""
    (folder / f"{name}.pem").write_bytes(pem(card.certificate))
    (folder / f"{name}.key").write_bytes(_key_pem(card.key))
    return folder / f"{name}.pem", folder / f"{name}.key"


def _key_pem(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def running_front(site: Site, folder: Path, port: int, card_port: int) -> Iterator[Front]:
    """nginx by ``site``'s settings, whose origins are ``https://localhost`` with these ports."""
    server_certificate(folder)
    (folder / "issuers.pem").write_bytes(pem(site.pki.first.certificate) + pem(site.pki.second.certificate))
    settings = NginxSettings(
        site.settings.origin, site.settings.card_origin, f"127.0.0.1:{port}", f"127.0.0.1:{card_port}",
        f"{folder}/server.pem", f"{folder}/server.key", f"{folder}/issuers.pem",
        f"unix:{folder}/login.sock", f"unix:{folder}/door.sock",
    )  # fmt: skip
    (folder / "exclave.conf").write_text(nginx_config(settings))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user=user))
    with Served(site.app, uds=f"{folder}/login.sock"), Served(site.door, uds=f"{folder}/door.sock"):
        process = subprocess.Popen(["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf"], stderr=subprocess.PIPE)
        try:
            _await_port(process, port)
            _await_port(process, card_port)
            yield Front(folder, port, card_port)
        finally:
            process.terminate()
            process.wait(10)


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, f"nginx ended: {process.stderr.read().decode() if process.stderr else ''}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx does not listen")


def client_context(front: Front, files: tuple[Path, Path] | None) -> ssl.SSLContext:
    """A TLS client that trusts the front and shows a card."""
    context = ssl.create_default_context(cafile=str(front.root))
    if files is not None:
        context.load_cert_chain(*files)
    return context
