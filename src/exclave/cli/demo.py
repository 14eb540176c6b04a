"""``exclave demo``"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from exclave.cli.output import Json, counted, duration, err, out, print_json, say, table
from exclave.errors import UsageError
from exclave.operations.home import write_private

if TYPE_CHECKING:
    from exclave.demo.stage import Report

_WIDTH: Final = 80
_WORD: Final = r"(?:'[^']*'|[^' ])+"
_ARGUMENT: Final = re.compile(rf"--{_WORD}(?: (?!--|&){_WORD})?|{_WORD}")
"""An option with its value, or a word alone."""


def register(app: typer.Typer) -> None:
    app.command(name="demo", epilog="Example: exclave demo --keep --report report.json")(demo)


def demo(
    folder: Annotated[Path | None, typer.Option("--dir", help="A new folder for it; default: a temporary one.")] = None,
    scale: Annotated[int, typer.Option(min=1, max=50, help="Multiplies the amount of data.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write what was promised and measured as JSON.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the embassy running.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End what a demo in --dir left running.")] = False,
    json: Json = False,
) -> None:
    """Play the whole story: a small state is protected, loses home, and lives on abroad."""
    story = _story()
    if stop:
        _stop(story, folder, json)
        return
    root = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="exclave-demo-"))
    screen = err if json else out

    def tell(text: str) -> None:
        style = "cyan" if text.startswith("$ ") else None
        screen.print("\n".join(_folded(line) for line in text.split("\n")), markup=False, style=style)

    def chapter(text: str) -> None:
        screen.print()
        screen.rule(text, align="left")

    done: Report = story.play(root, scale=scale, keep=keep, tell=tell, chapter=chapter)
    if report is not None:
        write_private(report.absolute(), _json_of(done).encode())
    if json:
        print_json(done)
    else:
        _show(done, keep)
    story.require_kept(done)


def _story() -> ModuleType:
    """The story, whose packages no other command needs. ``UsageError`` if one is missing."""
    try:
        from exclave.demo import story  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        if (error.name or "exclave").startswith("exclave"):
            raise
        hint = "Install what it needs with: pip install 'exclave[demo]'"
        raise UsageError(f"the demo needs {error.name}, which is not installed", hint=hint) from error
    return story


def _folded(line: str) -> str:
    """A line of the story within 80 columns. A command is broken so that a shell reads it as one, an address never."""
    if not line.startswith("$ "):
        indent = line[: len(line) - len(line.lstrip())]
        margin = indent and indent + "  "
        return textwrap.fill(line, _WIDTH, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
    lines = [""]
    for argument in _ARGUMENT.findall(line):
        if lines[-1] and len(lines[-1]) + 1 + len(argument) > _WIDTH - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {argument}" if lines[-1] else argument
    return "\n".join(lines)


def _json_of(done: Report) -> str:
    import json as format_  # noqa: PLC0415 - `json` is the option's name here

    from exclave.cli.output import plain  # noqa: PLC0415

    return format_.dumps(plain(done), ensure_ascii=False, indent=2) + "\n"


def _stop(story: ModuleType, folder: Path | None, json: bool) -> None:
    root = folder.absolute() if folder else _last_demo()
    story.require_demo(root)
    stopped = story.stop_everything(root)
    if json:
        print_json({"stopped": stopped})
    else:
        say(f"Stopped: {', '.join(stopped) or 'nothing was running'}.")


def _last_demo() -> Path:
    """The newest temporary demo folder."""
    found = sorted(Path(tempfile.gettempdir()).glob("exclave-demo-*"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else Path(tempfile.gettempdir())


def _show(done: Report, keep: bool) -> None:
    say("")
    out.rule("What was promised, and what was measured", align="left")
    for promise in done.promises:
        _verdict("kept  " if promise["kept"] else "BROKEN", promise["promise"], promise["measured"])
    say("")
    out.rule("What enemies did, and what came of it", align="left")
    for act in done.hostile_acts:
        _verdict("caught" if act["detected"] else "MISSED", act["act"], act["how"])
    say("")
    out.rule("In short", align="left")
    table(("register", "back after (RTO)", "at most", "work lost (RPO)", "at most", "as at home"),
          ((r["name"], duration(r["rto_s"]), duration(r["rto_limit_s"]), duration(r["rpo_s"]),
            duration(r["rpo_limit_s"]), "yes" if _same(r) else "NO") for r in done.registers))  # fmt: skip
    say("")
    for line in _in_short(done):
        say(_folded(line))
    say(_folded(f"Everything lies in {done.folder}; it took {duration(done.seconds)}."))
    say("Look for yourself, with no key but the fingerprint:")
    where = shlex.quote(f"north=dir:{done.folder}/sites/north")
    say(_folded(f"$ {_program()} verify --site {where} --fingerprint {done.fingerprint}"))
    if keep and done.ok:
        for service in done.services:
            say(f"  {service['name']}: {service['address']}")
        say(f"The embassy is running. End it with: {_program()} demo --stop --dir {done.folder}")
    say(f"Throw the folder away with: rm -rf {shlex.quote(done.folder)}")


def _program() -> str:
    """How this program was called."""
    called = Path(sys.argv[0])
    return (
        shlex.quote(str(called)) if called.name == "exclave" else f"{shlex.quote(sys.executable)} -m exclave.cli.main"
    )


def _verdict(word: str, what: str, how: str) -> None:
    mark = f"  {word}  "
    say(textwrap.fill(f"{what}: {how}", _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark),
                      break_long_words=False, break_on_hyphens=False))  # fmt: skip


def _same(register: dict[str, Any]) -> bool:
    return bool(register["digest_home"] == register["digest_embassy"] and register["rows_same"])


def _in_short(done: Report) -> list[str]:
    """What somebody takes along who read nothing else."""
    kept = sum(bool(promise["kept"]) for promise in done.promises)
    found = sum(bool(act["detected"]) for act in done.hostile_acts)
    back = sum(bool(register["answered"]) and _same(register) for register in done.registers)
    identity, reading = done.identity, done.reading
    return [
        f"{back} of {len(done.registers)} registers run abroad, equal to home's last copy, and answer the right thing.",
        f"Citizens log in again {duration(identity['first_login_s'] or 0)} after the custodians' last signature; "
        f"{_gap(identity['gap']['gap_s'])}, and a signed note says so.",
        f"The proof of {reading['document']} {'was' if reading['proof_checked'] else 'WAS NOT'} checked with the"
        " state's fingerprint alone: no key, no network, no trust in any host.",
        f"{counted(len(done.promises), 'promise', 'promises')}, {kept} kept; "
        f"{counted(len(done.hostile_acts), 'hostile act', 'hostile acts')}, {found} found out or refused.",
    ]  # fmt: skip


def _gap(seconds: int) -> str:
    return f"revocations of {seconds} s may be missing" if seconds else "no revocation is missing"
