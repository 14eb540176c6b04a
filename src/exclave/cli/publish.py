"""``exclave publish``: it shows what would be public for ever, and asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_publishing, open_sites, witness_addresses
from exclave.cli.output import HomeFolder, Json, confirmed, counted, note, print_json, say, size_text, when
from exclave.cli.progress import work_bar
from exclave.errors import QuorumMissing, UsageError
from exclave.ids import now
from exclave.operations.publish import PublishReceipt, outlook
from exclave.operations.publish import publish as verb
from exclave.operations.publish_folder import Outlook
from exclave.serve.reading_acts import acts_among, parts_among

_SHOWN = 5
"""Addresses that are named; of the others, how many there are."""


def register(app: typer.Typer) -> None:
    app.command(name="publish", epilog="Example: exclave publish gazette    (after: exclave backup gazette)")(publish)


def publish(
    name: Annotated[str, typer.Argument(metavar="REGISTER", help="A register that the charter calls public.")],
    dataset: Annotated[str, typer.Option(help="Its dataset of files; needed unless it has just one dataset.")] = "",
    look: Annotated[bool, typer.Option("--look", help="Show what would be published, and publish nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for a timer.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Go on without what is lost of earlier publications, at every site.")
    ] = False,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Publish the newest version of a public register: in the clear, each document with its proof, bound to its ledger.

    Reading rooms (`exclave serve public`) show it. What was published cannot be taken back, so it shows what it is
    about to publish, and asks. Needs no custodian; run it after each backup.
    """
    if json and not (look or yes):
        raise UsageError("--json does not ask, so nothing was published", hint="Look with --look; then add --yes.")
    opened = open_home(home)
    source, prover = open_publishing(opened, name, dataset)
    agreed = None
    if look or not yes:
        agreed = outlook(opened, name, source, sites=open_sites(opened), now=now(), anew=anew)
    if look:
        _tell(name, agreed, json=json)
        return
    if agreed is not None:
        _show_outlook(name, agreed)
        _ask()
    with work_bar(name, quiet=json) as bar:
        receipt = verb(
            opened, name, source, prover, sites=open_sites(opened), witnesses=witness_addresses(opened.config),
            now=now(), agreed=agreed, anew=anew,
            progress=lambda path, files: bar.at(counted(files, "file", "files"), files),
        )  # fmt: skip
    if json:
        print_json(receipt)
    else:
        _show(name, receipt)
    if receipt.lacking:
        raise typer.Exit(QuorumMissing.exit_code)


def _ask() -> None:
    if not confirmed("Publish this? It can never be taken back.", "nothing was published"):
        say("Nothing was published.")
        raise typer.Exit(UsageError.exit_code)


def _tell(name: str, found: Outlook | None, *, json: bool) -> None:
    if json:
        acts, others = acts_among(found.paths) if found is not None else ((), ())
        print_json({"nothing_new": found is None, "outlook": found, "acts": acts, "without_address": others})
    elif found is None:
        say("Nothing new: the newest version is public already.")
    else:
        _show_outlook(name, found)


def _show_outlook(name: str, o: Outlook) -> None:
    """Acts are counted over all that would be public; of attachments and files without an address, those that are
    new."""
    acts, others = acts_among(o.paths)
    fresh = {*o.new, *o.changed}
    aside = [path for path in others if path in fresh]
    parts = sorted(fresh.intersection(parts_among(o.paths)) - set(others))
    state = f"the state of {when(o.time)} (UTC)"
    say(f"{name}: version {o.sequence}, {state}, would be public as {o.title} at {', '.join(o.sites)}:")
    say(f"  {counted(len(o.new), 'new file', 'new files')}, {len(o.changed)} changed, {len(o.removed)} removed")
    say(f"  {counted(len(acts), 'act', 'acts')} in all{_first([f'/act/{act}' for act in acts])}")
    if parts:
        say(f"  {counted(len(parts), 'new file that belongs', 'new files that belong')} to acts{_first(parts)}")
    say(f"  {counted(len(aside), 'new file', 'new files')} without an address: no act's, but public{_first(aside)}")
    for line in o.left_out:
        say(f"  left out: {line}")
    for line in o.lost:
        say(f"  lost, and not listed any more: {line}")


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f": {shown}{rest}" if names else ""


def _show(name: str, r: PublishReceipt) -> None:
    if r.nothing_new:
        say(f"{name}: version {r.sequence}, the state of {when(r.time)}, is public already at {', '.join(r.sites)}")
    else:
        say(f"{name}: version {r.sequence} is public as {r.name}, the state of {when(r.time)}")
        gone = f", {counted(r.removed, 'file', 'files')} removed" if r.removed else ""
        say(
            f"  {counted(r.files, 'new file', 'new files')}{gone}; {size_text(r.shipped_bytes)}"
            f" to each of {', '.join(r.sites)}"
        )
        say(f"  edition {r.edition.hex()} (SHA-256 of the list of all that is public now)")
    if r.lacking:
        say(f"  NOT public yet: readers count it once it is vouched for by {r.lacking}")
    for label, why in r.failed.items():
        note(f"{label}: {why}")
    for line in r.left_out:
        note(f"not published: {line}")
    for line in r.lost:
        note(f"lost, and not listed any more: {line}")
