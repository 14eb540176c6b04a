"""Writes ``servicekey/vectors.json`` and ``namesmoved/vectors.json``: texts, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.keyring import KeyRecord, KeyUse, Stored
from exclave.formats.namesmoved import HEADER, MovedSet, NamesMoved, encode_names_moved
from exclave.ids import Digest

PUBLIC = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""P-256, whose point is the curve's own base point (private key 1): of no use to anybody."""
TOKEN = KeyRecord("token-es256-20261126", KeyUse.TOKEN, None, Stored.FILE, "ES256", PUBLIC)
OCSP = KeyRecord("ocsp-ca-20261126", KeyUse.OCSP, Digest(b"\xab" * 32), Stored.PKCS11, "ES256", PUBLIC)
MOVED = NamesMoved(
    HEADER, "demo.test", "luxembourg", 1_795_443_721_000_000,
    (
        MovedSet("tara.demo.test", "A", ("192.0.2.1",), 600, ("198.51.100.1", "198.51.100.2"), 60),
        MovedSet("state.demo.test", "TXT", ("at home",), 300, ("abroad",), 60),
    ),
)  # fmt: skip
ZONE, PLACE = '"zone":"demo.test"', '"place":"luxembourg"'


def good(name: str, text: str) -> dict[str, str]:
    return {"name": name, "expect": "ok", "text": text}


def bad(name: str, text: str, changed: str) -> dict[str, str]:
    if changed == text:
        raise SystemExit(f"{name}: changes nothing")
    return {"name": name, "expect": "malformed", "text": changed}


def records() -> list[dict[str, str]]:
    token, ocsp = TOKEN.encode().decode(), OCSP.encode().decode()
    return [
        good("token key in a file", token),
        good("responder's key in a token", ocsp),
        bad("another header", token, token.replace("key/v1", "key/v2")),
        bad("name in capitals", token, token.replace("name token", "name Token")),
        bad("name with a path", token, token.replace("name token", "name ../token")),
        bad("name of 81 characters", token, token.replace(TOKEN.name, "a" * 81)),
        bad("unknown use", token, token.replace("use token", "use tls")),
        bad("token key with an issuer", token, token.replace("use token", f"use token {'ab' * 32}")),
        bad("responder's key without an issuer", ocsp, ocsp.replace(f" {'ab' * 32}", "")),
        bad("issuer in capitals", ocsp, ocsp.replace("ab" * 32, "AB" * 32)),
        bad("unknown place", token, token.replace("stored file", "stored paper")),
        bad("unknown algorithm", token, token.replace("ES256\n", "EdDSA\n")),
        bad("public key not base64", token, token.replace("public M", "public *")),
        bad("lines in another order", token, "\n".join([token.split("\n")[0], *sorted(token.split("\n")[1:6]), ""])),
        bad("line too much", token, token + "also this\n"),
        bad("no newline at the end", token, token[:-1]),
        bad("space at a line's end", token, token.replace("stored file\n", "stored file \n")),
        bad("too long", token, token.replace("public M", "public " + "A" * 4000 + "M")),
        bad("nothing", token, ""),
    ]


def moves() -> list[dict[str, str]]:
    text = encode_names_moved(MOVED).decode()
    return [
        good("two sets", text),
        bad("another format", text, text.replace("moved/v1", "moved/v2")),
        bad("unknown field", text, text.replace('{"format"', '{"more":1,"format"')),
        bad("field missing", text, text.replace('"place":"luxembourg",', "")),
        bad("number as text", text, text.replace(":600,", ':"600",')),
        bad("white space", text, text.replace('","zone"', '", "zone"')),
        bad("field twice", text, text.replace('"zone"', '"zone":"x","zone"')),
        bad(
            "other order",
            text,
            text.replace('"zone":"demo.test","place":"luxembourg"', '"place":"luxembourg","zone":"demo.test"'),
        ),
        bad("no newline at the end", text, text[:-1]),
        bad("cut", text, text[:-30]),
        bad("a list", text, "[]\n"),
        bad("nothing", text, ""),
    ]


def main() -> None:
    for name, cases in (("servicekey", records()), ("namesmoved", moves())):
        folder = Path(__file__).parent / name
        folder.mkdir(exist_ok=True)
        (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
