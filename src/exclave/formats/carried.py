"""What a carried disk says of itself: the text ``carried.txt`` beside its objects. Page: ``docs/spec/carried.md``.

::

    exclave/carried/v1
    state <fingerprint>
    site <label>                             the site that it is for
    time <instant>                           when it was written last
    part <k> <n>                             of so many disks
    finished yes | no                        no: it was taken out before everything was on it
    register <id> <packs> <bytes>            packs of this part, on the disk when it was written (1 to 1000)

Nobody believes it: it tells people what they hold in their hands. What the disk is worth, its objects tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader
from exclave.ids import (
    Fingerprint,
    Instant,
    Key,
    Label,
    RegisterId,
    instant_text,
    parse_count,
    parse_fingerprint,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
)

HEADER = "exclave/carried/v1"
CARRIED_KEY = Key("carried.txt")
MAX_CARRIED_BYTES = 64 << 10
MAX_REGISTERS = 500
MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class CarriedRegister:
    """One register on the disk."""

    register: RegisterId
    packs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Carried:
    """One disk."""

    state: Fingerprint
    site: Label
    time: Instant
    part: int
    """1 to ``parts``."""
    parts: int
    finished: bool
    registers: tuple[CarriedRegister, ...]

    def encode(self) -> str:
        head = (
            f"{HEADER}\nstate {self.state}\nsite {self.site}\ntime {instant_text(self.time)}\n"
            f"part {self.part} {self.parts}\nfinished {'yes' if self.finished else 'no'}\n"
        )
        return head + "".join(f"register {r.register} {r.packs} {r.bytes}\n" for r in self.registers)


def parse_carried(data: bytes) -> Carried:
    """Strict inverse of ``Carried.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_CARRIED_BYTES:
        raise MalformedError(f"carried.txt is longer than {MAX_CARRIED_BYTES} bytes")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError("carried.txt is not ASCII text") from error
    lines = LineReader(text, what="carried.txt", limit=MAX_CARRIED_BYTES)
    lines.exactly(HEADER)
    state, site = parse_fingerprint(lines.field("state")), parse_label(lines.field("site"))
    time = parse_instant(lines.field("time"))
    part, parts = (parse_positive(field, limit=MAX_PARTS) for field in lines.fields("part", 2))
    finished = lines.field("finished")
    registers: list[CarriedRegister] = []
    while lines.peek() == "register" and len(registers) < MAX_REGISTERS:
        number, packs, size = lines.fields("register", 3)
        registers.append(CarriedRegister(parse_register_id(number), parse_count(packs), parse_count(size)))
    lines.end()
    found = Carried(state, site, time, part, parts, finished == "yes", tuple(registers))
    if part > parts or not registers or found.encode() != text:
        raise MalformedError("carried.txt is not in its one canonical form")
    return found
