"""What a continuity officer reads when a gateway is dead: which site, why, what is protected, what to do."""

from __future__ import annotations

from pathlib import Path

from support.gateway import NORTH
from support.small_home import SmallHome, run


def test_a_backup_beside_a_dead_gateway(tmp_path: Path) -> None:
    """The version is protected by the others; the dead site is named with the cause, and what brings it up to date."""
    home = SmallHome(tmp_path / "h").found()
    home.urls["nord"] = f"https://127.0.0.1:1/{NORTH}"
    home.write_config()
    said = run("backup", *home.home)
    assert said.code == 0, said.err
    told = said.out.split("\n")
    assert any(line.startswith("  protected by 2 copies in 2 countries") for line in told)
    [dead] = [line for line in told if "nord does NOT have it: " in line]
    assert dead.endswith("Connection refused")
    assert "asked again" not in said.out
    assert "A later backup, or exclave site sync, brings nord what it lacks" in said.out
