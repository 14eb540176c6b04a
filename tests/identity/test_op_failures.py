"""What breaks under a log-in: tickets or keys that do not answer, a worker that another one takes over from."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from exclave.errors import UnavailableError
from exclave.identity.tickets import MemoryTickets, SqliteTickets
from exclave.ids import Instant, Label
from support.op_place import (
    RSA_KEY,
    SECRET,
    Browser,
    Keys,
    Known,
    Place,
    answer,
    header,
    location,
    query_of,
    relying,
)
from support.soft_signer import SoftSigner


def service() -> Known:
    return Known(relying(auth_methods=("client_secret_basic", "client_secret_post")))


class Failing(MemoryTickets):
    """Stops answering when it is told to."""

    broken = False

    def _check(self) -> None:
        if self.broken:
            raise UnavailableError("the tickets do not answer")

    def put(self, kind: str, key: bytes, value: bytes, expires: Instant) -> None:
        self._check()
        super().put(kind, key, value, expires)

    def get(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        self._check()
        return super().get(kind, key, now=now)

    def take(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        self._check()
        return super().take(kind, key, now=now)


def test_tickets_do_not_answer() -> None:
    """503 with a time to try again, as a page or as JSON; what was begun goes on when they answer again."""
    tickets = Failing()
    place = Place(service(), tickets=tickets)
    code = place.log_in()["code"]
    tickets.broken = True
    assert (place.authorize().status, header(place.authorize(), "content-type")[:9]) == (503, "text/html")
    for reply in (place.redeem(code), place.userinfo("A" * 22 + ".x"), place.authorize()):
        assert (reply.status, header(reply, "retry-after")) == (503, "60")
    tickets.broken = False
    assert place.redeem(code).status == 200


class Sleeping(Keys):
    """A PKCS#11 token that is out for a while."""

    awake = False

    def token(self, algorithm: str) -> tuple[str, SoftSigner]:
        if not self.awake:
            raise UnavailableError("the token does not answer")
        return super().token(algorithm)


def test_key_does_not_answer() -> None:
    """No token is given, and the code is not used up: the service's next attempt, seconds later, succeeds."""
    keys = Sleeping()
    place = Place(service(), keys=keys)
    code = place.log_in()["code"]
    assert place.redeem(code).status == 503
    keys.awake = True
    assert place.redeem(code).status == 200


def test_keys_are_published_although_the_key_does_not_answer() -> None:
    """The public halves stand in the journal, so services go on verifying; with none anywhere, 503 and not an empty
    set, which services would keep for a day."""
    place = Place(service(), keys=Sleeping())
    assert place.provider.jwks().status == 503
    place.store.keys = {Label("home"): Keys().jwks()}
    kids = {key["kid"] for key in json.loads(place.provider.jwks().body)["keys"]}
    assert kids == {Keys().token(algorithm)[0] for algorithm in ("RS256", "ES256")}
    assert Keys().token("RS256")[1] is RSA_KEY


def workers(folder: Path) -> tuple[Place, Place]:
    """Two processes of one place, as far as their state goes."""
    path = str(folder / "tickets.db")
    return Place(service(), tickets=SqliteTickets(path)), Place(service(), tickets=SqliteTickets(path))


def test_two_workers(tmp_path: Path) -> None:
    """Each step of a log-in may come to another worker."""
    one, two = workers(tmp_path)
    browser = Browser(one)
    interaction = query_of(location(one.authorize(browser)))["i"]
    assert two.interactions.find(interaction, browser.cookie) is not None
    code = answer(two.interactions.complete(interaction, browser.cookie, two.authentication()))["code"]
    tokens = json.loads(one.redeem(code).body)
    assert two.userinfo(tokens["access_token"]).status == 200
    assert two.redeem(code).status == 400
    assert one.userinfo(tokens["access_token"]).status == 401


def test_race_of_two_workers(tmp_path: Path) -> None:
    """One code, redeemed at both workers at once, again and again: tokens once at most, and ended where it was seen."""
    places = workers(tmp_path)
    for _ in range(20):
        code = places[0].log_in()["code"]
        replies: list[Any] = []
        gate = threading.Barrier(2)

        def redeem(place: Place, code: str = code, gate: threading.Barrier = gate, into: list[Any] = replies) -> None:
            gate.wait()
            into.append(place.redeem(code))

        threads = [threading.Thread(target=redeem, args=(place,)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [json.loads(reply.body) for reply in replies if reply.status == 200]
        assert len(won) <= 1
        assert all(places[0].userinfo(tokens["access_token"]).status == 401 for tokens in won)


@pytest.mark.parametrize("kind", ["code", "pushed", "access"])
def test_damaged_tickets(kind: str) -> None:
    """A ticket that is not what was put there is a failure here and no answer to a stranger."""
    place = Place(service())
    tickets = place.tickets
    assert isinstance(tickets, MemoryTickets)
    code = place.log_in()["code"]
    token = json.loads(place.redeem(code).body)["access_token"] if kind == "access" else ""
    pushed = json.loads(
        place.post(
            "/oidc/par",
            {"response_type": "code", "redirect_uri": "https://rp.demo.test/cb", "scope": "openid", "client_id": "rp",
             "client_secret": SECRET},
        ).body
    )["request_uri"]  # fmt: skip
    for (held, key), (_, expires) in list(tickets._held.items()):
        if held == kind:
            tickets.put(held, key, b"\x93\x01", expires)
    reply = {
        "code": lambda: place.redeem(code),
        "pushed": lambda: place.authorize(request_uri=pushed),
        "access": lambda: place.userinfo(token),
    }[kind]()
    assert reply.status == 503
