"""How a command must refuse: one clear message, a hint, its own exit code, the same for people and for machines."""

from __future__ import annotations

import re
from typing import Any

from exclave.errors import all_errors
from support.small_home import run

CODES = {error.exit_code: error.code for error in all_errors()}


def _stable(text: str) -> str:
    """Without the names of objects, which are others in each run."""
    return re.sub(r"[0-9a-f]{64}|/[0-9a-f]{2}/", "", text)


def refused(code: int, *arguments: str, says: str = "") -> Any:
    """Runs a command as a person and as a machine would; both must be refused with ``code``. The JSON."""
    for_people = run(*arguments)
    assert for_people.code == code, (for_people.code, for_people.out, for_people.err)
    assert "Traceback" not in for_people.err + for_people.out
    lines = for_people.err.strip().splitlines()
    assert any(line.startswith("exclave: ") for line in lines), for_people.err
    for_machines = run(*arguments, "--json")
    assert for_machines.code == code, (for_machines.code, for_machines.out)
    told = for_machines.json
    assert set(told) == {"error", "message", "hint", "exit_code", "facts", "retryable"}
    assert (told["error"], told["exit_code"]) == (CODES[code], code)
    assert _stable(told["message"]) in _stable(for_people.err), f"{for_people.err!r} is not {told['message']!r}"
    assert told["hint"], "the message does not say what to do"
    assert told["hint"] in for_people.err
    assert says in told["message"], told["message"]
    return told
