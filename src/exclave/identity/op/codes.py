"""Codes, access tokens and waiting log-ins, as they lie among the tickets: only hashes of their names lie there.

The access token's name is made from the code's, so whoever sends a used code again ends the token that came of it
(RFC 6749, section 4.1.2), although the code itself is long gone.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from exclave.errors import CorruptObject
from exclave.identity.contract import Authentication, Person
from exclave.identity.op.authorization import AuthorizationRequest
from exclave.ids import Instant

INTERACTION, CODE, ACCESS, PUSHED, SESSION, ASSERTION = (
    "interaction",
    "code",
    "access",
    "pushed",
    "session",
    "assertion",
)


class Who(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``contract.Authentication`` in a ticket."""

    subject: str
    given_name: str
    family_name: str
    date_of_birth: str
    amr: tuple[str, ...]
    acr: str
    time: int

    @classmethod
    def of(cls, done: Authentication) -> Who:
        p = done.person
        return cls(p.subject, p.given_name, p.family_name, p.date_of_birth, done.amr, done.acr, done.time)

    def authentication(self) -> Authentication:
        """The same again; whether it was by an extended certificate is not kept."""
        person = Person(self.subject, self.given_name, self.family_name, self.date_of_birth)
        return Authentication(person, self.amr, self.acr, Instant(self.time))


class Waiting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A log-in that a request waits for, under a name that is bound to the browser that began it."""

    request: AuthorizationRequest
    subject: str
    """Whom ``id_token_hint`` names: only this person will do; or empty."""
    begun: int


class Code(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a code stands for."""

    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    state: str
    who: Who
    sid: str
    epoch: int
    """Of the authority that gave it; a later one does not honour it."""


class Access(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an access token opens: the UserInfo of one log-in."""

    secret: bytes
    """Hash of the token."""
    client_id: str
    who: Who


class Session(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A browser in which a person logged in."""

    sid: str
    who: Who
    clients: tuple[str, ...]


_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder().encode
_waiting = msgspec.msgpack.Decoder(Waiting)
_code = msgspec.msgpack.Decoder(Code)
_access = msgspec.msgpack.Decoder(Access)
_session = msgspec.msgpack.Decoder(Session)
_request = msgspec.msgpack.Decoder(AuthorizationRequest)


def encode(ticket: Waiting | Code | Access | Session | AuthorizationRequest) -> bytes:
    return _encode(ticket)


def parse_waiting(data: bytes) -> Waiting:
    return _parsed(_waiting, data)


def parse_code(data: bytes) -> Code:
    return _parsed(_code, data)


def parse_access(data: bytes) -> Access:
    return _parsed(_access, data)


def parse_session(data: bytes) -> Session:
    return _parsed(_session, data)


def parse_pushed(data: bytes) -> AuthorizationRequest:
    return _parsed(_request, data)


def _parsed(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptObject("a ticket is not what was put there") from error


def access_name(code_key: bytes) -> bytes:
    """The 16 bytes under which the access token of the code lies whose hash is ``code_key``."""
    return hashlib.sha256(b"access of code\n" + code_key).digest()[:16]
