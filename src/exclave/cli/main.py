"""``exclave``: the entry point. The only place where an unexpected exception is caught, and said to be our fault."""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import keep_freed_memory
from exclave.cli.output import fail
from exclave.cli.overview import add_all
from exclave.errors import Bug, ExclaveError, UsageError

_INTERRUPTED = 130
_GOES_ON = "what was done so far is kept, and the same command goes on from it"
_UNCHANGED = "nothing was changed; run it again"
_UNSIGNED = "not signed, unless it said so; run it again"
_WRITTEN = "what it wrote so far stays; run it again, and it says so if that is in its way"
_IF_INTERRUPTED = {
    "backup": _GOES_ON,
    "publish": _GOES_ON,
    "rekey": _GOES_ON,
    "ship": _GOES_ON,
    "site import": _GOES_ON,
    "site sync": _GOES_ON,
    "site rebuild": _GOES_ON,
    "site evacuate": _GOES_ON,
    "site leave": _GOES_ON,
    "site left": _GOES_ON,
    "charter publish": _GOES_ON,
    "delete publish": _GOES_ON,
    "delete object": _GOES_ON,
    "delete run": _GOES_ON,
    "delete record": _GOES_ON,
    "failover run": _GOES_ON,
    "restore": "what was restored so far is kept, but files may be incomplete while TARGET.restoring lies beside the"
    " target; the same command goes on from it",
    "scrub": "what was repaired stays so; the same command reads its part anew",
    "export": "nothing was exported; the same command begins anew",
    "mount": "nothing is mounted any more; the same command mounts it again",
    "verify": "nothing was found out about what it did not reach; run it again, and it begins anew",
    "charter sign": _UNSIGNED,
    "warrant sign": _UNSIGNED,
    "charter show": _UNCHANGED,
    "delete status": _UNCHANGED,
    "diff": _UNCHANGED,
    "failover status": _UNCHANGED,
    "retention": _UNCHANGED,
    "site list": _UNCHANGED,
    "site lock": "locks that were made longer stay so; run it again",
    "snapshots": _UNCHANGED,
    "status": _UNCHANGED,
    "watch": _UNCHANGED,
    "warrant show": _UNCHANGED,
}
"""What holds when a command was broken off, by its name; of all others ``_WRITTEN``."""
_ALONE = (
    "init",
    "backup",
    "publish",
    "snapshots",
    "retention",
    "diff",
    "restore",
    "mount",
    "export",
    "failover",
    "rekey",
    "verify",
    "prove",
    "timestamp",
    "scrub",
    "ship",
    "status",
    "watch",
    "demo",
)
_GROUPS = ("custodian", "charter", "site", "warrant", "delete", "statement", "coded", "serve", "identity")
"""Commands, each in a module of its name; the order is that of the help."""


def build(only: str = "") -> typer.Typer:
    """The whole command line, or just the part that ``only`` (a command or group) names.

    A module is loaded when its command is called: servers and web pages take longer to load than `exclave status` runs.
    """
    made = _root_app()
    known = only in _ALONE or only in _GROUPS
    for name in _ALONE:
        if not known or name == only:
            import_module(f"exclave.cli.{name}").register(made)
    for name in _GROUPS:
        if not known or name == only:
            made.add_typer(import_module(f"exclave.cli.{name}").app, name=name)
    _complete_help(made)
    return made


def first_page() -> typer.Typer:
    """What the command line is when no command is named: its help, without loading any."""
    made = _root_app()
    add_all(made)
    return made


def _root_app() -> typer.Typer:
    made = typer.Typer(
        name="exclave",
        help="A virtual data embassy: a state survives the loss of its own data centres.",
        epilog="Start with `exclave demo`, which plays the whole story on this machine.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )
    made.callback()(_root)
    return made


def _complete_help(group: typer.Typer) -> str:
    """Lists show first sentences, which typer would cut; a group's page ends with its first example, returned here."""
    for command in group.registered_commands:
        told = inspect.getdoc(command.callback) if command.callback is not None else ""
        command.short_help = command.short_help or _first_sentence(command.help or told or "")
    examples = [command.epilog for command in group.registered_commands if command.epilog]
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            inner.short_help = _first_sentence(inner.typer_instance.info.help or "")
            example = _complete_help(inner.typer_instance)
            inner.epilog = inner.typer_instance.info.epilog or example
            examples.append(example)
    return next(iter(examples), "")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


def __getattr__(name: str) -> typer.Typer:
    """``app``: the whole command line, for documents and tests."""
    if name == "app":
        return build()
    raise AttributeError(name)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only for --version

        typer.echo(f"exclave {version('exclave')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A virtual data embassy: a state survives the loss of its own data centres."""


def main() -> None:
    """Runs one command and exits with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; its exit code."""
    as_json = "--json" in arguments
    keep_freed_memory()
    try:
        asked = _asked(arguments)
        made = build(asked) if asked else first_page()
        result = made(args=arguments, prog_name="exclave", standalone_mode=False)
    except ExclaveError as error:
        if error.hint == UsageError.default_hint:
            error.hint = _how(arguments)
        return fail(error, as_json)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        return _misused(error, arguments, as_json)
    except (KeyboardInterrupt, typer.Abort):
        result = _INTERRUPTED
    except BrokenPipeError:
        return 141
    except Exception as error:  # noqa: BLE001 - the entry point: nobody below may swallow a bug
        return fail(_bug(error), as_json)
    if result == _INTERRUPTED:  # typer has turned Ctrl-C into this
        sys.stderr.write(f"exclave: interrupted; {_broken_off(arguments)}\n")
    return result if isinstance(result, int) else 0


def _asked(arguments: list[str]) -> str:
    """The command or group that is called; empty if none is: an option that comes first, such as `--help`, ends all."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else ""


def _broken_off(arguments: list[str]) -> str:
    """What the person at the keyboard may rely on after Ctrl-C."""
    return _IF_INTERRUPTED.get(" ".join(arguments[:2]), _IF_INTERRUPTED.get(_asked(arguments), _WRITTEN))


def _misused(error: typer.TyperException, arguments: list[str], as_json: bool) -> int:
    """A command line that typer refused. Of a group without a command, what it says is the group's help."""
    message = error.format_message()
    if message.startswith("Usage: ") and not as_json:
        sys.stderr.write(message + "\n")
        return UsageError.exit_code
    return fail(UsageError(message.removesuffix(" (Possible options: --help)"), hint=_how(arguments)), as_json)


def _how(arguments: list[str]) -> str:
    """Where the command that was called tells what it takes, and its arguments if it has any."""
    path, command = "exclave", typer.main.get_command(build(_asked(arguments)))
    words = [word for word in arguments if not word.startswith("-")]
    while words and words[0] in (inner := getattr(command, "commands", {})):
        path, command = f"{path} {words[0]}", inner[words[0]]
        words = words[1:]
    named = [one for one in command.params if one.param_type_name == "argument"]
    words = [getattr(one, "metavar", None) or str(one.name).upper() for one in named]
    shown = [word if one.required else f"[{word}]" for one, word in zip(named, words, strict=True)]
    called = f"It is called `{' '.join((path, *shown, '[OPTIONS]'))}`. " if shown else ""
    return f"{called}`{path} --help` tells what it takes."


def _bug(error: Exception) -> Bug:
    """The traceback goes to a file, not to the person at the keyboard."""
    with tempfile.NamedTemporaryFile("w", prefix="exclave-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return Bug(f"{type(error).__name__}: {error}", hint=f"This is a fault in Exclave; please report {Path(file.name)}.")


if __name__ == "__main__":
    main()
