"""What operators write in files at two places, and when it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.app import open_identity
from exclave.formats.journal import Service, ServiceGone, Settings
from exclave.formats.relying import RelyingService, encode_service
from exclave.ids import now
from exclave.operations.identity_enter import EnteredFiles, enter_files, save_service
from exclave.operations.identity_follow import begin
from exclave.operations.identity_place import IdentityPlace
from support.small_home import Register, SmallHome


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home's folder of identity services, with nothing entered."""
    root = tmp_path_factory.mktemp("enter")
    folder = root / "identity"
    (folder / "journal").mkdir(parents=True)
    register = Register("identity", [("journal", "identity", {"path": str(folder / "journal")})])
    home = SmallHome(root, [register]).found()
    home.ok("identity", "init", "--dir", str(folder), *home.home)
    return folder


@pytest.fixture
def place(made: Path) -> Iterator[IdentityPlace]:
    """The place; all its files are gone in the end."""
    place = open_identity(made, now)
    begin(place)
    yield place
    for path in (made / "services").glob("*.json"):
        path.unlink()
    (made / "identity.toml").unlink(missing_ok=True)
    enter_files(place)
    place.close()


def service(client_id: str, secret: str) -> bytes:
    return encode_service(
        RelyingService(
            client_id=client_id, name={"en": client_id}, redirect_uris=("https://rp.demo.test/cb",),
            secret_sha256=(hashlib.sha256(secret.encode()).hexdigest(),),
        )
    )  # fmt: skip


def write(place: IdentityPlace, client_id: str, secret: str) -> EnteredFiles:
    """Edits the file, then enters."""
    (place.folder / "services").mkdir(exist_ok=True)
    (place.folder / "services" / f"{client_id}.json").write_bytes(service(client_id, secret) + b"\n")
    return enter_files(place)


def elsewhere(place: IdentityPlace, client_id: str, secret: str) -> None:
    """Another place, which had the authority meanwhile, entered this; it came with the feed."""
    place.writer.enter([Service(client_id, service(client_id, secret))])


def known(place: IdentityPlace, client_id: str) -> bytes | None:
    found = place.store.service(client_id)
    return None if found is None else encode_service(found)


def test_only_what_changed_is_entered(place: IdentityPlace) -> None:
    """The same files again are no entries; a file that is gone takes its service away."""
    assert write(place, "tax", "one").services == ("tax",)
    assert enter_files(place).entries == 0
    assert write(place, "tax", "two").services == ("tax",)
    (place.folder / "services" / "tax.json").unlink()
    assert enter_files(place).gone == ("tax",)
    assert known(place, "tax") is None
    assert enter_files(place).entries == 0


def test_an_old_file_does_not_bring_back_what_exile_replaced(place: IdentityPlace) -> None:
    """A secret that leaked was replaced abroad: home's file still says it, and does not count until it is edited."""
    write(place, "bank", "leaked")
    elsewhere(place, "bank", "new")
    done = enter_files(place)
    assert (done.entries, done.elsewhere) == (0, ("services: bank",))
    assert known(place, "bank") == service("bank", "new")
    assert write(place, "bank", "newer").services == ("bank",)
    assert known(place, "bank") == service("bank", "newer")
    assert enter_files(place).elsewhere == ()


def test_one_service_added_abroad_leaves_the_others(place: IdentityPlace) -> None:
    """An embassy has no files of home's services: adding one there takes none away."""
    for name in ("tax", "health"):
        elsewhere(place, name, "peace")
    save_service(place, service("shelter", "new"))
    done = enter_files(place)
    assert (done.services, done.gone) == (("shelter",), ())
    assert known(place, "tax") == service("tax", "peace")


def test_a_service_that_exile_took_away_is_not_brought_back(place: IdentityPlace) -> None:
    """Its file at home was entered in peace; it is told of."""
    write(place, "old", "peace")
    place.writer.enter([ServiceGone("old")])
    done = enter_files(place)
    assert (done.entries, done.elsewhere) == (0, ("services: old",))


def test_settings_changed_elsewhere_stay(place: IdentityPlace) -> None:
    """identity.toml is as it was entered: what another place entered since then counts."""
    mine, theirs = b'issuer = "https://login.demo.test"\n', b'issuer = "https://login.demo.test"\nsay_exile = true\n'
    (place.folder / "identity.toml").write_bytes(mine)
    assert enter_files(place).settings
    place.writer.enter([Settings(theirs)])
    done = enter_files(place)
    assert (done.settings, done.elsewhere) == (False, ("identity.toml",))
    assert place.store.settings() == theirs


def test_a_crash_after_the_entries_enters_nothing_twice(place: IdentityPlace) -> None:
    """The process died before it wrote down what it had entered."""
    write(place, "crash", "one")
    (place.folder / "state" / "entered.json").unlink()
    assert enter_files(place).entries == 0
    (place.folder / "services" / "crash.json").unlink()
    assert enter_files(place).gone == ("crash",)
