"""The commands, from the custodian's stick to the ledger: an embassy after a real failover acts on certificates."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exclave.cli import identity_acts
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import pem
from exclave.errors import ExclaveError, NotAuthorised, UsageError
from exclave.formats.journal import Issued, serial_bytes
from exclave.formats.keyring import KeyUse
from exclave.identity.status_log import Good, Held, Revoked
from exclave.ids import Instant, now
from exclave.operations.acting import REFRESH_S, WatchedPlace
from exclave.operations.identity_follow import begin
from support.embassy import PKI, Embassy, moment

GROUP = typer.Typer()
identity_acts.register(GROUP)


@GROUP.callback()
def _group() -> None:
    """So that one command alone is a group too."""


@pytest.fixture(scope="module")
def embassy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embassy]:
    made = Embassy(tmp_path_factory.mktemp("exile") / "land")
    yield made
    made.home.ok("failover", "stop", "--dir", str(made.folder))


def said(*arguments: str) -> str:
    """What a command of the group prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        typer.main.get_command(GROUP)(list(arguments), standalone_mode=False)
    return out.getvalue()


def told(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def test_revoke_hold_release(embassy: Embassy) -> None:
    """From a CSV file to a revoked certificate and a fact; held and released; the same again changes nothing."""
    folder = embassy.home.root
    (folder / "stolen.csv").write_text(f"serial_hex\n{embassy.card.serial:X}\n")
    order = folder / "stolen.order"
    issuer = told("order", "issuer", _certificate(folder))["issuer"]
    common = ["--csv", str(folder / "stolen.csv"), "--issuer", issuer, "--out", str(order)]
    told("order", "status", "--act", "revoke", *common, "--reason", "keyCompromise", "--since", moment(-60))
    act = ["--dir", str(embassy.identity), *embassy.granted("revoke", order, "revoke"), "--order", str(order)]
    first, again = told("revoke", *act), told("revoke", *act)
    assert (first["entered"], again["entered"], again["before"], again["fact"]["new"]) == (1, 0, 1, False)
    assert isinstance(embassy.status(embassy.card.serial), Revoked)
    (folder / "stolen.csv").write_text(f"serial_hex\n{embassy.other.serial:X}\n")
    for verb, status in (("hold", Held), ("release", Good)):
        told("order", "status", "--act", verb, *common)
        shown = said(
            verb, "--dir", str(embassy.identity), *embassy.granted(verb, order, verb), "--order", str(order)
        )  # fmt: skip
        assert "The ledger has it at" in shown
        assert isinstance(embassy.status(embassy.other.serial), status)
    kinds = [fact.kind for fact in embassy.facts() if fact.kind.startswith("identity-")]
    assert kinds == ["identity-revoke", "identity-hold", "identity-release"]
    assert embassy.home.verify("lux", "nord")["ok"]


def _certificate(folder: Path) -> str:
    path = folder / "ca.pem"
    path.write_bytes(pem(PKI.first.certificate))
    return str(path)


def test_extend(embassy: Embassy) -> None:
    """A list is made, signed for and entered; and ended."""
    order, end = embassy.home.root / "extend.order", embassy.home.root / "end.order"
    pinned = ["--fingerprint", embassy.home.fingerprint]
    told(
        "order", "extend", "--issuer", issuer_id(PKI.first.der).hex(), "--ended-from", moment(-300),
        "--ended-to", moment(30), "--until", moment(200), "--list-until", moment(90),
        "--except", "ff", "--reason", "No cards can be made", "--basis", "Emergency Act", "--out", str(order), *pinned,
    )  # fmt: skip
    act = ["--dir", str(embassy.identity), *embassy.granted("extend", order, "extend"), "--order", str(order)]
    done = told("extend", *act)
    assert done["new"]
    with embassy.place() as place:
        assert len(place.store.extensions()) == 1
    told("order", "end", "--list", done["list"], "--reason", "Cards are made again", "--out", str(end), *pinned)
    ended = ["--dir", str(embassy.identity), *embassy.granted("extend", end, "end"), "--order", str(end)]
    assert "counts no longer" in said("extend", *ended)
    with embassy.place() as place:
        assert place.store.extensions() == ()


def test_reissue(embassy: Embassy) -> None:
    """A CA's key out of custody signs new certificates for the folder of former ones."""
    root = embassy.home.root
    (root / "former").mkdir()
    card = PKI.first.card(code="60001017716")
    (root / "former" / "card.pem").write_bytes(pem(card.certificate))
    with embassy.place() as place:
        begin(place)
        place.writer.enter([Issued(issuer_id(PKI.first.der), (serial_bytes(card.serial),))])
    (root / "exile.pem").write_bytes(pem(PKI.second.certificate))
    key = root / "exile.key"
    key.touch(mode=0o600)
    key.write_bytes(PKI.second.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    order = root / "reissue.order"
    told("order", "reissue", "--ca", issuer_id(PKI.second.der).hex(), "--until", moment(400), "--group",
         str(root / "former"), "--out", str(order))  # fmt: skip
    act = ["--dir", str(embassy.identity), *embassy.granted("reissue", order, "reissue"), "--order", str(order)]
    signs = ["--ca", str(root / "exile.pem"), "--ca-key", str(key), "--certificates", str(root / "former"), "--out",
             str(root / "new")]  # fmt: skip
    done = told("reissue", *act, *signs)
    assert (done["made"], done["refused"]) == (1, {})
    assert (root / "new" / "index.csv").read_text().count("\n") == 2
    assert "made before" in said("reissue", *act, *signs)
    with embassy.place() as place:
        place.keys.store("exile-ca", KeyUse.CRL, issuer_id(PKI.second.der), key.read_bytes())
    key.unlink()
    by_name = ["--ca", str(root / "exile.pem"), "--ca-name", "exile-ca", *signs[4:]]
    assert told("reissue", *act, *by_name)["before"] == 1
    for wrong in (["--ca-name", "nobody"], [], ["--ca-name", "exile-ca", "--ca-key", str(key)]):
        with pytest.raises(UsageError, match="key"):
            said("reissue", *act, "--ca", str(root / "exile.pem"), *wrong, *signs[4:])


def test_standing_order_and_refusals(embassy: Embassy) -> None:
    """A standing order lets the night shift revoke; without a warrant for it, nothing is released."""
    root = embassy.home.root
    (root / "night.csv").write_text(f"serial_hex\n{embassy.other.serial:X}\n")
    order, release = root / "night.order", root / "release.order"
    common = ["--csv", str(root / "night.csv"), "--issuer", issuer_id(PKI.first.der).hex()]
    told("order", "status", "--act", "release", *common, "--out", str(release))
    told(
        "order", "status", "--act", "revoke", *common, "--reason", "keyCompromise", "--since", moment(-30), "--out",
        str(order),
    )  # fmt: skip
    granted = embassy.granted("revoke", None, "night")
    with pytest.raises(ExclaveError, match="allows revoke, not release"):
        said("release", "--dir", str(embassy.identity), *granted, "--order", str(release))
    with pytest.raises(ExclaveError, match="the order file is to release, not to revoke"):
        said("revoke", "--dir", str(embassy.identity), *granted, "--order", str(release))
    assert told("revoke", "--dir", str(embassy.identity), *granted, "--order", str(order))["entered"] == 1
    assert isinstance(embassy.status(embassy.other.serial), Revoked)


def test_a_long_act_sees_that_it_lost_the_authority(embassy: Embassy) -> None:
    """The sites are read again on the way, so an act that takes days does not outlive its epoch."""
    home = embassy.home
    with embassy.place() as place:
        begin(place)
        watched = WatchedPlace(place, now())
        other = home.root / "other"
        granted = home.granted("failover", machine="other", place="nord")
        home.ok("failover", "run", *granted, "--dir", str(other), *home.where())
        home.ok("failover", "stop", "--dir", str(other))
        assert watched.authority().decides
        watched.read = Instant(watched.read - REFRESH_S * 1_000_000)
        assert not watched.authority().decides
        with pytest.raises(NotAuthorised):
            place.writer.enter([Issued(issuer_id(PKI.first.der), (b"\x01",))])
