"""From an edition to pages: only what changed, and no reader ever sees half a version.

::

    bundles/SHA256        what was fetched, checked
    room.sqlite           acts, texts and changes (reading_store.py)
    permanent/v/N/…       texts under their permanent addresses, written once
    permanent/act/…       the same files by act and number; permanent/file/… what belongs to acts; permanent/assets/…
    releases/N-EDITION/…  what changes from version to version: hard links of the former release, new pages
    search-a, search-b    the index of this release, and the one before it, which becomes the next
    current → releases/…  the one thing that readers enter by

(1) take up the new bundles · (2) a new release beside the old one · (3) switch. A restart finds the former release
served, and does (1) or (2) again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from exclave.errors import CorruptObject, Forked, MalformedError, RolledBack
from exclave.formats.edition import Bundle, BundleFile, BundleLine, Edition, parse_bundle
from exclave.ids import Digest, Instant, sha256
from exclave.serve.reading_acts import RECORD, Block, Place, blocks, parse_act, place_of
from exclave.serve.reading_files import also_at, clone, remove_numbered, remove_tree, switch, write
from exclave.serve.reading_pages import MAX_SHOWN_CHARS, PER_PAGE, Pages, asset, text_address
from exclave.serve.reading_search import Indexed, index_sequence, write_index
from exclave.serve.reading_store import UNRECORDED, ActRow, PartRow, RoomStore, TextRow

NEWEST: Final = 12
FEED: Final = 100
MAP: Final = 20_000
"""Addresses in one part of the site map."""
Row = TypeVar("Row")


class Builder:
    """Builds in ``folder``. One process at a time."""

    def __init__(
        self, folder: str, pages: Pages, fetch: Callable[[Digest], bytes], progress: Callable[[str, int, int], None]
    ) -> None:
        """``fetch``: a bundle by its name, checked. ``progress``: what is done, how many of how many."""
        self.folder, self.pages, self._fetch, self._progress = folder, pages, fetch, progress
        for name in ("bundles", "permanent", "releases"):
            os.makedirs(self._path(name), mode=0o755, exist_ok=True)
        self.store = RoomStore(self._path("room.sqlite"))

    def close(self) -> None:
        self.store.close()

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def served(self) -> str:
        """Name of the release that readers see; empty: none yet."""
        try:
            return os.path.basename(os.readlink(self._path("current")))
        except OSError:
            return ""

    def build(self, edition: Edition) -> bool:
        """Brings the room to ``edition``; False if it shows it already.

        Raises ``RolledBack`` and ``Forked`` if it cannot follow on what is shown, ``CorruptObject``, ``MissingObject``.
        """
        digest = sha256(edition.encode())
        name = _release_name(edition, digest, self.pages.room.style)
        if self.served() == name:
            return False
        self._require_newer(edition, digest)
        if self.store.sequence < edition.sequence:
            self._take_up(edition, digest)
        former = self.served()
        self._release(edition, digest, name, former)
        self._clean(name)
        return True

    def _require_newer(self, edition: Edition, digest: Digest) -> None:
        sequence, known = self.store.shown() or (0, b"")
        if sequence > edition.sequence:
            raise RolledBack(
                f"version {edition.sequence} is shown as the newest that is public; version {sequence} was, before",
                sequence=edition.sequence,
            )
        if sequence == edition.sequence and known != digest:
            raise Forked(f"there are two editions of version {sequence}", sequence=sequence)

    # (1)

    def _take_up(self, edition: Edition, digest: Digest) -> None:
        known = self.store.bundles()
        new = [line for line in edition.bundles if line.name not in known]
        stray = bool(known - {line.name for line in edition.bundles})
        if stray:
            # What was shown counts no more (an epoch cut it off), or is lost. A restart finds that it is known still.
            for name in ("v", "act", "file"):
                remove_tree(self._path("permanent", name))
        anew = stray or (bool(known) and self._complete(new))
        db = self.store.db
        db.execute("begin immediate")
        try:
            if anew:
                self.store.forget()
                new = list(edition.bundles)
            for records in (True, False):
                for number, line in enumerate(new):
                    self._progress("acts" if records else "texts", number, len(new))
                    self._take_bundle(line.name, edition, records=records)
            # Pages must be on disk before the store says that they are there: a power cut would leave gaps for ever.
            os.sync()
            self.store.mark((line.name for line in new), edition.sequence, digest)
            db.execute("commit")
        except BaseException:
            db.execute("rollback")
            raise

    def _complete(self, new: Iterable[BundleLine]) -> bool:
        """Whether a record comes for which files of an earlier version wait."""
        for line in new:
            for file in self._parsed(line.name).files:
                place = place_of(file.path) if file.digest else None
                if place is not None and place.name == RECORD and self.store.waits_for(place.act):
                    return True
        return False

    def _take_bundle(self, name: Digest, edition: Edition, *, records: bool) -> None:
        bundle = self._parsed(name)
        if bundle.sequence > edition.sequence:
            raise CorruptObject("an edition lists a bundle of a later version")
        self.store.put_version(bundle.sequence, bundle.time)
        if records and not any(file.path.endswith(f"/{RECORD}") for file in bundle.files):
            return
        for file, content, proof in bundle.contents():
            place = place_of(file.path)
            if place is None or (place.name == RECORD) != records:
                continue
            if not file.digest:
                self.store.remove(place.act, place.name, bundle.sequence)
            elif records:
                self._take_record(place, content, bundle.sequence)
            else:
                self._take_file(place, file, content, proof, bundle)

    def _parsed(self, name: Digest) -> Bundle:
        try:
            return parse_bundle(self._bundle(name))
        except MalformedError as error:
            raise CorruptObject(f"the writer's bundle {name.hex()} is none: {error.message}") from error

    def _bundle(self, name: Digest) -> bytes:
        path = self._path("bundles", name.hex())
        try:
            with open(path, "rb") as file:
                data = file.read()
            if sha256(data) == name:
                return data
        except FileNotFoundError:
            pass
        data = self._fetch(name)
        write(path, data, 0)
        return data

    def _take_record(self, place: Place, content: bytes, sequence: int) -> None:
        try:
            self.store.put_act(place.act, parse_act(content), sequence)
        except MalformedError as error:
            self.store.put_fault(f"acts/{place.act}/{RECORD}", error.message)

    def _take_file(self, place: Place, file: BundleFile, content: bytes, proof: bytes, bundle: Bundle) -> None:
        sequence, time_s = bundle.sequence, _seconds(bundle.time)
        act = self.store.act(place.act)
        if act is None:
            self.store.put_fault(file.path, UNRECORDED)
            return
        if place.version is not None:
            text = TextRow(place.act, place.version, sequence, file.digest, file.size, bool(proof), "")
            self.store.put_text(text)
            said = self.store.recorded(text)
            act = replace(act, title=said.title, language=said.language, signed_by=said.signed_by)
            self._write_text(act, replace(text, date=said.date), content, proof, time_s)
            return
        number = hashlib.sha256(file.path.encode() + b"\0" + file.digest).hexdigest()
        target = self._path("permanent", "file", number[:2], number)
        write(target, content, time_s)
        if proof:
            write(f"{target}.proof", proof, time_s)
        self.store.put_part(place.act, PartRow(place.name, number, sequence, file.digest, file.size, bool(proof)))

    def _write_text(self, act: ActRow, text: TextRow, content: bytes, proof: bytes, time_s: int) -> None:
        """Under its permanent address, and under the act's own, where a later one of the same number replaces it."""
        found, shortened = self._blocks(content, act.title)
        fixed = self._path("permanent", text_address(text)[1:])
        by_act = self._path("permanent", "act", text.act, f"v{text.version}")
        write(f"{fixed}.html", self.pages.text(act, text, found, shortened=shortened), time_s, packed=True)
        write(f"{fixed}.txt", content, time_s)
        if proof:
            write(f"{fixed}.proof", proof, time_s)
        for suffix in (".html", ".html.gz", ".txt", ".proof"):
            also_at(fixed + suffix, by_act + suffix)

    @staticmethod
    def _blocks(content: bytes, title: str) -> tuple[list[Block], bool]:
        text = content.decode("utf-8", "replace")
        return list(blocks(text[:MAX_SHOWN_CHARS], title)), len(text) > MAX_SHOWN_CHARS

    # (2)

    def _release(self, edition: Edition, digest: Digest, name: str, former: str) -> None:
        fresh = self._path("releases", f"{name}.new")
        remove_tree(fresh)
        same_look = former.endswith(f"-{_look(self.pages.room.style)}")
        since = _release_sequence(former) if same_look and self._goes_on(former) else 0
        if since:
            clone(self._path("releases", former), fresh)
        else:
            os.makedirs(fresh, mode=0o755)
        time_s = _seconds(edition.time)
        times = {sequence: _seconds(time) for sequence, time in self.store.versions()}
        groups: set[str] = set()
        for number, act in enumerate(self.store.acts(after=since)):
            self._progress("pages", number, 0)
            groups.add(act.act.split("/")[0])
            page = self._act_page(act)
            if page is not None:
                write(os.path.join(fresh, "act", f"{act.act}.html"), page, times.get(act.changed, time_s), packed=True)
        for group in sorted(groups):
            self._write_group(fresh, group, times.get(self.store.group_changed(group), time_s))
        self._write_versions(fresh, since, time_s)
        self._write_rest(fresh, edition, digest, time_s)
        self._write_index(fresh, edition.sequence, former)
        os.sync()
        target = self._path("releases", name)
        remove_tree(target)
        os.rename(fresh, target)
        switch(self._path("current"), os.path.join("releases", name))  # (3)

    def _goes_on(self, former: str) -> bool:
        """Whether the release ``former`` is of what the store holds."""
        return self.store.has_shown(_release_sequence(former), former.split("-")[1])

    def _act_page(self, act: ActRow) -> bytes | None:
        """The act in force; None if not even one of its texts was published."""
        texts = self.store.texts(act.act)
        text = next((t for t in texts if t.version == act.latest), texts[0] if texts else None)
        if text is None:
            return None
        found, shortened = self._blocks(self._content(text), act.title)
        return self.pages.act(act, text, found, self.store.parts(act.act), texts, shortened=shortened)

    def _content(self, text: TextRow) -> bytes:
        with open(self._path("permanent", text_address(text)[1:] + ".txt"), "rb") as file:
            return file.read()

    def _write_group(self, fresh: str, group: str, time_s: int) -> None:
        acts = self.store.in_group(group)
        for page, pages, part in _paged(acts):
            where = f"{group}.html" if page == 1 else f"{group}/p/{page}.html"
            write(os.path.join(fresh, "acts", where), self.pages.group(group, part, page, pages), time_s, packed=True)
        remove_numbered(os.path.join(fresh, "acts", group, "p"), ".html", pages)

    def _write_versions(self, fresh: str, since: int, time_s: int) -> None:
        versions = self.store.versions()
        write(os.path.join(fresh, "versions.html"), self.pages.versions(versions[:1000]), time_s, packed=True)
        for sequence, time in versions:
            if sequence <= since:
                break
            texts = self.store.texts_of(sequence)
            named = [(text, *self._named(text)) for text in texts]
            for page, pages, part in _paged(named):
                where = "index.html" if page == 1 else f"p/{page}.html"
                made = self.pages.version(sequence, time, part, len(texts), page, pages)
                write(self._path("permanent", "v", str(sequence), where), made, _seconds(time), packed=True)

    def _named(self, text: TextRow) -> tuple[str, str]:
        """What its act was called then: so a room that followed and one that begins now say the same."""
        said = self.store.recorded(text)
        return said.title, said.language

    def _write_rest(self, fresh: str, edition: Edition, digest: Digest, time_s: int) -> None:
        pages, counts, groups = self.pages, self.store.counts(), self.store.groups()
        feed = [(time, text, *self._named(text)) for time, text in self.store.recent(FEED)]
        made = {
            "index.html": pages.front(self.store.newest(NEWEST), groups, counts),
            "acts/index.html": pages.groups(groups),
            "check.html": pages.check(),
            "missing.html": pages.message("There is no such page", "Look for the act by its number or its words."),
            "refused.html": pages.message("That cannot be asked here", "Pages can be read; nothing can be sent."),
            "limited.html": pages.message("Please wait a little", "Too many requests came from your network at once."),
            "busy.html": pages.message("Please try again soon", "The search is very busy. All acts can be read."),
            "feed.atom": pages.feed(feed, edition.time),
            "latest.json": pages.latest(edition.sequence, edition.time, digest, counts),
            "edition.txt": edition.encode(),
            "opensearch.xml": pages.opensearch(),
            "robots.txt": f"User-agent: *\nDisallow: /search\nSitemap: {pages.room.origin}/sitemap.xml\n".encode(),
        }
        # Permanent pages name the style that they were made with.
        write(self._path("permanent", "assets", pages.room.style), asset("style.css"), time_s, packed=True)
        write(self._path("permanent", "assets", "icon.svg"), asset("icon.svg"), time_s)
        parts = 0
        for parts, addresses in enumerate(self._map_parts(), 1):
            made[f"sitemap/{parts}.xml"] = pages.sitemap(addresses)
        made["sitemap.xml"] = pages.sitemap_index(parts)
        remove_numbered(os.path.join(fresh, "sitemap"), ".xml", parts)
        for name, data in made.items():
            write(os.path.join(fresh, name), data, time_s, packed=True)

    def _map_parts(self) -> Iterator[list[tuple[str, str]]]:
        part = [("/", ""), ("/acts/", "")]
        for act in self.store.acts():
            if not act.gone:
                part.append((f"/act/{act.act}", act.date))
            if len(part) >= MAP:
                yield part
                part = []
        if part:
            yield part

    def _write_index(self, fresh: str, sequence: int, former: str) -> None:
        """Into the one of two files that the former release does not read."""
        in_use = os.path.realpath(self._path("releases", former, "search.sqlite")) if former else ""
        names = [self._path("search-a.sqlite"), self._path("search-b.sqlite")]
        free = [name for name in names if os.path.realpath(name) != in_use]
        line = self.store.line
        path = max(free, key=lambda name: index_sequence(name, line))
        since = index_sequence(path, line)
        if (since == 0 or since > sequence) and os.path.exists(path):
            os.unlink(path)
            since = 0
        changed = list(self.store.acts(after=since))
        write_index(path, sequence, self._indexed(changed), [act.act for act in changed if act.gone], line=line)
        link = os.path.join(fresh, "search.sqlite")
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(os.path.join("..", "..", os.path.basename(path)), link)

    def _indexed(self, acts: Iterable[ActRow]) -> Iterator[Indexed]:
        for act in acts:
            texts = [t for t in self.store.texts(act.act) if t.version == act.latest]
            if act.gone or not texts:
                continue
            found, _ = self._blocks(self._content(texts[0]), act.title)
            body = "\n".join("\n".join((b.heading, *b.lines)) for b in found)
            yield Indexed(act.act, act.title, body, act.language, act.date, act.latest)

    def _clean(self, name: str) -> None:
        """The former release stays for readers who are in the middle of it; older ones go."""
        kept = {name, *sorted(n for n in os.listdir(self._path("releases")) if n < name)[-1:]}
        for old in os.listdir(self._path("releases")):
            if old not in kept:
                remove_tree(self._path("releases", old))


def _paged(rows: list[Row]) -> Iterator[tuple[int, int, list[Row]]]:
    """(page, of how many, rows) for each page; one empty page if there is nothing."""
    pages = max(1, -(-len(rows) // PER_PAGE))
    for page in range(1, pages + 1):
        yield page, pages, rows[(page - 1) * PER_PAGE : page * PER_PAGE]


def _look(style: str) -> str:
    return style.removeprefix("style-").removesuffix(".css")


def _release_name(edition: Edition, digest: Digest, style: str) -> str:
    return f"{edition.sequence:016d}-{digest.hex()[:16]}-{_look(style)}"


def _release_sequence(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0]) if name else 0


def _seconds(time: Instant | int) -> int:
    return int(time) // 1_000_000
