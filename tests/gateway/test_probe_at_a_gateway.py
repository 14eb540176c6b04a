"""``exclave site probe`` at a gateway: a wrong address or certificate is told, with what to do next, and no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from exclave.ids import Key
from exclave.sites.gateway import GatewaySite
from exclave.sites.gateway_probe import try_deletion
from exclave.sites.memory import MemorySite
from exclave.sites.roles import roles_of
from support.gateway import NORTH, Running, client_certificate, host_place, running_gateway
from support.small_home import run


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("host")
    client_certificate(folder, "stranger")
    with running_gateway(host_place(folder)) as running:
        yield running


def address(folder: Path, port: int, state: str = NORTH, client: str = "north", authority: str = "ca") -> str:
    shown = f"certificate={folder}/{client}.pem&key={folder}/{client}.key" if client else ""
    trusted = f"&authorities={folder}/{authority}.pem" if authority else ""
    return f"https://127.0.0.1:{port}/{state}?{shown}{trusted}".replace("?&", "?")


@pytest.mark.parametrize(
    ("change", "code", "says", "hint"),
    [
        ({"port": 1}, 11, "Connection refused", "Nothing listens there"),
        ({"authority": ""}, 11, "its certificate is not accepted", "by telephone"),
        ({"client": "stranger"}, 11, "does not accept this client's certificate", "host.toml"),
        ({"client": "south"}, 13, "not-authorised", "another state's"),
        ({"client": ""}, 13, "no-certificate", "Add certificate="),
        ({"state": "c3" * 32}, 11, "unknown-state", "Compare the fingerprint"),
    ],
)
def test_what_is_wrong_is_said(gateway: Running, change: dict[str, str], code: int, says: str, hint: str) -> None:
    """The error, its exit code and the next step; no promise is called broken."""
    said = run("site", "probe", address(gateway.place.folder, **{"port": gateway.port, **change}))  # type: ignore[arg-type]
    assert said.code == code, said.err
    assert says in said.err
    assert hint in said.err
    assert said.out == ""


def test_a_right_address_is_tried(gateway: Running) -> None:
    """All promises of a site are kept, and a deletion is refused; that its operator can delete is said beside it."""
    said = run("site", "probe", address(gateway.place.folder, gateway.port))
    assert said.code == 0, said.out
    assert "17 of 17 promises kept" in said.out
    assert "kept   deletion-refused" in said.out
    assert "but by its operator" in " ".join(said.out.replace("│", " ").split())
    told = run("site", "probe", address(gateway.place.folder, gateway.port), "--json").json["roles"]
    assert [role["given"] for role in told] == [True, True, False]
    assert "the gateway refused a deletion (405)" in told[-1]["why"]


class Deleting:
    """A gateway that answers a deletion with ``status``, and carries it out or not."""

    def __init__(self, status: int, *, deletes: bool) -> None:
        self._status, self._deletes, self._site = status, deletes, MemorySite()

    def status_of(self, method: str, key: Key) -> int:
        assert (method, str(key).partition("/")[0]) == ("DELETE", "probe")
        if self._deletes:
            self._site = MemorySite()
        return self._status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)


@pytest.mark.parametrize(("status", "deletes"), [(204, True), (405, True), (202, False)])
def test_a_gateway_that_deletes_is_found(status: int, deletes: bool) -> None:
    """Whatever it answers, it is looked whether the object is there; and who says yes has refused nothing."""
    found = try_deletion(cast("GatewaySite", Deleting(status, deletes=deletes)), token="t")
    assert not found.kept
    role = roles_of([found], "https")[2]
    assert (role.given, role.answer, role.why) == (False, "NO", found.detail)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("dir", "whoever may write to the folder"),
        ("s3", "no lock=compliance"),
        ("coded", "no member"),
        ("web", "operator"),
    ],
)
def test_each_kind_of_site_has_its_own_reason(kind: str, why: str) -> None:
    """Nobody reads of buckets who has a folder."""
    assert why in roles_of([], kind)[2].why
    assert "gateway" not in roles_of([], kind)[2].why


def test_a_certificate_that_is_not_trusted_is_told_at_once(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """``verify`` calls it no fault, says what the probe says, and does not ask again what cannot change by waiting."""
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits before another try"))
    url = address(gateway.place.folder, gateway.port, client="", authority="")
    said = run("verify", "--site", f"lux={url}", "--fingerprint", NORTH)
    assert said.code == 11
    assert "FAULT" not in said.out
    assert f"NOT READ https://127.0.0.1:{gateway.port}/{NORTH}: its certificate is not accepted" in said.out
    assert "authorities= in the address names" in said.out
    assert "Nothing is known of what could not be read.\nNext: " in said.out
