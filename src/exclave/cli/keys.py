"""Key files on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from exclave.errors import NotAuthorised
from exclave.keys.file import KeyFile, load


def load_key(path: Path) -> KeyFile:
    """The key file at ``path``; a passphrase is asked for, or taken from EXCLAVE_PASSPHRASE."""

    def passphrase() -> str:
        given = os.environ.get("EXCLAVE_PASSPHRASE")
        if given is not None:
            return given
        try:
            return str(typer.prompt(f"Passphrase of {path.name}", hide_input=True, err=True))
        except typer.Abort as error:
            raise NotAuthorised(f"{path} needs a passphrase", hint="Run the command at a terminal.") from error

    return load(str(path), passphrase)
