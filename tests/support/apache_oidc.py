"""Apache with mod_auth_openidc as a relying service: in the foreground, in a folder of its own, on a free port."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_MODULES = "/usr/lib/apache2/modules"
_CONFIG = """\
ServerRoot {root}
PidFile {root}/pid
DefaultRuntimeDir {root}
Mutex file:{root} default
ErrorLog {root}/error.log
LogLevel warn auth_openidc:info
Listen 127.0.0.1:{port}
ServerName 127.0.0.1
{user}LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule env_module {modules}/mod_env.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule dir_module {modules}/mod_dir.so
LoadModule auth_openidc_module {modules}/mod_auth_openidc.so
DocumentRoot {root}/www
OIDCProviderMetadataURL {issuer}/.well-known/openid-configuration
OIDCClientID {client_id}
OIDCClientSecret {secret}
OIDCRedirectURI http://127.0.0.1:{port}/cb
OIDCCryptoPassphrase only-for-this-test-0123456789
OIDCScope "openid"
OIDCPKCEMethod S256
OIDCResponseType code
OIDCProviderTokenEndpointAuth client_secret_basic
{more}
<Location />
AuthType openid-connect
Require valid-user
Header set X-Remote-User "expr=%{{REMOTE_USER}}"
Header set X-Amr "expr=%{{HTTP:OIDC_CLAIM_amr}}"
</Location>
"""


@contextlib.contextmanager
def apache(port: int, issuer: str, client_id: str, secret: str, ca: bytes = b"") -> Iterator[Path]:
    """Yields the error log's path. Everything at ``/`` asks for a log-in and shows who it is in ``X-Remote-User``.

    ``ca``: PEM, what it trusts the issuer by; empty: the issuer is plain HTTP.
    """
    with tempfile.TemporaryDirectory(prefix="apache-oidc-") as folder:  # pytest's own folders are shut to www-data
        yield from _running(Path(folder), port, issuer, client_id, secret, ca)


def write_site(root: Path, port: int, issuer: str, client_id: str, secret: str, ca: bytes) -> list[str]:
    """Writes configuration and page into ``root``; returns the command that runs it in the foreground."""
    (root / "www").mkdir()
    (root / "www" / "index.html").write_text("<p>protected</p>\n")
    (root / "error.log").touch()
    (root / "ca.pem").write_bytes(ca)
    more = f"OIDCCABundlePath {root}/ca.pem\nOIDCSSLValidateServer On" if ca else ""
    user = ""
    if os.geteuid() == 0:
        user = "User www-data\nGroup www-data\n"
        for path in (root, *root.rglob("*")):
            os.chown(path, pwd.getpwnam("www-data").pw_uid, grp.getgrnam("www-data").gr_gid)
    text = _CONFIG.format(
        root=root, port=port, modules=_MODULES, issuer=issuer, client_id=client_id, secret=secret, user=user, more=more
    )
    (root / "httpd.conf").write_text(text)
    program = shutil.which("apache2") or "/usr/sbin/apache2"
    return [program, "-f", str(root / "httpd.conf"), "-DFOREGROUND"]


def _running(root: Path, port: int, issuer: str, client_id: str, secret: str, ca: bytes) -> Iterator[Path]:
    command = write_site(root, port, issuer, client_id, secret, ca)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (process.stdout.read() if process.stdout else b"") + _tail(root)
            assert time.monotonic() < until, "Apache does not start"
            time.sleep(0.05)
        yield root / "error.log"
    finally:
        process.terminate()
        process.wait(15)


def _tail(root: Path) -> bytes:
    return (root / "error.log").read_bytes()[-2000:]
