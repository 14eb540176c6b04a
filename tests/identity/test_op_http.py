"""The provider over HTTP: its OpenAPI document under schemathesis, methods, limits, the caller's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from exclave.identity.op.settings import OpSettings
from exclave.identity.op.wire import MAX_BODY_BYTES
from support.op_place import RP, SECRET, Known, Place, application, free_port, query, relying, served

DOCUMENT = Path(__file__).parents[2] / "docs" / "spec" / "oidc-openapi.json"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)


@pytest.fixture
def place() -> Place:
    return Place(Known(relying(auth_methods=("client_secret_basic", "client_secret_post"))))


@pytest.fixture
def browser(place: Place) -> Iterator[TestClient]:
    with TestClient(application(place), base_url="https://login.demo.test", follow_redirects=False) as client:
        yield client


@pytest.mark.slow
def test_schemathesis() -> None:
    """What the document says of each endpoint holds for whatever schemathesis thinks of."""
    port = free_port()
    settings = OpSettings(f"http://127.0.0.1:{port}", secure_cookies=False)
    place = Place(Known(relying(auth_methods=("client_secret_basic", "client_secret_post"))), settings, wall=True)
    document = json.loads(DOCUMENT.read_bytes())
    for path in ("/oidc/authorize", "/oidc/par", "/oidc/token"):  # of a client that is known, so that more is reached
        _narrow(document["paths"][path])
    with served(application(place), port), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "api.json").write_text(json.dumps(document))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run", "api.json",
                "--url", f"http://127.0.0.1:{port}", "--checks", CHECKS, "--max-examples", "25", "--seed", "7",
                "--phases", "coverage,fuzzing", "--suppress-health-check", "all", "--max-redirects", "0",
                "--auth", f"rp:{SECRET}", "--no-color", "--generation-database", "none",
            ],
            cwd=folder, env={**os.environ, "HOME": folder}, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
    assert "API ops" in done.stdout or "Tested:" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def _narrow(operations: dict[str, Any]) -> None:
    """Every ``client_id`` and ``redirect_uri`` is that of the client ``rp``."""
    for operation in operations.values():
        named = {one["name"]: one["schema"] for one in operation.get("parameters", ())}
        for kind in operation.get("requestBody", {}).get("content", {}).values():
            named |= kind["schema"]["properties"]
        for name, value in (("client_id", "rp"), ("redirect_uri", RP)):
            if name in named:
                named[name]["enum"] = [value]


def test_document_names_every_endpoint(place: Place, browser: TestClient) -> None:
    """Every address of the metadata stands in the document, and the other way about."""
    listed = json.loads(DOCUMENT.read_bytes())["paths"]
    metadata = browser.get("/.well-known/openid-configuration").json()
    named = {
        str(value).removeprefix(metadata["issuer"])
        for name, value in metadata.items()
        if name.endswith(("_endpoint", "_uri"))
    }
    assert named == set(listed) - {"/.well-known/openid-configuration"}
    again = browser.get("/oidc/.well-known/openid-configuration")
    assert again.json() == metadata
    assert again.headers["access-control-allow-origin"] == "*"


def test_whole_flow(place: Place, browser: TestClient) -> None:
    """Request, log-in page, code, tokens, UserInfo, over HTTP."""
    page = browser.get(f"/oidc/authorize?{query()}")
    back = browser.get(page.headers["location"])
    code = dict(httpx.URL(back.headers["location"]).params)["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": RP}
    tokens = browser.post("/oidc/token", data=form, auth=("rp", SECRET)).json()
    info = browser.get("/oidc/profile", headers={"authorization": f"Bearer {tokens['access_token']}"})
    assert info.json()["sub"] == "EE38001085718"


def test_limits(browser: TestClient) -> None:
    """A body or query that is too long is refused before it is looked at; so is a form of another type."""
    long = "x" * (MAX_BODY_BYTES + 1)
    assert browser.post("/oidc/token", data={"code": long}).status_code == 413
    assert browser.get(f"/oidc/authorize?state={'x' * 20_000}").status_code == 400
    assert browser.post("/oidc/token", json={"grant_type": "authorization_code"}).status_code == 400
    assert browser.post("/oidc/token", content=b"\xff\xfe=1").status_code == 400
    assert browser.put("/oidc/token").status_code == 405
    assert browser.get("/oidc/token").status_code == 405
    head = browser.head("/oidc/jwks")
    assert (head.status_code, head.content) == (200, b"")


def test_two_headers(place: Place, browser: TestClient) -> None:
    """Two Authorization headers, or two content types, are not one of them."""
    twice = [("authorization", "Basic cnA6eA=="), ("authorization", "Basic cnA6eQ==")]
    reply = browser.post("/oidc/token", data={"grant_type": "authorization_code", "code": "x"}, headers=twice)
    assert reply.json()["error"] == "invalid_request"
    kinds = [("content-type", "application/x-www-form-urlencoded"), ("content-type", "application/json")]
    assert browser.post("/oidc/token", content=b"code=x", headers=kinds).json()["error"] == "invalid_request"


def test_pages_speak_the_language_of_the_browser(browser: TestClient) -> None:
    """The page of an error, in a language that both know; and nothing of the request is in it."""
    for accept, word in (
        ("et-EE,en;q=0.5", "Sisselogimist"),
        ("en", "cannot go on"),
        ("fr", "Sisselogimist"),
        ("", "S"),
    ):
        page = browser.get("/oidc/authorize?client_id=<script>", headers={"accept-language": accept})
        assert word in page.text
        assert "<script>" not in page.text
