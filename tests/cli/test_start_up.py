"""What a command loads before it begins: names of modules, since times differ from machine to machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from exclave.cli.main import build, first_page
from exclave.cli.overview import SUMMARIES
from exclave.formats.paths import box_key
from exclave.ids import sha256
from support.small_state import SmallState

_SLOW = {
    "asn1crypto", "boto3", "dns", "granian", "httpx", "jinja2", "joserfc", "kubernetes", "obstore", "psycopg",
    "pkcs11", "pyeclib", "rfc3161_client", "sqlite3", "ssl", "starlette", "uvicorn", "webauthn",
}  # fmt: skip
"""What only other commands, other kinds of sites, or states with timestamp authorities need."""
_COMMANDS = {
    "exclave.cli.main": ["verify", "--site"],
    "exclave.verify.command": [],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallState:
    """A state with one version at one folder."""
    state = SmallState(tmp_path_factory.mktemp("start"))
    (state.folder / "docs").mkdir()
    (state.folder / "docs" / "act").write_text("an act\n")
    state.write_version(state.folder / "docs")
    state.primary.put_same(box_key(state.state, state.register, sha256(b"box")), b"box")  # the annex
    return state


@pytest.mark.parametrize("command", _COMMANDS)
def test_checking_a_folder_loads_nothing_that_only_others_need(small: SmallState, command: str) -> None:
    """No HTTP client, no database and no ASN.1 is loaded to check a folder: that took longer than the check itself."""
    site = f"home=dir:{small.site_folder('home')}"
    arguments = [*_COMMANDS[command], site, "--fingerprint", str(small.state)]
    program = f"""import json, sys
from {command} import run
code = run({arguments!r})
print(json.dumps([code, sorted({{name.partition('.')[0] for name in sys.modules}})]))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, 1), done.stdout  # right, and as old as it is made
    assert "that was read is right" in done.stdout
    assert _SLOW.isdisjoint(loaded), sorted(_SLOW & set(loaded))


def test_the_first_page_says_what_the_commands_say() -> None:
    """The table of ``cli/overview.py`` is what every command and group says of itself; renew it when this fails."""
    whole, first = (get_command(made) for made in (build(), first_page()))
    shown = {name: command.get_short_help_str(400) for name, command in whole.commands.items()}  # type: ignore[attr-defined]
    assert list(shown.items()) == list(SUMMARIES.items())
    pages = [made.get_help(typer.Context(made, info_name="exclave")) for made in (whole, first)]
    assert pages[0] == pages[1]


def test_the_first_page_loads_no_command() -> None:
    """Who asks for help or for the version does not wait for all commands."""
    program = """import sys
from exclave.cli.main import run
codes = [run(['--help']), run(['--version'])]
print(codes, sorted(name for name in sys.modules if name.startswith(('exclave.cli.', 'exclave.operations.'))))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1].startswith("[0, 0]")
    assert "exclave.cli.verify" not in done.stdout
    assert "exclave.operations.backup" not in done.stdout
