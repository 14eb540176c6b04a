"""Log-in by TLS client certificate through a real nginx, and whoever tries to get past it with headers of his own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from exclave.crypto.certificates import pin_issuers, verify_citizen
from exclave.demo.pki import Card, make_pki, pem
from exclave.errors import ConfigError, ExclaveError
from exclave.identity.login_settings import LoginSettings
from exclave.identity.status_log import Reason, Revoked
from exclave.identity.tls_card import CERTIFICATE_HEADER, client_certificate
from exclave.ids import Instant, now, sha256
from exclave.serve.nginx import NginxSettings, nginx_config
from support.login_nginx import Front, card_files, client_context, free_ports, running_front
from support.login_site import Served, Site, free_socket

BROWSER = "b" * 43


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Front]]:
    """A log-in service behind nginx."""
    port, card_port = free_ports(2)
    settings = LoginSettings(f"https://localhost:{port}", f"https://localhost:{card_port}")
    site = Site(settings, now())
    with running_front(site, tmp_path_factory.mktemp("n"), port, card_port) as front:
        yield site, front


def go(
    place: tuple[Site, Front], card: Card | None, interaction: str, *, headers: dict[str, str] | None = None,
    browser: str = BROWSER,
) -> httpx.Response:  # fmt: skip
    """What a browser does that follows the link of the log-in page; its cookie goes to the pages."""
    site, front = place
    site.now = now()
    files = card_files(front.folder, card) if card else None
    with httpx.Client(verify=client_context(front, files)) as client:
        at_door = client.get(f"{site.settings.card_origin}/card?i={interaction}", headers=headers or {})
        assert at_door.status_code == 303, at_door.text
        assert at_door.headers["location"].startswith(f"{site.settings.origin}/login/card?i={interaction}")
        return client.get(
            at_door.headers["location"], headers={"cookie": f"__Host-exclave={browser}", "accept-language": "en"}
        )


def test_card_logs_in(place: tuple[Site, Front]) -> None:
    """A citizen with a good card is sent back to the service."""
    site, _ = place
    answer = go(place, site.card(given_name="JÜRI", family_name="ÕUN"), site.interactions.begin(BROWSER))
    assert answer.status_code == 303
    assert answer.headers["location"] == "https://tax.demo.test/callback?code=fresh"
    assert site.interactions.done[-1].person.given_name == "JÜRI"


def test_no_certificate(place: tuple[Site, Front]) -> None:
    """A browser without a card is told so."""
    answer = go(place, None, place[0].interactions.begin(BROWSER))
    assert answer.status_code == 403
    assert "showed no card certificate" in answer.text


def test_another_browser_gains_nothing(place: tuple[Site, Front]) -> None:
    """Who lures a citizen to the door with his own log-in learns neither the name nor can the citizen end it."""
    site, _ = place
    interaction = site.interactions.begin("attacker" * 5)
    done = len(site.interactions.done)
    assert go(place, site.card(), interaction).status_code == 403
    assert len(site.interactions.done) == done


def test_shown_once(place: tuple[Site, Front]) -> None:
    """The name that the door gives is good once, and for its log-in only."""
    site, _ = place
    name = site.handover.leave(site.interactions.begin(BROWSER), site.card().der, now=site.now)
    other = site.interactions.begin(BROWSER)
    with pytest.raises(ExclaveError):
        site.desk.tls_card(other, BROWSER, name)


def test_self_made_certificate_is_refused(place: tuple[Site, Front]) -> None:
    """nginx lets a certificate of a look-alike CA through, and it is refused all the same."""
    site, _ = place
    stranger = make_pki(site.now).second.card()
    assert go(place, stranger, site.interactions.begin(BROWSER)).status_code == 403


def test_revoked_a_second_ago(place: tuple[Site, Front]) -> None:
    """A revocation counts for the very next handshake."""
    site, _ = place
    card = site.card()
    assert go(place, card, site.interactions.begin(BROWSER)).status_code == 303
    site.store.say(card, Revoked(Instant(site.now - 1_000_000), Reason.KEY_COMPROMISE), site.pki.second)
    assert go(place, card, site.interactions.begin(BROWSER)).status_code == 403


def test_expired_card_with_and_without_a_list(place: tuple[Site, Front]) -> None:
    """nginx's own refusal of an expired card does not get in the way of a list that extends it."""
    site, _ = place
    card = site.card(begin=Instant(now() - 100 * 86_400_000_000), days=30)
    assert go(place, card, site.interactions.begin(BROWSER)).status_code == 403
    spki = verify_citizen(card.der, pin_issuers([site.pki.second.der]), now=site.now).spki
    site.extended[sha256(spki)] = Instant(now() + 86_400_000_000)
    assert go(place, card, site.interactions.begin(BROWSER)).status_code == 303
    assert site.interactions.done[-1].extended


@pytest.mark.parametrize(
    "name",
    [CERTIFICATE_HEADER, CERTIFICATE_HEADER.title(), CERTIFICATE_HEADER.upper(), CERTIFICATE_HEADER.replace("-", "_"),
     "ssl_client_escaped_cert", "Client-Cert", "X-SSL-CERT"],
)  # fmt: skip
def test_spoofed_header_at_the_door(place: tuple[Site, Front], name: str) -> None:
    """A header of the browser's own counts for nothing at the door, under any name."""
    site, _ = place
    victim = quote(pem(site.card().certificate).decode())
    answer = go(place, None, site.interactions.begin(BROWSER), headers={name: victim})
    assert answer.status_code == 403
    assert "showed no card certificate" in answer.text


def test_spoofed_header_beside_a_card(place: tuple[Site, Front]) -> None:
    """Who shows his own card and another's certificate in a header is himself."""
    site, _ = place
    victim = quote(pem(site.card(code="49403136515").certificate).decode())
    answer = go(place, site.card(), site.interactions.begin(BROWSER), headers={CERTIFICATE_HEADER: victim})
    assert answer.status_code == 303
    assert site.interactions.done[-1].person.subject == "EE38001085718"


def test_spoofed_header_at_the_pages(place: tuple[Site, Front]) -> None:
    """The public port does not know the door's path, and its pages do not look at the header."""
    site, front = place
    site.now = now()
    interaction = site.interactions.begin(BROWSER)
    headers = {CERTIFICATE_HEADER: quote(pem(site.card().certificate).decode()), "cookie": f"__Host-exclave={BROWSER}"}
    with httpx.Client(verify=client_context(front, None)) as client:
        assert client.get(f"{site.settings.origin}/card?i={interaction}", headers=headers).status_code == 404
        assert client.get(f"{site.settings.origin}/login/card?i={interaction}", headers=headers).status_code == 403
    assert site.interactions.find(interaction, BROWSER) is not None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_resumption(place: tuple[Site, Front], version: ssl.TLSVersion) -> None:
    """Each connection to the door is a new handshake: nobody comes back on a card that was taken out."""
    site, front = place
    context = client_context(front, card_files(front.folder, site.card()))
    context.minimum_version = context.maximum_version = version
    session = None
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", front.card_port))
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"GET /card?i=none HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while tls.recv(4096):
                pass
            assert not tls.session_reused
            session = tls.session


def test_door_refuses_tcp() -> None:
    """A door that somebody put at a TCP port by mistake answers nobody."""
    site = Site()
    sock, port = free_socket()
    header = {CERTIFICATE_HEADER: quote(pem(site.card().certificate).decode())}
    with Served(site.door, sock=sock):
        answer = httpx.get(f"http://127.0.0.1:{port}/card?i=abc", headers=header)
    assert answer.status_code == 403
    assert "Unix socket only" in answer.text


def header_of(card: Card) -> bytes:
    return quote(pem(card.certificate).decode()).encode()


def test_header_as_nginx_writes_it() -> None:
    """The escaped PEM text becomes the certificate's own bytes."""
    card = Site().card()
    assert client_certificate([(CERTIFICATE_HEADER.encode(), header_of(card))]) == card.der


@pytest.mark.parametrize("spelling", ["X-Exclave-Client-Cert", "x_exclave_client_cert", "x-exclave_client-cert"])
def test_second_header_of_any_spelling(spelling: str) -> None:
    """Two of a name, or one of another spelling, are refused before anything is read of them."""
    good = (CERTIFICATE_HEADER.encode(), header_of(Site().card()))
    for headers in ([good, (spelling.encode(), good[1])], [(spelling.encode(), good[1])], [good, good]):
        with pytest.raises(ExclaveError) as refused:
            client_certificate(headers)
        assert refused.value.facts["reason"] == "header"


@pytest.mark.parametrize(
    "value",
    [b"x", b"%", b"%zz", b"\xff\xfe", b"a" * 30_000, quote("-----BEGIN CERTIFICATE-----\n").encode(),
     quote("-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----\n").encode(),
     quote("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\nAA==").encode(),
     quote("-----BEGIN CERTIFICATE-----\n" + "AAAA" * 4000 + "\n-----END CERTIFICATE-----\n").encode()],
)  # fmt: skip
def test_header_that_is_no_certificate(value: bytes) -> None:
    """What is not one escaped PEM text of a certificate's size is refused."""
    with pytest.raises(ExclaveError):
        client_certificate([(CERTIFICATE_HEADER.encode(), value)])


def test_strict_transport() -> None:
    """Browsers keep to TLS for a year; not on localhost, whose other ports are other people's."""
    settings = NginxSettings(
        "https://login.demo.test",
        "https://localhost:444",
        "443",
        "444",
        "/c.pem",
        "/k.pem",
        "/i.pem",
        "unix:/l.sock",
        "unix:/d.sock",
    )
    pages, _, door = nginx_config(settings).partition("listen 444")
    assert "Strict-Transport-Security" in pages
    assert "Strict-Transport-Security" not in door


@pytest.mark.parametrize(
    ("field", "value"),
    [("key", "/etc/k; include /etc/passwd"), ("listen", "443 ssl; return 200"), ("login_backend", "unix:/a b"),
     ("door_socket", "127.0.0.1:80"), ("card_origin", "https://login.demo.test"), ("origin", "https://a.test/x")],
)  # fmt: skip
def test_settings_that_nginx_would_read_otherwise(field: str, value: str) -> None:
    """No setting can smuggle a directive in, and the door cannot be put at a network port."""
    good = {
        "origin": "https://login.demo.test", "card_origin": "https://card.demo.test", "listen": "443",
        "card_listen": "[::]:444", "certificate": "/etc/c.pem", "key": "/etc/k.pem", "issuers": "/etc/i.pem",
        "login_backend": "127.0.0.1:8422", "door_socket": "unix:/run/exclave/door.sock",
    }  # fmt: skip
    NginxSettings(**good)
    with pytest.raises(ConfigError):
        NginxSettings(**{**good, field: value})
