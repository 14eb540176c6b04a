"""What was published before, and what of it the next edition goes on from.

As a rule, from all of it. Whoever has the writer's key, or sites that lost an object, can leave an edition or a bundle
that nobody will ever read again; then a person decides to go on without (``anew``): what was only there is published
once more, and what nobody has any more has no permanent address from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from exclave.errors import CorruptObject, IntegrityError, MalformedError, MissingObject, UsageError
from exclave.formats.edition import Bundle, BundleLine, parse_bundle
from exclave.ids import Digest, RegisterId
from exclave.sites.contract import Sources
from exclave.verify.history import RegisterHistory
from exclave.verify.published import Published, fetch_bundle, named_editions, newest_edition, newest_readable
from exclave.verify.state import StateView

_ANEW: Final = (
    "Bring up a site that has it. If there is none, make a backup and run the command with --anew: it publishes once"
    " more what was only there."
)


@dataclass(frozen=True, slots=True)
class Before:
    """What the next edition follows."""

    published: Published | None
    """None: nothing was published, or nothing of that can be read."""
    bundles: tuple[BundleLine, ...]
    """Those that the next edition lists too."""
    lost: tuple[str, ...]
    """What it goes on without, in words."""


def published_before(view: StateView, sources: Sources, history: RegisterHistory, *, anew: bool) -> Before:
    """The newest edition; with ``anew`` the newest that can be read, and its bundles that are whole.

    ``MissingObject`` or ``CorruptObject`` without ``anew``, if the newest one is lost, or is none; ``UsageError`` with
    it, if the newest version was published in one that is: a version has one edition.
    """
    if not anew:
        with leading_on():
            published = newest_edition(view, sources, history)
        return Before(published, published.edition.bundles if published is not None else (), ())
    published = newest_readable(view, sources, history)
    lost: list[str] = []
    named = {digest: sequence for _, sequence, digest in named_editions(history)}
    for digest, sequence in named.items():
        if published is not None and digest == published.digest:
            break
        lost.append(f"edition {sequence} cannot be read")
    kept: list[BundleLine] = []
    for line in published.edition.bundles if published is not None else ():
        try:
            for _ in _read(view, sources, history.register, line.name).contents():
                pass
            kept.append(line)
        except (IntegrityError, MalformedError) as error:
            lost.append(f"a bundle of {line.files} files: {error.message}")
    if lost and history.latest.leaf.sequence in named.values():
        raise UsageError(
            f"version {history.latest.leaf.sequence} was published already, and a version has one edition",
            hint="Run `exclave backup`, and then this command again; nothing was published.",
        )
    return Before(published, tuple(kept), tuple(lost))


def published_files(
    view: StateView, sources: Sources, register: RegisterId, bundles: Iterable[BundleLine]
) -> dict[str, Digest]:
    """Path → SHA-256 of every file that ``bundles`` say is in the register, the later ones last.

    ``MissingObject`` or ``CorruptObject`` if one of them is lost, or is none.
    """
    known: dict[str, Digest] = {}
    for line in bundles:
        with leading_on():
            bundle = _read(view, sources, register, line.name)
        for file in bundle.files:
            if file.digest:
                known[file.path] = Digest(file.digest)
            else:
                known.pop(file.path, None)
    return known


def _read(view: StateView, sources: Sources, register: RegisterId, name: Digest) -> Bundle:
    return parse_bundle(fetch_bundle(view, sources, register, name))


@contextmanager
def leading_on() -> Iterator[None]:
    """What is wrong with something that was published says what can be done."""
    try:
        yield
    except MissingObject as error:
        raise MissingObject(f"what was published before is not there: {error.message}", hint=_ANEW) from error
    except (IntegrityError, MalformedError) as error:
        raise CorruptObject(f"what was published before is not whole: {error.message}", hint=_ANEW) from error
