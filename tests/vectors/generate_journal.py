"""Writes ``journal/vectors.json``: entries and a segment, each with its failure class and, if good, what follows."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats import journal as j
from exclave.ids import Instant

ISSUER = bytes(range(32))
T = 1_795_443_721_000_001
BODIES: dict[str, j.Body] = {
    "issuer": j.Issuer("esteid-2018", b"\x30\x00", True),
    "issued": j.Issued(ISSUER, (b"", b"\x01", b"\x02\x00")),
    "stopped": j.Stopped(ISSUER, b"\x01", T, "keyCompromise"),
    "held": j.Stopped(ISSUER, b"\x02\x00", T, "certificateHold"),
    "released": j.Released(ISSUER, b"\x02\x00"),
    "confirmed": j.Confirmed(ISSUER, T, 0),
    "responder": j.Responder(ISSUER, "lu", b"\x30\x00"),
    "service": j.Service("tax", b"{}"),
    "service-gone": j.ServiceGone("tax"),
    "place-keys": j.PlaceKeys("lu", b'{"keys":[]}'),
    "passkey": j.Passkey(b"\x01", b"\xa0", b"{}", b"\x02"),
    "passkey-gone": j.PasskeyGone(b"\x01"),
    "pushed": j.Pushed("ca-one", 7, ISSUER),
    "extension": j.Extension(b"note\n"),
    "extension-ended": j.ExtensionEnded(ISSUER),
}


def main() -> None:
    head, cases, segment = j.Head(), [], j.encode_segment_head(j.Head())
    for name, body in BODIES.items():
        data = j.encode_entry(j.entry_at(head, Instant(T), 3, body))
        head = head.after(data)
        segment += j.encode_record(data, head)
        cases.append({"name": name, "expect": "ok", "hex": data.hex(), "chain": head.chain.hex()})

    def bad(name: str, entry: object) -> None:
        raw = entry if isinstance(entry, bytes) else j._encoder.encode(entry)
        cases.append({"name": name, "expect": "malformed", "hex": raw.hex()})

    good = bytes.fromhex(cases[0]["hex"])
    bad("number 0", j.Entry(0, T, 0, b"", BODIES["issued"]))
    bad("number beyond 53 bits", j.Entry(2**53, T, 0, b"", BODIES["issued"]))
    bad("time before 1970", j.Entry(1, -1, 0, b"", BODIES["issued"]))
    bad("epoch beyond 32 bits", j.Entry(1, T, 2**32, b"", BODIES["issued"]))
    bad("warrant of 31 bytes", j.Entry(1, T, 0, bytes(31), BODIES["issued"]))
    bad("issuer of 31 bytes", j.Entry(1, T, 0, b"", j.Issued(bytes(31), (b"\x01",))))
    bad("no serials", j.Entry(1, T, 0, b"", j.Issued(ISSUER, ())))
    bad("a serial twice", j.Entry(1, T, 0, b"", j.Issued(ISSUER, (b"\x01", b"\x01"))))
    bad("serials not sorted", j.Entry(1, T, 0, b"", j.Issued(ISSUER, (b"\x02", b"\x01"))))
    bad("serial with a leading zero", j.Entry(1, T, 0, b"", j.Issued(ISSUER, (b"\x00\x01",))))
    bad("serial of 21 bytes", j.Entry(1, T, 0, b"", j.Issued(ISSUER, (b"\x01" * 21,))))
    bad("unknown reason", j.Entry(1, T, 0, b"", j.Stopped(ISSUER, b"\x01", T, "removeFromCRL")))
    bad("push number 0", j.Entry(1, T, 0, b"", j.Pushed("ca-one", 0, ISSUER)))
    bad("label with capitals", j.Entry(1, T, 0, b"", j.Issuer("EstEID", b"", True)))
    bad("place with a slash", j.Entry(1, T, 0, b"", j.Responder(ISSUER, "a/b", b"")))
    bad("client without a name", j.Entry(1, T, 0, b"", j.ServiceGone("")))
    bad("passkey without a handle", j.Entry(1, T, 0, b"", j.Passkey(b"\x01", b"", b"", b"")))
    bad("cut off", good[:-1])
    bad("a byte more", good + b"\xc0")
    bad("number in 64 bits", b"\x95\xcf" + (1).to_bytes(8, "big") + good[2:])
    bad("array in 16 bits", b"\xdc\x00\x05" + good[1:])
    bad("unknown kind", good.replace(b"\xa6issuer", b"\xa6issues"))
    bad("a field too many", good.replace(b"\x94\xa6issuer", b"\x95\xa6issuer") + b"\xc3")
    bad("nothing", b"")
    folder = Path(__file__).parent / "journal"
    folder.mkdir(exist_ok=True)
    made = {"cases": cases, "segment": segment.hex(), "head": {"number": head.number, "chain": head.chain.hex()}}
    (folder / "vectors.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
