"""What can go wrong, as one tree; each branch asks for another reaction.

::

    ExclaveError
    ├── UsageError            the user typed or configured it wrong: correct it and try again
    │   ├── ConfigError           exclave.toml says something impossible or unknown
    │   ├── MalformedError        a file or message is not in the format it claims to be
    │   └── TargetNotEmpty        a restore or a new home would write over something
    ├── UnavailableError      something is not reachable now: retry, or use another one
    │   ├── SiteUnavailable       a site did not answer, or answered with a failure
    │   │   ├── SiteFull              no space or quota left there
    │   │   └── SiteReadOnly          it refuses every write
    │   ├── SourceUnavailable     a register's own system (PostgreSQL, a file) cannot be captured
    │   ├── ServiceFailed         a restarted service did not come up or did not answer its probe
    │   └── PlacementUnmet        fewer good copies than the charter's rule demands
    ├── IntegrityError        bytes are wrong: a disk died or somebody lied
    │   ├── CorruptObject         an object's bytes do not match its name or signature
    │   ├── MissingObject         an object that must exist is gone
    │   ├── RolledBack            an older state is presented as the latest
    │   ├── Forked                two histories that cannot both be true
    │   ├── WrongFingerprint      this is not the state that was pinned
    │   └── BadShare              a custodian's share is not the one that was committed to
    ├── NotAuthorised         somebody must sign, or may not do this
    │   ├── QuorumMissing         fewer signatures or shares than the threshold
    │   ├── WarrantExpired        outside the time that the warrant allows
    │   ├── WarrantForeign        another state's, place's, machine's or act's warrant
    │   ├── Fenced                a later epoch exists: this writer is no longer the writer
    │   ├── LegalBasisMissing     this register may not be stored at this site
    │   └── KeyFileExposed        a private key file can be read by others
    ├── ConflictError         a write-once name is taken, or the head moved: reload first
    │   ├── AlreadyExists         put_new found the name taken
    │   ├── HeadMoved             replace_if found another value than expected
    │   └── Busy                  another process holds this register or folder
    ├── OutcomeUnknown        a write may or may not have happened: look before repeating it
    └── Bug                   ours: please report it

``code`` is stable and meant for machines; ``exit_code`` is the process's exit status; ``http_status`` the
answer of a server. ``hint`` says what to do next. ``facts`` holds the context for ``--json``.
"""

from __future__ import annotations

from typing import ClassVar


class ExclaveError(Exception):
    """Any failure that Exclave reports on purpose.

    ``message`` says what happened, ``hint`` what to do next (overrides the class's own), ``facts`` are plain
    values (str, int, bool) that a machine may want.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", **facts: str | int | bool) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.facts = facts


class UsageError(ExclaveError):
    code, exit_code, http_status = "usage", 2, 400
    default_hint = "Run the command with --help to see what it takes."


class ConfigError(UsageError):
    code, exit_code = "config", 3
    default_hint = "Correct exclave.toml and run the command again; nothing was changed."


class MalformedError(UsageError):
    code, exit_code = "malformed", 4
    default_hint = "The file is damaged or of another kind; get it again from where it came from."


class TargetNotEmpty(UsageError):
    code, exit_code, http_status = "target-not-empty", 5, 409
    default_hint = "Choose an empty or new folder; nothing was written."


class UnavailableError(ExclaveError):
    code, exit_code, http_status, retryable = "unavailable", 10, 503, True
    default_hint = "Try again; what was done so far is kept."


class SiteUnavailable(UnavailableError):
    code, exit_code = "site-unavailable", 11
    default_hint = "Check the site's address and network, or name another site."


class SiteFull(SiteUnavailable):
    code, exit_code, http_status, retryable = "site-full", 12, 507, False
    default_hint = "Ask the site's operator for space; what was shipped so far is kept and is not sent again."


class SiteReadOnly(SiteUnavailable):
    code, exit_code, http_status, retryable = "site-read-only", 13, 503, False
    default_hint = "Ask the site's operator why it refuses writes; existing versions are untouched."


class SourceUnavailable(UnavailableError):
    code, exit_code = "source-unavailable", 14
    default_hint = "Bring the register's own system up, or correct its address in exclave.toml."


class ServiceFailed(UnavailableError):
    code, exit_code = "service-failed", 15
    default_hint = "Read the service's log; run the command again to go on from this step."


class PlacementUnmet(UnavailableError):
    code, exit_code = "placement-unmet", 16
    default_hint = "Bring another site up, then run the backup again: only what is missing is sent."


class IntegrityError(ExclaveError):
    code, exit_code, http_status = "integrity", 20, 502
    default_hint = "Do not trust this copy; use another site and tell the continuity officer."


class CorruptObject(IntegrityError):
    code, exit_code = "corrupt-object", 21


class MissingObject(IntegrityError):
    code, exit_code, http_status = "missing-object", 22, 404


class RolledBack(IntegrityError):
    code, exit_code = "rolled-back", 23


class Forked(IntegrityError):
    code, exit_code = "forked", 24


class WrongFingerprint(IntegrityError):
    code, exit_code = "wrong-fingerprint", 25
    default_hint = "Compare the fingerprint with the printed one; if it is right, this site belongs to another state."


class BadShare(IntegrityError):
    code, exit_code = "bad-share", 26
    default_hint = "Ask the named custodian to sign again with the right key file, or ask another custodian."


class NotAuthorised(ExclaveError):
    code, exit_code, http_status = "not-authorised", 30, 403
    default_hint = "Use the key of somebody whom the charter in force names for this."


class QuorumMissing(NotAuthorised):
    code, exit_code = "quorum-missing", 31
    default_hint = "Ask further custodians to sign, then run the command again with all the answers."


class WarrantExpired(NotAuthorised):
    code, exit_code = "warrant-expired", 32
    default_hint = "Request a new warrant and have it signed."


class WarrantForeign(NotAuthorised):
    code, exit_code = "warrant-foreign", 33
    default_hint = "Request a warrant for this state, act, place and machine."


class Fenced(NotAuthorised):
    code, exit_code, http_status = "fenced", 34, 409
    default_hint = "A later epoch has the pen: stop writing here. How this home comes back stands in after-failover.md."


class LegalBasisMissing(NotAuthorised):
    code, exit_code = "legal-basis-missing", 35
    default_hint = "Add a legal_basis for the register at that site, or take the site out of its placement."


class KeyFileExposed(NotAuthorised):
    code, exit_code = "key-file-exposed", 36
    default_hint = "Run chmod 600 on the file, and think about who may have read it."


class ConflictError(ExclaveError):
    code, exit_code, http_status = "conflict", 40, 409
    default_hint = "Look at what is there, then choose another name or run the command again."


class AlreadyExists(ConflictError):
    code, exit_code = "already-exists", 41


class HeadMoved(ConflictError):
    code, exit_code, http_status, retryable = "head-moved", 42, 412, True
    default_hint = "Somebody else wrote meanwhile; run the command again."


class Busy(ConflictError):
    code, exit_code, retryable = "busy", 43, True
    default_hint = "Another exclave process is at work here; wait for it to end."


class OutcomeUnknown(ExclaveError):
    code, exit_code, http_status = "outcome-unknown", 50, 500
    default_hint = "Look at the state with `exclave status` before repeating the command."


class Bug(ExclaveError):
    code, exit_code = "bug", 70
    default_hint = "This is a fault in Exclave; please report it with the text above."


def all_errors() -> tuple[type[ExclaveError], ...]:
    """Every class of the tree, the root first; the table of exit codes in the documents is made from it."""
    found: list[type[ExclaveError]] = []
    queue: list[type[ExclaveError]] = [ExclaveError]
    while queue:
        cls = queue.pop(0)
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return tuple(found)
