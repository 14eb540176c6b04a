"""The generated land register in a real PostgreSQL, and its application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from exclave.demo.apps import write_app
from exclave.demo.apps.land import Land, Refused
from exclave.demo.land import (
    REFERENCE_PARCEL,
    LandChange,
    LandFacts,
    broken_land_rules,
    change_land,
    create_land,
    land_reference,
)
from exclave.demo.land_sql import KEYS, SCHEMA
from exclave.demo.reference import contains
from exclave.errors import SourceUnavailable, TargetNotEmpty, UsageError
from support.postgres import Server, running_server
from support.webapp import WebApp, running_app

SEED = 7
TABLES = ("municipality", "person", "parcel", "ownership", "mortgage", "journal", "transfer")

SMALL = """
INSERT INTO municipality VALUES ('78401', '<b>Kasevere</b> vald');
INSERT INTO person VALUES (1, '93001010009', 'Aino', 'D''Arcy', '1930-01-01');
INSERT INTO parcel VALUES (1, '78401:101:0012', '78401', 'Pikk 12', 300, 'elamumaa', 5000, '2001-01-01');
INSERT INTO ownership VALUES (1, 1, 1, 1, '2001-01-01', 'kinge');
INSERT INTO journal VALUES (0, '2025-12-31', 0);
"""


def conninfo(server: Server, database: str) -> str:
    return f"host={server.socket_dir} port={server.port} user=postgres dbname={database}"


def make_database(server: Server, name: str, encoding: str = "UTF8") -> str:
    server.run(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    return conninfo(server, name)


def digests(dsn: str) -> dict[str, tuple[object, ...] | None]:
    """Number and sum of hashes of each table's rows, whatever their order."""
    with psycopg.connect(dsn) as connection:
        return {
            table: connection.execute(f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t").fetchone()
            for table in TABLES
        }


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(15) as running:
        yield running


@pytest.fixture(scope="module")
def land(server: Server) -> tuple[str, LandFacts]:
    """A register on which one day was worked."""
    dsn = make_database(server, "land")
    return dsn, create_land(dsn, seed=SEED, scale=1)


@pytest.fixture(scope="module")
def worked(land: tuple[str, LandFacts]) -> LandChange:
    return change_land(land[0], SEED)


@pytest.fixture(scope="module")
def app(land: tuple[str, LandFacts], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    program = write_app("land", tmp_path_factory.mktemp("land") / "app")
    with running_app(program, "--dsn", land[0]) as running:
        yield running


def test_counts_rules_and_a_days_work(land: tuple[str, LandFacts], worked: LandChange) -> None:
    """200,000 parcels, 120,000 persons, whose shares add up before and after a day on which 1 % are sold."""
    dsn, facts = land
    assert facts.parcels >= 200_000
    assert facts.persons == 120_000
    assert worked.day == 1
    assert 1990 <= worked.parcels <= 2000 <= worked.transfers
    assert broken_land_rules(dsn) == ()
    with psycopg.connect(dsn) as connection:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM parcel), (SELECT count(*) FROM person), (SELECT count(*) FROM transfer), "
            "(SELECT count(DISTINCT parcel_id) FROM transfer), (SELECT count(*) FROM pg_constraint WHERE contype = 'f')"
        ).fetchone()
    assert counted is not None
    assert counted[:4] == (facts.parcels, facts.persons, worked.transfers, worked.parcels)
    assert counted[4] >= 7


def test_same_seed_same_rows(server: Server, land: tuple[str, LandFacts], worked: LandChange) -> None:
    """A second register of the seed has the same rows in every table after the same day."""
    again = make_database(server, "again")
    assert create_land(again, seed=SEED, scale=1) == land[1]
    assert change_land(again, SEED) == worked
    assert digests(again) == digests(land[0])


def test_broken_shares_show(land: tuple[str, LandFacts]) -> None:
    """A lost owner and a lost transfer are both found."""
    dsn, _ = land
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM ownership WHERE parcel_id = 12")
        connection.execute("DELETE FROM ownership WHERE parcel_id = 12")
        connection.execute("UPDATE journal SET transfers = transfers + 1 WHERE day = 0")
    assert len(broken_land_rules(dsn)) == 2
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO ownership SELECT * FROM kept")
        connection.execute("DROP TABLE kept")
        connection.execute("UPDATE journal SET transfers = transfers - 1 WHERE day = 0")
    assert broken_land_rules(dsn) == ()


def test_what_is_refused(server: Server, land: tuple[str, LandFacts]) -> None:
    """A register that is there, another encoding, an empty database and one that does not answer: each is said."""
    with pytest.raises(TargetNotEmpty):
        create_land(land[0], seed=1, scale=1)
    with pytest.raises(UsageError):
        create_land(make_database(server, "latin", "LATIN1"), seed=1, scale=1)
    with pytest.raises(UsageError):
        change_land(make_database(server, "empty"), 1)
    with pytest.raises(SourceUnavailable):
        create_land(conninfo(server, "nowhere"), seed=1, scale=1)
    with pytest.raises(SourceUnavailable):
        change_land(conninfo(server, "nowhere"), 1)
    for name in ("nowhere", "empty"):
        with pytest.raises(SourceUnavailable):
            broken_land_rules(conninfo(server, name))


def test_reference_query_holds_after_a_days_work(app: WebApp, worked: LandChange) -> None:
    """The application answers what the seed alone tells, although parcels were sold since."""
    assert worked.day == 1
    reference = land_reference(seed=SEED)
    reply = app.ask(reference.path)
    assert reply.status == 200
    assert contains(reply.json, reference.expected)
    assert len(reply.json["owners"]) == 3
    assert not contains(reply.json, land_reference(seed=SEED + 1).expected)


def test_pages_and_search(app: WebApp, worked: LandChange) -> None:
    """Figures, health and searches by number and address answer in both forms."""
    assert app.ask("/health").json == {"status": "ok", "day": worked.day, "date": "2026-01-01"}
    assert app.ask("/").json["parcels"] == 200_000
    assert len(app.ask("/search?q=78401:101").json["parcels"]) == 50
    assert app.ask(f"/search?q={REFERENCE_PARCEL}").json["parcels"][0]["cadastral_number"] == REFERENCE_PARCEL
    assert app.ask("/search?q=%25").json["parcels"] == []
    for path in ("/", "/health", "/search?q=Pikk", f"/parcel/{REFERENCE_PARCEL}"):
        reply = app.ask(path, accept="text/html")
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/parcel/99999:999:9999", 404),
        ("/parcel/78401:101:12", 400),
        ("/parcel/78401:101:0012'--", 400),
        ("/parcel/%D9%A7%D9%A8401:101:0012", 400),
        ("/parcel/", 400),
        ("/search", 400),
        ("/search?q=%00", 400),
        ("/search?q=%ff", 400),
        ("/nowhere", 404),
    ],
)
def test_bad_questions(app: WebApp, path: str, status: int) -> None:
    """Each gets a JSON answer with its status and a message."""
    reply = app.ask(path)
    assert (reply.status, reply.json["status"]) == (status, status)
    assert reply.json["error"]


def test_sessions_are_read_only_and_kept(land: tuple[str, LandFacts]) -> None:
    """A session of the application refuses to write and is used again, even after a question without answer."""
    register = Land(land[0])
    with register._reading() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("DELETE FROM mortgage")
    with pytest.raises(Refused):
        register.answer("/parcel/99999:999:9999", {})
    with register._reading() as again:
        assert again is connection


def test_app_comes_back_after_a_restart_of_its_database(server: Server, tmp_path: Path) -> None:
    """Without database it says 503, and answers again, without a restart of its own, when the database does."""
    dsn = make_database(server, "small")
    with psycopg.connect(dsn) as connection:
        connection.execute(SCHEMA)
        connection.execute(KEYS)
        connection.execute(SMALL)
    with running_app(write_app("land", tmp_path / "app"), "--dsn", dsn) as app:
        assert app.ask("/health").status == 200
        page = app.ask("/parcel/78401:101:0012", accept="text/html").body.decode()
        assert "&lt;b&gt;Kasevere" in page
        assert "D&#x27;Arcy" in page
        server.stop()
        assert app.ask("/health").status == 503
        assert app.ask("/parcel/78401:101:0012").json["status"] == 503
        server.start()
        assert app.ask("/health").status == 200
        assert app.stop() == 0
