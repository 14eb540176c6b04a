"""Writes the vectors of cards, key files, charters, epoch notes, warrants, answers and annexes.

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_custody.py``

A vector is a few header lines, an empty line and the bytes of the file::

    expect: ok, or the code of the failure (``exclave.errors``)
    comment: what is special about it
    <other headers>: what the reader is told beside the file

Keys and texts come out the same each time. ML-DSA signatures and HPKE boxes are randomised, so files with those
differ from run to run; what each must give does not.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.passphrase import stretch
from exclave.formats.note import ED25519, MLDSA44, ParsedNote, Signature, key_id
from exclave.formats.warrant import Act
from exclave.ids import Instant, b64, instant_text, sha256
from exclave.keys.file import KeyKind, ParsedKeyFile
from support.custody import (
    HOUR,
    REGISTER,
    START,
    Actor,
    Land,
    actor,
    answer,
    machine,
    make_epoch,
    people,
    request_text,
    signed,
    stream,
    writer,
)
from support.sample_annex import sample_annex

HERE = Path(__file__).parent
A, B, C, D = people("anna", "boris", "clara", "dora")
QUORUM = (A, B)


def write(folder: str, name: str, expect: str, comment: str, body: bytes, **headers: str) -> None:
    lines = {"expect": expect, "comment": comment} | headers
    head = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in lines.items())
    (HERE / folder / name).write_bytes(head.encode() + b"\n" + body)


def sign_raw(text: str, *who: Actor) -> bytes:
    """A note over any text at all, also one that the product would refuse to sign."""
    lines: list[Signature] = []
    for person in who:
        message = text.encode()
        lines += [
            Signature(
                person.name, key_id(person.name, ED25519, person.card.ed25519), person.pair.sign_ed25519(message)
            ),
            Signature(
                person.name, key_id(person.name, MLDSA44, person.card.mldsa44), person.pair.sign_mldsa44(message)
            ),
        ]
    return ParsedNote(text, tuple(lines)).encode()


def change(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise SystemExit(f"{old!r} stands {text.count(old)} times in a text")
    return text.replace(old, new)


def common_faults(text: str) -> list[tuple[str, str, str]]:
    """Ways to spoil any line text: (name, comment, spoilt text)."""
    first, rest = text.split("\n", 1)
    second = rest.split("\n", 1)[0]
    return [
        ("version", "a later version of the format", f"{first[:-1]}2\n{rest}"),
        ("crlf", "lines end in carriage return and newline", text.replace("\n", "\r\n")),
        ("trailing-space", "a space at the end of a line", f"{first}\n{second} \n{rest.split(chr(10), 1)[1]}"),
        ("double-space", "two spaces between keyword and value", f"{first}\n{rest.replace(' ', '  ', 1)}"),
        ("extra-line", "an unknown line at the end", f"{text}further line\n"),
        ("line-missing", "the second line is missing", f"{first}\n{rest.split(chr(10), 1)[1]}"),
        ("line-twice", "the second line stands twice", f"{first}\n{second}\n{rest}"),
        ("zero-width", "an invisible character", f"{first}\n{second}\u200b\n{rest.split(chr(10), 1)[1]}"),
    ]


def cards() -> None:
    named = [A, B, C, D, writer(), machine(), actor("observer", KeyKind.WITNESS)]
    for person in named:
        write("card", person.name, "ok", f"the card of {person.name}", person.card.encode().encode())
    text = A.card.encode()
    for name, comment, bad in common_faults(text):
        write("card", f"bad-{name}", "malformed", comment, bad.encode())
    faults = [
        ("upper-case-name", "a name in capitals", change(text, "name anna", "name Anna")),
        ("no-newline", "the last newline is missing", text[:-1]),
        (
            "base64-padding",
            "base64 without padding",
            change(text, f"{b64(A.card.ed25519)}\n", f"{b64(A.card.ed25519)[:-1]}\n"),
        ),
        (
            "short-key",
            "an ML-DSA-44 key that is one byte short",
            change(text, b64(A.card.mldsa44), b64(A.card.mldsa44[:-1])),
        ),
        ("order", "two keys in the wrong order", _swap(text, 2, 3)),
        ("empty", "an empty file", ""),
    ]
    for name, comment, bad in faults:
        write("card", f"bad-{name}", "malformed", comment, bad.encode())
    spare = b64(A.card.ed25519)
    loose = spare[:-2] + chr(ord(spare[-2]) + 1) + spare[-1]
    write(
        "card",
        "bad-base64-spare-bits",
        "malformed",
        "unused bits of base64 that are not zero",
        change(text, spare, loose).encode(),
    )


def _swap(text: str, one: int, other: int) -> str:
    lines = text.split("\n")
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def key_files() -> None:
    seed = sha256(b"key file vector")
    plain = ParsedKeyFile(KeyKind.CUSTODIAN, A.name, seed)
    salt = stream("salt")(16)
    sealed = ObjectCipher(stretch("correct horse", salt, 14)).seal(0, seed, plain.head().encode())
    locked = ParsedKeyFile(KeyKind.CUSTODIAN, A.name, None, salt, 14, sealed)
    write("keyfile", "plain", "ok", "a seed without passphrase", plain.encode().encode(), seed=seed.hex())
    text = locked.encode()
    give = {"seed": seed.hex(), "passphrase": "correct horse"}
    write("keyfile", "passphrase", "ok", "a seed under a passphrase", text.encode(), **give)
    umlaut = ObjectCipher(stretch("Schl\u00fcssel", salt, 14)).seal(0, seed, plain.head().encode())
    composed = replace(locked, sealed=umlaut).encode()
    write(
        "keyfile",
        "passphrase-nfd",
        "ok",
        "the passphrase is typed in decomposed form",
        composed.encode(),
        seed=seed.hex(),
        passphrase="Schlu\u0308ssel",
    )
    give["passphrase"] = "wrong horse"
    write("keyfile", "wrong-passphrase", "not-authorised", "another passphrase", text.encode(), **give)
    write("keyfile", "no-passphrase", "not-authorised", "no passphrase given", text.encode(), seed=seed.hex())
    give["passphrase"] = "correct horse"
    renamed = change(text, "name anna", "name boris")
    write("keyfile", "renamed", "not-authorised", "the name was changed, which is bound in", renamed.encode(), **give)
    flipped = replace(locked, sealed=bytes([sealed[0] ^ 1]) + sealed[1:]).encode()
    write("keyfile", "flipped", "not-authorised", "one bit of the sealed seed was changed", flipped.encode(), **give)
    faults = common_faults(plain.encode())
    faults += [
        ("kind", "an unknown kind", change(plain.encode(), "custodian", "king")),
        ("short-seed", "a seed of 31 bytes", replace(plain, seed=seed[:31]).encode()),
        ("cheap", "less scrypt work than allowed", change(text, " 14 ", " 13 ")),
        ("dear", "more scrypt memory than allowed", change(text, " 14 ", " 21 ")),
        ("leading-zero", "a number with a leading zero", change(text, " 14 ", " 014 ")),
        ("short-salt", "a salt of 15 bytes", replace(locked, salt=salt[:15]).encode()),
        ("two-secrets", "both forms of the secret", plain.encode() + text.splitlines()[-1] + "\n"),
    ]
    for name, comment, bad in faults:
        write("keyfile", f"bad-{name}", "malformed", comment, bad.encode())


def charters(land: Land) -> None:
    text = land.charter.encode()
    pin = {"pin": land.state}
    write("charter", "first", "ok", "signed by two of three", land.charter_notes[0], **pin)
    write("charter", "all-signed", "ok", "signed by all three", sign_raw(text, A, B, C), **pin)
    write("charter", "one-signature", "quorum-missing", "signed by one of three", sign_raw(text, A), **pin)
    write("charter", "stranger", "quorum-missing", "one custodian and somebody else", sign_raw(text, A, D), **pin)
    write("charter", "other-pin", "wrong-fingerprint", "another state is pinned", land.charter_notes[0], pin="0" * 64)
    half = ParsedNote(text, tuple(s for p in QUORUM for s in signed(text, p).signatures[:1]))
    write("charter", "only-ed25519", "quorum-missing", "no ML-DSA-44 signatures", half.encode(), **pin)
    lifted = ParsedNote(text, signed("another text\n", A, B).signatures)
    write("charter", "lifted", "quorum-missing", "signatures over another text", lifted.encode(), **pin)
    none = ParsedNote(text, ())
    write("charter", "unsigned", "malformed", "no signature line at all", none.encode(), **pin)

    def group(line: str, *, quorum: str = "all") -> str:
        return change(text, "quorum observer\n", f"group {line}\nquorum {quorum}\n")

    def authority(*lines: str) -> str:
        more = "".join(f"authority {line}\n" for line in lines)
        return change(text, "quorum observer\n", f"quorum observer\n{more}")

    stamped = authority(
        "a-tsa any http://tsa.example:8080/ts AAAA", "b-tsa 1.3.6.1.4.1.6449.2.1.1 https://tsa.example BBBB"
    )
    write("charter", "authorities", "ok", "two timestamp authorities", sign_raw(stamped, *QUORUM),
          pin=sha256(stamped.encode()).hex())  # fmt: skip
    write("charter", "two-groups", "ok", "a quorum of groups", sign_raw(group("a 1 observer\ngroup all 1 a"), *QUORUM),
          pin=sha256(group("a 1 observer\ngroup all 1 a").encode()).hex())  # fmt: skip
    until = instant_text(Instant(START + 90 * 86_400_000_000))

    def ending(lease: str, basis: str = "") -> str:
        leased = change(text, "witness observer ", f"{lease}witness observer ")
        return change(leased, "placement 3 2 2 1", f"{basis}placement 3 2 2 1")

    ends = ending(f"lease luxembourg {until}\nlease monaco {until}\n", f"until luxembourg {until}\n")
    write("charter", "ends", "ok", "leases and a legal basis that end", sign_raw(ends, *QUORUM),
          pin=sha256(ends.encode()).hex())  # fmt: skip
    custodian = f"custodian anna EE {A.card.digest.hex()}\n"
    faults = [
        *common_faults(text),
        ("threshold-0", "a threshold of 0", change(text, "threshold 2", "threshold 0")),
        ("threshold-4", "a threshold above the number of custodians", change(text, "threshold 2", "threshold 4")),
        ("leading-zero", "a number with a leading zero", change(text, "threshold 2", "threshold 02")),
        ("arabic-digit", "a digit that is not ASCII", change(text, "threshold 2", "threshold \u0662")),
        ("unsorted", "custodians out of order", _swap(text, 7, 8)),
        ("custodian-twice", "a custodian named twice", change(text, custodian, custodian * 2)),
        ("card-twice", "one card under two names", change(text, B.card.digest.hex(), A.card.digest.hex())),
        (
            "no-custodian",
            "no custodians",
            "".join(line for line in text.splitlines(True) if not line.startswith("custodian")),
        ),
        ("upper-case-hex", "a digest in capitals", change(text, A.card.digest.hex(), A.card.digest.hex().upper())),
        ("country", "a country in lower case", change(text, "\nhome EE\n", "\nhome ee\n")),
        ("instant", "a time without microseconds", change(text, ".000000Z\n", "Z\n")),
        ("day", "a day that does not exist", change(text, instant_text(START)[:10], "2026-02-30")),
        ("previous", "number 1 with a predecessor", change(text, "previous none", f"previous {'0' * 64}")),
        ("no-previous", "number 2 without a predecessor", change(text, "number 1", "number 2")),
        ("unknown-site", "a register at a site that is not listed", change(text, "at home ", "at hom ")),
        ("copies", "more copies than sites", change(text, "placement 3 2 2", "placement 4 2 2")),
        ("countries", "more countries than the sites have", change(text, "placement 3 2 2", "placement 3 4 2")),
        ("abroad", "more copies abroad than sites there", change(text, "placement 3 2 2", "placement 3 2 3")),
        ("administrators", "more operators than the sites have", change(text, "3 2 2 1", "3 2 2 4")),
        ("administrators-0", "no operator at all", change(text, "3 2 2 1", "3 2 2 0")),
        ("administrators-none", "a placement with three numbers", change(text, "3 2 2 1", "3 2 2")),
        ("lease-unknown", "a lease of a site that is not listed", ending(f"lease tartu {until}\n")),
        ("lease-twice", "a lease twice", ending(f"lease monaco {until}\n" * 2)),
        ("lease-unsorted", "leases out of order", ending(f"lease monaco {until}\nlease home {until}\n")),
        ("lease-day", "a lease that ends on a day", ending(f"lease monaco {until[:10]}\n")),
        ("until-unknown", "the end of a legal basis at a site without one", ending("", f"until tartu {until}\n")),
        ("first-epoch", "a first charter with a later epoch", change(text, "\nepoch 1 ", "\nepoch 2 ")),
        ("quorum", "a quorum of an unknown witness", change(text, "quorum observer", "quorum observers")),
        ("group-needed", "a group that needs more than it has", group("all 2 observer")),
        ("group-unknown", "a group with an unknown member", group("all 1 observers")),
        ("group-itself", "a group that names itself", group("all 1 all")),
        ("group-unsorted", "a member twice", group("all 1 observer observer")),
        ("group-name", "a group with a witness's name", group("observer 1 observer")),
        ("group-none", "a group called none", group("none 1 observer")),
        ("group-dead", "a group on which the quorum does not depend", group("all 1 observer", quorum="none")),
        ("authority-url", "a timestamp authority's address that is none", authority("tsa any ftp://tsa.example AAAA")),
        ("authority-policy", "a policy that is none", authority("tsa 1..2 https://tsa.example AAAA")),
        ("authority-twice", "an authority twice", authority(*2 * ["tsa any https://tsa.example AAAA"])),
        ("group-twice", "a witness in two groups", group("a 1 observer\ngroup b 1 observer\ngroup all 1 a b")),
        ("hold", "a hold without a reason", change(text, "hold none", "hold for")),
        ("hold-word", "a hold with another word", change(text, "hold none", "hold by court")),
        ("delay", "orders to delete without a delay", change(text, "deletion 2592000 1", "deletion 0 1")),
        ("objections", "more objections than custodians who do not sign", change(text, "2592000 1", "2592000 2")),
        ("keep", "a keep line with two numbers", change(text, "keep 0 0 0", "keep 0 0")),
        ("naming", "a register neither sealed nor public", change(text, f"{REGISTER} sealed", f"{REGISTER} open")),
    ]
    for name, comment, bad in faults:
        write("charter", f"bad-{name}", "malformed", comment, sign_raw(bad, *QUORUM), pin=sha256(bad.encode()).hex())


def epochs(land: Land) -> None:
    note = land.first.note
    text = note.encode()
    write("epoch", "first", "ok", "the epoch that the charter names", land.first.signed.encode())
    write("epoch", "not-the-writer", "not-authorised", "signed by somebody else", sign_raw(text, D))
    good, last = land.first.signed.signatures
    flipped = replace(last, blob=bytes([last.blob[0] ^ 1]) + last.blob[1:])
    spoilt = ParsedNote(text, (good, flipped)).encode()
    write("epoch", "spoilt-signature", "not-authorised", "one bit of a signature changed", spoilt)
    other = make_epoch([A, B, C], 2, by=land.home, life="other")
    write("epoch", "not-named", "missing-object", "a first epoch that no charter names", other.signed.encode())
    opening = b64(note.opening)
    share = next(line for line in text.splitlines(True) if line.startswith("share anna"))
    faults = [
        *common_faults(text),
        ("authority", "an unknown authority", change(text, "authority charter", "authority me")),
        ("authority-2", "a first epoch by warrant", change(text, "authority charter", f"authority warrant {'0' * 64}")),
        (
            "previous",
            "a first epoch with a predecessor",
            change(text, "previous none", f"previous {'0' * 64} 7 {b64(bytes(32))}"),
        ),
        ("no-previous", "a second epoch without predecessor", change(text, "epoch 1\n", "epoch 2\n")),
        ("short-root", "a root of 31 bytes", change(text, "previous none", f"previous {'0' * 64} 7 {b64(bytes(31))}")),
        ("opening", "an opening key that is too short", change(text, opening, b64(note.opening[:-1]))),
        ("threshold", "a threshold above the number of shares", change(text, "threshold 2", "threshold 4")),
        ("index", "shares out of order", change(text, "share anna 1 ", "share anna 2 ")),
        ("no-share", "the first share is missing", change(text, share, "")),
        ("custodian-twice", "two shares for one custodian", change(text, "share boris", "share anna")),
        ("ancestor", "a first epoch with ancestors", change(text, "ancestor none", f"ancestor {'0' * 64}")),
        (
            "without",
            "a first epoch that lacks a former key",
            change(text, "ancestor none", f"ancestor {'0' * 64} without 1"),
        ),
        (
            "without-none",
            "no older keys, and some of them missing",
            change(text, "ancestor none", "ancestor none without 1"),
        ),
        ("without-numbers", "a word without numbers", change(text, "ancestor none", f"ancestor {'0' * 64} without")),
    ]
    for name, comment, bad in faults:
        write("epoch", f"bad-{name}", "malformed", comment, sign_raw(bad, land.home))


def warrants(land: Land) -> str:
    text = request_text(land.chain.newest, land.state, act=Act.RESTORE)
    noon = {"now": instant_text(START), "place": "luxembourg", "act": "restore"}
    good = sign_raw(text, machine(), A, B)
    write("warrant", "good", "ok", "signed by two of three", good, **noon)
    write("warrant", "request", "quorum-missing", "signed by its machine only", sign_raw(text, machine()), **noon)
    write("warrant", "one-signature", "quorum-missing", "signed by one of three", sign_raw(text, machine(), C), **noon)
    write("warrant", "stranger", "quorum-missing", "one custodian and somebody else", sign_raw(text, A, D), **noon)
    early, late = instant_text(type(START)(START - 1)), instant_text(type(START)(START + HOUR + 1))
    end = instant_text(type(START)(START + HOUR))
    write("warrant", "last-moment", "ok", "used at not-after", good, **noon | {"now": end})
    write("warrant", "early", "warrant-expired", "a microsecond early", good, **noon | {"now": early})
    write("warrant", "late", "warrant-expired", "a microsecond late", good, **noon | {"now": late})
    write("warrant", "history", "ok", "late, but looked at as history", good, **noon | {"now": "none"})
    write("warrant", "other-place", "warrant-foreign", "used elsewhere", good, **noon | {"place": "monaco"})
    write("warrant", "other-act", "warrant-foreign", "used for something else", good, **noon | {"act": "failover"})
    foreign = change(text, f"state {land.state}", f"state {'a' * 64}")
    write("warrant", "other-state", "warrant-foreign", "for another state", sign_raw(foreign, A, B), **noon)
    unknown = "\n".join("charter " + "b" * 64 if line.startswith("charter ") else line for line in text.split("\n"))
    write("warrant", "other-charter", "warrant-foreign", "under an unknown charter", sign_raw(unknown, A, B), **noon)
    stray = change(text, f"register {REGISTER}", f"register {'f' * 32}")
    write("warrant", "other-register", "warrant-foreign", "for an unknown register", sign_raw(stray, A, B), **noon)
    order = sha256(b"an order\n")
    for name, act, seen in (("revoke", Act.REVOKE, order), ("revoke-standing", Act.REVOKE, None),
                            ("hold", Act.HOLD, order), ("release", Act.RELEASE, order),
                            ("extend", Act.EXTEND, order), ("reissue", Act.REISSUE, order)):  # fmt: skip
        about = request_text(land.chain.newest, land.state, act=act, object=seen)
        said = "a standing order" if seen is None else "for one order file"
        write("warrant", name, "ok", f"{act}, {said}", sign_raw(about, machine(), A, B), **noon | {"act": str(act)})
    faults = [
        *common_faults(text),
        ("act", "an unknown act", change(text, "act restore", "act destroy")),
        ("no-register", "no register", change(text, f"register {REGISTER}\n", "")),
        (
            "register-twice",
            "a register named twice",
            change(text, f"register {REGISTER}\n", f"register {REGISTER}\n" * 2),
        ),
        ("backwards", "it ends before it begins", change(text, f"not-after {end}", f"not-after {early}")),
        ("nonce", "a short nonce", text[:-2] + "\n"),
        ("no-reason", "an empty reason", change(text, "reason home is under attack", "reason ")),
        ("no-object", "no order file and no word about it", change(text, "object none\n", "")),
        ("object", "an object that is no digest", change(text, "object none", "object all")),
        ("object-of-restore", "an act without order file names one", change(text, "object none", f"object {'d' * 64}")),
        (
            "release-all",
            "a standing order for an act that needs an order file",
            change(text, "act restore", "act release"),
        ),
        ("reason-space", "a reason that starts with a space", change(text, "reason home", "reason  home")),
    ]
    for name, comment, bad in faults:
        write("warrant", f"bad-{name}", "malformed", comment, sign_raw(bad, A, B), **noon)
    return text


def answers(land: Land, warrant: str) -> None:
    request = signed(warrant, machine())
    note = answer(land, request, A, land.first)
    text = note.text
    who = {"custodian": "anna"}
    write("answer", "good", "ok", "approval and one share", note.encode(), **who)
    write("answer", "other-signer", "not-authorised", "signed by somebody else", sign_raw(text, D), **who)
    write("answer", "other-card", "not-authorised", "held against another card", note.encode(), custodian="boris")
    spoilt = text.replace("time 2026", "time 2027")
    write(
        "answer",
        "changed",
        "corrupt-object",
        "changed after it was signed",
        ParsedNote(spoilt, note.signatures).encode(),
        **who,
    )
    digest = sha256(warrant.encode()).hex()
    write(
        "answer",
        "other-warrant",
        "warrant-foreign",
        "answers another request",
        sign_raw(change(text, digest, "c" * 64), A),
        **who,
    )
    share = next(line for line in text.splitlines(True) if line.startswith("share "))
    stray = change(text, f"share {REGISTER}", f"share {'f' * 32}")
    write("answer", "other-register", "warrant-foreign", "a share of another register", sign_raw(stray, A), **who)
    approval = next(line for line in text.splitlines(True) if line.startswith("approval "))
    first, second = signed("another text\n", A).signatures
    lie = f"approval {b64(first.key_id + first.blob)} {b64(second.key_id + second.blob)}\n"
    write(
        "answer",
        "other-approval",
        "corrupt-object",
        "approves another text",
        sign_raw(change(text, approval, lie), A),
        **who,
    )
    first, second = signed(warrant, D).signatures
    alien = f"approval {b64(first.key_id + first.blob)} {b64(second.key_id + second.blob)}\n"
    write(
        "answer",
        "alien-approval",
        "corrupt-object",
        "approval by other keys",
        sign_raw(change(text, approval, alien), A),
        **who,
    )
    write("answer", "no-share", "ok", "approval only", sign_raw(change(text, share, ""), A), **who)
    faults = [
        *common_faults(text),
        ("share-twice", "a share that stands twice", text + share),
        ("index-0", "a share with index 0", change(text, f"{REGISTER} 1 1 ", f"{REGISTER} 1 0 ")),
        ("short-share", "a share that is too short", change(text, share, f"share {REGISTER} 1 1 {b64(bytes(1167))}\n")),
        (
            "short-approval",
            "a signature that is too short",
            change(text, approval, f"approval {b64(bytes(67))} {b64(bytes(2424))}\n"),
        ),
    ]
    for name, comment, bad in faults:
        write("answer", f"bad-{name}", "malformed", comment, sign_raw(bad, A), **who)


def annexes() -> None:
    annex = sample_annex()
    data = annex.encode()
    write("annex", "good", "ok", "a register with a database and two services", data)
    faults = {
        "format": ("a later format", replace_bytes(data, b"annex/v1", b"annex/v2")),
        "trailing": ("a byte too many", data + b"\xc0"),
        "cut": ("a byte too few", data[:-1]),
        "unknown-field": ("an unknown field", replace_bytes(data, b"\xa5owner", b"\xa5rower")),
        "kind": (
            "an unknown kind of dataset",
            replace_bytes(data, b"\xa8postgres\xa7options", b"\xa8postgrep\xa7options"),
        ),
        "long-form": (
            "a number in a longer form than needed",
            replace_bytes(data, b"\xcd\x1f\x90", b"\xce\0\0\x1f\x90"),
        ),
        "key-order": (
            "keys of a map out of order",
            replace_bytes(data, b"\xa1A\xa11\xa1B\xa12", b"\xa1B\xa12\xa1A\xa11"),
        ),
        "dataset": (
            "a service of an unknown dataset",
            replace_bytes(data, b"\xa7dataset\xa5books", b"\xa7dataset\xa5looks"),
        ),
        "text-for-bytes": ("the salt as text", replace_bytes(data, b"\xc4\x20", b"\xd9\x20")),
        "empty": ("an empty file", b""),
    }
    for name, (comment, bad) in faults.items():
        write("annex", f"bad-{name}", "malformed", comment, bad)


def replace_bytes(data: bytes, old: bytes, new: bytes) -> bytes:
    if old not in data:
        raise SystemExit(f"{old!r} is not in the annex")
    return data.replace(old, new, 1)


def main() -> None:
    for folder in ("card", "keyfile", "charter", "epoch", "warrant", "answer", "annex"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    land = Land([A, B, C], 2)
    cards()
    key_files()
    charters(land)
    epochs(land)
    answers(land, warrants(land))
    annexes()


if __name__ == "__main__":
    main()
