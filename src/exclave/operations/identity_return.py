"""The authority over identities moves to this machine, abroad or back home; a part of failover."""

from __future__ import annotations

from pathlib import Path

from exclave.operations.failover_run import Run
from exclave.operations.identity_takeup import take_up_identity


def move_authority(run: Run, name: str, restored: Path) -> None:
    """Once the epoch is granted and the version restored."""
    take_up_identity(run, name, restored)
