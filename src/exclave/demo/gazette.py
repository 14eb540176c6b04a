"""The gazette: every act of the demo's state with all its versions, as a folder of documents.

::

    gazette.json               {"day": 0, "date": "2025-12-31"}; day counts the calls of change_gazette
    index.jsonl                one line for each act: act, title, version, date
    acts/2019/0123/act.json    what is known of the act, with the SHA-256 of each version
    acts/2019/0123/v1.txt …    the consolidated text after each amendment (UTF-8)
    acts/2019/0123/latest      symbolic link to the newest version
    acts/2019/0123/v3.html     for some, the newest version as a page
    annexes/…                  incompressible maps of several MiB, hard-linked into the folders of their acts
    desk/…                     everything strange (oddities.py)
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from exclave.demo import words
from exclave.demo.files import count_tree, make_folder, office_hours, replace_file, replace_link, stamp, write_file
from exclave.demo.oddities import write_oddities
from exclave.demo.reference import ReferenceQuery
from exclave.demo.words import Prose, check_scale, seeded
from exclave.errors import TargetNotEmpty

KNOWN_PHRASE = words.KNOWN_PHRASE
"""Stands in every version of every act."""

REFERENCE_ACT = "2019/0123"
"""The act that the reference query asks for; a day's work never touches it."""

YEARS = range(2010, 2026)
ACTS_PER_YEAR = 132
ANNEXES = 6
LAST_DAY = date(2025, 12, 31).toordinal()
MAX_SCALE = 75
"""Above it, numbers of acts would outgrow four digits."""


@dataclass(frozen=True, slots=True)
class GazetteFacts:
    """What was written. ``files`` counts each name of a hard-linked file, ``bytes`` (apparent) its content once."""

    acts: int
    versions: int
    files: int
    folders: int
    links: int
    bytes: int
    has_attribute: bool


@dataclass(frozen=True, slots=True)
class GazetteChange:
    """A day's work: acts as ``2019/0123``."""

    day: int
    amended: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Version:
    text: bytes
    date: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class _Act:
    name: str
    title: str
    language: str
    versions: tuple[_Version, ...]
    translation: tuple[str, str, str, str] | None
    has_page: bool
    signed_by: str

    def record(self) -> dict[str, object]:
        """The content of act.json."""
        other = self.translation
        return {
            "act": self.name,
            "title": self.title,
            "language": self.language,
            "signed_by": self.signed_by,
            "translation": {"language": other[0], "file": other[1], "title": other[2]} if other else None,
            "versions": [_version_record(number, version) for number, version in enumerate(self.versions, 1)],
        }

    def index_line(self) -> dict[str, object]:
        title = f"{self.title} · {self.translation[2]}" if self.translation else self.title
        return {"act": self.name, "title": title, "version": len(self.versions), "date": self.versions[-1].date}


def write_gazette(folder: Path, *, seed: int, scale: int) -> GazetteFacts:
    """Writes a whole gazette into ``folder``, which must be new or empty (``TargetNotEmpty``).

    At scale 1: 2,112 acts with about 5,000 versions, 80 MB. Nothing is durable: a restart writes it anew.
    """
    check_scale(scale, MAX_SCALE)
    root = str(folder)
    if os.path.isdir(root) and os.listdir(root):
        raise TargetNotEmpty(f"{root} is not empty")
    make_folder(root)
    annexes = _write_annexes(os.path.join(root, "annexes"), seed, scale)
    prose = {"et": words.estonian(seed), "en": words.english(seed)}
    index, versions = [], 0
    acts_folder = os.path.join(root, "acts")
    make_folder(acts_folder)
    for year in YEARS:
        newest = 0
        make_folder(os.path.join(acts_folder, str(year)))
        for number in range(1, ACTS_PER_YEAR * scale + 1):
            act = _make_act(prose, seed, f"{year}/{number:04d}", date(year, 1, 1).toordinal(), LAST_DAY)
            _write_act(acts_folder, act, annexes.get(act.name))
            index.append(act.index_line())
            versions += len(act.versions)
            newest = max(newest, act.versions[-1].time_ns)
        stamp(os.path.join(acts_folder, str(year)), newest)
    has_attribute = write_oddities(os.path.join(root, "desk"), seed)
    moment = office_hours(LAST_DAY, seeded(seed, "gazette:root"))
    _write_index(root, index, 0, LAST_DAY, moment)
    for path in (acts_folder, root):
        stamp(path, moment)
    count = count_tree(root)
    return GazetteFacts(len(index), versions, count.files, count.folders, count.links, count.bytes, has_attribute)


def change_gazette(folder: Path, seed: int) -> GazetteChange:
    """One day's work: amends 1 % of the acts, adds three, removes one. The same seed goes on differently each day.

    A reader meanwhile finds every act whole. If the process dies, the acts are whole too; the index may lag behind
    them until the next day's work, and the act to be removed may have left the index but not the folder.
    """
    root, acts_folder = str(folder), str(folder / "acts")
    state = json.loads((folder / "gazette.json").read_bytes())
    index = {line["act"]: line for line in map(json.loads, (folder / "index.jsonl").read_bytes().splitlines())}
    day = int(state["day"]) + 1
    today = LAST_DAY + day
    rng = seeded(seed, f"gazette:day:{day}")
    moment = office_hours(today, rng)
    prose = {"et": words.estonian(seed), "en": words.english(seed)}
    chosen = rng.sample([name for name in index if name != REFERENCE_ACT], k=max(1, len(index) // 100) + 1)
    amended, removed = sorted(chosen[1:]), chosen[0]
    for name in amended:
        index[name] |= _amend_act(os.path.join(acts_folder, name), prose, rng, today, moment)
    added = []
    year = date.fromordinal(today).year
    number = max((int(name[5:]) for name in index if name.startswith(f"{year}/")), default=0)
    make_folder(os.path.join(acts_folder, str(year)))
    for name in (f"{year}/{number + more:04d}" for more in (1, 2, 3)):
        act = _make_act(prose, seed, name, today, today)
        _write_act(acts_folder, act, None)
        index[name] = act.index_line()
        added.append(name)
    del index[removed]
    _write_index(root, [index[name] for name in sorted(index)], day, today, moment)
    shutil.rmtree(os.path.join(acts_folder, removed))
    for path in (os.path.dirname(os.path.join(acts_folder, removed)), os.path.join(acts_folder, str(year)), root):
        stamp(path, moment)
    stamp(acts_folder, moment)
    return GazetteChange(day, tuple(amended), tuple(added), (removed,))


def gazette_reference(*, seed: int, scale: int = 1) -> ReferenceQuery:
    """What the gazette's application answers for the act 2019/0123, whatever was done to other acts since."""
    check_scale(scale, MAX_SCALE)
    prose = {"et": words.estonian(seed), "en": words.english(seed)}
    act = _make_act(prose, seed, REFERENCE_ACT, date(2019, 1, 1).toordinal(), LAST_DAY)
    latest = act.versions[-1]
    return ReferenceQuery(
        f"/act/{REFERENCE_ACT}",
        {
            "act": REFERENCE_ACT,
            "title": act.title,
            "version": len(act.versions),
            "date": latest.date,
            "sha256": hashlib.sha256(latest.text).hexdigest(),
            "text": latest.text.decode(),
        },
    )


def _make_act(prose: dict[str, Prose], seed: int, name: str, first_day: int, last_day: int) -> _Act:
    """An act from its name and the seed alone: adopted within a year of ``first_day``, amended up to ``last_day``."""
    rng = seeded(seed, f"gazette:act:{name}")
    language = "en" if rng.random() < 0.25 else "et"
    topic_et, topic_en = rng.choice(words.TOPICS)
    place = rng.choice(words.municipalities())[1]
    title = rng.choice(
        (f"{topic_en} Act", f"Act amending the {topic_en} Act", f"Implementation of the {topic_en} Act in {place}")
        if language == "en"
        else (
            f"{topic_et.capitalize()}seadus",
            f"{topic_et.capitalize()}seaduse muutmise seadus",
            f"{topic_et.capitalize()}seaduse rakendamise kord ({place})",
        )
    )
    sections = [prose[language].section(rng, number) for number in range(1, rng.randint(4, 15))]
    day = min(first_day + rng.randrange(365), last_day)
    versions: list[_Version] = []
    while not versions or (len(versions) < 6 and rng.random() < 0.6 and day < last_day):
        if versions:
            day = min(day + rng.randrange(40, 900), last_day)
            _amend_sections(sections, prose[language], rng)
        text = _text(title, name, len(versions) + 1, date.fromordinal(day).isoformat(), sections)
        versions.append(_Version(text, date.fromordinal(day).isoformat(), office_hours(day, rng)))
    translation = rng.choice(words.TRANSLATIONS) if rng.random() < 0.04 else None
    signed_by = f"{rng.choice(words.GIVEN_NAMES)} {rng.choice(words.FAMILY_NAMES)}"
    return _Act(name, title, language, tuple(versions), translation, rng.random() < 0.1, signed_by)


def _amend_sections(sections: list[str], prose: Prose, rng: random.Random) -> None:
    """Rewrites one to three sections, and in one case of four adds one."""
    for index in rng.sample(range(len(sections)), k=min(len(sections), rng.randint(1, 3))):
        sections[index] = prose.section(rng, index + 1)
    if rng.random() < 0.25:
        sections.append(prose.section(rng, len(sections) + 1))


def _text(title: str, name: str, version: int, day: str, sections: list[str]) -> bytes:
    """Blocks with an empty line between them: title, heading, sections, closing words."""
    closing = f"Remember: {KNOWN_PHRASE}.\n"
    return "\n\n".join((title, f"RT {name} · versioon {version} · {day}", *sections, closing)).encode()


def _version_record(number: int, version: _Version) -> dict[str, object]:
    digest = hashlib.sha256(version.text).hexdigest()
    return {"version": number, "date": version.date, "file": f"v{number}.txt", "sha256": digest}


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _write_act(acts_folder: str, act: _Act, annex: str | None) -> None:
    folder = os.path.join(acts_folder, act.name)
    make_folder(folder)
    latest = act.versions[-1]
    for number, version in enumerate(act.versions, 1):
        write_file(f"{folder}/v{number}.txt", version.text, version.time_ns)
    if act.translation:
        _, name, title, sentence = act.translation
        write_file(os.path.join(folder, name), f"{title}\n\n{sentence * 12}\n".encode(), latest.time_ns)
    if act.has_page:
        page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{html.escape(act.title)}</title>\n'
        body = f"<pre>{html.escape(latest.text.decode())}</pre>\n"
        write_file(f"{folder}/v{len(act.versions)}.html", (page + body).encode(), latest.time_ns)
    if annex:
        os.link(annex, f"{folder}/kaart.tif")
    write_file(f"{folder}/act.json", _json(act.record()), latest.time_ns)
    replace_link(f"{folder}/latest", f"v{len(act.versions)}.txt", latest.time_ns)
    stamp(folder, latest.time_ns)


def _amend_act(folder: str, prose: dict[str, Prose], rng: random.Random, today: int, time_ns: int) -> dict[str, object]:
    """Adds a version to an act on disk: text first, then its record, then the link; returns what the index must say."""
    with open(f"{folder}/act.json", "rb") as stream:
        record = json.loads(stream.read())
    count = len(record["versions"])
    with open(f"{folder}/v{count}.txt", "rb") as stream:
        title, _, *sections, _ = stream.read().decode().split("\n\n")
    _amend_sections(sections, prose[record["language"]], rng)
    day = date.fromordinal(today).isoformat()
    version = _Version(_text(title, record["act"], count + 1, day, sections), day, time_ns)
    replace_file(f"{folder}/v{count + 1}.txt", version.text, time_ns)
    record["versions"].append(_version_record(count + 1, version))
    replace_file(f"{folder}/act.json", _json(record), time_ns)
    replace_link(f"{folder}/latest", f"v{count + 1}.txt", time_ns)
    stamp(folder, time_ns)
    return {"version": count + 1, "date": day}


def _write_annexes(folder: str, seed: int, scale: int) -> dict[str, str]:
    """Six maps of 4 to 7 MiB for each unit of scale; returns act → path of its map."""
    make_folder(folder)
    written = {}
    for number in range(ANNEXES * scale):
        rng = seeded(seed, f"gazette:annex:{number}")
        act = f"{YEARS[number % len(YEARS)]}/{5 + number // len(YEARS):04d}"
        path = os.path.join(folder, f"{act.replace('/', '-')} kaart № {number + 1}.tif")
        moment = office_hours(date(YEARS[number % len(YEARS)], 2, 24).toordinal(), rng)
        write_file(path, rng.randbytes(rng.randint(4 << 20, 7 << 20)), moment)
        written[act] = path
    stamp(folder, office_hours(LAST_DAY, seeded(seed, "gazette:annexes")))
    return written


def _write_index(root: str, lines: list[dict[str, object]], day: int, today: int, time_ns: int) -> None:
    def encoded() -> Iterator[str]:
        for line in lines:
            yield json.dumps(line, ensure_ascii=False) + "\n"

    replace_file(os.path.join(root, "index.jsonl"), "".join(encoded()).encode(), time_ns)
    state = {"day": day, "date": date.fromordinal(today).isoformat()}
    replace_file(os.path.join(root, "gazette.json"), _json(state), time_ns)
