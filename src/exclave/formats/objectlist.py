"""The public list of the objects that one version needs. Page: ``docs/spec/objectlist.md``.

A tree of text nodes, each a public object named by the SHA-256 of its text::

    exclave/objects/v1
    level 0
    pack <sha256> <bytes>            one or more lines, in order of name

    exclave/objects/v1
    level <n>                        1 … 8
    node <sha256> <count> <bytes>    one or more lines: number and total size of the packs under that node

Where a node ends depends on the names alone: after a line whose name's last byte is below ``CUT`` (of 256), so that a
version that adds a few packs writes a few nodes anew, whatever the register's size. An empty list is one level-0
node without lines.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from exclave.errors import MalformedError
from exclave.ids import Digest, sha256

HEADER = "exclave/objects/v1"
CUT = 2
MAX_LINES = 4096
MAX_NODE_BYTES = 1 << 20
MAX_LEVEL = 8
MAX_NUMBER = 2**63 - 1
_TOP = re.compile(rb"exclave/objects/v1\nlevel ([0-8])\n")
_NUMBER = rb" (?:0|[1-9][0-9]{0,18})"
_PACKS = re.compile(rb"(?:pack [0-9a-f]{64}" + _NUMBER + rb"\n)*")
_NODES = re.compile(rb"(?:node [0-9a-f]{64}" + _NUMBER + _NUMBER + rb"\n)*")


class ListLine(msgspec.Struct, frozen=True, gc=False):
    """A pack (``count`` is 1) or a node of the level below."""

    name: Digest
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ListNode:
    """One node; ``lines`` in order of name at level 0, in order of what is under them above."""

    level: int
    lines: tuple[ListLine, ...]

    @property
    def count(self) -> int:
        """Number of packs under this node."""
        return sum(line.count for line in self.lines)

    @property
    def size_bytes(self) -> int:
        """Their total size."""
        return sum(line.size_bytes for line in self.lines)

    def encode(self) -> bytes:
        head = f"{HEADER}\nlevel {self.level}\n"
        if self.level == 0:
            body = "".join(f"pack {line.name.hex()} {line.size_bytes}\n" for line in self.lines)
        else:
            body = "".join(f"node {line.name.hex()} {line.count} {line.size_bytes}\n" for line in self.lines)
        return (head + body).encode()


@dataclass(frozen=True, slots=True)
class BuiltList:
    """All nodes of a list, the root last."""

    nodes: tuple[tuple[Digest, bytes], ...]
    root: Digest
    count: int
    size_bytes: int


def parse_list_node(data: bytes) -> ListNode:
    """Strict inverse of ``ListNode.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_NODE_BYTES or data.count(b"\n") > MAX_LINES + 2:
        raise MalformedError(f"an object list has more than {MAX_LINES} lines")
    top = _TOP.match(data)
    if top is None:
        raise MalformedError(f"an object list does not begin with {HEADER!r} and its level, 0 to {MAX_LEVEL}")
    level = int(top[1])
    # All lines at once: each version writes some hundred of them anew, and an auditor reads a year of versions.
    lines = (_NODES if level else _PACKS).match(data, top.end())
    if lines is None or lines.end() != len(data):
        wrong = data.count(b"\n", 0, lines.end() if lines else top.end()) + 1
        expected = "'node' with 3" if level else "'pack' with 2"
        raise MalformedError(f"object list: line {wrong}: expected {expected} field(s)")
    fields, width = data[top.end() :].split(), 4 if level else 3
    names = fields[1::width]
    if level == 0 and any(map(operator.ge, names, names[1:])):
        raise MalformedError("an object list is not in order of name")
    raw = bytes.fromhex(b"".join(names).decode("ascii"))
    digests = [Digest(raw[at : at + 32]) for at in range(0, len(raw), 32)]
    sizes = list(map(int, fields[width - 1 :: width]))
    counts = list(map(int, fields[2::width])) if level else [1] * len(names)
    node = ListNode(level, tuple(map(ListLine, digests, counts, sizes)))
    if (level and not names) or max(counts + sizes, default=0) > MAX_NUMBER or node.encode() != data:
        raise MalformedError("an object list is empty, counts too far, or is not in its one canonical form")
    return node


def build_list(packs: Iterable[tuple[Digest, int]]) -> BuiltList:
    """The list of ``packs`` (name, size in bytes), which may come in any order and repeated."""
    lines = [ListLine(name, 1, size) for name, size in sorted(set(packs))]
    nodes: list[tuple[Digest, bytes]] = []
    level = 0
    while True:
        groups = _groups(lines, level)
        above: list[ListLine] = []
        for group in groups:
            node = ListNode(level, tuple(group))
            data = node.encode()
            nodes.append((sha256(data), data))
            above.append(ListLine(sha256(data), node.count, node.size_bytes))
        if len(above) == 1:
            return BuiltList(tuple(nodes), above[0].name, above[0].count, above[0].size_bytes)
        lines, level = above, level + 1


def _groups(lines: list[ListLine], level: int) -> list[list[ListLine]]:
    if len(lines) <= 2 and level > 0:
        return [lines]  # so that the tree always ends in one root
    groups: list[list[ListLine]] = [[]]
    for line in lines:
        groups[-1].append(line)
        if line.name[-1] < CUT or len(groups[-1]) >= MAX_LINES:
            groups.append([])
    if len(groups) > 1 and not groups[-1]:
        groups.pop()
    if level > 0 and len(groups) == len(lines):
        return [lines[i : i + 2] for i in range(0, len(lines), 2)]  # every name cut: pair them, to end
    return groups
