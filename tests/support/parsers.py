"""Every parser of a byte format as one function, from bytes to the bytes that it reads back; for fuzzers.

A parser is right about an input if it refuses it in Exclave's own words, or if what it understood encodes to the very
same bytes: then no two texts mean the same, and nothing can be hidden in what is signed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from exclave import formats
from exclave.errors import CorruptObject, MalformedError, UsageError
from exclave.formats import (
    annex,
    answer,
    card,
    carried,
    charter,
    checkpoint,
    config,
    deletion,
    dnsplan,
    edition,
    epochnote,
    exit,
    extension,
    fact,
    feed,
    gap,
    hostconfig,
    identityconfig,
    journal,
    keyring,
    leaf,
    manifest,
    mergenote,
    mirror,
    namesmoved,
    note,
    objectlist,
    objectname,
    pack,
    proof,
    publicstatement,
    push,
    record,
    relying,
    scrubbed,
    seen,
    signals,
    sitefacts,
    stage,
    tile,
    warrant,
    watchconfig,
    witness,
)
from exclave.ids import Key, instant_text, parse_instant, parse_key, parse_label, sha256
from exclave.keys.file import parse_key_file

Reader = Callable[[bytes], bytes | None]
"""Reads bytes and gives what it understood, encoded; None for a format that only people write."""
REFUSALS = (MalformedError, CorruptObject, UsageError)
VECTORS = Path(__file__).parent.parent / "vectors"
CORPUS = Path(__file__).parent.parent / "fuzz" / "formats_corpus"


def _text(parse: Callable[[str], Any], encode: Callable[[Any], str] = lambda value: value.encode()) -> Reader:
    def read(data: bytes) -> bytes:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError("not UTF-8") from error
        return encode(parse(text)).encode()

    return read


def _own(parse: Callable[[bytes], Any]) -> Reader:
    def read(data: bytes) -> bytes:
        made = parse(data).encode()
        return made if isinstance(made, bytes) else made.encode()

    return read


def _pair(parse: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Reader:
    return lambda data: encode(parse(data))


def _people(parse: Callable[[bytes], Any]) -> Reader:
    def read(data: bytes) -> None:
        parse(data)

    return read


def _header(data: bytes) -> bytes:
    found = pack.parse_header(data)
    return pack.encode_header(found.sealed_key, found.salt, found.sealed_locator) + data[pack.HEADER_BYTES :]


def _bundle(data: bytes) -> bytes:
    width = data[0] if data else 0
    return data[:1] + tile.encode_bundle(tile.parse_bundle(data[1:], width + 1))


def _tile(data: bytes) -> bytes:
    width = data[0] if data else 0
    return data[:1] + tile.encode_tile(tile.parse_tile(data[1:], width + 1))


def _timed(data: bytes) -> bytes:
    return checkpoint.encode_timed(*checkpoint.parse_timed(data, 64))


def _exit_list(data: bytes) -> bytes:
    found = exit.ExitList(BytesIO(data))
    objects = b"".join(exit.object_line(key, size) for key, size in found.objects())
    assert found.root == sha256(data)
    return found.head.encode().encode() + objects


def _key(data: bytes) -> Key:
    try:
        return parse_key(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise MalformedError("not ASCII") from error


READERS: dict[str, Reader] = {
    "annex.parse_annex": _own(annex.parse_annex),
    "answer.parse_answer": _text(answer.parse_answer),
    "card.parse_card": _own(card.parse_card),
    "carried.parse_carried": _own(carried.parse_carried),
    "charter.parse_charter": _text(charter.parse_charter),
    "checkpoint.parse_checkpoint": _text(checkpoint.parse_checkpoint),
    "checkpoint.parse_timed": _timed,
    "config.parse_config": _people(config.parse_config),
    "deletion.parse_deletion": _own(deletion.parse_deletion),
    "deletion.parse_objection": _text(deletion.parse_objection),
    "dnsplan.parse_dns_plan": _people(dnsplan.parse_dns_plan),
    "dnsplan.parse_tsig_key": _people(dnsplan.parse_tsig_key),
    "edition.parse_bundle": _own(edition.parse_bundle),
    "edition.parse_edition": _own(edition.parse_edition),
    "edition.parse_published": _people(lambda data: edition.parse_published(fact.parse_fact(data))),
    "epochnote.parse_epoch": _text(epochnote.parse_epoch),
    "extension.parse_extension": _text(extension.parse_extension),
    "extension.parse_extension_end": _text(extension.parse_extension_end),
    "exit.ExitList": _exit_list,
    "exit.parse_exit": _text(exit.parse_exit),
    "exit.parse_exit_facts": _people(lambda data: exit.parse_exit_facts(fact.parse_fact(data).say)),
    "fact.parse_fact": _own(fact.parse_fact),
    "feed.parse_feed_head": _text(feed.parse_feed_head),
    "feed.parse_batch": _people(feed.parse_batch),
    "feed.parse_content": _people(feed.parse_content),
    "gap.parse_gap": _text(gap.parse_gap),
    "hostconfig.parse_host_config": _people(hostconfig.parse_host_config),
    "identityconfig.parse_identity_config": _people(identityconfig.parse_identity_config),
    "identityconfig.parse_place_config": _people(identityconfig.parse_place_config),
    "journal.parse_entry": _pair(journal.parse_entry, journal.encode_entry),
    "journal.parse_segment_head": _pair(journal.parse_segment_head, journal.encode_segment_head),
    "keyring.parse_key_record": _own(keyring.parse_key_record),
    "keyring.parse_token_config": _people(keyring.parse_token_config),
    "leaf.parse_version_leaf": _own(leaf.parse_version_leaf),
    "leaf.parse_ledger_entry": _own(leaf.parse_ledger_entry),
    "manifest.parse_root": _pair(manifest.parse_root, manifest.encode_node),
    "manifest.parse_leaf": _pair(manifest.parse_leaf, manifest.encode_node),
    "manifest.parse_extents": _pair(manifest.parse_extents, manifest.encode_node),
    "manifest.parse_branch": _pair(manifest.parse_branch, manifest.encode_node),
    "mirror.parse_add_entries": _own(mirror.parse_add_entries),
    "mergenote.parse_merge": _text(mergenote.parse_merge),
    "namesmoved.parse_names_moved": _pair(namesmoved.parse_names_moved, namesmoved.encode_names_moved),
    "note.parse_note": _own(note.parse_note),
    "objectname.parse_object_name": _people(lambda data: objectname.parse_object_name(_key(data))),
    "objectlist.parse_list_node": _own(objectlist.parse_list_node),
    "pack.parse_header": _header,
    "pack.parse_secret": _own(pack.parse_secret),
    "pack.parse_locator": _pair(pack.parse_locator, lambda found: pack.encode_locator(*found)),
    "pack.parse_table": _pair(pack.parse_table, pack.encode_table),
    "proof.parse_proof": _own(proof.parse_proof),
    "publicstatement.parse_public_statement": _text(publicstatement.parse_public_statement),
    "push.parse_push": _people(push.parse_push),
    "record.parse_record": _own(record.parse_record),
    "relying.parse_service": _pair(relying.parse_service, relying.encode_service),
    "scrubbed.parse_scrub_line": _text(scrubbed.parse_scrub_line),
    "scrubbed.parse_scrub_report": _text(scrubbed.parse_scrub_report),
    "seen.parse_seen": _own(seen.parse_seen),
    "signals.parse_signals": _text(signals.parse_signals),
    "sitefacts.parse_lock_line": _text(sitefacts.parse_lock_line),
    "sitefacts.parse_probe_line": _text(sitefacts.parse_probe_line),
    "stage.parse_stage": _text(stage.parse_stage),
    "tile.parse_bundle": _bundle,
    "tile.parse_tile": _tile,
    "warrant.parse_warrant": _text(warrant.parse_warrant),
    "watchconfig.parse_watch_config": _people(watchconfig.parse_watch_config),
    "witness.parse_add_checkpoint": _own(witness.parse_add_checkpoint),
    "witness.parse_signatures": _pair(witness.parse_signatures, witness.encode_signatures),
    "witness.parse_size": _pair(witness.parse_size, witness.encode_size),
    "keyfile.parse_key_file": _own(parse_key_file),
    "ids.parse_instant": _text(parse_instant, instant_text),
    "ids.parse_label": _text(parse_label, str),
    "ids.parse_key": _text(parse_key, str),
}
"""By module and function."""
ELSEWHERE = {
    "dnsplan.parse_address": "a part of a plan, read by parse_dns_plan",
    "extension.parse_serial": "a line of a list, read by parse_extension",
    "limits.parse_limit": "a field of the configuration, read by parse_config",
    "limits.parse_limits": "a field of the configuration, read by parse_config",
    "limits.parse_zone": "a field of the configuration, read by parse_config",
    "policy.read_policy": "lines of a charter, read by parse_charter",
    "push.parse_second": "a field of a push, read by parse_push",
    "toml.read_toml": "of any kind of configuration, read by parse_config and its like",
    "reissueorder.read_reissue_order": "streams a file; fuzzed by fuzz_feeding.py",
    "timestamp.parse_authority_url": "a field of a charter, read by parse_charter",
    "timestamp.parse_policy": "a field of a charter, read by parse_charter",
    "timestamp.read_authorities": "lines of a charter, read by parse_charter",
    "statusorder.read_status_order": "streams a file; fuzzed by fuzz_feeding.py",
    "journal.read_records": "needs the head before; tests/identity/test_journal.py flips every byte",
}
"""Parsers that are tried in another way, and where."""


def tried(name: str, data: bytes) -> None:
    """Raises ``AssertionError`` if the parser ``name`` is wrong about ``data``; foreign exceptions pass through."""
    with suppress(*REFUSALS):
        again = READERS[name](data)
        assert again is None or again == data, f"{name}: what parses must encode to the same bytes"


def unlisted() -> list[str]:
    """Parsers in ``formats/`` that stand neither in ``READERS`` nor in ``ELSEWHERE``."""
    found = []
    for module in pkgutil.iter_modules(formats.__path__):
        made = importlib.import_module(f"exclave.formats.{module.name}")
        for function, value in inspect.getmembers(made, inspect.isfunction):
            name = f"{module.name}.{function}"
            if value.__module__ == made.__name__ and function.startswith(("parse_", "read_", "decode_")):
                found.append(name)
    return sorted(set(found) - READERS.keys() - ELSEWHERE.keys())


def seeds(name: str) -> Iterator[bytes]:
    """What a fuzzer of ``name`` begins with: the stored vectors of its format, and the inputs that are kept."""
    module, _, function = name.partition(".")
    folder = VECTORS / {"epochnote": "epoch"}.get(module, module)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from _bodies(path, function)
    kept = CORPUS / name
    if kept.is_dir():
        for path in sorted(kept.iterdir()):
            yield path.read_bytes()


def _bodies(path: Path, function: str) -> Iterator[bytes]:
    if path.suffix == ".json":
        yield from _json_strings(path)
        return
    kinds = {"parse_root": "root", "parse_leaf": "leaf", "parse_extents": "extents", "parse_branch": "branch"}
    if path.parent.name == "manifest" and not path.name.startswith(kinds.get(function, "")):
        return
    _, _, body = path.read_bytes().partition(b"\n\n")
    if len(body) > 64 << 10:
        return
    yield body
    with suppress(MalformedError):
        yield note.parse_note(body).text.encode()


def _json_strings(path: Path) -> Iterator[bytes]:
    waiting: list[Any] = [json.loads(path.read_text())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            yield value.encode()
            with suppress(ValueError):
                yield bytes.fromhex(value)
