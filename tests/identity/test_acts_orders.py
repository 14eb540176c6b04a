"""Order files: their vectors, what operators make them from, and what custodians are shown."""

from __future__ import annotations

import contextlib
import io
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import ExclaveError, MalformedError, UsageError, WarrantForeign
from exclave.formats.extension import END_HEADER, parse_extension, parse_extension_end
from exclave.formats.reissueorder import ReissueLine, read_reissue_order, write_reissue_order
from exclave.formats.statusorder import (
    MAX_ISSUERS,
    MAX_LINES,
    REASONS,
    StatusLine,
    read_status_order,
    write_status_order,
)
from exclave.formats.warrant import Act
from exclave.ids import Digest, Instant, sha256
from exclave.operations.custody import request_warrant, sign_warrant
from exclave.operations.orders import convert_csv, read_order
from support.acting import Place, issuer
from support.small_home import SmallHome, run
from support.small_state import START

VECTORS = Path(__file__).parent.parent / "vectors"
FOLDERS = ("statusorder", "reissueorder", "extension")
CASES = [(folder, path.name) for folder in FOLDERS for path in sorted((VECTORS / folder).iterdir())]


def again(folder: str, body: bytes) -> tuple[bytes, int | None]:
    """The file read and written again, and how many certificates it names."""
    if folder == "statusorder":
        lines: list[StatusLine] = []
        order = read_status_order(io.BytesIO(body), lines.append)
        assert order.digest == sha256(body)
        return b"".join(write_status_order(order.act, reversed(lines))), order.total
    if folder == "reissueorder":
        found: list[ReissueLine] = []
        read = read_reissue_order(io.BytesIO(body), found.append)
        assert read.digest == sha256(body)
        groups = [{l.certificate for l in found if l.group == n} for n in range(1, len(read.counts) + 1)]  # noqa: E741
        return write_reissue_order(read.ca, read.until, groups), read.total
    text = body.decode()
    if text.startswith(END_HEADER):
        return parse_extension_end(text).encode().encode(), None
    parsed = parse_extension(text)
    assert parsed.digest == sha256(body)
    return parsed.encode().encode(), None


@pytest.mark.parametrize(("folder", "name"), CASES, ids=[f"{f}/{n}" for f, n in CASES])
def test_vector(folder: str, name: str) -> None:
    """A vector is read as it says: the same bytes again, or its class of failure."""
    head, _, body = (VECTORS / folder / name).read_bytes().partition(b"\n\n")
    told = dict(line.split(": ", 1) for line in head.decode().splitlines())
    if told["expect"] == "ok":
        data, total = again(folder, body)
        assert data == body
        assert total == (int(told["total"]) if "total" in told else None)
        assert sha256(body).hex() == told["digest"]
        return
    with pytest.raises(ExclaveError) as caught:
        again(folder, body)
    assert caught.value.code == told["expect"], caught.value.message


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_corpus_is_empty(folder: str) -> None:
    """Each format has vectors that are good and vectors that are not."""
    names = [name for of, name in CASES if of == folder]
    assert [name for name in names if not name.startswith("bad-")]
    assert len([name for name in names if name.startswith("bad-")]) >= 4


digests = st.binary(min_size=32, max_size=32).map(Digest)
status_lines = st.builds(
    StatusLine,
    digests,
    st.integers(0, 2**160 - 1),
    st.sampled_from(sorted(REASONS)),
    st.integers(0, 2**50).map(Instant),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(status_lines, min_size=1, max_size=12, unique_by=lambda x: (x.issuer, x.serial)))
def test_status_orders_come_back(lines: list[StatusLine]) -> None:
    """Whatever an order names in whatever order, reading gives the same, sorted."""
    found: list[StatusLine] = []
    data = b"".join(write_status_order(Act.REVOKE, lines))
    order = read_status_order(io.BytesIO(data), found.append)
    assert found == sorted(lines, key=lambda x: (x.issuer, x.serial))
    assert (order.total, order.digest) == (len(lines), sha256(data))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_flipped_byte_is_another_order(at: int, flip: int) -> None:
    """No change of one byte gives an order with the digest that was signed for."""
    good = b"".join(write_status_order(Act.HOLD, [StatusLine(Digest(bytes(32)), n) for n in range(4)]))
    bad = bytearray(good)
    bad[at % len(bad)] ^= flip
    with contextlib.suppress(MalformedError):
        assert read_status_order(io.BytesIO(bytes(bad))).digest != sha256(good)


def test_limits() -> None:
    """More issuers or lines than the limit are refused, by the writer and by the reader."""
    crowd = [StatusLine(sha256(b"%d" % n), 1) for n in range(MAX_ISSUERS + 1)]
    with pytest.raises(MalformedError):
        b"".join(write_status_order(Act.HOLD, crowd))
    head = f"exclave/status-order/v1\nact hold\nissuer {'0' * 64} {MAX_LINES + 1}\n".encode()
    with pytest.raises(MalformedError, match="line 3"):
        read_status_order(io.BytesIO(head))
    with pytest.raises(MalformedError, match="no status order"):
        b"".join(write_status_order(Act.DRILL, crowd[:1]))
    with pytest.raises(MalformedError, match="in different ways"):
        b"".join(
            write_status_order(Act.REVOKE, [StatusLine(Digest(bytes(32)), 1, r, START) for r in sorted(REASONS)[:2]])
        )


def test_a_long_line_costs_no_memory() -> None:
    """A file of one endless line is refused after the first few bytes."""

    class Endless(io.RawIOBase):
        asked = 0

        def readline(self, size: int | None = -1) -> bytes:
            self.asked += size or 0
            return b"x" * (size or 0)

    file = Endless()
    with pytest.raises(MalformedError, match="too long"):
        read_status_order(file)  # type: ignore[arg-type]
    assert file.asked < 1000


@pytest.mark.slow
def test_a_million_lines(tmp_path: Path) -> None:
    """A million certificates are read in seconds, in memory that does not grow with the file."""
    path = tmp_path / "order"
    with open(path, "wb") as file:
        file.write(f"exclave/status-order/v1\nact hold\nissuer {'0' * 64} {MAX_LINES}\n".encode())
        for serial in range(MAX_LINES):
            file.write(b"serial %x\n" % (serial + (1 << 100)))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    order = read_order(path)
    assert order.words[0] == "Holds 1000000 certificates:"
    print(f"{time.process_time() - began:.1f} s of processor time")
    assert time.process_time() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


# From a CSV file


def csv_file(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def lines_of(path: Path) -> list[StatusLine]:
    found: list[StatusLine] = []
    with open(path, "rb") as file:
        read_status_order(file, found.append)
    return found


def test_csv(tmp_path: Path) -> None:
    """Columns win over what was given for all; the same digits are another certificate in decimal and in hex."""
    text = "serial_hex,reason,since\n00FF,,2026-09-01T00:00Z\n10,superseded,\n10,superseded,\n"
    made = convert_csv(
        csv_file(tmp_path, text, encoding="utf-8-sig"), tmp_path / "order", Act.REVOKE, issuer=issuer(),
        reason="keyCompromise", since=START,
    )  # fmt: skip
    assert made.words[0] == "Revokes for good 2 certificates:"
    one, other = lines_of(tmp_path / "order")
    assert (one.serial, one.reason, one.since) == (0x10, "superseded", START)
    assert (other.serial, other.reason, other.since < START) == (0xFF, "keyCompromise", True)
    decimal = csv_file(tmp_path, f"issuer,serial_decimal\n{issuer().hex()},10\n{issuer().hex()},{2**160 - 1}\n")
    convert_csv(decimal, tmp_path / "order", Act.HOLD)
    assert [line.serial for line in lines_of(tmp_path / "order")] == [10, 2**160 - 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("serial\n10\n", "heading"),
        ("serial_hex,serial_decimal\n10,16\n", "heading"),
        ("serial_hex,name\n10,Mari\n", "heading"),
        ("", "heading"),
        ("serial_hex\nxyz\n", "line 2"),
        ("serial_hex\n10\n-1\n", "line 3"),
        ("serial_decimal\n010\n", "line 2"),
        (f"serial_decimal\n{2**160}\n", "line 2"),
        ("serial_hex,issuer\n10,here\n", "line 2"),
        ("serial_hex,reason\n10,lost\n", "reason"),
        ("serial_hex\n10,11\n", "fields"),
        ("serial_hex,reason\n,superseded\n", "line 2"),
        ("serial_decimal,reason\n,superseded\n", "line 2"),
        ("serial_hex,since\n10,yesterday\n", "line 2"),
        ("serial_hex\n", "issuers"),
    ],
)
def test_csv_faults(tmp_path: Path, text: str, told: str) -> None:
    """What is not plain is refused with its line, and no order is written."""
    with pytest.raises(MalformedError, match=told):
        convert_csv(
            csv_file(tmp_path, text),
            tmp_path / "order",
            Act.REVOKE,
            issuer=issuer(),
            reason="keyCompromise",
            since=START,
        )
    assert not (tmp_path / "order").exists()


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and a file that is not there."""
    with pytest.raises(MalformedError, match="UTF-8"):
        convert_csv(csv_file(tmp_path, "serial_hex\n\xff", encoding="latin-1"), tmp_path / "order", Act.HOLD)
    with pytest.raises(UsageError, match="cannot read"):
        convert_csv(tmp_path / "none.csv", tmp_path / "order", Act.HOLD)


# What custodians sign for


def test_signed_for_this_file_alone(tmp_path: Path) -> None:
    """A custodian who gives another file than the request names signs nothing; a request is for the order's own act."""
    place = Place(tmp_path / "place")
    order, other = (place.order(Act.HOLD, StatusLine(issuer(), serial)) for serial in (1, 2))
    granted = place.grant(Act.HOLD, order, signers=())
    out, custodian = tmp_path / "answer", place.small.custodians[0]
    with pytest.raises(WarrantForeign, match="another order file"):
        sign_warrant(
            granted.warrant, place.view, place.small.sites, custodian.key, out, now=place.time, object=other
        )  # fmt: skip
    assert not out.exists()
    done = sign_warrant(
        granted.warrant, place.view, place.small.sites, custodian.key, out, now=place.time, object=order
    )
    assert done.shares == ()
    with pytest.raises(UsageError, match="is to hold, not to revoke"):
        request_warrant(
            place.view, place.me.key, tmp_path / "w", act=Act.REVOKE, registers=[], place=place.label, reason="A test",
            now=place.time, valid_s=60, object=order,
        )  # fmt: skip


def test_command_line(tmp_path: Path) -> None:
    """``warrant request --object``, ``show`` and ``sign`` name the order's digest and say in words what it asks for."""
    home = SmallHome(tmp_path / "land").found()
    order, other = tmp_path / "stolen.order", tmp_path / "other.order"
    for path, serial in ((order, 0xABC), (other, 0xABD)):
        path.write_bytes(
            b"".join(write_status_order(Act.REVOKE, [StatusLine(issuer(), serial, "keyCompromise", START)]))
        )
    warrant = str(tmp_path / "revoke.warrant")
    common = [
        "--act",
        "revoke",
        "--place",
        "lux",
        "--reason",
        "Stolen cards",
        "--key",
        str(tmp_path / "m.key"),
        *home.where(),
    ]
    home.ok("warrant", "request", warrant, *common, "--object", str(order))
    told = home.ok("warrant", "show", warrant, "--object", str(order))
    assert told["warrant"]["object"] == sha256(order.read_bytes()).hex()
    said = run("warrant", "show", warrant, "--object", str(order))
    assert f"Order file: {sha256(order.read_bytes()).hex()}" in said.out
    assert "Revokes for good 1 certificates:" in said.out
    assert "serial abc, keyCompromise since" in said.out
    assert "was not shown" in run("warrant", "show", warrant).out
    sign = ["warrant", "sign", warrant, "--yes", "--key", str(home.key("kaja")), *home.where()]
    home.fails(33, *sign, "--object", str(other))
    assert home.ok(*sign, "--object", str(order))["shares"] == []
    home.fails(2, "warrant", "request", warrant, *common[2:], "--act", "release")
    standing = run("warrant", "request", warrant, *common)
    assert "object none" in standing.out
    assert "standing order" in run("warrant", "show", warrant).out
