"""Writes the vectors of status orders, re-issue orders and extension lists (with the orders that end them).

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_orders.py``

A vector is a few header lines, an empty line and the bytes of the file::

    expect: ok, or the code of the failure (``exclave.errors``)
    comment: what is special about it
    total: certificates that it names (good orders)
    digest: SHA-256 of the file, which a warrant names (good ones)

The same each time.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from exclave.formats.extension import EndedBetween, ExtensionEnd, ExtensionList
from exclave.formats.reissueorder import write_reissue_order
from exclave.formats.statusorder import StatusLine, write_status_order
from exclave.formats.warrant import Act
from exclave.ids import Digest, Fingerprint, Instant, sha256

HERE = Path(__file__).parent
START = Instant(1_790_000_000_000_000)
DAY = 86_400_000_000
FIRST, SECOND = sorted((sha256(b"an issuing CA"), sha256(b"its successor")))


def write(folder: str, name: str, expect: str, comment: str, body: bytes, **headers: object) -> None:
    lines: dict[str, object] = {"expect": expect, "comment": comment} | headers
    if expect == "ok":
        lines["digest"] = sha256(body).hex()
    head = "".join(f"{key}: {value}\n" for key, value in lines.items())
    (HERE / folder / name).write_bytes(head.encode() + b"\n" + body)


def change(data: bytes, old: str, new: str) -> bytes:
    if old.encode() not in data:
        raise SystemExit(f"{old!r} is not in the order")
    return data.replace(old.encode(), new.encode(), 1)


def order(act: Act, *lines: StatusLine) -> bytes:
    return b"".join(write_status_order(act, lines))


def status_orders() -> None:
    lines = [
        StatusLine(of, serial, "keyCompromise", START) for of in (FIRST, SECOND) for serial in (0, 0x1F, 2**160 - 1)
    ]
    good = order(Act.REVOKE, *lines, StatusLine(FIRST, 5, "superseded", Instant(START + 1)))
    bare = [StatusLine(FIRST, serial) for serial in (1, 2)]
    write("statusorder", "revoke", "ok", "two issuers", good, total=7)
    write("statusorder", "hold", "ok", "one issuer", order(Act.HOLD, *bare), total=2)
    write("statusorder", "release", "ok", "one issuer", order(Act.RELEASE, *bare), total=2)
    one, other = f"issuer {FIRST.hex()} 4\n", f"issuer {SECOND.hex()} 3\n"
    faults = [
        ("empty", "an empty file", b""),
        ("no-issuer", "no certificate at all", good[: good.index(b"issuer")]),
        ("version", "a later version", change(good, "order/v1", "order/v2")),
        ("act", "an act that is none of these", change(good, "act revoke", "act extend")),
        ("hold-with-reason", "a hold with a reason", change(good, "act revoke", "act hold")),
        ("revoke-without-reason", "a revocation without a reason", change(order(Act.HOLD, *bare), "hold", "revoke")),
        ("count-less", "fewer lines than the issuer says", change(good, one, one.replace("4", "5"))),
        ("count-more", "more lines than the issuer says", change(good, one, one.replace("4", "3"))),
        ("count-0", "an issuer without lines", change(good, one, one.replace(" 4\n", " 0\n"))),
        ("issuers-unsorted", "issuers out of order", change(change(good, one, other.replace("3", "4")), other, one)),
        ("issuer-short", "an issuer that is no digest", change(good, FIRST.hex(), FIRST.hex()[:-2])),
        ("serial-twice", "a serial that stands twice", change(good, "serial 5 ", "serial 0 ")),
        ("unsorted", "serials out of order", change(good, "serial 5 ", "serial 20 ")),
        ("leading-zero", "a serial with a leading zero", change(good, "serial 5 ", "serial 05 ")),
        ("upper-case", "a serial in capitals", change(good, "serial 1f ", "serial 1F ")),
        ("serial-long", "a serial of 41 digits", change(good, "serial " + "f" * 40, "serial " + "f" * 41)),
        (
            "hold-as-reason",
            "certificateHold, which is an act of its own",
            change(good, "superseded", "certificateHold"),
        ),
        ("reason", "a reason that does not exist", change(good, "superseded", "lost")),
        ("since", "a time without microseconds", change(good, ".000001Z", "Z")),
        ("double-space", "two spaces", change(good, "serial 5 ", "serial 5  ")),
        ("trailing-space", "a space at the end of a line", change(good, "act revoke\n", "act revoke \n")),
        ("crlf", "carriage returns", good.replace(b"\n", b"\r\n")),
        ("no-newline", "no newline at the end", good[:-1]),
        ("extra-line", "an empty line at the end", good + b"\n"),
        ("not-ascii", "a letter that is not ASCII", change(good, "superseded", "sup\u0435rseded")),
        ("long-line", "a line that is too long", change(good, "act revoke", "act revoke" + " " * 200)),
    ]
    for name, comment, bad in faults:
        write("statusorder", f"bad-{name}", "malformed", comment, bad)


def reissue_orders() -> None:
    former = sorted(sha256(b"former %d" % number) for number in range(5))
    good = write_reissue_order(FIRST, START, [set(former[:2]), set(former[2:])])
    write("reissueorder", "good", "ok", "two groups", good, total=5)
    first = f"certificate {former[0].hex()}\n"
    faults = [
        ("no-group", "no certificate at all", good[: good.index(b"group")]),
        ("group-0", "groups that do not begin with 1", change(good, "group 1 ", "group 0 ")),
        ("group-gap", "a group is missing", change(good, "group 2 ", "group 3 ")),
        ("count", "fewer lines than the group says", change(good, "group 2 3", "group 2 4")),
        ("empty-group", "an empty group", change(good, "group 1 2", "group 1 0")),
        ("twice", "a certificate that stands twice", change(good, first, first * 2).replace(b"1 2\n", b"1 3\n", 1)),
        ("until", "no end", change(good, "until", "till")),
        ("ca", "a CA that is no digest", change(good, FIRST.hex(), "me")),
        ("extra-line", "an empty line at the end", good + b"\n"),
    ]
    for name, comment, bad in faults:
        write("reissueorder", f"bad-{name}", "malformed", comment, bad)


def extensions() -> None:
    state = Fingerprint("a" * 64)
    rule = EndedBetween(Instant(START - 30 * DAY), Instant(START + 30 * DAY))
    keys = frozenset(sha256(b"key %d" % number) for number in range(3))
    full = ExtensionList(
        state, FIRST, START, Instant(START + 90 * DAY), Instant(START + 60 * DAY), "No cards can be made",
        "Emergency Act, section 3", rule, frozenset({0, 16, 255}), keys,
    )  # fmt: skip
    only_keys = replace(full, rule=None, exceptions=frozenset())
    end = ExtensionEnd(state, Digest(full.digest), "Cards are made again")
    good, good_end = full.encode().encode(), end.encode().encode()
    write("extension", "rule-and-keys", "ok", "a rule with exceptions, and keys", good)
    write("extension", "keys", "ok", "keys alone", only_keys.encode().encode())
    write("extension", "end", "ok", "the order that ends a list", good_end)
    exception, moment = "except 0\n", "2026-01-01T00:00:00.000000Z"
    first = f"key {min(keys).hex()}\n"
    faults = [
        ("version", "a later version", change(good, "extension/v1", "extension/v2")),
        ("nothing", "neither a rule nor a key", replace(only_keys, keys=frozenset()).encode().encode()),
        ("no-rule", "exceptions from no rule", replace(full, rule=None).encode().encode()),
        ("backwards", "it ends before it begins", replace(full, not_after=Instant(START - 1)).encode().encode()),
        ("too-long", "it accepts certificates for more than three years",
         replace(full, until=Instant(START + 1200 * DAY)).encode().encode()),
        ("rule-backwards", "a rule that ends before it begins",
         replace(full, rule=EndedBetween(rule.last, rule.first)).encode().encode()),
        ("rule-twice", "two rules", change(good, "rule ", f"rule {moment} {moment}\nrule ")),
        ("except-twice", "an exception that stands twice", change(good, exception, exception * 2)),
        ("except-decimal", "an exception with a leading zero", change(good, "except 10\n", "except 010\n")),
        ("key-twice", "a key that stands twice", change(good, first, first * 2)),
        ("no-basis", "no legal basis", change(good, "basis Emergency Act, section 3\n", "")),
        ("control", "a control character in the reason", change(good, "No cards", "No\u200bcards")),
        ("end-version", "a later version of the end", change(good_end, "end/v1", "end/v2")),
        ("end-list", "the end of no list", change(good_end, full.digest.hex(), "all")),
        ("end-extra", "an end with a further line", good_end + b"list x\n"),
    ]  # fmt: skip
    for name, comment, bad in faults:
        write("extension", f"bad-{name}", "malformed", comment, bad)


def main() -> None:
    for folder in ("statusorder", "reissueorder", "extension"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    status_orders()
    reissue_orders()
    extensions()


if __name__ == "__main__":
    main()
