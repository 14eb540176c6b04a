"""The runbook of identity in exile is run, command by command, at an embassy that took a register over."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import pem
from exclave.formats.journal import Issued, serial_bytes
from exclave.identity.status_log import Revoked, Serial
from support.embassy import PKI, Embassy, moment

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = "docs/runbooks/identity-in-exile.md"
STOLEN = 0x3B7A90C1D2E4F5061728394A5B6C7D8E
DATES = {
    "2026-11-01T00:00Z": moment(-30)[:16] + "Z",
    "2027-02-01T00:00Z": moment(60)[:16] + "Z",
    "2027-05-01T00:00Z": moment(150)[:16] + "Z",
    "2027-11-01T00:00Z": moment(330)[:16] + "Z",
}
"""The runbook's days, as far from now as they were when it was written."""


def _documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_documents", ROOT / "tests" / "docs" / "test_documents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def embassy(tmp_path: Path) -> Iterator[Embassy]:
    made = Embassy(tmp_path / "land")
    desk = tmp_path / "desk"
    for name in ("doctors", "officials", "everybody", "former", "stick"):
        (desk / name).mkdir(parents=True)
    cards = [PKI.first.card(code=code) for code in ("38001085718", "48001085718", "60001017716")]
    for name, card in zip(("doctors", "officials", "everybody"), cards, strict=True):
        for folder in (name, "former"):
            (desk / folder / f"{name}.pem").write_bytes(pem(card.certificate))
    for custodian in ("luc", "kaja"):
        shutil.copy(made.home.key(custodian), desk / "stick")
    (desk / "esteid2025.pem").write_bytes(pem(PKI.first.certificate))
    (desk / "exile-ca.pem").write_bytes(pem(PKI.second.certificate))
    (desk / "exile-ca.key").touch(mode=0o600)
    key = PKI.second.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (desk / "exile-ca.key").write_bytes(key)
    serials = sorted(serial_bytes(serial) for serial in (STOLEN, *(card.serial for card in cards)))
    with made.place() as place:
        place.watch.refresh()
        place.writer.enter([Issued(issuer_id(PKI.first.der), tuple(serials))])
    yield made
    made.home.ok("failover", "stop", "--dir", str(made.folder))


def placed(text: str, embassy: Embassy, desk: Path) -> str:
    """A command or its output with this test's places in place of the runbook's."""
    site = str(embassy.home.site("lux"))
    names = {
        "/srv/embassy": str(embassy.folder), "/mnt/luxembourg": site, "/media/stick": f"{desk}/stick",
        "luxembourg": "lux", "$PRINTED": embassy.home.fingerprint, **DATES,
    }  # fmt: skip
    for day, now in DATES.items():
        names |= {f"{day[:10]} {day[11:16]}:00": f"{now[:10]} {now[11:16]}:00", f"{day[:16]}:00.0": f"{now[:16]}:00.0"}
    for name, here in names.items():
        text = text.replace(name, here)
    return text


@pytest.mark.slow
def test_the_runbook_runs(embassy: Embassy, tmp_path: Path) -> None:
    """Every command of the runbook does what it shows, and the stolen card is revoked at the end."""
    documents, desk = _documents(), tmp_path / "desk"
    shell = documents.Shell(embassy.home.root)
    try:
        shell.run(f"cd {desk}")
        shell.run('exclave() { command exclave "$@" 2>errors; }')  # the runbook shows results, not progress
        steps = documents.steps(RUNBOOK)
        assert len(steps) > 15
        for step in steps:
            if step.file:
                (desk / step.file).write_text(step.expected)
                continue
            code, printed = shell.run(placed(step.command, embassy, desk))
            expected = placed(step.expected, embassy, desk)
            assert code == 0, f"{step.command}\n{printed}{(desk / 'errors').read_text()}"
            assert not expected.strip() or documents.same(expected, printed), f"{printed}\nexpected:\n{expected}"
    finally:
        shell.close()
    with embassy.place() as place:
        assert isinstance(place.store.status(issuer_id(PKI.first.der), Serial(STOLEN)), Revoked)
        assert place.store.extensions() == ()
    assert len(list((desk / "new").rglob("*.der"))) == 3
