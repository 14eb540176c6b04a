"""``exclave serve site`` as a host runs it."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from support.gateway import NORTH, SOUTH, host_place
from support.small_home import run, start


def test_check_and_wrong_files(tmp_path: Path) -> None:
    """``--check`` tells what is kept for whom and ends; a file that is not there, or wrong, is refused."""
    place = host_place(tmp_path)
    told = run("serve", "site", "--config", str(tmp_path / "host.toml"), "--check", "--json")
    assert told.code == 0, told.err
    assert told.json == {
        "host": "lux",
        "states": [
            {"name": "north", "fingerprint": NORTH, "bytes": 0, "objects": 0},
            {"name": "south", "fingerprint": SOUTH, "bytes": 0, "objects": 0},
        ],
    }
    assert run("serve", "site", "--config", str(place.folder / "none.toml"), "--check").code == 3
    (tmp_path / "host.toml").write_text("name = 1\n")
    wrong = run("serve", "site", "--config", str(tmp_path / "host.toml"), "--check")
    assert wrong.code == 3
    assert "Traceback" not in wrong.err


def test_serves_until_told_to_stop(tmp_path: Path) -> None:
    """The process says where it listens, takes connections there, and ends with 0 at SIGTERM."""
    host_place(tmp_path, limits='[duties]\npage = "127.0.0.1:0"')
    process = start("serve", "site", "--config", str(tmp_path / "host.toml"), "--json")
    try:
        assert process.stdout is not None
        text = b""
        while not text.endswith(b"\n}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            text += line
        told = json.loads(text)
        assert told["host"] == "lux"
        assert [state["name"] for state in told["states"]] == ["north", "south"]
        socket.create_connection(("127.0.0.1", told["port"]), 30).close()
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert b"stopped" in err
