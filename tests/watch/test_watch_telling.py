"""Alarms reach people and machines over real sockets: once, again by interval, when they end, and after a restart."""

from __future__ import annotations

import base64
import email
import email.policy
import hmac
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from exclave.errors import ConfigError, KeyFileExposed, UsageError
from exclave.formats.watchconfig import parse_watch_config
from exclave.ids import Fingerprint, instant_text
from exclave.operations import telling
from exclave.operations.telling import open_channels
from exclave.operations.watch_round import Duty, Round, read_memory
from support.alarm_receivers import endless, http_receiver, mail_receiver, mute
from support.hostile import MissingSite, containing
from support.hostile_town import Silent
from support.loopback_tls import loopback_tls
from support.watched import World

SECRET = "a secret of sixteen bytes or more"


def private(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text + "\n")
    (folder / name).chmod(0o600)
    return name


def duty(country: World, folder: Path, toml: str, *, state: bool = True) -> Duty:
    config = parse_watch_config(f"[watch]\n{toml}".encode())
    pinned = Fingerprint(country.home.fingerprint)
    path = folder / "watch.json" if state else None
    names = {country.register: "gazette"}
    return Duty(
        country.watch(proof_s=config.proof_s), config, pinned, names, open_channels(config, folder),
        read_memory(path, pinned), path, country.clock,
    )  # fmt: skip


def hook(port: int, **more: str) -> str:
    rest = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    return f'[[watch.webhook]]\nurl = "http://127.0.0.1:{port}/alarms"\n{rest}'


def done(made: Duty) -> Round:
    found = made.round()
    made.settle(60)
    return found


def events(bodies: list[bytes]) -> list[tuple[str, str, str]]:
    told = [event for body in bodies for event in json.loads(body)["events"]]
    return [(event["happened"], event["site"] or "rule", event["condition"]) for event in told]


def test_a_webhook_hears_once_and_then_the_end(country: World, tmp_path: Path) -> None:
    """Raised once however often it looks, repeated after the interval, resolved when all is well; each signed."""
    with http_receiver() as heard:
        made = duty(
            country,
            tmp_path,
            "repeat_s = 600\nproof_s = 1\n" + hook(heard.port, secret_file=private(tmp_path, "s", SECRET)),
        )
        done(made)
        assert heard.bodies == [], "all is fresh"
        country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
        country.skew_s = 2
        done(made)
        done(made)
        assert events(heard.bodies) == [("raised", "lux", "damaged")]
        country.skew_s = 700
        done(made)
        assert events(heard.bodies)[1:] == [("repeated", "lux", "damaged")]
        country.sites["lux"].inner = country.true("lux")
        country.skew_s = 710
        done(made)
        done(made)
        assert events(heard.bodies)[2:] == [("resolved", "lux", "damaged")]
        for body, headers in zip(heard.bodies, heard.headers, strict=True):
            time, proof = (part.split("=", 1)[1] for part in headers["exclave-signature"].split(","))
            assert time == json.loads(body)["at"]
            assert proof == hmac.digest(SECRET.encode(), time.encode() + b"\n" + body, "sha256").hex()


def test_a_restart_repeats_nothing(country: World, tmp_path: Path) -> None:
    """The state file remembers what was told; without it, it is told again; a damaged one counts as none."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with http_receiver() as heard:
        toml = hook(heard.port, bearer_file=private(tmp_path, "b", "token-1"))
        since = {c.key: c.since for c in done(duty(country, tmp_path, toml)).conditions}
        country.skew_s = 60
        again = done(duty(country, tmp_path, toml))
        assert {c.key: c.since for c in again.conditions} == since
        assert events(heard.bodies) == [("raised", "lux", "damaged")]
        assert heard.headers[0]["authorization"] == "Bearer token-1"
        (tmp_path / "watch.json").write_bytes(b'{"format": 7')
        done(duty(country, tmp_path, toml))
        assert events(heard.bodies) == [("raised", "lux", "damaged")] * 2


def test_another_states_memory_is_refused(country: World, tmp_path: Path) -> None:
    """Two watches that share a file by mistake are told so."""
    made = duty(country, tmp_path, "")
    done(made)
    with pytest.raises(UsageError, match="another state"):
        read_memory(tmp_path / "watch.json", Fingerprint("ab" * 32))


def test_a_channel_that_is_down_hears_later(country: World, tmp_path: Path) -> None:
    """A webhook that refuses hears the alarm as soon as it takes it; the e-mail beside it has it at once."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with http_receiver() as heard, mail_receiver() as post:
        toml = hook(heard.port, bearer_file=private(tmp_path, "b", "t")) + mail(post.port, "none")
        made = duty(country, tmp_path, toml)
        heard.status = 503
        done(made)
        assert len(post.letters) == 1
        assert made.health[made.channels[0].name].failures == 1
        heard.status = 204
        done(made)
        done(made)
        assert events(heard.bodies) == [("raised", "lux", "damaged")]
        assert len(post.letters) == 1


def mail(port: int, tls: str, **more: str) -> str:
    rest = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    return (
        f'[[watch.mail]]\nserver = "127.0.0.1:{port}"\nsender = "watch@example.org"\n'
        f'to = ["officer@example.org", "second@example.org"]\ntls = "{tls}"\n{rest}'
    )


@pytest.mark.parametrize("way", ["starttls", "tls"])
def test_an_encrypted_e_mail(country: World, tmp_path: Path, way: str) -> None:
    """A letter over TLS, with a log-in, whose certificate is checked; it says what, where, since when and why."""
    authority, certificate, key = loopback_tls(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with mail_receiver(tls, implicit=way == "tls") as post:
        login = {"user": "watch", "password_file": private(tmp_path, "p", "pass")}
        made = duty(country, tmp_path, mail(post.port, way, authorities=authority.name, **login))
        done(made)
        ((raw, encrypted),) = post.letters
        assert encrypted
        assert base64.b64decode(post.logins[0]) == b"\0watch\0pass"
        letter: Any = email.message_from_bytes(raw, policy=email.policy.default)
        assert letter["To"] == "officer@example.org, second@example.org"
        assert letter["Subject"].startswith("[exclave] Republic of Small Home: gazette at lux: damaged, since ")
        text = letter.get_content()
        assert country.home.fingerprint in text
        assert "missing-object" in text
        other = duty(country, tmp_path, mail(post.port, way, **login), state=False)
        done(other)
        assert len(post.letters) == 1, "a server that nobody vouches for gets nothing"
        assert "certificate" in other.health[other.channels[0].name].problem.lower()


def test_a_refused_letter_is_no_delivery(country: World, tmp_path: Path) -> None:
    """A server that refuses the recipients has not told anybody."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with mail_receiver() as post:
        post.refuses = True
        made = duty(country, tmp_path, mail(post.port, "none"))
        done(made)
        assert made.health[made.channels[0].name].failures == 1
        post.refuses = False
        done(made)
        assert len(post.letters) == 1


def test_a_channel_that_hangs_holds_nothing_up(country: World, tmp_path: Path) -> None:
    """While one server keeps a message without an answer, looks go on, and the other channel hears every change."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with http_receiver() as stuck, http_receiver() as heard:
        stuck.hold.clear()
        bearer = private(tmp_path, "b", "t")
        other = f'[[watch.webhook]]\nurl = "http://localhost:{heard.port}/x"\nbearer_file = "{bearer}"\n'
        made = duty(country, tmp_path, "proof_s = 1\n" + hook(stuck.port, bearer_file=bearer) + other)
        made.round()
        assert stuck.arrived.wait(60)
        made.lanes[1].wait(60)
        country.sites["lux"].inner = country.true("lux")
        country.skew_s = 5
        made.round()
        made.lanes[1].wait(60)
        made.settle(0)
        assert events(heard.bodies) == [("raised", "lux", "damaged"), ("resolved", "lux", "damaged")]
        assert made.lanes[0].busy
        stuck.hold.set()
        made.settle(60)
        done(made)
        assert events(stuck.bodies) == [("raised", "lux", "damaged"), ("resolved", "lux", "damaged")]


def test_a_server_that_says_nothing_is_given_up(
    country: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail server that takes the connection and is silent ends in a failure, not in waiting."""
    monkeypatch.setattr(telling, "TIMEOUT_S", 0.3)
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with mute() as port:
        made = duty(country, tmp_path, mail(port, "none"))
        done(made)
        assert made.health[made.channels[0].name].failures == 1


def test_a_server_that_never_comes_to_the_end_is_left(country: World, tmp_path: Path) -> None:
    """A mail server whose answer has line after line costs a hundred lines and a failure."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with endless() as port:
        made = duty(country, tmp_path, mail(port, "none"))
        done(made)
        health = made.health[made.channels[0].name]
        assert health.failures == 1
        assert "more than 100 lines in one answer" in health.problem


def test_a_challenge_that_is_none_is_a_failure(country: World, tmp_path: Path) -> None:
    """A mail server that answers a log-in with what is no base64 fails like any other, and it is told that it does."""
    country.sites["lux"].inner = MissingSite(country.true("lux"), containing("/pack/"))
    with mail_receiver() as post:
        post.welcome = "334 a"
        made = duty(country, tmp_path, mail(post.port, "none", user="watch", password_file=private(tmp_path, "p", "t")))
        done(made)
        assert made.health[made.channels[0].name].failures == 1


def test_silence_is_told_after_patience(country: World, tmp_path: Path) -> None:
    """A site that misses one look is no alarm yet; one that stays away is."""
    with http_receiver() as heard:
        made = duty(country, tmp_path, "patience_s = 300\n" + hook(heard.port, bearer_file=private(tmp_path, "b", "t")))
        done(made)
        country.sites["nord"].inner = Silent(country.true("nord"))
        assert done(made).alarms == ()
        country.skew_s = 301
        done(made)
        assert events(heard.bodies) == [("raised", "nord", "unknown")]


def test_a_paused_register(country: World, tmp_path: Path) -> None:
    """While it is paused nobody is told and the verdict is calm; then the alarm comes, since when it began."""
    country.skew_s = 4000
    end = instant_text(country.clock())[:16]
    country.skew_s = 3700
    pause = f'[[watch.pause]]\nregister = "gazette"\nuntil = "{end}Z"\nreason = "moving house"\n'
    with http_receiver() as heard:
        made = duty(country, tmp_path, pause + hook(heard.port, bearer_file=private(tmp_path, "b", "t")))
        found = done(made)
        assert (found.worst, found.alarms) == ("fresh", ())
        assert found.verdicts[0].state == "late", "it is late all the same, and is shown so"
        assert "moving house" in found.paused[country.register]
        country.skew_s = 4100
        found = done(made)
        assert found.worst == "late"
        assert {event[:2] for event in events(heard.bodies)} == {
            ("raised", "rule"), ("raised", "home"), ("raised", "lux"), ("raised", "nord"),
        }  # fmt: skip


def test_a_state_that_cannot_be_read(country: World, tmp_path: Path) -> None:
    """Without any site the watch says that of the whole state, and the end of it too."""
    for name, site in country.sites.items():
        site.inner = Silent(country.true(name))
    with http_receiver() as heard:
        made = duty(country, tmp_path, "patience_s = 0\n" + hook(heard.port, bearer_file=private(tmp_path, "b", "t")))
        assert done(made).worst == "unknown"
        assert json.loads(heard.bodies[0])["events"][0]["register"] == "state"
        for name, site in country.sites.items():
            site.inner = country.true(name)
        assert done(made).worst == "fresh"
        assert events(heard.bodies) == [("raised", "rule", "unknown"), ("resolved", "rule", "unknown")]


def test_the_heart_beats(country: World, tmp_path: Path) -> None:
    """After each look something else is told that the watch is alive, also while all is well."""
    with http_receiver() as heard:
        made = duty(country, tmp_path, f'heartbeat_url = "http://127.0.0.1:{heard.port}/beat"\n')
        done(made)
        done(made)
        assert [json.loads(body)["format"] for body in heard.bodies] == ["exclave/watch-heartbeat/v1"] * 2


BAD = {
    "a webhook without a secret": '[[watch.webhook]]\nurl = "https://example.org/"\n',
    "a bearer token in the clear": '[[watch.webhook]]\nurl = "http://example.org/"\nbearer_file = "x"\n',
    "no web address": '[[watch.webhook]]\nurl = "ftp://example.org/"\nsecret_file = "x"\n',
    "a name in the address": '[[watch.webhook]]\nurl = "https://me:pw@example.org/"\nsecret_file = "x"\n',
    "mail in the clear": '[[watch.mail]]\nserver = "mx.org:25"\nsender = "a@b.c"\nto = ["a@b.c"]\ntls = "none"\n',
    "a header in an address": '[[watch.mail]]\nserver = "h:25"\nsender = "a@b.c"\nto = ["a@b.c\\nBcc: x@y.z"]\n',
    "nobody to tell": '[[watch.mail]]\nserver = "h:25"\nsender = "a@b.c"\nto = []\n',
    "a password alone": '[[watch.mail]]\nserver = "h:25"\nsender = "a@b.c"\nto = ["a@b.c"]\npassword_file = "p"\n',
    "no port": '[[watch.mail]]\nserver = "h"\nsender = "a@b.c"\nto = ["a@b.c"]\n',
    "a pause without an end": '[[watch.pause]]\nregister = "x"\nuntil = "never"\nreason = "y"\n',
    "a pause without a reason": '[[watch.pause]]\nregister = "x"\nuntil = "2026-11-28T06:00Z"\nreason = " "\n',
    "never": "every_s = 0\n",
    "a word that nobody knows": "evry_s = 60\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_configuration(name: str) -> None:
    """What cannot work, or would give a secret away, is refused before anything is contacted."""
    with pytest.raises(ConfigError):
        parse_watch_config(f"[watch]\n{BAD[name]}".encode())


def test_secrets_that_others_can_read(tmp_path: Path) -> None:
    """A secret file is private, and long enough."""
    (tmp_path / "s").write_text(SECRET)
    config = parse_watch_config(b'[watch]\n[[watch.webhook]]\nurl = "https://example.org/"\nsecret_file = "s"\n')
    (tmp_path / "s").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        open_channels(config, tmp_path)
    private(tmp_path, "s", "short")
    with pytest.raises(ConfigError, match="16 bytes"):
        open_channels(config, tmp_path)
