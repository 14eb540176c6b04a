"""Tells people and machines of alarms: by webhook and by e-mail. None waits for another, and none holds a look up."""

from __future__ import annotations

import hmac
import json
import smtplib
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import httpx

from exclave.errors import ConfigError, ExclaveError, UnavailableError
from exclave.formats.watchconfig import MailConfig, WatchConfig, WebhookConfig, server_of
from exclave.ids import Fingerprint, Instant, RegisterId, instant_text
from exclave.keys.private_file import read_private
from exclave.rules.alarms import Event, Happened

TIMEOUT_S = 10.0
"""Of each step of a delivery."""
MAX_SECRET_BYTES = 4096
MAX_REPLY_LINES = 100
"""Of one answer of a mail server; each has at most 8 KiB."""
MAX_SAID_CHARS = 500
"""Of what a server says when it refuses."""
MAX_SHOWN = 100
"""Most events that one e-mail spells out; the rest is counted."""
FORMAT = "exclave/watch-events/v1"


@dataclass(frozen=True, slots=True)
class Message:
    """What one round has to tell one channel."""

    state: Fingerprint
    state_name: str
    at: Instant
    events: tuple[Event, ...]
    names: Mapping[RegisterId, str]

    def json(self) -> bytes:
        """For machines."""
        told = [self._event(event) for event in self.events]
        head = {"format": FORMAT, "state": self.state, "state_name": self.state_name, "at": instant_text(self.at)}
        return json.dumps({**head, "events": told}, ensure_ascii=False).encode()

    def _event(self, event: Event) -> dict[str, Any]:
        register, _, site = event.key.partition("/")
        one = event.condition
        return {
            "happened": event.happened, "register": register, "name": self.names.get(RegisterId(register)),
            "site": site or None, "condition": event.state, "since": instant_text(event.since),
            "good_until": instant_text(one.time) if one is not None and one.time else None,
            "why": one.why if one is not None else "",
        }  # fmt: skip

    def subject(self) -> str:
        """One line: the worst that happened."""
        risen = [event for event in self.events if event.happened is not Happened.RESOLVED]
        if not risen:
            return f"[exclave] {self._one_line(self.state_name)}: {len(self.events)} resolved"
        first = self.line(risen[0])
        more = f" (and {len(self.events) - 1} more)" if len(self.events) > 1 else ""
        return f"[exclave] {self._one_line(self.state_name)}: {first[:120]}{more}"

    def text(self) -> str:
        """For people."""
        lines = [self.line(event) for event in self.events[:MAX_SHOWN]]
        if len(self.events) > MAX_SHOWN:
            lines.append(f"and {len(self.events) - MAX_SHOWN} more: exclave watch --once shows all")
        head = f"{self.state_name}\nstate {self.state}\nlooked at {instant_text(self.at)}\n"
        return head + "\n" + "\n".join(f"- {line}" for line in lines) + "\n"

    def line(self, event: Event) -> str:
        """One event in words."""
        register, _, site = event.key.partition("/")
        what = self.names.get(RegisterId(register), register)
        where = f" at {site}" if site else ""
        one = event.condition
        if one is None:
            return self._one_line(f"{what}{where}: {event.state} no more")
        again = ", still" if event.happened is Happened.REPEATED else ""
        good = f"; good until {instant_text(one.time)}" if one.time else "; no good version"
        return self._one_line(f"{what}{where}: {event.state}{again}, since {instant_text(one.since)}: {one.why}{good}")

    @staticmethod
    def _one_line(text: str) -> str:
        """Hosts' words may be in it: nothing that breaks a header or a terminal."""
        return "".join(char if char.isprintable() else " " for char in text)[:1000]


class Channel(Protocol):
    """One way to tell."""

    @property
    def name(self) -> str:
        """Without secrets; the same after a restart."""

    def tell(self, message: Message) -> None:
        """Returns once it was taken; ``UnavailableError`` if not."""


class Webhook:
    """A POST of JSON, signed with a shared secret or with a bearer token."""

    def __init__(self, config: WebhookConfig, folder: Path) -> None:
        """``folder``: what files are relative to. ``KeyFileExposed`` for a secret that others can read."""
        self._url = config.url
        self.name = f"webhook {httpx.URL(config.url).host}{httpx.URL(config.url).path}"
        self._secret = _secret(folder, config.secret_file) if config.secret_file else b""
        self._bearer = _secret(folder, config.bearer_file).decode("latin-1") if config.bearer_file else ""
        self._tls = _trusting(folder, config.authorities)
        if config.secret_file and len(self._secret) < 16:
            raise ConfigError(f"{config.secret_file}: a secret has at least 16 bytes")

    def tell(self, message: Message) -> None:
        self.post(message.json(), message.at)

    def post(self, body: bytes, at: Instant) -> None:
        """The signature covers the time, so that an old message cannot be sent again much later."""
        headers = {"content-type": "application/json", "user-agent": "exclave-watch"}
        if self._secret:
            time = instant_text(at)
            proof = hmac.digest(self._secret, time.encode() + b"\n" + body, "sha256").hex()
            headers["exclave-signature"] = f"time={time},hmac-sha256={proof}"
        if self._bearer:
            headers["authorization"] = f"Bearer {self._bearer}"
        _post(self._url, body, headers, self._tls, self.name)


class Heartbeat:
    """A POST after each look, to something that raises an alarm when it stops."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = f"heartbeat {httpx.URL(url).host}"

    def tell(self, message: Message) -> None:
        head = {"format": "exclave/watch-heartbeat/v1", "state": message.state, "at": instant_text(message.at)}
        _post(self._url, json.dumps(head).encode(), {"content-type": "application/json"}, None, self.name)


def _post(url: str, body: bytes, headers: dict[str, str], tls: ssl.SSLContext | None, name: str) -> None:
    try:
        with (
            httpx.Client(verify=tls or True, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            if not 200 <= answer.status_code < 300:
                raise UnavailableError(f"{name} answered {answer.status_code}")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise UnavailableError(f"{name}: {type(error).__name__}: {error}") from error


class _Lines:
    """A mail server's answers, so many lines of each: who continues them without end is left."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner, self.left = inner, 0

    def readline(self, limit: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(f"more than {MAX_REPLY_LINES} lines in one answer")
        return self._inner.readline(limit)

    def close(self) -> None:
        self._inner.close()


class _FewLines:
    """Of ``smtplib``'s clients: bounds the lines of one answer, which they do not."""

    file: Any
    sock: Any

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None:
            self.file = _Lines(self.sock.makefile("rb"))
        self.file.left = MAX_REPLY_LINES
        return super().getreply()  # type: ignore[misc,no-any-return]


class _Smtp(_FewLines, smtplib.SMTP):
    pass


class _SmtpTls(_FewLines, smtplib.SMTP_SSL):
    pass


class Mail:
    """One e-mail for all that a round has to tell."""

    def __init__(self, config: MailConfig, folder: Path) -> None:
        self._config = config
        self._host, self._port = server_of(config)
        self.name = f"mail {','.join(config.to)}"
        self._password = _secret(folder, config.password_file).decode() if config.password_file else ""
        self._tls = _trusting(folder, config.authorities) or ssl.create_default_context()

    def tell(self, message: Message) -> None:
        letter = EmailMessage()
        letter["From"], letter["To"] = self._config.sender, ", ".join(self._config.to)
        letter["Subject"] = message.subject()
        letter["Date"] = format_datetime(datetime.fromtimestamp(message.at / 1e6, UTC))
        letter["Message-ID"] = make_msgid(domain=self._config.sender.rpartition("@")[2])
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(message.text())
        try:
            self._send(letter)
        except (smtplib.SMTPException, OSError, ValueError) as error:  # ValueError: a challenge that is no base64
            raise UnavailableError(f"{self.name}: {type(error).__name__}: {str(error)[:MAX_SAID_CHARS]}") from error

    def _send(self, letter: EmailMessage) -> None:
        server: smtplib.SMTP
        if self._config.tls == "tls":
            server = _SmtpTls(self._host, self._port, timeout=TIMEOUT_S, context=self._tls)
        else:
            server = _Smtp(self._host, self._port, timeout=TIMEOUT_S)
        with server:
            if self._config.tls == "starttls":
                server.starttls(context=self._tls)
            if self._config.user:
                server.login(self._config.user, self._password)
            refused = server.send_message(letter)
            if refused:
                raise UnavailableError(f"{self.name}: the server refused {', '.join(sorted(refused))}")


def _secret(folder: Path, name: str) -> bytes:
    """The first line of a private file."""
    data = read_private(str(folder / name), MAX_SECRET_BYTES)
    if len(data) > MAX_SECRET_BYTES or not data.strip():
        raise ConfigError(f"{folder / name}: a secret has 1 to {MAX_SECRET_BYTES} bytes")
    return data.strip()


def _trusting(folder: Path, authorities: str) -> ssl.SSLContext | None:
    if not authorities:
        return None
    try:
        return ssl.create_default_context(cafile=str(folder / authorities))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{folder / authorities} is no file of certificates: {error}") from error


def open_channels(config: WatchConfig, folder: Path) -> tuple[Channel, ...]:
    """All channels of a configuration; nothing is contacted yet."""
    made: list[Channel] = [Webhook(one, folder) for one in config.webhook]
    made += [Mail(one, folder) for one in config.mail]
    if len({channel.name for channel in made}) != len(made):
        raise ConfigError("watch: two channels tell the same people at the same place")
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The end of one delivery."""

    events: tuple[Event, ...]
    at: Instant
    problem: str
    """Empty if it was taken."""


class Lane:
    """One channel with a thread of its own: while it is busy, nobody waits for it, and it hears the rest later."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._thread: threading.Thread | None = None
        self._done: list[Delivered] = []

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, message: Message) -> None:
        """Begins a delivery; the lane must not be busy."""
        self._thread = threading.Thread(target=self._run, args=(message,), daemon=True, name=self.channel.name)
        self._thread.start()

    def _run(self, message: Message) -> None:
        try:
            self.channel.tell(message)
        except ExclaveError as error:
            self._done.append(Delivered(message.events, message.at, error.message))
        else:
            self._done.append(Delivered(message.events, message.at, ""))

    def finished(self) -> list[Delivered]:
        """Deliveries that ended since it was asked last."""
        done, self._done = self._done, []
        return done

    def wait(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)
