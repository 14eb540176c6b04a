"""``exclave site probe`` at a gateway: a wrong address or certificate is told, with what to do next, and no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """All promises of a site are kept."""
    said = run("site", "probe", address(gateway.place.folder, gateway.port))
    assert said.code == 0, said.out
    assert "16 of 16 promises kept" in said.out
