#!/usr/bin/env python3
"""Checks that the documents and the code say the same. ``make check`` runs it; exits with 1 if anything is wrong.

(1) relative links and anchors lead somewhere · (2) every format has a page, every page stands in the index ·
(3) decisions are numbered once · (4) nothing speaks of the machine or the work that the project was made on ·
(5) the command line, its exit codes and the keys of ``exclave.toml`` are in the documents, and each command stands in
README's table.

    python tools/check_docs.py            check
    python tools/check_docs.py --renew    write the parts of docs/cli.md that come from the code
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from exclave.cli.main import app
from exclave.errors import ExclaveError, all_errors
from exclave.formats.config import Config

ROOT = Path(__file__).resolve().parents[1]
SEARCHED = ("*.md", "docs/**/*.md")
SPOKEN = ("*.md", "Makefile", "pyproject.toml", "docs/**/*", "src/**/*.py", "tests/**/*.py", "tools/*", "bench/*.py")
WITHOUT_PAGE = {
    "lines.py": "its grammar stands in docs/spec/note.md",
    "toml.py": "what may stand in a file stands in the page of that file",
}
BEGIN, END = "<!-- made from the code: {} -->\n", "<!-- end -->\n"
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_FORBIDDEN = re.compile(
    r"(?<![\w.])/wor[k]/|(?<![\w.\x22'])share[d]/|\bissu[e] #|/tmp/[x]/"
    r"|\b(?:work|agent|coding|chat) sessio[n]s?\b|\bsub-?agent[s]?\b",
    re.IGNORECASE,
)


def documents(root: Path) -> list[Path]:
    """All pages, without what tools have written."""
    return sorted(path for pattern in SEARCHED for path in root.glob(pattern))


def anchors(text: str) -> set[str]:
    """The names that headings can be linked by."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def check_links(root: Path) -> Iterator[str]:
    """(1)"""
    for page in documents(root):
        text = _FENCE.sub("", page.read_text())
        for target in _LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            if not other.exists():
                yield f"{page.relative_to(root)}: the link {target} leads nowhere"
            elif anchor and other.suffix == ".md" and anchor not in anchors(other.read_text()):
                yield f"{page.relative_to(root)}: {other.relative_to(root)} has no heading for #{anchor}"


def check_pages(root: Path) -> Iterator[str]:
    """(2)"""
    for file in sorted((root / "src/exclave/formats").glob("*.py")):
        if file.name == "__init__.py" or file.name in WITHOUT_PAGE:
            continue
        pages = re.findall(r"docs/spec/[\w-]+\.md", ast.get_docstring(ast.parse(file.read_text())) or "")
        if not pages:
            yield f"{file.relative_to(root)}: its docstring names no page of docs/spec"
        for page in pages:
            if not (root / page).exists():
                yield f"{file.relative_to(root)}: its page {page} is not there"
    index = root / "docs/spec/README.md"
    listed = set(_LINK.findall(index.read_text())) if index.exists() else set()
    for page in sorted((root / "docs/spec").glob("*.md")):
        if page != index and page.name not in listed:
            yield f"docs/spec/README.md: {page.name} is not listed"


def check_decisions(root: Path) -> Iterator[str]:
    """(3)"""
    seen: dict[int, str] = {}
    for file in sorted((root / "docs/adr").glob("*.md")):
        number = re.match(r"(\d{4})-", file.name)
        if number is None:
            yield f"{file.relative_to(root)}: its name does not begin with a number of four digits"
            continue
        if int(number[1]) in seen:
            yield f"{file.relative_to(root)}: its number is taken by {seen[int(number[1])]}"
        seen[int(number[1])] = file.name
        if not file.read_text().startswith(f"# {int(number[1])}. "):
            yield f"{file.relative_to(root)}: its title does not begin with '# {int(number[1])}. '"


def check_words(root: Path) -> Iterator[str]:
    """(4)"""
    for pattern in SPOKEN:
        for file in sorted(root.glob(pattern)):
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
                if found := _FORBIDDEN.search(line):
                    yield f"{file.relative_to(root)}:{number}: {found[0]!r} does not belong into the project"


# (5)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    waiting = [("exclave", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop(0)
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            waiting[:0] = [(f"{name} {word}", one) for word, one in inner.items()]


def _parameter(one: Any) -> str:
    if one.param_type_name == "argument":
        name, needed = one.name.upper(), "" if one.required else " May be left out."
    else:
        name, needed = ", ".join((*one.opts, *one.secondary_opts)), " Required." if one.required else ""
    told = (getattr(one, "help", None) or "").strip()
    variable = f" Or the variable `{one.envvar}`." if getattr(one, "envvar", None) else ""
    return f"| `{name}` | {told}{needed}{variable} |\n"


def commands_text() -> str:
    """The reference of all commands."""
    made = ""
    for name, command in commands():
        rows = "".join(_parameter(one) for one in command.params if one.name != "help")
        example = f"\n{command.epilog}\n" if command.epilog else ""
        made += f"### {name}\n\n{command.help.strip()}\n\n| argument or option | what |\n|---|---|\n{rows}{example}\n"
    return made


def _meaning(kind: type[ExclaveError]) -> str:
    tree = sys.modules[ExclaveError.__module__].__doc__ or ""
    found = re.search(rf"── {kind.__name__} +(.+)$", tree, re.MULTILINE)
    return found[1] if found else ""


def errors_text() -> str:
    """The table of exit codes."""
    rows = "".join(
        f"| {kind.exit_code} | `{kind.code}` | {_meaning(kind)} | {kind.default_hint} |\n"
        for kind in sorted(all_errors(), key=lambda kind: kind.exit_code)
        if kind is not ExclaveError
    )
    return f"| exit code | name | when | what to do |\n|---|---|---|---|\n{rows}"


MADE = {"commands": commands_text, "exit codes": errors_text}


def renewed(text: str) -> str:
    """``text`` with its marked parts made anew."""
    for name, make in MADE.items():
        head, begin, rest = text.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"docs/cli.md has no part marked {BEGIN.format(name).strip()!r}")
        text = f"{head}{begin}{make()}{end}{tail}"
    return text


def check_reference(root: Path) -> Iterator[str]:
    """(5)"""
    page = root / "docs/cli.md"
    if renewed(page.read_text()) != page.read_text():
        yield "docs/cli.md: does not say what the code says; run python tools/check_docs.py --renew"
    parts = (root / "docs/spec/config.md").read_text().split("\n## ")
    told = {part.partition("\n")[0].strip("`"): part for part in parts}
    for section, key in config_keys():
        if f"\n| `{key}` |" not in told.get(section, ""):
            yield f"docs/spec/config.md: the key {key} of {section} is not explained"


def check_table(root: Path) -> Iterator[str]:
    """(5)"""
    part = (root / "README.md").read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    told = _listed(part, [name for name, _ in commands()])
    yield from (f"README.md: the table of commands {wrong}" for wrong in told.values() if wrong)


def _listed(part: str, known: list[str]) -> dict[str, str]:
    """What is wrong with each name that the table has or lacks; empty if nothing is.

    A first cell names commands, or a group for all of its commands. A word alone goes on from the name before it:
    `exclave site sync`, `rebuild`.
    """
    groups = {" ".join(name.split()[:length]) for name in known for length in range(2, len(name.split()))}
    found: dict[str, str] = {}
    for cell in re.findall(r"^\| (`exclave .*?) \|", part, re.MULTILINE):
        before = "exclave"
        for word in re.findall(r"`([^`]+)`", cell):
            names = [word, f"{before} {word}", f"exclave {word}"]
            name = next((one for one in names if one in known or one in groups), word)
            found[name] = "" if name in known or name in groups else f"has {word}, which is no command"
            before = name.rpartition(" ")[0] or before
    for name in known:
        if name not in found and not any(name.startswith(f"{group} ") for group in found):
            found[name] = f"lacks {name}"
    return found


def config_keys() -> Iterator[tuple[str, str]]:
    """(section as it is written in the file, key) of ``exclave.toml``."""
    waiting: list[tuple[str, bool, Any]] = [("", False, Config)]
    while waiting:
        name, many, kind = waiting.pop(0)
        for field in msgspec.structs.fields(kind):
            inner, repeated = _struct(field.type)
            path = f"{name}.{field.encode_name}" if name else field.encode_name
            if inner is not None:
                waiting.append((path, repeated, inner))
            else:
                yield f"[[{name}]]" if many else f"[{name}]", field.encode_name


def _struct(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct that a field holds, and whether it holds many."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, False
    parts = [part for part in getattr(kind, "__args__", ()) if isinstance(part, type)]
    found = next((part for part in parts if issubclass(part, msgspec.Struct)), None)
    return found, getattr(kind, "__origin__", None) is tuple


def check(root: Path = ROOT) -> list[str]:
    """Everything that is wrong, a line each."""
    checks = (check_links, check_pages, check_decisions, check_words, check_reference, check_table)
    return [line for one in checks for line in one(root)]


def main(arguments: list[str]) -> int:
    """Exit code 0: all is well."""
    if arguments == ["--renew"]:
        page = ROOT / "docs/cli.md"
        page.write_text(renewed(page.read_text()))
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    found = check()
    for line in found:
        print(line)
    print(f"{len(found)} faults in the documents" if found else f"{len(documents(ROOT))} documents are right")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
