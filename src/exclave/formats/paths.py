"""Where each object lies at a site. Page: ``docs/spec/layout.md``.

Everything of one state stands under its fingerprint, so many states can share a site::

    FP/charter/NOTE                            charters
    FP/card/SHA256                             public key cards, by the digest of their text
    FP/warrant/NOTE                            fully signed warrants that were used
    FP/statement/DAY/NOTE                      what the state says in public about its data
    FP/REGISTER/epoch/NOTE                     epoch notes
    FP/REGISTER/box/SHA256                     sealed annexes, sealed shares, ancestor boxes
    FP/REGISTER/ledger/EPOCH-HASH/checkpoint   head of one epoch's log (replaced; all else but a feed's head is not)
    FP/REGISTER/ledger/EPOCH-HASH/tile/…       C2SP tlog-tiles
    FP/REGISTER/pack/ab/SHA256                 packs
    FP/REGISTER/list/SHA256                    nodes of object lists
    FP/REGISTER/feed/EPOCH-HASH/head           head of one epoch's identity feed (replaced too)
    FP/REGISTER/feed/EPOCH-HASH/SHA256         its batches
    FP/REGISTER/statement/NOTE                 signed statements to the public
    FP/REGISTER/deletion/SHA256                orders to delete
    FP/REGISTER/objection/NOTE                 what custodians say against one
    FP/REGISTER/public/ab/SHA256               what is published of a public register: editions and bundles, unsealed

NOTE is the SHA-256 of a whole signed note, HASH the first 16 hex digits of the SHA-256 of the epoch note's text: every
name but the head's depends on bytes that nobody knows beforehand, so a thief who can write to a site cannot occupy
the name of what the next epoch is going to write.
"""

from __future__ import annotations

from exclave.ids import Digest, Epoch, Fingerprint, Instant, Key, RegisterId, instant_text, sha256


def charter_key(state: Fingerprint, note: bytes) -> Key:
    """``note``: the encoded signed note."""
    return Key(f"{state}/charter/{sha256(note).hex()}")


def charter_prefix(state: Fingerprint) -> str:
    return f"{state}/charter/"


def card_key(state: Fingerprint, digest: Digest) -> Key:
    return Key(f"{state}/card/{digest.hex()}")


def card_prefix(state: Fingerprint) -> str:
    return f"{state}/card/"


def warrant_key(state: Fingerprint, note: bytes) -> Key:
    return Key(f"{state}/warrant/{sha256(note).hex()}")


def warrant_prefix(state: Fingerprint) -> str:
    return f"{state}/warrant/"


def epoch_key(state: Fingerprint, register: RegisterId, note: bytes) -> Key:
    return Key(f"{state}/{register}/epoch/{sha256(note).hex()}")


def epoch_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/epoch/"


def box_key(state: Fingerprint, register: RegisterId, digest: Digest) -> Key:
    return Key(f"{state}/{register}/box/{digest.hex()}")


def ledger_prefix(state: Fingerprint, register: RegisterId, epoch: Epoch, note_text: Digest) -> str:
    """Prefix of one epoch's C2SP log, ending in ``/``; ``note_text`` is the SHA-256 of the epoch note's text."""
    return f"{state}/{register}/ledger/{epoch:08d}-{note_text.hex()[:16]}/"


def pack_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/pack/"


def pack_key(state: Fingerprint, register: RegisterId, name: Digest) -> Key:
    text = name.hex()
    return Key(f"{state}/{register}/pack/{text[:2]}/{text}")


def list_key(state: Fingerprint, register: RegisterId, name: Digest) -> Key:
    return Key(f"{state}/{register}/list/{name.hex()}")


def ledger_origin(state: Fingerprint, register: RegisterId, epoch: Epoch) -> str:
    """The C2SP origin line (and log key name) of one epoch's log."""
    return f"exclave/{state}/{register}/{epoch}"


def feed_prefix(state: Fingerprint, register: RegisterId, epoch: Epoch, note_text: Digest) -> str:
    """Prefix of one epoch's identity feed, ending in ``/``; ``note_text`` as for ``ledger_prefix``."""
    return f"{state}/{register}/feed/{epoch:08d}-{note_text.hex()[:16]}/"


def statement_key(state: Fingerprint, register: RegisterId, note: bytes) -> Key:
    """Signed public statements (revocation gap, merge report)."""
    return Key(f"{state}/{register}/statement/{sha256(note).hex()}")


def statement_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/statement/"


def public_statement_key(state: Fingerprint, time: Instant, note: bytes) -> Key:
    """A statement about the whole state, made at ``time``; ``note``: the encoded signed note."""
    return Key(f"{public_statement_prefix(state, time)}{sha256(note).hex()}")


def public_statement_prefix(state: Fingerprint, time: Instant) -> str:
    """Of the statements of one day (UTC), so that the newest one is found among years of them."""
    return f"{public_statements_prefix(state)}{instant_text(time)[:10].replace('-', '')}/"


def public_statements_prefix(state: Fingerprint) -> str:
    return f"{state}/statement/"


def deletion_key(state: Fingerprint, register: RegisterId, digest: Digest) -> Key:
    """An order to delete, by the digest of its text."""
    return Key(f"{state}/{register}/deletion/{digest.hex()}")


def deletion_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/deletion/"


def objection_key(state: Fingerprint, register: RegisterId, note: bytes) -> Key:
    """A custodian's objection; ``note``: the encoded signed note."""
    return Key(f"{state}/{register}/objection/{sha256(note).hex()}")


def objection_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/objection/"


def public_key(state: Fingerprint, register: RegisterId, name: Digest) -> Key:
    """An edition or a bundle of what is published of a register."""
    text = name.hex()
    return Key(f"{state}/{register}/public/{text[:2]}/{text}")


def public_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/public/"
