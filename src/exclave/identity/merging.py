"""Home comes back: what it had entered and nobody abroad knew is joined with what exile decided. Pure.

Page: docs/spec/merging.md. Home first adopts the embassy's journal as it is; then it enters the ``bodies`` made here.
Nobody knows in whose hands home was: whatever stops a certificate or takes something away is taken; what would start
one again, or bring somebody or something that exile never knew, is listed for people and not taken. Where both changed
the same thing, exile's decision stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from exclave.crypto.crl import issuer_id
from exclave.errors import MalformedError
from exclave.formats.journal import (
    Body,
    Confirmed,
    Entry,
    Extension,
    ExtensionEnded,
    Head,
    Issued,
    Issuer,
    Passkey,
    PasskeyGone,
    PlaceKeys,
    Pushed,
    Released,
    Responder,
    Service,
    ServiceGone,
    Settings,
    Stopped,
)
from exclave.formats.note import parse_note
from exclave.identity.feeding.difference import stopped_body
from exclave.identity.journal import Journal, fork_point
from exclave.identity.status_log import (
    CertificateStatus,
    Good,
    Held,
    Revoked,
    Serial,
    Stop,
    Unknown,
    joined,
    stop_of,
)
from exclave.ids import Digest, Instant, instant_text, sha256

MAX_TAKEN = 1000
"""So much of home's tail is taken without a word of people's. A revocation is for good, so a thief of home could else
end everybody's card; an honest home that is cut off stops fewer in the time that it goes on."""
Thing = tuple[str, bytes]
"""What an entry is about: its kind and its name."""


class HomeTail(StrEnum):
    """What is done with home's own entries behind the fork."""

    FEW = "few"
    """Up to ``MAX_TAKEN`` of them are taken; if there are more, people decide."""
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of home's that people should look at."""

    number: int
    """In home's own journal, which is kept."""
    time: Instant
    what: str
    """What it said, in one line of ASCII."""
    taken: bool
    why: str

    def line(self) -> str:
        taken = "taken" if self.taken else "not taken"
        return f"{self.number} {instant_text(self.time)} {taken}: {self.what} ({self.why})\n"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What became of home's own entries."""

    fork: Head
    home_entries: int
    exile_entries: int
    listed: tuple[Listed, ...]

    def text(self) -> str:
        """For people, one line for each entry; it names certificates, so it stays at home."""
        head = (
            f"fork {self.fork.number} {self.fork.chain.hex()}\nhome-entries {self.home_entries}\n"
            f"exile-entries {self.exile_entries}\n"
        )
        return head + "".join(item.line() for item in self.listed)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text, for the public statement."""
        return sha256(self.text().encode())


@dataclass(frozen=True, slots=True)
class Merged:
    """What to enter behind exile's journal, and what to tell."""

    bodies: tuple[Body, ...]
    report: MergeReport

    def nothing_taken(self) -> Merged:
        """The same without any entry of home's; the report still lists what there was."""
        why = "nothing of home's own was to be taken"
        listed = tuple(replace(item, taken=False, why=why) if item.taken else item for item in self.report.listed)
        return Merged((), replace(self.report, listed=listed))


class Exile(Protocol):
    """What the embassy's journal comes to, at its end: a ``StatusStore``."""

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus: ...


def merge_journals(home: Journal, exile: Journal, known: Exile) -> Merged:
    """``merge_tails`` of two journals; ``known``: a store that was made from ``exile``."""
    fork = fork_point(home, exile)
    own = [entry for entry, _, _ in home.read_after(fork)]
    theirs = [entry for entry, _, _ in exile.read_after(fork)]
    return merge_tails(fork, own, theirs, known)


def merge_tails(fork: Head, home: Iterable[Entry], exile: Iterable[Entry], known: Exile) -> Merged:
    """Joins home's entries after ``fork``, which exile never saw, with ``exile``'s."""
    own, theirs = list(home), list(exile)
    merging = _Merging(known, {thing for entry in theirs for thing in _things(entry.body)})
    for entry in own:
        merging.take(entry)
    report = MergeReport(fork, len(own), len(theirs), tuple(sorted(merging.listed, key=lambda item: item.number)))
    return Merged(tuple(merging.bodies()), report)


@dataclass(slots=True)
class _Merging:
    known: Exile
    changed: set[Thing]
    """What exile decided about."""
    listed: list[Listed] = field(default_factory=list)
    stopped: dict[tuple[Digest, Serial], Stop] = field(default_factory=dict)
    things: dict[Thing, Body] = field(default_factory=dict)
    """The last word of home on each."""

    def bodies(self) -> Iterator[Body]:
        for (issuer, serial), stop in sorted(self.stopped.items(), key=lambda item: item[0]):
            yield stopped_body(issuer, serial, stop)
        yield from self.things.values()

    def take(self, entry: Entry) -> None:
        match entry.body:
            case Issued(issuer, serials):
                self._list_issued(entry, Digest(issuer), serials)
            case Stopped(issuer, serial, since, reason):
                self._take_stop(entry, Digest(issuer), _serial(serial), stop_of(reason, Instant(since)))
            case Released(issuer, serial):
                what = f"release {_name(issuer, serial)}"
                self._list(entry, what, False, "a hold ends by a decision of whoever has the authority now")
            case Confirmed() | Pushed():
                pass  # what was complete at home is not complete here; a sender is asked for its messages again
            case Passkey(credential, _, _, _):
                what = f"passkey {sha256(credential).hex()[:16]}"
                self._list(entry, what, False, "its holder enrols it again; nobody abroad saw that it was enrolled")
            case Service() | PlaceKeys() | Responder() | Issuer() | Settings() | Extension():
                for thing in _things(entry.body):
                    what = f"{thing[0]} {_shown(entry.body)}".rstrip()
                    self._list(entry, what, False, "home may have been in other hands: enter it again if it is right")
            case body:
                self._take_thing(entry, body)

    def _list(self, entry: Entry, what: str, taken: bool, why: str) -> None:
        self.listed.append(Listed(entry.number, Instant(entry.time), what, taken, why))

    def _list_issued(self, entry: Entry, issuer: Digest, serials: Iterable[bytes]) -> None:
        new = sum(isinstance(self.known.status(issuer, _serial(s)), Unknown) for s in serials)
        if new:
            what = f"{new} certificates issued by {issuer.hex()[:16]}"
            self._list(entry, what, False, "the CA's own list says so again, if it is so")

    def _take_stop(self, entry: Entry, issuer: Digest, serial: Serial, told: Stop) -> None:
        status = self.known.status(issuer, serial)
        before = status if isinstance(status, Revoked | Held) else None
        stop = joined(before, joined(self.stopped.get((issuer, serial)), told))
        if stop == before:
            return  # exile knew as much
        self.stopped[issuer, serial] = stop
        why = f"exile: {_says(status)}; now: {_says(stop)}"
        self._list(entry, f"{_says(told)} {_name(issuer, entry.body.serial)}", True, why)  # type: ignore[union-attr]

    def _take_thing(self, entry: Entry, body: Body) -> None:
        """That something is gone."""
        for thing in _things(body):
            what = f"{thing[0]} {_shown(body)}".rstrip()
            if thing in self.changed:
                self._list(entry, what, False, "exile changed it too")
                continue
            self.things.pop(thing, None)  # the later word comes later
            self.things[thing] = body
            self._list(entry, what, True, "exile did not change it")


def _things(body: Body) -> Iterator[Thing]:
    """What a body is about, where the last word counts; nothing for certificates' status."""
    match body:
        case Service(client_id, _) | ServiceGone(client_id):
            yield "service", client_id.encode()
        case PlaceKeys(place, _):
            yield "place-keys", place.encode()
        case Passkey(credential, _, _, _) | PasskeyGone(credential):
            yield "passkey", credential
        case Responder(issuer, _, certificate):
            yield "responder", issuer + sha256(certificate)
        case Settings():
            yield "settings", b""
        case ExtensionEnded(note):
            yield "extension-ended", note
        case Extension(note):
            try:
                yield "extension", bytes(parse_note(note).digest)
            except MalformedError:
                return
        case Issuer():
            try:
                yield "issuer", bytes(issuer_id(body.certificate))
            except MalformedError:
                return
        case _:
            return


def _shown(body: Body) -> str:
    match body:
        case Service(client_id, data):
            return f"{client_id!a} sha256 {sha256(data).hex()[:16]}"
        case ServiceGone(client_id):
            return f"{client_id!a} gone"
        case PlaceKeys(place, jwks):
            return f"{place} sha256 {sha256(jwks).hex()[:16]}"
        case Responder(issuer, place, certificate):
            return f"{place} for {issuer.hex()[:16]} sha256 {sha256(certificate).hex()[:16]}"
        case PasskeyGone(credential):
            return f"{sha256(credential).hex()[:16]} gone"
        case Extension(note):
            return f"sha256 {parse_note(note).digest.hex()[:16]}"
        case ExtensionEnded(note):
            return f"sha256 {note.hex()[:16]}"
        case Issuer():
            return f"{body.label} sha256 {sha256(body.certificate).hex()[:16]}"
        case _:
            return ""


def _says(status: CertificateStatus) -> str:
    match status:
        case Revoked(time, reason):
            return f"revoked since {instant_text(time)} {reason}"
        case Held(time):
            return f"held since {instant_text(time)}"
        case Good():
            return "good"
        case _:
            return "unknown"


def _name(issuer: bytes, serial: bytes) -> str:
    return f"{_serial(serial):X} of {issuer.hex()[:16]}"


def _serial(serial: bytes) -> Serial:
    return Serial(int.from_bytes(serial, "big"))
