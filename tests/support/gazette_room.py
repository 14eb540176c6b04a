"""A little gazette, published into memory: editions and bundles without a state around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import msgspec

from exclave.formats.edition import BundleLine, Edition, make_bundle
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, Sequence, sha256
from exclave.operations.reading_room import Shown
from exclave.runners.ports import free_port
from exclave.serve.reading_admission import Limits
from exclave.serve.reading_build import Builder
from exclave.serve.reading_nginx import RoomSettings, StaticLimits
from exclave.serve.reading_pages import Pages, Room
from exclave.serve.reading_run import Seen, alone, served
from exclave.serve.reading_status import band, proven_of
from exclave.verify.published import Published

STATE = Fingerprint("3f" * 32)
REGISTER = RegisterId("ab" * 16)
START = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">\u202e{{7*7}}'
TREATY = "اتفاقية بشأن حفظ السجلات"
Files = dict[str, bytes | None]


def act_files(
    name: str, title: str, texts: list[str], *, language: str = "en", day: str = "2024-05-0{}", **parts: bytes
) -> Files:
    """The folder of one act."""
    versions = [{"version": n, "date": day.format(n), "file": f"v{n}.txt"} for n in range(1, len(texts) + 1)]
    record = {"act": name, "title": title, "language": language, "signed_by": "Aino Kask", "versions": versions}
    made: Files = {f"acts/{name}/act.json": json.dumps(record).encode()}
    made |= {f"acts/{name}/v{n}.txt": text.encode() for n, text in enumerate(texts, 1)}
    return made | {f"acts/{name}/{part}": data for part, data in parts.items()}


def law(title: str, *sections: str) -> str:
    parts = [f"§ {number}. Section {number}\n(1) {text}" for number, text in enumerate(sections, 1)]
    return "\n\n".join((title, *parts, "")) + "\n"


FIRST: Files = {
    **act_files("2024/0001", "Fishing Act", [law("Fishing Act", "Fish may be caught with a licence.")]),
    **act_files(
        "2024/0002", "Kalapüügiseadus", [
            law("Kalapüügiseadus", "Kala püütakse õnge abil."),
            law("Kalapüügiseadus", "Kala püütakse õnge ja võrgu abil.", "Rahvusraamatukogu säilitab ärakirja."),
        ], language="et",
    ),
    **act_files("2023/0100", EVIL, [law(EVIL, EVIL)], **{"map & <b>.html": b"<script>alert(3)</script>"}),
    **act_files("2023/0200", TREATY, [law(TREATY, "تتعهد الأطراف")], language="ar"),
    "gazette.json": b"{}",
}  # fmt: skip


@dataclass
class Press:
    """Publishes into memory."""

    objects: dict[Digest, bytes] = field(default_factory=dict)
    editions: list[Edition] = field(default_factory=list)

    def publish(self, files: Files, *, sequence: int | None = None, name: str = "State Gazette") -> Edition:
        """The next edition, with ``files`` (None: removed) as one bundle; each proof says what it is of."""
        before = self.editions[-1] if self.editions else None
        number = Sequence(sequence or (before.sequence + 1 if before else 1))
        made = [
            (p, data, b"" if data is None else b"proof of %s in %d" % (p.encode(), number)) for p, data in files.items()
        ]
        bundle = make_bundle(number, Instant(START + number * HOUR), made).encode()
        self.objects[sha256(bundle)] = bundle
        edition = Edition(
            STATE, REGISTER, number, Instant(START + number * HOUR), sha256(before.encode()) if before else None, name,
            (*(before.bundles if before else ()), BundleLine(sha256(bundle), len(bundle), len(made))),
        )  # fmt: skip
        self.editions.append(edition)
        return edition

    def builder(self, folder: Path, origin: str = "https://gazette.example") -> Builder:
        room = Room(self.editions[-1].name, "Rannariik", STATE, REGISTER, origin)
        return Builder(str(folder), Pages(room), self.objects.__getitem__, lambda what, done, of: None)


def shown_by(edition: Edition, *, exile: str | None = None) -> Shown:
    """What a look at two sites would prove of ``edition``."""
    published = Published(edition, sha256(edition.encode()), edition.time)
    return Shown(
        STATE, "Rannariik", REGISTER, edition.name, published, edition.sequence, edition.time, 3600, 1,
        None if exile is None else Label(exile), ("lux", "nord"), (),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunningRoom:
    """A room that is served on loopback."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Response:
        """One request, on a connection of its own; the path goes out as it is written."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in names.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, found, answer.read())
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def running_room(
    press: Press, folder: Path, *, limits: Limits | None = None, static: StaticLimits | None = None,
    behind: tuple[str, ...] = ("127.0.0.1/32",), exile: str | None = None, tls: Path | None = None,
) -> Iterator[RunningRoom]:  # fmt: skip
    """Builds what ``press`` has published last, and serves it. ``X-Forwarded-For`` says who asks.

    ``tls``: a folder with ``server.pem`` and ``server.key``.
    """
    port = free_port()
    edition = press.editions[-1]
    builder = press.builder(folder, f"http://127.0.0.1:{port}")
    try:
        builder.build(edition)
    finally:
        builder.close()
    write_status(folder, edition, f"http://127.0.0.1:{port}", exile=exile)
    settings = RoomSettings(
        str(folder),
        f"127.0.0.1:{port}",
        behind=behind,
        workers=1,
        limits=limits or Limits(),
        static=static,
        certificate=f"{tls}/server.pem" if tls else "",
        key=f"{tls}/server.key" if tls else "",
    )
    with alone(str(folder)), served(settings, lambda line: None):
        yield RunningRoom(folder, port)


def write_status(folder: Path, edition: Edition, origin: str, *, exile: str | None = None) -> None:
    checked = Instant(edition.time + HOUR // 4)
    proven = proven_of(shown_by(edition, exile=exile), checked)
    seen = Seen(edition.name, "Rannariik", STATE, REGISTER, origin, proven)
    (folder / "seen.json").write_bytes(msgspec.json.encode(seen))
    line = band(proven, checked, "Luxembourg")
    page = Pages(seen.room()).status(line.level, line.headline, line.detail)
    (folder / "status").mkdir(exist_ok=True)
    (folder / "status" / "status.html").write_bytes(page)
