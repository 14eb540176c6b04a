"""Exile and return from one end to the other, with real parts in network namespaces that the test makes.

SeaweedFS as sites, Knot as name servers, nginx with TLS, Apache with mod_auth_openidc as a relying service that is
never touched, a citizen with a software card, OpenSSL, GnuTLS and the rules of Web eID in Java. What home writes goes
over its link to the sites, so cutting the link really cuts its feed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exclave.demo.pki import pem
from exclave.ids import Instant, now
from support.exile_machines import EMBASSY, ENVIRONMENT, HOME, ISSUER, LOGIN_PORT, remove_sockets
from support.exile_state import ExileState, make_state, until
from support.exile_world import Seen, ask_token, fetch, key_of, log_in, log_in_by_tls, read_statement
from support.netns import network
from support.small_home import SmallHome

JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcpkix", "bcprov", "bcutil"))
WEB_EID = Path(__file__).parent.parent / "support" / "java" / "WebEidStatus.java"
AIA = "http://aia.demo.test/"
WITHIN_S = 60


@dataclass(frozen=True)
class Status:
    """What ``openssl ocsp`` made of an answer."""

    text: str

    @property
    def good(self) -> bool:
        return self.accepted and ": good" in self.text

    @property
    def revoked(self) -> bool:
        return self.accepted and ": revoked" in self.text

    @property
    def accepted(self) -> bool:
        """Signed by a delegate of the CA, and not older than was asked for."""
        return "Response verify OK" in self.text and "WARNING" not in self.text

    @property
    def since(self) -> float:
        """thisUpdate, in seconds since 1970."""
        found = re.search(r"This Update: (.*) GMT", self.text)
        assert found, self.text
        return datetime.strptime(found[1], "%b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()


class Story:
    """The state, and what people in the world do."""

    def __init__(self, state: ExileState, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.cut = Instant(0)
        self.old = ""
        """A secret that was replaced in exile."""
        self.keys = self.token_keys()
        """Ids of all token keys that home publishes in peace: its own two and the embassy's."""
        named = {"ca": state.pki.second.certificate, "ca-first": state.pki.first.certificate}
        named |= {name: card.certificate for name, card in state.cards.items()}
        for name, certificate in named.items():
            (folder / f"{name}.pem").write_bytes(pem(certificate))
            (folder / f"{name}.der").write_bytes(_der(pem(certificate)))
        subprocess.run(["javac", "-d", folder, "-cp", JARS, WEB_EID], check=True, capture_output=True, text=True)

    def ocsp(self, name: str, url: str = AIA, *, age_s: int = 120) -> Status:
        """A citizen's certificate as OpenSSL asks, with a nonce, for an answer that is not older than ``age_s``."""
        return Status(self.state.world.run(*self._openssl(name, url, age_s)))

    def _openssl(self, name: str, url: str, age_s: int) -> list[str]:
        ca = "ca-first" if name == "jaan" else "ca"
        return [
            "openssl", "ocsp", "-issuer", f"{self.folder}/{ca}.pem", "-cert", f"{self.folder}/{name}.pem", "-url", url,
            "-CAfile", f"{self.folder}/{ca}.pem", "-partial_chain", "-nonce", "-status_age", str(age_s),
            "-timeout", "3",
        ]  # fmt: skip

    def at_home(self, name: str) -> Status:
        """Asked on home's own machine, whose link may be cut."""
        return Status(self.state.home.run(*self._openssl(name, f"http://{HOME}/", 120)))

    def gnutls(self, name: str) -> str:
        return self.state.world.run(
            "ocsptool", f"--ask={AIA}", f"--load-issuer={self.folder}/ca.pem", f"--load-cert={self.folder}/{name}.pem",
            f"--load-trust={self.folder}/ca.pem", "--nonce",
        )  # fmt: skip

    def web_eid(self, *names: str) -> list[str]:
        """By the rules of Web eID's library: two minutes."""
        told = self.state.world.run(
            "java", "-Xshare:auto", "-cp", f"{self.folder}:{JARS}", "WebEidStatus", AIA, f"{self.folder}/ca.der",
            *(f"{self.folder}/{name}.der" for name in names),
        )  # fmt: skip
        return told.strip().splitlines()

    def log_in(self, name: str) -> Seen:
        card = self.state.cards[name]
        return self.state.world.call(log_in, card.der, key_of(card), self.state.root / "tls" / "ca.pem")

    def log_in_by_tls(self, name: str) -> Seen:
        key = self.folder / f"{name}.key"
        key.write_bytes(key_of(self.state.cards[name]))
        return self.state.world.call(
            log_in_by_tls, self.folder / f"{name}.pem", key, self.state.root / "tls" / "ca.pem"
        )

    def redeem(self, host: str, client: str, secret: str) -> tuple[int, Any]:
        """A relying service asks ``host`` for a token: 400 if its secret counts and only the code does not."""
        return self.state.world.call(ask_token, host, client, secret, self.state.root / "tls" / "ca.pem")

    def token_keys(self) -> set[str]:
        """Ids of the keys in the JWK set, under the issuer's name."""
        ca = self.state.root / "tls" / "ca.pem"
        told = self.state.world.call(fetch, f"{ISSUER}/.well-known/openid-configuration", ca)
        assert told[0] == 200, told
        listed = self.state.world.call(fetch, told[1]["jwks_uri"], ca)[1]
        return {key["kid"] for key in (json.loads(listed) if isinstance(listed, str) else listed)["keys"]}

    def leads_home(self, name: str) -> bool:
        """Whether the name in certificates leads to home again, and a fresh answer comes."""
        led = self.state.world.run("getent", "ahosts", "aia.demo.test")
        return HOME in led and self.ocsp(name, age_s=5).good

    def until(self, holds: Any, what: str, seconds: float = 30) -> float:
        return until(holds, what, self.state.net.tails, seconds)


def _der(text: bytes) -> bytes:
    return base64.b64decode(b"".join(line for line in text.splitlines() if not line.startswith(b"-----")))


@pytest.mark.slow
def test_exile(tmp_path: Path) -> None:
    """Log-ins and the status of certificates go on under the same names while home is gone, and then come home."""
    logs, files = tmp_path / "logs", tmp_path / "files"
    logs.mkdir()
    files.mkdir()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(remove_sockets)
        # pytest's own folders are shut to www-data
        public = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exile-apache-")))
        net = stack.enter_context(network(logs, ENVIRONMENT))
        state = make_state(net, tmp_path, public)
        story = Story(state, files)
        print(f"\nmade in {time.monotonic() - began:.1f} s")
        for chapter in (
            before, revoked_at_home, cut_off, exiled, old_home_is_heard_again, decided_in_exile, home_again,
        ):  # fmt: skip
            since = time.monotonic()
            chapter(story)
            print(f"{chapter.__name__}: {time.monotonic() - since:.1f} s")


def before(story: Story) -> None:
    """In peace home answers, and the embassy answers as far as it knows, but logs nobody in."""
    seen = story.log_in("mari")
    assert (seen.status, seen.user.partition("@")[0]) == (200, "EE38001085718"), seen
    assert story.log_in_by_tls("jaan").user.startswith("EE37605030299")
    assert len(story.keys) == 4
    assert story.ocsp("mari").good
    assert story.ocsp("jaan").good
    assert "Certificate Status: good" in story.gnutls("mari")
    assert story.web_eid("mari", "stolen") == ["GOOD", "GOOD"]
    code, told = story.state.health(story.state.embassy)
    assert (code, told["state"], told["decides"]) == (200, "standby", False)
    replicated = story.ocsp("mari", f"http://{EMBASSY}/")
    assert replicated.good
    assert time.time() - replicated.since < 10
    assert story.redeem(EMBASSY, "tax", story.state.secrets["tax"])[0] == 503
    assert story.redeem(HOME, "tax", story.state.secrets["tax"])[0] == 400


def revoked_at_home(story: Story) -> None:
    """What home's CA writes into its list is refused abroad seconds later."""
    story.state.revoke_at_home("stolen")
    at_home = story.until(lambda: story.ocsp("stolen").revoked, "home refuses the stolen card", 15)
    abroad = story.until(lambda: story.ocsp("stolen", f"http://{EMBASSY}/").revoked, "the embassy refuses it too", 15)
    print(f"revoked at home: refused there after {at_home:.1f} s, abroad after {at_home + abroad:.1f} s")
    assert at_home + abroad < 15
    assert story.log_in("stolen").user == ""
    assert story.ocsp("mari", f"http://{EMBASSY}/").good


def cut_off(story: Story) -> None:
    """Without home's word the embassy's answers grow old: it claims nothing, and strict clients refuse them."""
    story.state.home.cut()
    story.cut = now()
    at = f"http://{EMBASSY}/"
    time.sleep(1.5)  # what was on its way arrives
    first = story.ocsp("mari", at)
    time.sleep(3)
    second = story.ocsp("mari", at)
    assert first.good
    assert second.since == first.since
    assert second.since < story.cut / 1e6 + 1
    strict = story.ocsp("mari", at, age_s=2)
    assert not strict.accepted
    assert "too old" in strict.text
    assert story.log_in("mari").user == ""
    assert story.state.health(story.state.embassy)[1]["decides"] is False
    # Nobody told home: it goes on for those who reach it, and decides what nobody abroad will know.
    story.state.revoke_at_home("late")
    story.until(lambda: story.at_home("late").revoked, "home refuses the late card", 15)
    assert story.ocsp("late", at, age_s=3600).good
    assert story.state.health(story.state.home, "/health/decides")[0] == 200


def exiled(story: Story) -> None:
    """Two custodians sign, and the same names lead to answers that are as good as home's were; the gap is told."""
    state = story.state
    signed = state.warrant("failover", state.embassy, "lux", state.at_embassy / "machine.key")
    lost = datetime.fromtimestamp(story.cut / 1e6, UTC).strftime("%Y-%m-%dT%H:%MZ")
    report = state.ok(
        state.embassy, "failover", "run", *state.where(), *signed, "--key", str(state.at_embassy / "machine.key"),
        "--dir", str(state.exile), "--lost-at", lost,
    )  # fmt: skip
    decided = _seconds(report["decided"])
    ran = time.time() - decided
    story.until(lambda: story.ocsp("mari", age_s=2).good, "a fresh answer under the AIA name")
    fresh = time.time() - decided
    seen = story.log_in("mari")
    logged_in = time.time() - decided
    print(f"from the last signature: failover done {ran:.1f} s, fresh OCSP {fresh:.1f} s, log-in {logged_in:.1f} s")
    assert seen.user.startswith("EE38001085718"), f"{seen}\n{state.net.tails()}"
    assert max(fresh, logged_in) < WITHIN_S
    assert story.log_in_by_tls("jaan").user.startswith("EE37605030299")
    assert story.web_eid("mari", "stolen") == ["GOOD", "REVOKED 1"]
    assert "Certificate Status: good" in story.gnutls("mari")
    assert story.log_in("stolen").user == ""
    assert state.health(state.embassy)[1]["state"] == "exile"
    _check_gap(story, report)
    exile_keys = story.token_keys()
    assert len(exile_keys) == 2
    assert exile_keys < story.keys, "home's keys are no longer trusted; the embassy's were published in peace"
    # A secret that leaked: the new one counts here, at once.
    story.old = state.secrets["bank"]
    state.secrets["bank"] = state.add_service("bank", state.embassy)
    assert story.redeem(EMBASSY, "bank", story.old)[0] == 401
    assert story.redeem(EMBASSY, "bank", state.secrets["bank"])[0] == 400


def _check_gap(story: Story, report: Any) -> None:
    """The statement is signed by the embassy's machine, served under the service's name, and lies at every site."""
    state = story.state
    served = state.world.call(fetch, f"{ISSUER}/statement/gap", state.root / "tls" / "ca.pem")
    assert served[0] == 200, served
    path = story.folder / "gap.note"
    path.write_text(served[1])
    gap = state.ok(state.world, "identity", "gap", str(path), "--card", str(state.at_embassy / "machine.card"))
    assert (gap["checked"], gap["epoch"], gap["place"]) == (True, 2, "lux")
    known = _seconds(gap["complete_until"])
    assert abs(known - story.cut / 1e6) < 5, gap
    for site in ("lux", "nord"):
        url = state.small.urls[site]
        held = state.world.call(read_statement, url, state.small.fingerprint, gap["register"], path.read_bytes())
        assert held == path.read_bytes()


def decided_in_exile(story: Story) -> None:
    """By warrant: a revocation counts within a second; a held card is refused until it is released."""
    state = story.state
    for act, name in (("revoke", "lost"), ("hold", "found")):
        assert story.ocsp(name).good
        done = state.act_in_exile(act, name)
        since = time.monotonic()
        assert done["entered"] == 1, done
        assert story.ocsp(name).revoked, f"after {act}"
        at_ocsp = time.monotonic() - since
        seen = story.log_in(name)
        at_login = time.monotonic() - since
        print(f"{act} by warrant: seen at OCSP within {at_ocsp:.2f} s, at log-in within {at_login:.2f} s")
        assert seen.user == ""
        assert at_ocsp < 1
        assert at_login < 1.5
    assert "certificateHold" in story.ocsp("found").text
    state.act_in_exile("release", "found")
    assert story.ocsp("found").good
    assert story.log_in("found").user.startswith("EE38001085718")
    assert story.ocsp("lost").revoked
    state.act_in_exile("hold", "kept")
    # The machine is switched off and on: what was decided stays decided.
    state.restart(state.embassy)
    assert state.health(state.embassy)[1]["state"] == "exile"
    assert story.ocsp("mari", age_s=2).good
    assert story.ocsp("lost").revoked


def old_home_is_heard_again(story: Story) -> None:
    """Home's machines never stopped. Once they are heard again they see the later epoch, and answer nothing."""
    state = story.state
    # Behind its cut link home still believes in itself, and in a secret that counts no more.
    assert state.health(state.home, "/health/decides")[0] == 200
    state.home.restore()
    took = story.until(lambda: state.health(state.home)[0] == 503, "home sees the later epoch", 90)
    print(f"old home answers nothing {took:.1f} s after its link is back")
    _home_is_silent(story)
    state.restart(state.home)
    _home_is_silent(story)
    assert story.ocsp("mari", age_s=2).good
    assert story.log_in("mari").user.startswith("EE38001085718")


def _home_is_silent(story: Story) -> None:
    state = story.state
    told = state.health(state.home)
    assert told[0] == 503
    assert (told[1]["state"], told[1]["epoch"], told[1]["decides"]) == ("returning", 2, False)
    asked = story.ocsp("mari", f"http://{HOME}/")
    assert "trylater" in asked.text or "503" in asked.text, asked.text
    for client, secret in (("bank", story.old), ("bank", state.secrets["bank"]), ("tax", state.secrets["tax"])):
        assert story.redeem(HOME, client, secret)[0] == 503
    for path in ("/.well-known/openid-configuration", "/oidc/jwks"):
        code, text = state.home.call(fetch, f"http://127.0.0.1:{LOGIN_PORT}{path}")
        assert code == 503, (path, code, text)


def home_again(story: Story) -> None:
    """By warrant a new machine at home, with the old one's disk, takes in what exile decided, before it answers."""
    state, key = story.state, story.state.root / "home-2.key"
    state.ok(state.embassy, "backup", "--home", str(state.exile))
    signed = state.warrant("failback", state.home, "home", key)
    place = state.at_home / "place.toml"
    place.write_text(re.sub(r"(?m)^key = .*$", f'key = "{key}"', place.read_text(), count=1))
    state.restart(state.home)
    assert state.health(state.home)[1]["state"] == "returning"
    report = state.ok(
        state.home, "failover", "run", *state.where(), *signed, "--key", str(key), "--dir",
        str(state.root / "return"), "--identity", str(state.at_home),
    )  # fmt: skip
    decided = _seconds(report["decided"])
    ran = time.time() - decided
    story.until(lambda: story.leads_home("mari"), "home's answers under the AIA name")
    print(f"from the last signature: failback done {ran:.1f} s, home answers under the AIA name after"
          f" {time.time() - decided:.1f} s")  # fmt: skip
    assert story.log_in("mari").user.startswith("EE38001085718")
    told = state.health(state.home)
    assert (told[0], told[1]["state"], told[1]["epoch"]) == (200, "home", 3)
    for name in ("stolen", "late", "lost", "kept"):
        assert story.ocsp(name).revoked, name
        assert story.log_in(name).user == ""
    assert "certificateHold" in story.ocsp("kept").text
    assert story.ocsp("found").good
    _exile_is_over(story)


def _exile_is_over(story: Story) -> None:
    """The embassy stands by again and follows; home's files do not bring back what exile replaced."""
    state = story.state
    story.until(lambda: state.health(state.embassy)[1]["state"] == "standby", "the embassy stands by")
    assert story.redeem(EMBASSY, "tax", state.secrets["tax"])[0] == 503
    at = f"http://{EMBASSY}/"
    story.until(lambda: story.ocsp("late", at, age_s=5).revoked, "the embassy follows home's feed")
    entered = state.ok(state.home, "identity", "enter", "--dir", str(state.at_home))
    assert entered["elsewhere"] == ["services: bank"]
    assert story.redeem(HOME, "bank", story.old)[0] == 401
    assert story.redeem(HOME, "bank", state.secrets["bank"])[0] == 400
    _check_merge(story)
    assert story.token_keys() == story.keys
    state.ok(state.home, "backup", "--home", str(state.root / "return"))
    assert state.ok(state.world, "verify", *state.small.where())["ok"]


def _check_merge(story: Story) -> None:
    """The statement is at the sites, with numbers only; what only home had decided was taken, and is told at home."""
    state = story.state
    merge = (state.at_home / "state" / "merge.note").read_bytes()
    assert b"\nepoch 3\nplace home\n" in merge
    assert b"\ntaken 1\n" in merge
    register = state.home.call(SmallHome.id_of, state.small, "identity")
    for site in ("lux", "nord"):
        url = state.small.urls[site]
        assert state.world.call(read_statement, url, state.small.fingerprint, register, merge) == merge
    report = (state.at_home / "state" / "merge-report.txt").read_text()
    assert f"{state.cards['late'].serial:X}" in report
    assert " taken: revoked since" in report


def _seconds(value: Any) -> float:
    """JSON shows moments as microseconds, or as text."""
    if isinstance(value, int | float):
        return value / 1e6
    return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
