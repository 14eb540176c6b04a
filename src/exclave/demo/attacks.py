"""What enemies do in the demo: a host that lies, a custodian who cheats, a thief with a copy of home and its keys."""

from __future__ import annotations

import http.client
import shutil
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from botocore.exceptions import ClientError

from exclave.crypto.hpke import SealingKey
from exclave.errors import ExclaveError
from exclave.formats.answer import ResealedShare, parse_answer, reseal_info
from exclave.formats.card import parse_card
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Key
from exclave.keys.file import load
from exclave.rules.signatures import sign_text
from exclave.sites.opening import open_site


def packs(site: Path, fingerprint: str, register: str) -> list[Path]:
    """All packs of one register at a site, the largest first."""
    found = [p for p in (site / fingerprint / register / "pack").rglob("*") if p.is_file()]
    return sorted(found, key=lambda p: (-p.stat().st_size, p.name))


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(path, bytes(data))


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes under the same name; objects are read-only, but their folder is the host's."""
    other = path.with_name(path.name + "-other")
    other.write_bytes(data)
    other.replace(path)


def checkpoint_of(site: Path, fingerprint: str, register: str) -> Path:
    """The head of the register's (only) ledger at a site."""
    (found,) = (site / fingerprint / register / "ledger").glob("*/checkpoint")
    return found


def forge_share(answer: Path, card: Path, key: Path) -> None:
    """A custodian with software of his own: his approval is real, but what he seals is not his share."""
    note = parse_note(answer.read_bytes())
    honest = parse_answer(note.text)
    machine = SealingKey(parse_card(card.read_bytes()).sealing)
    shares = tuple(
        ResealedShare(
            s.register, s.epoch, s.index,
            machine.seal(bytes(32), reseal_info(honest.warrant, s.register, s.epoch, s.index)),
        )
        for s in honest.shares
    )  # fmt: skip
    forged = type(honest)(
        honest.warrant, honest.custodian, honest.time, honest.approval_ed25519, honest.approval_mldsa44, shares
    )
    text = parse_answer(forged.encode()).encode()
    own = load(str(key))
    overwrite(answer, ParsedNote(text, sign_text(text, own.name, own.signing())).encode())


def hide_new_epochs(site: Path, fingerprint: str, aside: Path, known: set[str]) -> Iterator[None]:
    """The host shows no epoch note but the ``known`` ones until the generator is asked for the next time."""
    hidden: list[tuple[Path, Path]] = []
    for note in (site / fingerprint).glob("*/epoch/*"):
        if note.name not in known:
            target = aside / f"{len(hidden)}"
            aside.mkdir(parents=True, exist_ok=True)
            shutil.move(note, target)
            hidden.append((target, note))
    yield
    for target, note in hidden:
        shutil.move(target, note)


def carry_over(source: Path, site: Path, fingerprint: str, register: str) -> None:
    """A thief with write access to a dumb store puts his own ledger and objects there, over what was there."""
    for path in sorted((source / fingerprint / register).rglob("*")):
        target = site / path.relative_to(source)
        if path.is_file() and (path.name == "checkpoint" or not target.exists()):
            target.parent.mkdir(parents=True, exist_ok=True)
            overwrite(target, path.read_bytes())


def rob_gateway(url: str, objects: Sequence[str], head: str, old: bytes) -> dict[str, str]:
    """With the certificate in ``url``: every object deleted, every one overwritten, an old head shown again. What the
    gateway answered to each of these acts.
    """
    site = open_site(url)
    answers = {"deletes": "refused: " + ", ".join(sorted({str(_delete(url, name)) for name in objects}))}
    if "200" in answers["deletes"] or "204" in answers["deletes"]:
        answers["deletes"] = answers["deletes"].replace("refused", "DONE")
    try:
        for name in objects:
            site.put_same(Key(name), b"junk")
            answers["overwrites"] = f"DONE: {name}"
    except ExclaveError as error:
        answers.setdefault("overwrites", f"refused: {error.code}")
    shown = site.read_head(Key(head))
    try:
        site.replace_if(Key(head), old, shown.tag if shown else None)
        answers["rolls a head back"] = "DONE"
    except ExclaveError as error:
        answers["rolls a head back"] = f"refused: {error.code}"
    return answers


def _delete(url: str, name: str) -> int:
    """The status that a plain DELETE gets."""
    parts = urlsplit(url)
    files = dict(parse_qsl(parts.query))
    context = ssl.create_default_context(cafile=files["authorities"])
    context.load_cert_chain(files["certificate"], files["key"])
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=30)
    try:
        connection.request("DELETE", f"/v1{parts.path}/o/{name}")
        return connection.getresponse().status
    finally:
        connection.close()


def rob_bucket(client: Any, bucket: str, prefix: str) -> str:
    """Deletes every version below ``prefix``, and puts garbage over each; what became of that."""
    refused, versions = 0, client.list_object_versions(Bucket=bucket, Prefix=prefix).get("Versions", ())
    for one in versions:
        try:
            client.delete_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])
        except ClientError:
            refused += 1
    covered = 0
    for name in sorted({one["Key"] for one in versions}):
        client.put_object(Bucket=bucket, Key=name, Body=b"junk")
        covered += 1
    word = "refused" if versions and refused == len(versions) else "DONE"
    told = f"{refused} of {len(versions)} deletions; junk lies over {covered} objects, and readers take what is below"
    return f"{word}: {told}"


def epoch_notes(site: Path, fingerprint: str) -> set[str]:
    """Names of the epoch notes that a site shows."""
    return {note.name for note in (site / fingerprint).glob("*/epoch/*")}


def forms_of(name: str) -> tuple[bytes, ...]:
    """A name as it stands in text, in paths and in MessagePack. Four letters alone are found by chance now and then in
    a hundred megabytes of noise.
    """
    word = name.encode()
    return (b" " + word, b"/" + word, b"\n" + word, b'"' + word, bytes([0xA0 | len(word)]) + word)


def plain_text_at(site: Path, words: tuple[bytes, ...], but: str = "nothing") -> list[str]:
    """Files at a site that hold one of ``words`` in the clear, but those with ``but`` in their path."""
    found = []
    for path in site.rglob("*"):
        if path.is_file() and but not in str(path):
            data = path.read_bytes()
            found += [f"{path}: {word.decode('utf-8', 'replace')}" for word in words if word in data]
    return found
