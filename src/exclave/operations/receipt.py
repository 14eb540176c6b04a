"""What a backup did, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field

from exclave.ids import Instant, Label, RegisterId


@dataclass(frozen=True, slots=True)
class DatasetReceipt:
    """What one dataset of a version holds."""

    name: str
    kind: str
    entries: int
    bytes: int
    captured: Instant
    digest: str
    digest_exact: bool
    rows: dict[str, int]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a backup did, and what it is worth."""

    register: str
    register_id: RegisterId
    epoch: int
    sequence: int
    time: Instant
    """The moment whose state the version is: the earliest of its datasets'."""
    datasets: tuple[DatasetReceipt, ...]
    read_bytes: int
    shipped_bytes: int
    new_chunks: int
    reused_files: int
    objects: int
    total_bytes: int
    """Size of all objects that the version needs."""
    sites: tuple[Label, ...]
    failed: dict[Label, str]
    """Sites that do not hold it, and why."""
    witnesses: tuple[Label, ...]
    witnesses_failed: dict[Label, str]
    quorum: str
    """Whose cosignatures the charter asks for, in words; empty if nobody's."""
    lacking: str
    """Which of them are missing, in words."""
    protected: bool
    """Enough sites hold it by the charter's rule, and their leases and legal bases stand."""
    protection: str
    """Why it is protected, or why not, in words."""
    protected_at: Instant
    rpo_s: int
    rpo_met_s: float
    """Age of the captured state when the version was protected, in seconds."""
    suspicious: tuple[str, ...] = ()
    """What is not as usual in what changed, in sentences: see ``exclave snapshots``."""
    timestamps: tuple[Label, ...] = ()
    """Authorities that dated the ledger, if that was due."""
    timestamps_failed: dict[Label, str] = field(default_factory=dict)
    """Authorities that should have and did not, and sites that did not take a token."""

    @property
    def witnessed(self) -> bool:
        return not self.lacking
