"""An annex that uses every field."""

from __future__ import annotations

from exclave.formats.annex import Annex, AnnexService, AnnexSite, AnnexWitness, Dataset, ReferenceQuery


def sample_annex() -> Annex:
    """A land register: its database, its scans, and the two services that answer from them."""
    return Annex(
        format="exclave/annex/v1",
        salt=bytes(range(32)),
        name="land-register",
        register_class="vital",
        owner="Ministry of Lands",
        depends={"identity": "ab" * 16, "addresses": "cd" * 16},
        datasets=(
            Dataset("books", "postgres", {"database": "land", "slot": "exclave"}),
            Dataset("scans", "files", {"path": "/srv/scans"}),
        ),
        services=(
            AnnexService("database", "postgres", "books", (), {}, 5432, "", None),
            AnnexService(
                "web",
                "process",
                "books",
                ("/usr/bin/serve", "--port", "8080"),
                {"A": "1", "B": "2"},
                8080,
                "/health",
                ReferenceQuery("/parcel/1", '{"owner":"Mari"}'),
            ),
        ),
        sites=(
            AnnexSite("home", "dir:/srv/exclave", "EE", "state", "Land Act § 7", False),
            AnnexSite("luxembourg", "https://lu.example/gate", "LU", "lux-host", "Treaty of 2017", True),
        ),
        witnesses=(AnnexWitness("observer", "https://witness.example"),),
    )
