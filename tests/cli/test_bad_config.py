"""What a person may get wrong in ``exclave.toml``, in drafts of charters and in the home folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.refusal import refused
from support.small_home import Register, SmallHome, tree_of


def _add(text: str) -> Callable[[str], str]:
    return lambda config: config + text


def _swap(old: str, new: str) -> Callable[[str], str]:
    def change(config: str) -> str:
        assert old in config
        return config.replace(old, new, 1)

    return change


def _other(name: str, depends: str) -> str:
    register = Register(name, [("acts", "files", {"path": "/srv/acts"})], depends=(depends,))
    return register.block()


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown-key": (_swap("threshold = 2", "treshold = 2"), "treshold"),
    "unknown-key-in-a-register": (_swap("rpo_s = 3600", "rpo_s = 3600\nrpo_minutes = 60"), "rpo_minutes"),
    "threshold-above-custodians": (_swap("threshold = 2", "threshold = 4"), "4 cannot be reached by 3"),
    "threshold-zero": (_swap("threshold = 2", "threshold = 0"), "0 cannot be reached"),
    "circle": (lambda c: c.replace("depends = []", 'depends = ["land"]') + _other("land", "gazette"), "in a circle"),
    "depends-on-itself": (_swap("depends = []", 'depends = ["gazette"]'), "not another register"),
    "unmeetable-copies": (_swap("copies = 2", "copies = 4"), "asks for 4 copies"),
    "unmeetable-abroad": (_swap("outside_home = 1", "outside_home = 3"), "3 of them abroad"),
    "unmeetable-countries": (_swap("countries = 2", "countries = 4"), "in 4 countries"),
    "unknown-site": (_swap('nord = "Agree', 'nowhere = "Agree'), "unknown site 'nowhere'"),
    "unknown-kind": (_swap('kind = "files"', 'kind = "tape"'), "tape"),
    "two-of-a-name": (_swap('name = "lux"', 'name = "home"'), "two sites are called 'home'"),
    "no-toml": (_add("\n[[site"), "not TOML"),
    "not-utf8": (lambda c: c.replace("Republic", "R\udce9publique"), "not TOML"),
    "wrong-type": (_swap("rto_s = 900", 'rto_s = "soon"'), "rto_s"),
    "bad-country": (_swap('country = "LU"', 'country = "Lux"'), "Lux"),
    "missing-card": (_swap("cards/luc.card", "cards/nobody.card"), "cannot read the key card"),
    "card-of-another": (_swap("cards/luc.card", "cards/kaja.card"), "is kaja's, not luc's"),
    "address-of-unknown-kind": (_swap('url = "dir:', 'url = "ftp:'), "unknown kind of site 'ftp'"),
    "key-in-address": (_swap('url = "dir:/', 'url = "s3://key:secret@bucket/'), "keys do not belong"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """A home without a charter."""
    return SmallHome(tmp_path_factory.mktemp("made")).make()


@pytest.mark.parametrize("what", WRONG)
def test_wrong_config(made: SmallHome, what: str) -> None:
    """A mistake in exclave.toml is named with exit code 3; no draft, id or key is made from it."""
    change, says = WRONG[what]
    text = change(made.config())
    (made.folder / "exclave.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    before = tree_of(made.folder)
    command = ("site", "probe", "home") if "address" in what else ("charter", "propose", str(made.root / "draft"))
    refused(3, *command, *made.home, says=says)
    assert tree_of(made.folder) == before
    assert not (made.root / "draft").exists()


def test_no_config(tmp_path: Path) -> None:
    """Each command that needs a home says what is missing and how to make one."""
    draft = str(tmp_path / "draft")
    for command in (["backup"], ["status"], ["snapshots"], ["charter", "show"], ["site", "list"],
                    ["charter", "propose", draft], ["charter", "publish", draft]):  # fmt: skip
        told = refused(2, *command, "--home", str(tmp_path), says="no exclave.toml")
        assert "exclave init" in told["hint"]
    refused(2, "verify", "--home", str(tmp_path), says="name sites with --site, and the state with --fingerprint")
    assert list(tmp_path.iterdir()) == []


def test_config_is_a_folder(tmp_path: Path) -> None:
    """What cannot be read is named, not a fault of the program."""
    (tmp_path / "exclave.toml").mkdir()
    refused(2, "backup", "--home", str(tmp_path), says="cannot read")


def test_no_charter_yet(made: SmallHome) -> None:
    """Before the first charter, commands that need one say how to get it."""
    made.write_config()
    for command in (["backup"], ["status"], ["verify"], ["snapshots"], ["charter", "show"]):
        told = refused(2, *command, *made.home)
        assert "charter propose" in told["hint"]


def test_init_writes_over_nothing(made: SmallHome) -> None:
    """A second init in the same folder is refused, and changes nothing."""
    before = tree_of(made.folder)
    refused(5, "init", str(made.folder), says="is there already")
    refused(41, "custodian", "new", "kaja", "--out", str(made.folder / "cards"), says="never overwritten")
    assert tree_of(made.folder) == before


@pytest.fixture
def drafted(tmp_path: Path) -> SmallHome:
    """A home with an unsigned draft."""
    home = SmallHome(tmp_path).make()
    home.ok("charter", "propose", str(tmp_path / "draft"), *home.home)
    return home


def _publish(home: SmallHome, code: int, says: str) -> None:
    refused(code, "charter", "publish", str(home.root / "draft"), *home.home, says=says)
    assert not (home.folder / "state" / "fingerprint").exists()
    assert all(tree_of(home.site(name)) == {} for name in home.sites)


def _sign(home: SmallHome, name: str) -> None:
    home.ok("charter", "sign", str(home.root / "draft"), "--yes", "--key", str(home.key(name)))


def test_draft_folder_not_empty(drafted: SmallHome) -> None:
    """A draft is never mixed with another one."""
    before = tree_of(drafted.root / "draft")
    refused(5, "charter", "propose", str(drafted.root / "draft"), *drafted.home, says="is not empty")
    assert tree_of(drafted.root / "draft") == before


def test_unsigned_draft(drafted: SmallHome) -> None:
    """A draft that nobody or too few have signed reaches no site; with enough signatures the same draft does."""
    _publish(drafted, 31, "nobody has signed")
    _sign(drafted, "kaja")
    _publish(drafted, 31, "1 of")
    _sign(drafted, "kaja")
    _publish(drafted, 31, "1 of")
    _sign(drafted, "luc")
    drafted.ok("charter", "publish", str(drafted.root / "draft"), *drafted.home)


def test_draft_changed_after_signing(drafted: SmallHome) -> None:
    """A charter that was changed after a custodian signed it is refused, whoever signs the changed one."""
    _sign(drafted, "kaja")
    path = drafted.root / "draft" / "charter.txt"
    path.write_text(path.read_text().replace("retention 400", "retention 1"))
    _sign(drafted, "luc")
    _publish(drafted, 4, "signs another text")


def test_draft_damaged(drafted: SmallHome) -> None:
    """Cut, swapped and foreign parts of a draft are found before anybody signs or publishes."""
    draft = drafted.root / "draft"
    kept = drafted.root / "kept"
    shutil.copytree(draft, kept)
    _sign(drafted, "kaja")
    sign = ("charter", "sign", str(draft), "--yes", "--key", str(drafted.key("luc")))
    for part, code in (("charter.txt", 4), ("annexes", 4), ("epochs", 4), ("boxes", 26), ("cards", 4)):
        for path in (draft / part, *(draft / part).rglob("*")):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-20])
        refused(code, *sign)
        assert not (draft / "signatures" / "luc").exists()
        shutil.rmtree(draft)
        shutil.copytree(kept, draft)


def test_stranger_signs(drafted: SmallHome) -> None:
    """Who is no custodian cannot sign a charter."""
    drafted.ok("custodian", "new", "eve", "--out", str(drafted.root))
    refused(
        30, "charter", "sign", str(drafted.root / "draft"), "--yes", "--key", str(drafted.root / "eve.key"),
        says="does not name eve",
    )  # fmt: skip


def test_key_file_exposed(drafted: SmallHome) -> None:
    """A key file that others can read, or that is a link, is not used."""
    sign = ("charter", "sign", str(drafted.root / "draft"), "--yes", "--key")
    key = drafted.key("kaja")
    key.chmod(0o644)
    told = refused(36, *sign, str(key), says="can be read")
    assert "chmod 600" in told["hint"]
    key.chmod(0o600)
    link = drafted.root / "link.key"
    link.symlink_to(key)
    refused(2, *sign, str(link), says="is a symbolic link")
    refused(2, *sign, str(drafted.root / "none.key"))
    key.write_text("exclave/key-file/v1\nkind custodian\n")
    refused(4, *sign, str(key))
    assert not (drafted.root / "draft" / "signatures").exists()


def test_wrong_share(drafted: SmallHome) -> None:
    """A custodian whose own share is not the one that was committed to does not sign."""
    for box in (drafted.root / "draft" / "boxes").rglob("*"):
        if box.is_file():
            data = bytearray(box.read_bytes())
            data[-1] ^= 1
            box.write_bytes(data)
    refused(26, "charter", "sign", str(drafted.root / "draft"), "--yes", "--key", str(drafted.key("luc")))


def test_damaged_state(tmp_path: Path) -> None:
    """Garbage in the home's own files is named by file; with the file repaired, everything goes on."""
    home = SmallHome(tmp_path).found()
    home.backup()
    for name in ("state/registers", "state/fingerprint", "keys/writer.key", f"keys/{home.id_of()}.secrets"):
        path = home.folder / name
        good = path.read_bytes()
        for bad in (b"\xff\x00garbage", b"a b c\n", good[: len(good) // 2], b""):
            path.write_bytes(bad)
            if name == "state/registers" and bad == b"":
                refused(2, "backup", *home.home, says="not in a charter yet")
                continue
            refused(4, "backup", *home.home, says=path.name)
        path.write_bytes(good)
    fingerprint = home.folder / "state" / "fingerprint"
    fingerprint.rename(fingerprint.with_suffix(".lost"))
    told = refused(2, "backup", *home.home, says="no charter yet")
    assert "write the printed fingerprint into state/fingerprint" in told["hint"]
    fingerprint.with_suffix(".lost").rename(fingerprint)
    assert home.backup()[0]["sequence"] == 2
    assert home.verify()["ok"]


def test_unknown_register(tmp_path: Path) -> None:
    """A register that is not there is named, together with those that are."""
    home = SmallHome(tmp_path).found()
    refused(3, "backup", "gazete", *home.home, says="it has: gazette")
    refused(2, "snapshots", "gazete", *home.home, says="it has: gazette")
    home.registers.append(Register("land", [("acts", "files", {"path": str(tmp_path / "acts")})]))
    home.write_config()
    told = refused(2, "backup", "land", *home.home, says="not in a charter yet")
    assert "charter propose" in told["hint"]
    assert home.backup("gazette")[0]["sequence"] == 1


def test_site_without_legal_basis(tmp_path: Path) -> None:
    """A register is refused at a site where it has no legal basis."""
    register = Register("gazette", [("acts", "files", {"path": str(tmp_path)})], at=("home", "lux"))
    home = SmallHome(tmp_path / "small", [register]).found()
    refused(35, "backup", "--to", "nord", *home.home, says="no legal basis")
    assert not any("pack" in name for name in tree_of(home.site("nord")))


def test_add_site_badly(tmp_path: Path) -> None:
    """A site that cannot be is not added, and exclave.toml stays as it was."""
    home = SmallHome(tmp_path).make()
    before = home.config()
    rest = ("--operator", "it", *home.home)
    refused(2, "site", "add", "lux", "dir:/mnt", "--country", "LU", *rest, says="already")
    refused(2, "site", "add", "Lux!", "dir:/mnt", "--country", "LU", *rest)
    refused(2, "site", "add", "mon", "dir:/mnt", "--country", "Monaco", *rest)
    refused(3, "site", "add", "mon", "ftp://mnt", "--country", "MC", *rest)
    refused(2, "site", "add", "mon", 'dir:/m"nt', "--country", "MC", *rest)
    assert (home.folder / "exclave.toml").read_text() == before
