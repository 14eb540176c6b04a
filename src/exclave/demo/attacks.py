"""What enemies do in the demo: a host that lies, a custodian who cheats, a thief who revived a copy of home."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from exclave.crypto.hpke import SealingKey
from exclave.formats.answer import ResealedShare, parse_answer, reseal_info
from exclave.formats.card import parse_card
from exclave.formats.note import ParsedNote, parse_note
from exclave.keys.file import load
from exclave.rules.signatures import sign_text


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


def epoch_notes(site: Path, fingerprint: str) -> set[str]:
    """Names of the epoch notes that a site shows."""
    return {note.name for note in (site / fingerprint).glob("*/epoch/*")}


def forms_of(name: str) -> tuple[bytes, ...]:
    """A name as it stands in text, in paths and in MessagePack. Four letters alone are found by chance now and then in
    a hundred megabytes of noise.
    """
    word = name.encode()
    return (b" " + word, b"/" + word, b"\n" + word, b'"' + word, bytes([0xA0 | len(word)]) + word)


def plain_text_at(site: Path, words: tuple[bytes, ...]) -> list[str]:
    """Files at a site that hold one of ``words`` in the clear."""
    found = []
    for path in site.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path}: {word.decode('utf-8', 'replace')}" for word in words if word in data]
    return found
