"""A registry office over many days: documents that people write and amend, a database that grows, a backup each night.

Time is the test's own, so sixty days take seconds. What happens on a day is the same for the same seed.
"""

from __future__ import annotations

import os
import random
import sqlite3
import zipfile
from io import BytesIO
from pathlib import Path

from exclave.app import open_capture, open_home, open_sites
from exclave.ids import Instant, now
from exclave.operations.backup import backup
from exclave.operations.receipt import Receipt
from support.small_home import Register, SmallHome

DAY_S = 86_400
OLD_DOCUMENTS = 300
OLD_ROWS = 2000


class Office:
    """Use: ``day`` as often as days go by; an enemy's work goes in between."""

    def __init__(self, root: Path, seed: int = 1, *, append_only: bool = False, immutable: bool = False) -> None:
        self.root, self.documents, self.database = root, root / "documents", root / "register.sqlite"
        self.start = now() // 1_000_000
        self.days = 0
        self.rng = random.Random(seed)
        self.documents.mkdir(parents=True)
        for number in range(OLD_DOCUMENTS):
            self._write(f"20{number % 20 + 5:02d}/act-{number:04d}", age_days=60 + self.rng.randint(0, 3000))
        self._make_database()
        register = Register(
            "land",
            [("documents", "files", {"path": str(self.documents)}), ("db", "sqlite", {"path": str(self.database)})],
            at=("lux",), copies=1, countries=1,
        )  # fmt: skip
        self.home = SmallHome(root, [register], sites=["lux"])
        self.home.make()
        config = self.home.folder / "exclave.toml"
        text = config.read_text()
        if append_only:
            text = text.replace('name = "db"', 'name = "db"\nappend_only = ["entry"]')
        if immutable:
            text = text.replace('name = "documents"', 'name = "documents"\nimmutable = ["20*/*.pdf"]')
        config.write_text(text)
        self.home.fingerprint = str(self.home.new_charter("draft-1")["fingerprint"])

    def _make_database(self) -> None:
        with sqlite3.connect(self.database) as database:
            database.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, parcel TEXT, owner TEXT)")
            database.execute("CREATE TABLE clerk (name TEXT PRIMARY KEY, seen INTEGER)")
            rows = [(f"parcel {n}", f"owner {self.rng.randint(0, 999)}") for n in range(OLD_ROWS)]
            database.executemany("INSERT INTO entry (parcel, owner) VALUES (?, ?)", rows)
            database.executemany("INSERT INTO clerk VALUES (?, 0)", [("aino",), ("luc",)])
        database.close()

    def content(self, name: str) -> bytes:
        """A document of the kind that its ending says."""
        words = " ".join(
            self.rng.choice(("parcel", "owner", "whereas", "boundary", "deed", "grant")) for _ in range(300)
        )
        if name.endswith(".pdf"):
            return b"%PDF-1.7\n" + words.encode() + self.rng.randbytes(500) + b"\n%%EOF\n"
        if name.endswith(".docx"):
            made = BytesIO()
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("word/document.xml", words)
            return made.getvalue()
        return words.encode()

    def _write(self, stem: str, *, age_days: int = 0) -> None:
        name = stem + self.rng.choice((".pdf", ".docx", ".txt", ".xml"))
        path = self.documents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content(name))
        self._date(path, age_days)

    def _date(self, path: Path, age_days: int = 0) -> None:
        time = (self.start + (self.days - age_days) * DAY_S) * 1_000_000_000 + self.rng.randint(0, 10**9)
        os.utime(path, ns=(time, time))

    def files(self) -> list[Path]:
        return sorted(path for path in self.documents.rglob("*") if path.is_file())

    def work(self) -> None:
        """An ordinary day: new documents, some recent ones amended, now and then an old one, a draft thrown away."""
        for number in range(self.rng.randint(2, 6)):
            self._write(f"2026/day-{self.days:03d}-{number}")
        recent = [path for path in self.files() if path.parent.name == "2026"]
        for path in self.rng.sample(recent, min(len(recent), self.rng.randint(0, 6))):
            path.write_bytes(self.content(path.name))
            self._date(path)
        if self.rng.random() < 0.4:
            path = self.rng.choice(self.files())
            path.write_bytes(self.content(path.name))
            self._date(path)
        if recent and self.rng.random() < 0.3:
            self.rng.choice(recent).unlink()
        with sqlite3.connect(self.database) as database:
            rows = [(f"parcel {self.rng.randint(0, 9999)}", "new owner") for _ in range(self.rng.randint(1, 30))]
            database.executemany("INSERT INTO entry (parcel, owner) VALUES (?, ?)", rows)
            database.execute("UPDATE clerk SET seen = ?", (self.days,))
        database.close()

    def night(self) -> Receipt:
        """The backup of the day; then the next day begins."""
        home = open_home(self.home.folder)
        moment = Instant((self.start + self.days * DAY_S) * 1_000_000)
        done = backup(
            home, "land", sites=open_sites(home), witnesses={}, open_capture=open_capture, clock=lambda: moment
        )
        self.days += 1
        return done

    def day(self) -> Receipt:
        self.work()
        return self.night()
