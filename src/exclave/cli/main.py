"""``exclave``: the entry point. The only place where an unexpected exception is caught, and said to be our fault."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import keep_freed_memory
from exclave.cli import (
    backup,
    charter,
    custodian,
    demo,
    failover,
    identity,
    identity_acts,
    identity_check,
    identity_kit,
    init,
    restore,
    serve,
    site,
    snapshots,
    status,
    verify,
    warrant,
)
from exclave.cli.output import fail
from exclave.errors import Bug, ExclaveError, UsageError

_INTERRUPTED = 130

app = typer.Typer(
    name="exclave",
    help="A virtual data embassy: a state survives the loss of its own data centres.",
    epilog="Start with `exclave demo`, which plays the whole story on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for module in (init, backup, snapshots, restore, failover, verify, status, demo):
    module.register(app)
identity_kit.register(identity.app)
identity_acts.register(identity.app)
identity_check.register(identity.app)
for name, group in (
    ("custodian", custodian.app),
    ("charter", charter.app),
    ("site", site.app),
    ("warrant", warrant.app),
    ("serve", serve.app),
    ("identity", identity.app),
):
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only for --version

        typer.echo(f"exclave {version('exclave')}")
        raise typer.Exit


@app.callback()
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
        result = app(args=arguments, prog_name="exclave", standalone_mode=False)
    except ExclaveError as error:
        return fail(error, as_json)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        return _misused(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        result = _INTERRUPTED
    except BrokenPipeError:
        return 141
    except Exception as error:  # noqa: BLE001 - the entry point: nobody below may swallow a bug
        return fail(_bug(error), as_json)
    if result == _INTERRUPTED:  # typer has turned Ctrl-C into this
        sys.stderr.write("exclave: interrupted; what was done so far is kept, and the same command goes on from it\n")
    return result if isinstance(result, int) else 0


def _misused(error: typer.TyperException, as_json: bool) -> int:
    """A command line that typer refused. Of a group without a command, what it says is the group's help."""
    message = error.format_message()
    if message.startswith("Usage: ") and not as_json:
        sys.stderr.write(message + "\n")
        return UsageError.exit_code
    return fail(UsageError(message), as_json)


def _bug(error: Exception) -> Bug:
    """The traceback goes to a file, not to the person at the keyboard."""
    with tempfile.NamedTemporaryFile("w", prefix="exclave-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return Bug(f"{type(error).__name__}: {error}", hint=f"This is a fault in Exclave; please report {Path(file.name)}.")


if __name__ == "__main__":
    main()
