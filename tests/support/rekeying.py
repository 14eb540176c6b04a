"""A home whose custodians come and go: charters, ceremonies and who can open what, by commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from exclave.crypto.hpke import SealingKey
from exclave.formats.answer import ParsedAnswer, ResealedShare, parse_answer, reseal_info
from exclave.formats.card import parse_card
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Label, parse_fingerprint, parse_register_id
from exclave.keys.file import load
from exclave.rules.epochs import EpochChain
from exclave.rules.signatures import sign_text
from exclave.sites.opening import open_site
from exclave.verify.state import StateView, read_state
from support.small_home import CUSTODIANS, Register, SmallHome

LAST_RESORT = Path(__file__).resolve().parents[2] / "tools" / "last_resort.py"


class People(SmallHome):
    """A ``SmallHome`` whose custodians are ``people`` (name → country)."""

    def __init__(self, root: Path, registers: Iterable[Register] = (), **more: Any) -> None:
        super().__init__(root, registers, **more)
        self.people = dict(CUSTODIANS)
        self.drafts = 1

    def config(self) -> str:
        head, _, rest = super().config().partition("\n[[custodian]]")
        sites = rest[rest.index("\n[[site]]") :]
        blocks = [
            f'\n[[custodian]]\nname = "{name}"\ncountry = "{country}"\ncard = "cards/{name}.card"\n'
            for name, country in sorted(self.people.items())
        ]
        return head + "".join(blocks) + sites

    def copy(self, root: Path) -> People:
        """The same state with all that belongs to it, in another folder."""
        shutil.copytree(self.root, root, symlinks=True)
        registers = [replace(r, datasets=[_moved(d, self.root, root) for d in r.datasets]) for r in self.registers]
        made = type(self)(root, registers, sites=self.sites, threshold=self.threshold)
        made.people, made.drafts, made.fingerprint = dict(self.people), self.drafts, self.fingerprint
        made.write_config()
        return made

    def change(self, signers: Sequence[str], *, people: Iterable[str] = (), threshold: int = 0) -> Any:
        """A new charter with ``people`` as its custodians, who get key files if they have none."""
        self.people = {name: CUSTODIANS.get(name, "FI") for name in people} or self.people
        self.threshold = threshold or self.threshold
        for name in self.people:
            if not self.key(name).exists():
                self.ok("custodian", "new", name, "--out", str(self.folder / "cards"))
        self.write_config()
        self.drafts += 1
        return self.new_charter(f"draft-{self.drafts}", signers=signers)

    def heal(self, note: str) -> None:
        """A charter that names the epoch note with this digest, where two were granted."""
        draft = str(self.root / "healing")
        self.ok("charter", "propose", draft, *self.home, "--epoch", f"{self.id_of()}={note}")
        for name in ("kaja", "luc"):
            self.ok("charter", "sign", draft, "--yes", "--key", str(self.key(name)), *self.where())
        self.ok("charter", "publish", draft, *self.home)

    def rekey(self, *custodians: str, name: str = "rekey", ceremony: str = "", code: int = 0, **more: Any) -> Any:
        """``exclave rekey`` with new answers, at home or on the machine ``ceremony``; its JSON."""
        return self.fails(code, "rekey", *self.to_rekey(*custodians, name=name, ceremony=ceremony, **more))

    def to_rekey(self, *custodians: str, name: str = "rekey", ceremony: str = "", **more: Any) -> list[str]:
        """The options of ``exclave rekey``, with a signed warrant."""
        if not ceremony:
            key = self.root / "warrants" / "home.key"
            key.parent.mkdir(exist_ok=True)
            shutil.copy(self.folder / "keys" / "writer.key", key)
        granted = self.granted("rekey", *custodians, machine=ceremony or "home", name=name, **more)
        return [*granted, *(self.where() if ceremony else self.home)]

    def restore_all(self, target: Path, *custodians: str, name: str = "look", versions: Iterable[int] = ()) -> None:
        """Restores ``versions`` (all) with the shares of ``custodians`` below ``target``, each compared."""
        granted = self.granted("restore", *custodians, name=name)
        for number in versions or [v["sequence"] for v in self.versions()]:
            self.ok(
                "restore", *self.where(), *granted, "--target", str(target / str(number)), "--version", str(number),
                "--compare",
            )  # fmt: skip

    def view(self) -> StateView:
        sites = {Label(name): open_site(url) for name, url in self.urls.items()}
        return read_state(sites, parse_fingerprint(self.fingerprint))

    def epochs(self, register: str = "") -> EpochChain:
        return self.view().epoch_chain(parse_register_id(self.id_of(register)))

    def facts(self, register: str = "") -> list[Fact]:
        """Facts in the ledger of the newest epoch, as the first site shows it."""
        view = self.view()
        epoch = view.epoch_chain(parse_register_id(self.id_of(register))).newest
        reader = view.log_reader(epoch, open_site(next(iter(self.urls.values()))))
        entries = [entry for _, entry in reader.tree(reader.head()).entries()]
        return [parse_fact(entry) for entry in entries if entry.startswith(b"exclave/fact/")]

    def last_resort(self, site: Path, target: Path, *custodians: str) -> subprocess.CompletedProcess[str]:
        """The second reader restores the latest version that ``site`` shows, with these people's key files alone."""
        keys = [part for name in custodians for part in ("--key", str(self.key(name)))]
        return subprocess.run(
            [sys.executable, "-I", str(LAST_RESORT), "--site", str(site), "--state", self.fingerprint,
             "--target", str(target), *keys],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


def _moved(dataset: tuple[str, str, dict[str, object]], old: Path, new: Path) -> tuple[str, str, dict[str, object]]:
    name, kind, options = dataset
    return name, kind, {**options, "path": str(options["path"]).replace(str(old), str(new))}


def lie(answer: Path, machine_card: Path, key: Path) -> None:
    """Puts random bytes, well sealed and well signed, in the place of the shares in ``answer``."""
    who, card = load(str(key)), parse_card(machine_card.read_bytes())
    said = parse_answer(parse_note(answer.read_bytes()).text)
    shares = tuple(
        ResealedShare(
            s.register, s.epoch, s.index,
            SealingKey(card.sealing).seal(bytes(32), reseal_info(said.warrant, s.register, s.epoch, s.index)),
        )
        for s in said.shares
    )  # fmt: skip
    text = ParsedAnswer(
        said.warrant, said.custodian, said.time, said.approval_ed25519, said.approval_mldsa44, shares
    ).encode()
    answer.write_bytes(ParsedNote(text, sign_text(text, who.name, who.signing())).encode())
