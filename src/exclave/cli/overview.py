"""The first page of `exclave --help`, as it stands before any command is loaded: that takes a second.

A test compares it with what the commands say of themselves.
"""

from __future__ import annotations

import typer

SUMMARIES = {
    "init": "Make a home folder: an example exclave.toml and the writer's key.",
    "backup": "Take a version of each register: captured, sealed, at the sites of its rule, and in its ledger.",
    "publish": (
        "Publish the newest version of a public register: in the clear, each document with "
        "its proof, bound to its ledger."
    ),
    "snapshots": "The versions of registers as their ledgers show them, verified without any key.",
    "retention": "Which versions are kept, by which rule, and until when.",
    "diff": "Compare two versions of a register, by warrant: entries of its files, rows of its tables.",
    "restore": "Bring a version of a register back into a folder, by warrant.",
    "mount": "Show the versions of a register as a read-only folder, by warrant, until Ctrl-C or the warrant's end.",
    "export": (
        "Write a dataset of any version in a form that needs nothing of ours: a BagIt bag, SQL, or a SIARD archive."
    ),
    "rekey": "Give registers a new opening key and new shares, for the custodians of the charter in force.",
    "verify": "Check whole sites without any key: signatures, history, completeness, every byte.",
    "prove": "Prove one document or one row of a version: a file that anybody checks with the fingerprint alone.",
    "timestamp": (
        "Have the charter's timestamp authorities date the ledgers as they are now; backups do it by themselves."
    ),
    "scrub": (
        "Read a part of a site, so that all of it is read within some days, and repair what other sites have unharmed."
    ),
    "ship": "Write onto a disk what a site lacks, sealed, to be carried there.",
    "status": "How old the last version of each register is at each site, and whether it is protected.",
    "watch": "Tell how old the last version is that is proven at each site, and raise alarms within one RPO.",
    "demo": "Play the whole story: a small state is protected, loses home, and lives on abroad.",
    "failover": "Failover: start registers on this machine by warrant, and take the pen.",
    "custodian": "Custodians' keys.",
    "charter": "The charter: custodians, sites, registers and rules, signed by the custodians.",
    "site": "Sites: the places that keep copies.",
    "warrant": "Warrants: what the custodians allow one machine to do.",
    "delete": "Delete old versions: an order, a warrant, a delay to object in, and a record.",
    "statement": "Say in public up to when the data is safe.",
    "coded": "Sites that are cut across several hosts.",
    "serve": "Services for other machines.",
    "identity": "Identity services: log-in and certificate status, at home and in exile.",
}
"""Every command and group, in the order of the help, with the first sentence of its own."""


def add_all(made: typer.Typer) -> None:
    """Adds every command by its name and summary alone; none of them can be called."""
    for name, summary in SUMMARIES.items():
        made.command(name=name, short_help=summary)(_not_loaded)


def _not_loaded() -> None:
    """Stands for a command on the first page."""
