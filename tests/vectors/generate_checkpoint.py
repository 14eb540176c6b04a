"""Writes ``checkpoint/vectors.json``: signed checkpoints, each with what ``verify_checkpoint`` must say.

Run with the package and ``tests`` on the path. ML-DSA-44 signatures are randomised, so a new run gives other bytes of
the same meaning; the vectors in the repository were made once and are not to be made again without need.
"""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.checkpoint import Checkpoint
from exclave.formats.note import ParsedNote, Signature
from exclave.ids import b64
from exclave.rules.checkpoints import cosign, merge_signatures, sign_checkpoint
from exclave.rules.tree import EMPTY_ROOT
from support.ledger import NOW, ORIGIN, OTHER, WITNESS_CARDS, WITNESSES, WRITER, root_over


def main() -> None:
    body = Checkpoint(ORIGIN, 5, root_over(5))
    note = sign_checkpoint(body, WRITER.pair, NOW)
    more = [s for w in WITNESSES[:2] for s in cosign(body, w.card.name, w.pair, NOW)]
    cosigned = merge_signatures(note, more)
    text = note.encode()
    first, second = note.signatures
    spoilt = Signature(more[0].name, more[0].key_id, bytes(len(more[0].blob)))

    def case(name: str, expect: str, data: bytes, cosigners: int = 0) -> dict[str, str | int]:
        return {"name": name, "expect": expect, "cosigners": cosigners, "data": b64(data)}

    cases = [
        case("signed by the writer", "ok", text),
        case("cosigned by two witnesses", "ok", cosigned.encode(), 2),
        case("empty log", "ok", sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), WRITER.pair, NOW).encode()),
        case("a witness's signature is wrong", "ok", merge_signatures(note, [spoilt, *more[1:]]).encode(), 1),
        case("half a witness", "ok", merge_signatures(note, more[:3]).encode(), 1),
        case("a stranger signed too", "ok", note.with_signatures(Signature("stranger", b"abcd", b"junk")).encode()),
        case("only Ed25519", "not-authorised", ParsedNote(note.text, (first,)).encode()),
        case("only ML-DSA-44", "not-authorised", ParsedNote(note.text, (second,)).encode()),
        case("another writer", "not-authorised", sign_checkpoint(body, OTHER.pair, NOW).encode()),
        case("another log", "wrong-fingerprint", text.replace(ORIGIN.encode(), ORIGIN[:-1].encode() + b"2")),
        case("another size", "corrupt-object", text.replace(b"\n5\n", b"\n6\n")),
        case(
            "signature of another root",
            "corrupt-object",
            ParsedNote(Checkpoint(ORIGIN, 5, root_over(4)).encode(), note.signatures).encode(),
        ),
        case(
            "signed twice",
            "corrupt-object",
            note.with_signatures(sign_checkpoint(body, WRITER.pair, NOW).signatures[1]).encode(),
        ),
        case("leading zero", "malformed", text.replace(b"\n5\n", b"\n05\n")),
        case("negative size", "malformed", text.replace(b"\n5\n", b"\n-5\n")),
        case("digits of another script", "malformed", text.replace(b"\n5\n", "\n٥\n".encode())),
        case("extension line", "malformed", text.replace(b"\n\n", b"\nextension\n\n", 1)),
        case("no signatures", "malformed", note.text.encode()),
        case("carriage returns", "malformed", text.replace(b"\n", b"\r\n")),
        case("base64 without padding", "malformed", text.replace(b"=\n\n", b"\n\n", 1)),
        case("root of 31 bytes", "malformed", text.replace(b64(body.root).encode(), b64(body.root[:31]).encode())),
        case("trailing line", "malformed", text + b"\n"),
        case("empty log with a root", "malformed", text.replace(b"\n5\n", b"\n0\n")),
        case("nothing", "malformed", b""),
    ]
    shown = {
        "origin": ORIGIN,
        "writer": WRITER.card.encode(),
        "witnesses": [card.encode() for card in WITNESS_CARDS],
        "cases": cases,
    }
    folder = Path(__file__).parent / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
