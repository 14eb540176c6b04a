"""Transcripts of commands as text: ``$ exclave …``, what it says, and its exit code if that is not 0.

Lines of standard error start with ``! ``. What differs from run to run is replaced: ROOT (the folder), <digest>, <id>,
<time>, <s> (a duration), <port>, <pid>, <size> (what was read: a file that has just been changed is read once more).
Runs of spaces and ruled lines are shortened. A line ``% name`` lets the test prepare something by the function of that
name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from support.small_home import run

_VARYING = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12,20}…"), "<digest>…"),
    (re.compile(r"\b(\d{8})-[0-9a-f]{16}\b"), r"\1-<digest>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?"), "<time>"),
    (re.compile(r"\b\d+\.\d s\b"), "<s>"),
    (re.compile(r"\b\d+ h \d+ min\b"), "<s>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"(<port> │ )\d+"), r"\1<pid>"),
    (re.compile(r"/[0-9a-f]{2}/<digest>"), "/<digest>"),
    (re.compile(r"\bread [0-9.]+ [KMG]?i?B\b"), "read <size>"),
    (re.compile(r"[━─]+[╇┼]"), ""),
    (re.compile(r"[━─]{2,}"), "———"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r" +$"), ""),
)


def settled(text: str, names: Mapping[str, str]) -> list[str]:
    """Lines of ``text`` with everything that varies replaced; ``names``: value → its name."""
    for value, name in sorted(names.items(), key=lambda item: -len(item[0])):
        text = text.replace(value, name)
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    for pattern, place in _VARYING:
        lines = [pattern.sub(place, line) for line in lines]
    return lines


def play(text: str, folder: Path, acts: Mapping[str, Callable[[], Mapping[str, str] | None]]) -> str:
    """Runs the commands of a transcript; the transcript as it came out. ``acts`` may return further names."""
    names = {str(folder): "ROOT"}
    played: list[str] = []
    apart = False  # whether the line stands after an empty one, which is kept unless a command said it
    for line in text.splitlines():
        if apart and line.startswith(("#", "% ", "$ exclave")):
            played.append("")
        apart = not line
        if line.startswith("#"):
            played.append(line)
        elif line.startswith("% "):
            played.append(line)
            names |= {value: f"${name}" for name, value in (acts[line[2:]]() or {}).items()}
        elif line.startswith("$ exclave"):
            played.append(line)
            typed = line.removeprefix("$ exclave").replace("ROOT", str(folder))
            for value, name in names.items():
                typed = typed.replace(name, value) if name.startswith("$") else typed
            said = run(*shlex.split(typed))
            played += settled(said.out, names)
            played += [f"! {part}" for part in settled(said.err, names)]
            if said.code:
                played.append(f"[exit {said.code}]")
    return "\n".join(played) + "\n"
