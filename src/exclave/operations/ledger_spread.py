"""Spreading a log that was appended to at one site: its witnesses, and the other sites.

Neither depends on that one site to show again what it was just given: that is read from memory, and what was there
before from whichever site gives it. A site that does not give what it holds is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from exclave.errors import (
    Fenced,
    HeadMoved,
    IntegrityError,
    NotAuthorised,
    OutcomeUnknown,
    SiteUnavailable,
    UnavailableError,
)
from exclave.formats.note import Signature
from exclave.ids import Label
from exclave.ledger.log import Log
from exclave.ledger.own_memory import LaidOver
from exclave.ledger.publish import publish
from exclave.ledger.witness_client import WitnessClient
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.sites.contract import Site
from exclave.verify.logs import LogReader
from exclave.verify.state import StateView

Reader = tuple[Label, LogReader, LaidOver]
"""A site, the log as it gives it, and where that comes from."""


def readers_of(log: Log, first: Label, sites: Mapping[Label, Site]) -> list[Reader]:
    """Readers of the log, with what was just laid out in memory and what was there before from one site each."""
    order = sorted(sites, key=lambda label: label != first)
    return [(label, *log.reader_over(sites[label])) for label in order]


def spread(
    head: VerifiedCheckpoint,
    readers: Sequence[Reader],
    sites: Mapping[Label, Site],
    failed: dict[Label, str],
    lead: Callable[[Site], LogReader],
) -> tuple[Label, ...]:
    """Brings the log forward at every site; those that show its head now and give what they hold.

    ``lead`` brings a site to the same tree out of the writer's own memory, for when no other site gives it. Why a site
    is not among those returned is noted in ``failed``.
    """
    good: list[Label] = []
    lying: dict[Label, str] = {}
    for label, site in sites.items():
        try:
            lying.update(_bring(head, readers, site, lead))
        except (UnavailableError, HeadMoved, IntegrityError, OutcomeUnknown) as error:
            failed[label] = error.message
            continue
        failed.pop(label, None)
        good.append(label)
    failed.update(lying)
    return tuple(label for label in good if label not in lying)


def _bring(
    head: VerifiedCheckpoint, readers: Sequence[Reader], site: Site, lead: Callable[[Site], LogReader]
) -> dict[Label, str]:
    """Publishes ``head`` to ``site``. Sites that the log could not be read from, and why, if another way was found."""
    passed: dict[Label, str] = {}
    for label, reader, source in readers:
        try:
            publish(reader, head, site)
        except (UnavailableError, IntegrityError) as error:
            if not source.failed and not isinstance(error, IntegrityError):
                raise  # it is ``site`` itself that does not answer
            passed[label] = error.message
        else:
            return passed
    publish(lead(site), head, site)
    return passed


def ask_witnesses(
    view: StateView,
    readers: Sequence[Reader],
    head: VerifiedCheckpoint,
    addresses: Mapping[Label, str],
    added: int,
) -> tuple[tuple[Label, ...], dict[Label, str], list[Signature]]:
    good: list[Label] = []
    refused: dict[Label, str] = {}
    signatures: list[Signature] = []
    for label, card in view.witness_cards().items():
        if label not in addresses:
            refused[label] = "its address is not configured"
            continue
        client = WitnessClient(addresses[label], card)
        try:
            signatures += _cosigned(client, readers, head, head.size - added)
        except Fenced:
            raise
        except (UnavailableError, IntegrityError, NotAuthorised) as error:
            refused[label] = error.message
            continue
        finally:
            client.close()
        good.append(label)
    return tuple(good), refused, signatures


def _cosigned(
    client: WitnessClient, readers: Sequence[Reader], head: VerifiedCheckpoint, old: int
) -> tuple[Signature, ...]:
    """What the witness answers, whichever site the proof for it must be read from."""
    for _, reader, source in readers:
        try:
            return client.cosign(reader.tree(head), old)
        except (UnavailableError, IntegrityError):
            if not source.failed:
                raise
    raise SiteUnavailable("no site gives what this witness has to see of the log")
