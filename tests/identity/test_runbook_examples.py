"""The examples of the runbooks for identity services: settings that parse, and certificates that openssl issues."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exclave.demo.pki import make_pki, pem
from exclave.formats.identityconfig import parse_identity_config, parse_place_config
from exclave.identity.key_folder import KeyFolder
from exclave.ids import Label, instant_text, now
from exclave.operations.identity_kit import KitWishes, accept_certificates, request_kit
from exclave.operations.identity_place import place_text
from support.kit import KitStore, info_of

ROOT = Path(__file__).resolve().parents[2]
NAMED = ("ocsp-esteid-2018-20261126", "esteid-2018-20261126", "20261126090000Z", "20270110090000Z")


def _documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_documents", ROOT / "tests" / "docs" / "test_documents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_settings_are_complete() -> None:
    """identity.toml as it stands there is taken; so is place.toml with the source at its end."""
    files = {step.file: step.expected for step in _documents().steps("docs/runbooks/identities.md") if step.file}
    config = parse_identity_config(files["identity.toml"].encode())
    assert config.state_name["en"] == "Republic of Estonia"
    made = place_text(
        place="home", role="home", fingerprint="3f" * 32, register="5d" * 16, key="writer.key",
        sites={"tallinn": "dir:/mnt/tallinn"}, status="127.0.0.1:8421", login="127.0.0.1:8422",
    )  # fmt: skip
    (source,) = parse_place_config((made + files["source.toml"]).encode()).source
    assert (source.issuer, source.kind) == ("esteid-2018", "index-txt")


def _with(command: str, here: Mapping[str, str]) -> str:
    """With this test's names and times in place of the runbook's."""
    return re.sub("|".join(NAMED), lambda match: here[match[0]], command)


def test_openssl_issues_what_is_accepted(tmp_path: Path) -> None:
    """Each rung of a ladder, by the commands and the configuration of the runbook, with the times of the manifest."""
    ca, time = make_pki(now()).first, now()
    store = KitStore((info_of(ca, "esteid-2018", as_of=time),))
    keys, place = KeyFolder(tmp_path / "keys"), Label("luxembourg")
    wishes = KitWishes("EE", "State IT", rungs=3)
    made = request_kit(keys, store, place, tmp_path / "ca", wishes, now=time, say=lambda _: None)  # type: ignore[arg-type]
    desk = made.folder
    (desk / "esteid-2018.pem").write_bytes(pem(ca.certificate))
    (desk / "esteid-2018.key").write_bytes(
        ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # only of this test
    )
    (desk / "index.txt").touch()
    steps = _documents().steps("docs/runbooks/identity-kit.md")
    (desk / "ocsp.cnf").write_text(next(step.expected for step in steps if step.file == "ocsp.cnf"))
    commands = [step.command for step in steps if step.command.startswith("openssl ")]
    assert len(commands) == 2
    issued = []
    for number, request in enumerate(made.requests):
        times = [f"{instant_text(time)[:19]}Z" for time in (request.window.begin, request.window.end)]
        mine = [request.file.removesuffix(".csr"), f"issued-{number}", *(re.sub("[-T:]", "", time) for time in times)]
        here = dict(zip(NAMED, mine, strict=True))
        for command in commands:
            said = subprocess.run(
                ["bash", "-c", _with(command, here)], cwd=desk, capture_output=True, text=True, check=False
            )
            assert said.returncode == 0, said.stderr
        assert "OCSP Signing" in said.stdout
        issued.append((desk / f"issued-{number}.pem").read_bytes())
    accepted = accept_certificates(keys, store, place, issued, now=time)  # type: ignore[arg-type]
    assert [(row.state, row.why) for row in accepted.rows] == [("accepted", "")] * 3
    assert [row.window for row in accepted.rows] == [request.window for request in made.requests]
