"""Writes the first corpus of ``fuzz_formats.py`` for formats without vectors: run it in the repository's root.

Each input is a good one, or a good one with something wrong at one place.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from exclave.crypto.sign import SigningPair
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.mirror import AddEntries, EntryPackage
from exclave.formats.note import ParsedNote
from exclave.formats.push import Change, Push, encode_push
from exclave.formats.relying import RelyingService, encode_service
from exclave.formats.signals import Signals, TableSignal, TableState
from exclave.formats.stage import Stage
from exclave.formats.witness import AddCheckpoint, encode_signatures
from exclave.ids import Digest, Label, sha256
from exclave.rules.signatures import sign_text
from support.parsers import CORPUS

DOCS = Path(__file__).parent.parent.parent / "docs"
_BLOCK = re.compile(r"```toml\n(.*?)```", re.DOTALL)
_HASH = Digest(sha256(b"seed"))
_CHECK = Checkpoint("exclave.test/1/2", 3, _HASH)
_SIGNED = sign_text(_CHECK.encode(), Label("writer"), SigningPair(bytes(32)))
_SERVICE = RelyingService(
    client_id="rp", name={"en": "Relying"}, redirect_uris=("https://rp.demo.test/cb",), auth_methods=("none",),
    scopes=("openid",), require_pkce=True,
)  # fmt: skip
_TABLES = (TableSignal("public.acts", 10, 9, TableState.GROWN), TableSignal("x y", 0, None, TableState.NEW, 1))
_SIGNALS = Signals(True, 5, 1, changed=2, ending=".locked", examples=(("old", b"a b/\xff"),), tables=_TABLES)
MADE: dict[str, list[bytes]] = {
    "checkpoint.parse_timed": [bytes(7) + b"\1" + bytes(64), bytes(72), b"\xff" * 72],
    "dnsplan.parse_tsig_key": [
        b"hmac-sha512:exclave.:c2VjcmV0IHNlY3JldCBzZWNyZXQ=\n", b"hmac-sha256:k:c2hvcnQ=", b"k:",
    ],
    "ids.parse_instant": [b"2026-11-26T21:23:40.000000Z", b"1970-01-01T00:00:00.000000Z", b"2026-02-30T00:00:00Z"],
    "ids.parse_key": [b"a/b/c.d", b"a/../b", b".a/b", b"A/b"],
    "ids.parse_label": [b"lux", b"lux-1", b"-lux", b"Lux"],
    "keyring.parse_key_record": [
        b"exclave/service-key/v1\nname token-1\nuse token\nstored file\nalgorithm ES256\npublic AAAA\n",
        b"exclave/service-key/v1\nname token-1\nuse ocsp " + b"0" * 64
        + b"\nstored pkcs11\nalgorithm ES256\npublic AA==\n",
        b"exclave/service-key/v1\nname T\nuse token\nstored file\nalgorithm none\npublic \n",
    ],
    "keyring.parse_token_config": [
        b'module = "/usr/lib/softhsm/libsofthsm2.so"\ntoken = "exile"\npin_file = "pin"\n', b"module = 1", b'token = "',
    ],
    "mirror.parse_add_entries": [
        AddEntries("exclave/x/y/1", 0, 0, b"", b"").encode(),
        AddEntries("exclave/x/y/1", 0, 2, b"ticket", EntryPackage(0, (b"one", b"two"), (_HASH,)).encode()).encode(),
        b"\0\3abc" + bytes(18), b"\xff" * 40,
    ],
    "note.parse_note": [ParsedNote(_CHECK.encode(), _SIGNED).encode(), b"text\n\n", "x\n\n— a AAAA\n".encode()],
    "objectname.parse_object_name": [
        f"{'ab' * 32}/charter/{'cd' * 32}".encode(), f"{'ab' * 32}/{'01' * 16}/pack/cd/{'cd' * 32}".encode(),
        f"{'ab' * 32}/{'01' * 16}/ledger/00000001-{'0' * 16}/tile/0/x001/234.p/5".encode(),
        f"{'ab' * 32}/{'01' * 16}/feed/00000001-{'0' * 16}/head".encode(), b"a/b/c",
    ],
    "push.parse_push": [
        encode_push(Push("ca", 1, "2026-11-26T21:23:40Z", (Change("1A", "issued"),))),
        encode_push(
            Push("ca", 2, "2026-11-26T21:23:40Z", (Change("2", "revoked", "2026-11-26T21:00:00Z", "keyCompromise"),))
        ),
        b'{"issuer":"ca","sequence":0,"as_of":"","changes":[]}',
    ],
    "relying.parse_service": [encode_service(_SERVICE), encode_service(_SERVICE)[:-1] + b" }", b"{}"],
    "signals.parse_signals": [
        Signals().encode().encode(),
        _SIGNALS.encode().encode(),
        b"exclave/signals/v1\ncompared maybe\n",
    ],
    "stage.parse_stage": [
        Stage("exclave.test/1/2", 3, _HASH, (b"one", b"two")).encode().encode(),
        Stage("exclave.test/1/2", 0, _HASH, (b"",)).encode().encode(), b"exclave/stage/v1\nlog x\nsize 01\n",
    ],
    "watchconfig.parse_watch_config": [
        b'[watch]\nevery_s = 5\n[[watch.webhook]]\nurl = "https://x.test/"\nsecret_file = "s"\n',
        b'[watch]\n[[watch.mail]]\nserver = "[::1]:25"\nsender = "a@b.c"\nto = ["d@e.f"]\ntls = "none"\n',
        b'[watch]\n[[watch.pause]]\nregister = "x"\nuntil = "2026-11-28T06:00Z"\nreason = "y"\n',
        b"[watch]\nsample = -1",
    ],
    "witness.parse_add_checkpoint": [
        AddCheckpoint(2, (_HASH, _HASH), ParsedNote(_CHECK.encode(), _SIGNED), _CHECK).encode(),
        AddCheckpoint(0, (), ParsedNote(_CHECK.encode(), _SIGNED), _CHECK).encode(), b"old 1\n\n",
    ],
    "witness.parse_signatures": [encode_signatures(_SIGNED), encode_signatures(_SIGNED[:1]), "— a AAAAAA==\n".encode()],
    "witness.parse_size": [b"0\n", b"12\n", b"012\n", b"12"],
}  # fmt: skip
TOML = ("config.parse_config", "dnsplan.parse_dns_plan", "identityconfig.parse_identity_config",
        "identityconfig.parse_place_config", "hostconfig.parse_host_config")  # fmt: skip
"""Formats that people write: begun from every example in the documents."""


def main() -> None:
    blocks = [block for page in sorted(DOCS.rglob("*.md")) for block in _BLOCK.findall(page.read_text())]
    for name, inputs in {**MADE, **{name: [block.encode() for block in blocks] for name in TOML}}.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / sha256(data).hex()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
