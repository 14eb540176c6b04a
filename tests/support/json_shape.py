"""The keys of what commands print with ``--json``, as scripts rely on them; and those of ``exclave identity``."""

from __future__ import annotations

import re
from typing import Any


def shape(value: Any) -> str:
    """The keys of an object, sorted; lists of objects in brackets."""
    parts = []
    for key in sorted(value):
        inner = value[key]
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            parts.append(f"{key}[{shape(inner[0])}]")
        else:
            parts.append(key)
    return " ".join(parts)


def has(promised: str, value: Any) -> bool:
    """Whether what was promised is there; more may be."""
    found = shape(value)
    wanted, there = (set(re.findall(r"[a-z_0-9]+", text)) for text in (promised, found))
    return wanted <= there


IDENTITY: dict[str, str] = {
    "accept": "certificates[from issuer state subject to why]",
    "check": "good_until place rows[detail state until what] time whole",
    "csr": "folder requests[file from issuer name to]",
    "enter": "elsewhere entries gone issuers keys services settings",
    "enter-kit": "entries keys place rows[issuer state subject why window]",
    "extend": "ended fact head list new order until warrant",
    "gap": "authority_from checked complete_until epoch gap_s last_number last_time lost place register say"
    " state warrant",
    "hold": "act before entered fact final head order total unchanged warrant",
    "init": "card folder",
    "keep-key": "algorithm issuer name",
    "names check": "everywhere report settles_in_s",
    "names move": "everywhere report settles_in_s",
    "names prepare": "everywhere report settles_in_s",
    "names undo": "everywhere report settles_in_s",
    "order end": "act digest order words",
    "order extend": "act digest order words",
    "order issuer": "issuer",
    "order reissue": "act digest order words",
    "order show": "act digest order words",
    "order status": "act digest order words",
    "reissue": "before ca fact head left made order out refused total warrant",
    "release": "act before entered fact final head order total unchanged warrant",
    "revoke": "act before entered fact final head order total unchanged warrant",
    "service add": "client_id file secret",
    "state": "as_of decides entries epoch issuers[complete_until id issued_known label live next_update] place problem"
    " state why",
}
"""Of each command below ``identity``, played in ``tests/identity/test_identity_commands.py``."""

DELETION: dict[str, str] = {
    "object": "failed order register sites",
    "propose": "digest order path",
    "publish": "delay_s entered order",
    "record": "orders",
    "run": "orders[absent complete due erased erased_bytes order packs pending register shared state waits why] site",
    "status": "registers[orders[digest entered objections order verdict warrant] register]",
}
"""Of each command below ``delete``, played in ``tests/deletion/test_deletion_commands.py``."""
