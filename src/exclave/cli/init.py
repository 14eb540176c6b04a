"""``exclave init``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import HomeFolder, Json, print_json, say, typed
from exclave.errors import TargetNotEmpty
from exclave.ids import parse_label
from exclave.keys.file import KeyKind
from exclave.operations.home import CONFIG_NAME, key_card, make_key, write_private

EXAMPLE = """\
# What this home says of itself. A charter is drafted from it with `exclave charter propose`.

[state]
name = "Republic of Example"
home = "EE"
threshold = 2            # custodians who must agree
quorum = "none"          # or the witness or [[witness_group]] that must have cosigned before a version counts

# One block for each custodian; `exclave custodian new NAME` makes the key card.
[[custodian]]
name = "kaja"
country = "EE"
card = "custodians/kaja.card"

[[custodian]]
name = "luc"
country = "LU"
card = "custodians/luc.card"

[[custodian]]
name = "aino"
country = "FI"
card = "custodians/aino.card"

# One block for each place that keeps copies: dir:/absolute/folder, or
# s3://bucket/prefix?endpoint=https://…&region=…&credentials=/path/of/keys.toml
[[site]]
name = "home"
url = "dir:/srv/exclave/home"
country = "EE"
operator = "state-it"

[[site]]
name = "luxembourg"
url = "dir:/mnt/luxembourg"
country = "LU"
operator = "ctie"
can_run = true

# One block for each register.
[[register]]
name = "gazette"
owner = "Ministry of Justice"
class = "public-law"
rpo_s = 3600             # how much work may be lost, in seconds
rto_s = 900              # how long it may be down
retention_days = 400
depends = []
placement = { copies = 2, countries = 2, outside_home = 1 }

[register.legal_basis]   # a site that is not named here never gets this register
home = "Act on the State Gazette, section 4"
luxembourg = "Agreement of 20.06.2017, article 2"

[[register.dataset]]
name = "acts"
kind = "files"           # or postgres, sqlite
options = { path = "/srv/gazette/acts" }

# What runs in the embassy. {python}, {port}, {path:DATASET}, {folder:DATASET} and {dsn:DATASET} are filled in there.
# [[register.service]]
# name = "web"
# dataset = "app"
# argv = ["{python}", "app.py", "--port", "{port}", "--data", "{path:acts}"]
# port = 8080
# probe = "/health"
# query = { path = "/act/2019/0123", expect = '{"number": 123}' }
"""


def register(app: typer.Typer) -> None:
    app.command(name="init", epilog="Example: exclave init /srv/exclave --name home-writer")(init)


def init(
    folder: Annotated[Path | None, typer.Argument(help="The new home folder; default: --home.")] = None,
    home: HomeFolder = Path(),
    name: Annotated[str, typer.Option(help="Name of this writer in ledgers.")] = "home-writer",
    json: Json = False,
) -> None:
    """Make a home folder: an example exclave.toml and the writer's key."""
    target = (folder or home).absolute()
    config = target / CONFIG_NAME
    if config.exists() or config.is_symlink():
        raise TargetNotEmpty(f"{config} is there already")
    # A home among a register's own files would put the writer's key into its next version.
    if target.is_dir() and any(target.iterdir()):
        raise TargetNotEmpty(f"the folder {target} is not empty")
    key = make_key(target / "keys" / "writer.key", KeyKind.WRITER, typed(parse_label, name))
    write_private(config, EXAMPLE.encode())
    card = key_card(key)
    if json:
        print_json({"home": target, "config": config, "writer": key.name, "card": card.digest})
        return
    say(f"A home was made in {target}.")
    say(f"  1. Say in {config} what your state, custodians, sites and registers are.")
    say("  2. Let each custodian run `exclave custodian new` on his own machine, and collect the .card files.")
    say("  3. Run `exclave charter propose DRAFT`, have the draft signed, then `exclave charter publish DRAFT`.")
