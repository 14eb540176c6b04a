"""Every command below ``exclave identity``, as one state's life plays it; the JSON that scripts rely on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import pem
from exclave.formats.journal import Issued, Issuer, serial_bytes
from exclave.identity.status_log import Good, Held, Revoked, Serial
from exclave.ids import Instant, instant_text, now, parse_instant
from support.json_shape import IDENTITY, has, shape
from support.knot import UPDATER, Knot, key_file, primary
from support.moving_places import MovingPlaces, issuer, pki
from support.refusal import refused
from support.small_home import Said, run

RECORDS = "login 600 A 192.0.2.1"
NAMES = """\
zone = "demo.test"
servers = ["{server}"]
resolvers = ["{server}"]
key_file = "dns.key"
ttl_s = 30
timeout_s = 2.0

[[record]]
name = "login.demo.test"
type = "A"
home = ["192.0.2.1"]
embassy = {{ lux = ["198.51.100.1"] }}
"""
SETTINGS = """\
issuer = "https://login.demo.test"
card_origin = "https://card.demo.test"
aia_hosts = ["aia.demo.test"]

[state_name]
en = "Demo"
"""


class Story:
    """A state and what its commands printed."""

    def __init__(self, root: Path, knot: Knot) -> None:
        self.state, self.knot = MovingPlaces(root / "state").made(), knot
        self.seen: dict[str, Any] = {}
        self.folder = root

    def ok(self, name: str, *arguments: str, code: int = 0, at: str = "") -> Any:
        """The JSON of ``exclave identity NAME ARGUMENTS``; ``at``: with ``--dir`` of that place."""
        where = ["--dir", str(self.state.at(at))] if at else []
        found = self.state.small.fails(code, "identity", *name.split(), *arguments, *where)
        self.seen[name] = found
        return found

    def text(self, name: str, *arguments: str, code: int = 0, at: str = "") -> str:
        """What it says to people."""
        where = ["--dir", str(self.state.at(at))] if at else []
        said: Said = run("identity", *name.split(), *arguments, *where)
        assert said.code == code, said
        assert "Traceback" not in said.err
        return said.out

    def granted(self, act: str, order: Path | None) -> list[str]:
        about = ["--object", str(order)] if order is not None else []
        warrant, key = self.state.root / "warrants" / f"{act}.warrant", self.state.at("lux") / "machine.key"
        self.state.small.ok(
            "warrant", "request", str(warrant), "--act", act, "--place", "lux", "--reason", "A test", *about,
            "--key", str(key), *self.state.small.where(),
        )  # fmt: skip
        signed = ["--warrant", str(warrant), *self.state.small.answer(warrant, "kaja", "luc")]
        return [*signed, "--order", str(order)] if order is not None else signed


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("commands")
    with primary(folder / "knot", RECORDS) as knot:
        yield Story(folder, knot)


@pytest.mark.slow
def test_the_life_of_the_commands(story: Story) -> None:
    """In peace, in exile; then each command has printed what it promises."""
    _made(story)
    _configured(story)
    _named(story)
    _kits(story)
    _names_in_peace(story)
    _nginx(story)
    _exile(story)
    _acts(story)
    assert set(story.seen) == set(IDENTITY), "a command below `identity` is not covered"
    for name, keys in IDENTITY.items():
        assert has(keys, story.seen[name]), f"{name}: {shape(story.seen[name])}"


def _made(story: Story) -> None:
    other, small = story.folder / "other", story.state.small
    made = story.ok("init", "--dir", str(other), "--place", "nord", "--register", story.state.register, *small.where())
    assert made == {"folder": str(other), "card": str(other / "machine.card")}
    assert (other / "machine.key").stat().st_mode & 0o777 == 0o600
    refused(5, "identity", "init", "--dir", str(other), "--home", str(small.folder))
    refused(2, "identity", "init", "--dir", str(story.folder / "x"), says="an embassy is made with --place")
    again = ["--dir", str(story.folder / "x"), "--place", "nord", "--register", "ab" * 16]
    refused(2, "identity", "init", *again, "--fingerprint", "11" * 32, "--site", "lux", says="say NAME=URL")
    refused(2, "identity", "state", "--dir", str(story.folder / "nothing"), says="there is no place.toml")
    at_home = story.text("init", "--dir", str(story.folder / "second"), "--home", str(small.folder))
    assert "is a place of the identity services" in at_home


def _configured(story: Story) -> None:
    home = story.state.at_home
    (home / "identity.toml").write_text(SETTINGS)
    added = story.ok("service add", "tax", "--name", "en=Taxes", "--redirect-uri", "https://tax.example/cb", at="home")
    assert len(added["secret"]) >= 43
    assert added["secret"] not in Path(added["file"]).read_text()
    refused(2, "identity", "service", "add", "tax", "--name", "en=T", "--redirect-uri", "https://t.example/cb",
            "--dir", str(home), says="is there already")  # fmt: skip
    refused(2, "identity", "service", "add", "b", "--name", "Taxes", "--redirect-uri", "https://t.example/cb",
            "--dir", str(home), says="say LANGUAGE=TEXT")  # fmt: skip
    refused(2, "identity", "service", "add", "b", "--name", "en=T", "--redirect-uri", "http://t.example/#x",
            "--dir", str(home))  # fmt: skip
    entered = story.ok("enter", at="home")
    assert (entered["settings"], entered["services"], entered["entries"]) == (True, ["tax"], 2)
    assert story.ok("enter", at="home")["entries"] == 0
    assert "Nothing differs" in story.text("enter", at="home")
    refused(30, "identity", "enter", "--dir", str(_with_settings(story.state.at("lux"))))
    (story.state.at("lux") / "identity.toml").unlink()
    (home / "identity.toml").write_text(SETTINGS + "more = 1\n")
    refused(3, "identity", "enter", "--dir", str(home), says="identity.toml")
    (home / "identity.toml").write_text(SETTINGS)
    told = story.ok("state", at="home")
    assert (told["state"], told["place"], told["epoch"], told["decides"], told["why"]) == ("home", "home", 1, True, "")
    assert told["entries"] == 4
    text = story.text("state", at="home")
    assert "home: home, epoch 1" in text
    assert "first" in text
    refused(2, "identity", "gap", str(home), says="no epoch has been taken up")
    refused(2, "identity", "gap", str(home / "gap.note"), says="there is no file")


def _with_settings(folder: Path) -> Path:
    (folder / "identity.toml").write_text(SETTINGS)
    return folder


def _signed(requests: Path, made: Any, out: Path) -> list[str]:
    """What home's CA does with a folder of requests."""
    out.mkdir()
    files = []
    for row in made["requests"]:
        request = x509.load_pem_x509_csr((requests / row["file"]).read_bytes())
        begin = parse_instant(row["from"])
        certificate = pki().first.certify(request, begin=begin, days=45)
        files.append(str(out / f"{row['file']}.crt"))
        Path(files[-1]).write_bytes(certificate.public_bytes(Encoding.PEM))
    return files


def _kits(story: Story) -> None:
    state = story.state
    state.step("home")
    state.step("lux")
    who = ["--country", "EE", "--organization", "State IT", "--rungs", "2"]
    for place in ("home", "lux"):
        requests = story.folder / f"requests-{place}"
        made = story.ok("csr", "--out", str(requests), *who, at=place)
        assert len(made["requests"]) == 2
        assert (requests / "manifest.txt").exists()
        files = _signed(requests, made, story.folder / f"issued-{place}")
        if place == "home":
            accepted = story.ok("accept", *files, at=place)
        else:
            refused(30, "identity", "accept", *files, "--dir", str(state.at(place)), says="does not decide")
            accepted = story.ok("accept", *files, "--out", str(story.folder / "kit"), at=place)
        assert [row["state"] for row in accepted["certificates"]] == ["accepted", "accepted"]
        if place == "home":
            assert "known" in story.text("accept", *files, at=place)
    card = story.folder / "card.pem"
    card.write_bytes(pem(pki().first.card().certificate))
    assert story.ok("accept", str(card), at="home", code=30)["certificates"][0]["state"] == "refused"
    entered = story.ok("enter-kit", "lux", str(story.folder / "kit"), at="home")
    assert (entered["place"], entered["entries"], entered["keys"]) == ("lux", 3, True)
    assert story.ok("enter-kit", "lux", str(story.folder / "kit"), at="home")["entries"] == 0
    assert "0 entries" in story.text("enter-kit", "lux", str(story.folder / "kit"), at="home")
    refused(2, "identity", "enter-kit", "home", str(story.folder / "kit"), "--dir", str(state.at_home))
    told = refused(2, "identity", "enter-kit", "lux", str(story.folder / "nothing"), "--dir", str(state.at_home))
    assert "responders.pem" in told["message"]
    state.step("home")
    state.step("lux")
    checked = story.ok("check", at="lux", code=1)
    assert checked["whole"] is False
    wrong = {row["what"] for row in checked["rows"] if row["state"] != "ok"}
    assert wrong
    assert "token keys in home's key set" in wrong
    assert any(row["state"] == "ok" for row in checked["rows"])
    covered = next(row for row in checked["rows"] if row["what"].startswith("certificates of lux"))
    assert parse_instant(covered["until"]) > now()
    assert "NOT whole" in story.text("check", at="lux", code=1)
    status = story.state.small.fails(run("status", *state.small.home, "--json").code, "status", *state.small.home)
    assert status["identity"]["whole"] is False
    assert {row["what"] for row in status["identity"]["rows"]}
    assert "exile kit of the identity services is NOT whole" in run("status", *state.small.home).out


def _named(story: Story) -> None:
    """Nothing outside this machine is asked: names are Knot's, and home's keys are looked for where nobody listens."""
    for place in ("home", "lux"):
        folder = story.state.at(place)
        refused(2, "identity", "names", "check", "--dir", str(folder), says="there is no names.toml")
        (folder / "names.toml").write_text(NAMES.format(server=story.knot.address))
        key_file(folder / "dns.key", UPDATER)
        story.state.configure(folder, "key = ", 'home_jwks = "http://127.0.0.1:9/jwks"\nkey = ')


def _names_in_peace(story: Story) -> None:
    assert story.ok("names prepare", at="home")["report"]["changes"]
    assert story.ok("names check", at="home")["everywhere"] is True
    assert story.ok("names check", at="lux", code=1)["everywhere"] is False
    assert "NO: as of home" in story.text("names check", at="lux", code=1)
    refused(2, "identity", "names", "move", "--dir", str(story.state.at("lux")), says="does not decide")


def _nginx(story: Story) -> None:
    state, tls = story.state, story.folder / "tls"
    tls.mkdir()
    (tls / "issuers.pem").write_bytes(pem(pki().first.certificate))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=login.demo.test", "-keyout", tls / "key.pem", "-out", tls / "chain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    files = [
        "--certificate",
        str(tls / "chain.pem"),
        "--key",
        str(tls / "key.pem"),
        "--issuers",
        str(tls / "issuers.pem"),
    ]
    at_home = ["identity", "nginx", "--dir", str(state.at_home)]
    said = run(*at_home, *files)
    assert (said.code, said.out) == (3, "")
    assert "serve.card_socket" in said.err
    socket = story.folder / "door.sock"
    state.configure(state.at_home, "[serve]", f'[serve]\ncard_socket = "unix:{socket}"')
    text = story.text("nginx", *files, "--listen", "127.0.0.1:18443", "--card-listen", "127.0.0.1:18444", at="home")
    (tls / "place.conf").write_text(text)
    (tls / "nginx.conf").write_text(
        f"pid {tls}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n"
        + "".join(f"{kind}_temp_path {tls}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"include {tls}/place.conf;\n}}\n"
    )
    tested = subprocess.run(
        ["nginx", "-t", "-p", tls, "-c", tls / "nginx.conf"], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stderr
    assert "test is successful" in tested.stderr
    odd = [*files[:1], f"{tls}/a b;}}", *files[2:]]
    said = run(*at_home, *odd)
    assert (said.code, said.out) == (3, "")
    assert "no absolute path" in said.err


def _exile(story: Story) -> None:
    state = story.state
    state.ok(state.fail_over())
    gap = story.ok("gap", str(state.at("lux")), "--card", str(state.at("lux") / "machine.card"))
    assert (gap["checked"], gap["place"], gap["epoch"]) == (True, "lux", 2)
    said = run("identity", "gap", str(state.at("lux") / "state" / "gap.note"))
    assert said.code == 0
    assert "Nobody's signature was checked" in said.err
    assert story.ok("state", at="lux")["state"] == "exile"
    # The failover has moved the names already.
    assert story.ok("names check", at="lux")["everywhere"] is True
    assert story.ok("names move", at="lux")["report"]["changes"] == []
    assert len(story.ok("names undo", at="lux")["report"]["changes"]) == 1
    assert len(story.ok("names move", at="lux")["report"]["changes"]) == 1
    assert "yes" in story.text("names check", at="lux")


def _acts(story: Story) -> None:
    folder, state = story.folder / "acts", story.state
    folder.mkdir()
    with state.place("lux") as place:
        place.writer.enter([Issuer("second", pki().second.der, True), Issued(issuer(), (serial_bytes(77),))])
    ca = folder / "ca.pem"
    ca.write_bytes(pem(pki().first.certificate))
    assert story.ok("order issuer", str(ca))["issuer"] == issuer().hex()
    (folder / "serials.csv").write_text("serial_hex\n4D\n")
    lines = ["--csv", str(folder / "serials.csv"), "--issuer", issuer().hex()]
    for act, more, status in (("hold", [], Held), ("release", [], Good),
                              ("revoke", ["--reason", "superseded", "--since", _moment(-1)], Revoked)):  # fmt: skip
        order = folder / f"{act}.order"
        story.ok("order status", "--act", act, *lines, *more, "--out", str(order))
        assert story.ok(act, *story.granted(act, order), at="lux")["entered"] == 1
        with state.place("lux") as place:
            assert isinstance(place.store.status(issuer(), Serial(77)), status)
    story.ok("order show", str(folder / "revoke.order"))
    _extend(story, folder)
    _reissue(story, folder)


def _extend(story: Story, folder: Path) -> None:
    pinned = ["--fingerprint", story.state.state]
    story.ok(
        "order extend", "--issuer", issuer().hex(), "--ended-from", _moment(-300), "--ended-to", _moment(30),
        "--until", _moment(200), "--list-until", _moment(90), "--reason", "No cards can be made",
        "--basis", "Emergency Act", "--out", str(folder / "extend.order"), *pinned,
    )  # fmt: skip
    done = story.ok("extend", *story.granted("extend", folder / "extend.order"), at="lux")
    story.ok("order end", "--list", done["list"], "--reason", "Over", "--out", str(folder / "end.order"), *pinned)


def _reissue(story: Story, folder: Path) -> None:
    former, card = folder / "former", pki().first.card(code="60001017716")
    former.mkdir()
    (former / "card.pem").write_bytes(pem(card.certificate))
    with story.state.place("lux") as place:
        place.writer.enter([Issued(issuer(), (serial_bytes(card.serial),))])
    (folder / "exile.pem").write_bytes(pem(pki().second.certificate))
    key = folder / "exile.key"
    os.close(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600))
    key.write_bytes(pki().second.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    lux = ["--dir", str(story.state.at("lux")), "--key", str(key)]
    refused(30, "identity", "keep-key", "second-ca", *lux, "--issuer", "first", says="is not the one of first")
    refused(2, "identity", "keep-key", "second-ca", *lux, "--issuer", "third", says="names no issuing CA 'third'")
    assert story.ok("keep-key", "second-ca", *lux, "--issuer", "second")["name"] == "second-ca"
    order = folder / "reissue.order"
    story.ok("order reissue", "--ca", issuer_id(pki().second.der).hex(), "--until", _moment(400), "--group",
             str(former), "--out", str(order))  # fmt: skip
    made = story.ok(
        "reissue", *story.granted("reissue", order), "--ca", str(folder / "exile.pem"), "--ca-key", str(key),
        "--certificates", str(former), "--out", str(folder / "new"), at="lux",
    )  # fmt: skip
    assert made["made"] == 1


def _moment(days: int) -> str:
    return instant_text(Instant(now() + days * 86_400_000_000))
