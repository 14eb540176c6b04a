"""A real timestamp authority: ``openssl ts`` behind a small HTTP server on loopback, with its own root and signer."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

POLICY = "1.3.6.1.4.1.99999.1.1"
_CONFIG = """\
[ca]
default_ca = root
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[signer]
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = {eku}
[tsa]
default_tsa = tsa1
[tsa1]
dir = {folder}
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/signer.pem
certs = {folder}/root.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = {policy}
other_policies = {policy}.2
digests = sha256, sha512
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = yes
ess_cert_id_alg = sha256
"""


class Timestamper:
    """``folder`` gets the keys; ``root`` is the file that a reader has to trust."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "Test TSA",
        eku: str = "critical,timeStamping",
        valid: tuple[datetime, datetime] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root = folder, folder / "root.pem"
        (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder, policy=POLICY, eku=eku))
        (folder / "serial").write_text("01\n")
        config = ("-config", str(folder / "openssl.cnf"))
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._openssl("req", "-x509", *config, *key, "-keyout", "root.key", "-out", "root.pem", "-days", "3650",
                      "-subj", f"/CN={name} root", "-extensions", "root")  # fmt: skip
        self._openssl("req", "-new", *config, *key, "-keyout", "signer.key", "-out", "signer.csr",
                      "-subj", f"/CN={name}")  # fmt: skip
        self._openssl("x509", "-req", "-in", "signer.csr", "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", "2",
                      "-out", "signer.pem", "-days", "365", "-extfile", "openssl.cnf",
                      "-extensions", "signer")  # fmt: skip
        if valid is not None:
            self._valid(*valid)
        self.spoil: Callable[[bytes], bytes] = lambda answer: answer
        """What is done to each answer before it leaves."""
        self.asked = 0
        self.url = ""

    def _valid(self, begin: datetime, end: datetime) -> None:
        """The signer's certificate with other dates, which OpenSSL 3.0 cannot be told."""
        old = x509.load_pem_x509_certificate((self.folder / "signer.pem").read_bytes())
        key = serialization.load_pem_private_key((self.folder / "root.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        new = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number, begin, end)
        for one in old.extensions:
            new = new.add_extension(one.value, one.critical)
        made = new.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (self.folder / "signer.pem").write_bytes(made)

    def _openssl(self, *argv: str) -> bytes:
        done = subprocess.run(["openssl", *argv], cwd=self.folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def answer(self, query: bytes) -> bytes:
        """What ``openssl ts -reply`` says to ``query``."""
        (self.folder / "query.tsq").write_bytes(query)
        self._openssl("ts", "-reply", "-config", "openssl.cnf", "-queryfile", "query.tsq", "-out", "answer.tsr")
        return self.spoil((self.folder / "answer.tsr").read_bytes())

    def accepts(self, token: bytes, message: bytes) -> str:
        """What ``openssl ts -verify`` says to ``token`` about ``message``."""
        (self.folder / "checked.tsr").write_bytes(token)
        (self.folder / "checked.txt").write_bytes(message)
        argv = ["openssl", "ts", "-verify", "-data", "checked.txt", "-in", "checked.tsr", "-CAfile", "root.pem"]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, check=False)
        return (done.stdout + done.stderr).decode()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Answers over HTTP; its address."""
        owner, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Type"] != "application/timestamp-query":
                    self.send_error(415)
                    return
                with lock:
                    owner.asked += 1
                    answer = owner.answer(query)
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/ts"
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
