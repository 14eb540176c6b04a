"""Writes the vectors of timestamp tokens, made by ``openssl ts``.

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_timestamp.py``. Keys and times
are new each time; what each file must give is not.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from exclave.crypto.timestamp import request_timestamp, root_certificate
from exclave.ids import b64, sha256
from support.timestamper import POLICY, Timestamper

FOLDER = Path(__file__).parent / "timestamp"
MESSAGE = b"example.org/log\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def write(name: str, expect: str, comment: str, token: bytes, **headers: str) -> None:
    head = "".join(f"{k}: {v}\n" for k, v in {"expect": expect, "comment": comment, **headers}.items())
    (FOLDER / name).write_bytes(head.encode() + b"\n" + token)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        good = Timestamper(Path(scratch) / "good")
        asked = request_timestamp(MESSAGE)
        token = good.answer(asked.data)
        told = {"message": b64(MESSAGE), "root": b64(root_certificate(good.root.read_bytes(), "")), "policy": POLICY}
        write("good", "ok", "a token about the message", token, **told, nonce=str(asked.nonce))
        write("any-policy", "ok", "no policy is asked for", token, **{**told, "policy": "any"})
        write("message", "corrupt-object", "about another message", token, **{**told, "message": b64(b"other")})
        write("nonce", "corrupt-object", "the answer to another request", token, **told, nonce=str(asked.nonce ^ 1))
        write("policy", "not-authorised", "made under another policy", token, **{**told, "policy": "1.2.3"})
        other = Timestamper(Path(scratch) / "other")
        foreign = {**told, "root": b64(root_certificate(other.root.read_bytes(), ""))}
        write("root", "not-authorised", "by an authority of another root", token, **foreign)
        ended = Timestamper(
            Path(scratch) / "ended", valid=(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
        )
        late = {**told, "root": b64(root_certificate(ended.root.read_bytes(), ""))}
        write("ended", "not-authorised", "by a certificate that had ended", ended.answer(asked.data), **late)
        at = token.index(sha256(MESSAGE))
        spoilt = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        write("digest", "corrupt-object", "one bit of the digest flipped", spoilt, **told)
        spoilt = token[:-1] + bytes([token[-1] ^ 1])
        write("signature", "not-authorised", "one bit of the signature flipped", spoilt, **told)
        write("cut", "malformed", "without its last byte", token[:-1], **told)
        write("trailing", "malformed", "with a byte more", token + b"\0", **told)
        write("refusal", "malformed", "the authority refuses", good.answer(b"\x30\x03\x02\x01\x01"), **told)
        write("long", "malformed", "longer than any token", token + bytes(32 << 10), **told)


if __name__ == "__main__":
    main()
