"""A certification authority run by ``openssl ca``, as small ones are: its files are what the readers are tested on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography import x509

from exclave.crypto.crl import issuer_id
from exclave.identity.status_log import Serial
from exclave.ids import Digest

_CONFIG = """\
[ca]
default_ca = here
[here]
dir = .
database = ./index.txt
new_certs_dir = ./issued
certificate = ./ca.pem
private_key = ./ca.key
rand_serial = yes
default_md = sha256
default_days = 30
default_crl_days = 7
crlnumber = ./crlnumber
policy = any
unique_subject = no
utf8 = yes
string_mask = utf8only
[any]
commonName = supplied
[req]
distinguished_name = none
utf8 = yes
[none]
[ca_extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, {usage}
[partial]
issuingDistributionPoint = critical, @point
[point]
onlyuser = TRUE
"""


class OpensslCa:
    """Use: ``issue`` and ``revoke`` by a holder's name; then ``index`` and ``crl``."""

    def __init__(self, folder: Path, *, name: str = "Test CA", key: str = "EC", usage: str = "keyCertSign,cRLSign"):
        self.folder = folder
        (folder / "issued").mkdir(parents=True)
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01\n")
        (folder / "ca.cnf").write_text(_CONFIG.format(usage=usage))
        kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"] if key == "EC" else ["-algorithm", key]
        self._openssl("genpkey", *kind, "-out", "ca.key")
        self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "holder.key")
        self._openssl(
            "req", "-config", "ca.cnf", "-x509", "-key", "ca.key", "-out", "ca.pem", "-days", "900",
            "-subj", f"/C=EE/CN={name}", "-extensions", "ca_extensions",
        )  # fmt: skip

    @property
    def certificate(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    @property
    def issuer(self) -> Digest:
        return issuer_id(self.certificate)

    @property
    def index(self) -> bytes:
        return (self.folder / "index.txt").read_bytes()

    def issue(self, name: str, *options: str) -> Serial:
        """A certificate for ``name``; its serial."""
        self._openssl("req", "-config", "ca.cnf", "-new", "-key", "holder.key", "-subj", f"/CN={name}", "-out", "r.csr")
        self._ca("-notext", "-in", "r.csr", "-out", f"issued/{name}.pem", *options)
        made = x509.load_pem_x509_certificate((self.folder / "issued" / f"{name}.pem").read_bytes())
        return Serial(made.serial_number)

    def revoke(self, name: str, *options: str) -> None:
        self._ca("-revoke", f"issued/{name}.pem", *options)

    def update(self) -> None:
        """Marks expired certificates in ``index.txt``."""
        self._ca("-updatedb")

    def crl(self, *options: str, der: bool = False) -> bytes:
        """A new list of what is revoked."""
        self._ca("-gencrl", "-out", "list.crl", *options)
        if der:
            self._openssl("crl", "-in", "list.crl", "-outform", "DER", "-out", "list.crl")
        return (self.folder / "list.crl").read_bytes()

    def _ca(self, *options: str) -> None:
        self._openssl("ca", "-config", "ca.cnf", "-batch", *options)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"openssl {' '.join(arguments)}: {done.stderr}"
