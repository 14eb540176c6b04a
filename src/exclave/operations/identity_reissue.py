"""Give new certificates to keys that were certified before, by order of the quorum.

(1) read the order · (2) warrant, place, epoch, CA · (3) in batches, group by group: judge, sign, enter the serials,
write the files · (4) index · (5) fact. A certificate lies in the output folder only after its serial was entered.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.reissue import Authority, Former, is_by, pem, reissue
from exclave.durable import sync_folder
from exclave.errors import MalformedError, NotAuthorised, UsageError
from exclave.formats.journal import Head, Issued, serial_bytes
from exclave.formats.reissueorder import MAX_ORDER_BYTES, ReissueLine, ReissueOrder, read_reissue_order
from exclave.formats.warrant import Act
from exclave.identity.reissue import Issuers, Refusal, serial_for
from exclave.identity.status_log import Held, Revoked, Serial, Unknown
from exclave.ids import Digest, Label, sha256
from exclave.operations.act_fact import Recorded
from exclave.operations.acting import Authorised, Desk, own_copy
from exclave.operations.home import make_folder, read_limited, write_private
from exclave.operations.orders import certificate_files, read_certificate

BATCH = 200
MAX_FILE_BYTES = 64 << 10
INDEX_HEADING = "group,former_sha256,serial,sha256\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an order is worked off, for the sake of whoever has to fetch and check what comes out."""

    batch: int = BATCH
    pause_s: float = 0.0
    """Between two batches."""
    most: int | None = None
    """New certificates in this run; the next run goes on behind them."""
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Reissued:
    """A re-issue order was worked off, as far as ``Pace.most`` let it; the same command goes on."""

    order: Digest
    warrant: Digest
    ca: Digest
    total: int
    made: int
    """By this run."""
    before: int
    """By earlier runs."""
    refused: dict[str, int]
    """Former certificates without a successor, by reason."""
    left: int
    """Not looked at yet."""
    out: Path
    head: Head
    fact: Recorded


@dataclass(slots=True)
class _Run:
    act: Authorised
    order: ReissueOrder
    ca: Authority
    place: Label
    ocsp: str
    files: Mapping[Digest, Path]
    issuers: Issuers
    tainted: frozenset[Digest]
    out: Path
    pace: Pace
    made: int = 0
    before: int = 0
    left: int = 0


def reissue_all(
    desk: Desk, path: Path, *, ca: Authority, certificates: Path, out: Path, ocsp: str = "", pace: Pace | None = None
) -> Reissued:
    """Works the order in ``path`` off. ``ca``: who signs; ``certificates``: a folder with the former ones, one to a
    file (DER or PEM); ``out``: a folder that an earlier run of the same order may have begun.

    ``ocsp``: address of the status service for a CA other than the former one. ``UsageError`` if the order names
    another CA, or one that the journal does not know. Authority: see ``Desk.authorise``.
    """
    if not ocsp.isascii() or not ocsp.isprintable():
        raise UsageError("the address of the status service must be an ASCII URL")
    with own_copy(path, MAX_ORDER_BYTES) as copy:
        lines: list[ReissueLine] = []
        order = read_reissue_order(copy, lines.append)  # (1)
    act = desk.authorise(Act.REISSUE, order.digest)  # (2)
    issuers = Issuers(desk.identity.store)
    if order.ca != ca.id or not issuers.knows(ca.id):
        raise UsageError(
            f"the order is for the CA {order.ca.hex()}, and the key is that of {ca.id.hex()}"
            if order.ca != ca.id
            else f"the journal does not know the CA {ca.id.hex()}",
            hint="Enter the CA into the journal first, so that its certificates have a status.",
        )
    files = certificate_files(certificates)
    tainted = issuers.tainted(read_certificate(path) for path in files.values())
    place = desk.identity.authority().place
    make_folder(out)
    run = _Run(act, order, ca, place, ocsp, files, issuers, tainted, out, pace or Pace())
    refused = _work(run, lines)  # (3)
    _write_index(run, lines)  # (4)
    return _finish(run, refused)  # (5)


def _work(run: _Run, lines: list[ReissueLine]) -> Counter[Refusal]:
    refused: Counter[Refusal] = Counter()
    for at in range(0, len(lines), run.pace.batch):
        if run.pace.most is not None and run.made >= run.pace.most:
            run.left = len(lines) - at
            break
        if run.made and run.pace.pause_s:
            run.pace.sleep(run.pace.pause_s)
        run.act.still()
        _work_batch(run, lines[at : at + run.pace.batch], refused)
    return refused


def _work_batch(run: _Run, lines: list[ReissueLine], refused: Counter[Refusal]) -> None:
    """Judge and sign all, enter their serials, write their files.

    A restart finds files of this batch, and goes on behind them; or serials without files, and signs those again: the
    same certificates, of which none was handed out.
    """
    fresh: dict[int, tuple[ReissueLine, bytes]] = {}
    for line in lines:
        result = _make(run, line)
        if isinstance(result, Refusal):
            refused[result] += 1
        elif result is None:
            run.before += 1
        else:
            fresh[result[0]] = (line, result[1])
    store = run.act.desk.identity.store
    unknown = [serial for serial in fresh if isinstance(store.status(run.ca.id, Serial(serial)), Unknown)]
    if unknown:
        serials = tuple(sorted(serial_bytes(serial) for serial in unknown))
        run.act.desk.identity.writer.enter([Issued(run.ca.id, serials)], warrant=run.act.digest)
    for serial, (line, made) in fresh.items():
        _write(run, line, serial, made)
    if fresh:
        for group in {line.group for line, _ in fresh.values()}:
            sync_folder(run.out / str(group))
    run.made += len(fresh)


def _make(run: _Run, line: ReissueLine) -> tuple[int, bytes] | Refusal | None:
    """(serial, new certificate), why there is none, or None: an earlier run made it."""
    path = run.files.get(line.certificate)
    if path is None:
        return Refusal.MISSING
    data = read_certificate(path)
    if sha256(data) != line.certificate:
        return Refusal.MISSING  # the file was changed meanwhile
    former = run.issuers.judge(data, run.tainted)
    if isinstance(former, Refusal):
        return former
    serial = serial_for(run.place, run.act.digest, line.certificate)
    if isinstance(run.act.desk.identity.store.status(run.ca.id, Serial(serial)), Revoked | Held):
        return Refusal.SUCCESSOR_STOPPED
    if _has(run, line, serial):
        return None
    try:
        return serial, _sign(run, former, serial)
    except UsageError:
        return Refusal.ENDS
    except NotAuthorised:
        return Refusal.FOREIGN


def _sign(run: _Run, former: Former, serial: int) -> bytes:
    begin = run.act.warrant.not_before
    return reissue(former, run.ca, serial=serial, begin=begin, end=run.order.until, ocsp=run.ocsp)


def _has(run: _Run, line: ReissueLine, serial: int) -> bool:
    """Whether both files are there and whole: the power may have failed while they were written."""
    der, text = _names(run, line, serial)
    with suppress(UsageError, MalformedError):
        data = read_limited(der, MAX_FILE_BYTES)
        return is_by(data, run.ca) and read_limited(text, MAX_FILE_BYTES) == pem(data)
    return False


def _names(run: _Run, line: ReissueLine, serial: int) -> tuple[Path, Path]:
    name = run.out / str(line.group) / f"{serial:x}"
    return name.with_suffix(".der"), name.with_suffix(".pem")


def _write(run: _Run, line: ReissueLine, serial: int, made: bytes) -> None:
    make_folder(run.out / str(line.group))
    for path, data in zip(_names(run, line, serial), (made, pem(made)), strict=True):
        fresh = path.with_name(path.name + ".new")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(fresh, path)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write_index(run: _Run, lines: list[ReissueLine]) -> None:
    write_private(run.out / "index.csv", "".join((INDEX_HEADING, *_index(run, lines))).encode())


def _index(run: _Run, lines: list[ReissueLine]) -> Iterator[str]:
    for line in lines:
        serial = serial_for(run.place, run.act.digest, line.certificate)
        with suppress(UsageError, MalformedError):
            data = read_limited(_names(run, line, serial)[0], MAX_FILE_BYTES)
            yield f"{line.group},{line.certificate.hex()},{serial:x},{sha256(data).hex()}\n"


def _finish(run: _Run, refused: Counter[Refusal]) -> Reissued:
    act, order = run.act, run.order
    head = act.desk.identity.store.head()
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(refused.items())) or "none"
    say = (
        f"order {order.digest.hex()}",
        f"{run.made + run.before} of {order.total} certificates made by CA {run.ca.id.hex()}",
        f"refused: {why}; left: {run.left}",
        f"identity journal {head.number} {head.chain.hex()}",
    )
    fact = act.desk.facts.record(
        Label("identity-reissue"), act.granted, say, again=run.made > 0,
        now=act.desk.clock(),
    )  # fmt: skip
    return Reissued(
        order.digest, act.digest, run.ca.id, order.total, run.made, run.before,
        {str(reason): number for reason, number in sorted(refused.items())}, run.left, run.out, head, fact,
    )  # fmt: skip
