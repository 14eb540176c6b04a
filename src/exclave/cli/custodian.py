"""``exclave custodian``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import Json, print_json, say, typed
from exclave.errors import AlreadyExists
from exclave.ids import parse_label
from exclave.keys.file import KeyKind
from exclave.operations.home import key_card, make_key, write_private

app = typer.Typer(help="Custodians' keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command(name="new", epilog="Example: exclave custodian new kaja --out /media/stick")
def new(
    name: Annotated[str, typer.Argument(help="The custodian's name: a-z, 0-9 and '-'.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.key (secret) and NAME.card (public).")] = Path(),
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that seals the key file.")
    ] = False,
    kind: Annotated[KeyKind, typer.Option(help="Whose key it is.")] = KeyKind.CUSTODIAN,
    json: Json = False,
) -> None:
    """Make a key file, which never leaves its holder, and the key card that the charter names."""
    label = typed(parse_label, name)
    secret, card_file = out.absolute() / f"{label}.key", out.absolute() / f"{label}.card"
    if secret.exists():
        raise AlreadyExists(f"{secret} is there already; key files are never overwritten")
    words = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True) if passphrase else None
    card = key_card(make_key(secret, kind, label, words))
    write_private(card_file, card.encode().encode())
    card_file.chmod(0o644)
    if json:
        print_json({"name": label, "key": secret, "card": card_file, "digest": card.digest})
        return
    say(f"{secret}  keep this secret, and a copy of it in another place")
    say(f"{card_file}  give this to whoever drafts the charter")
    say(f"Fingerprint of the card: {card.digest.hex()}")
