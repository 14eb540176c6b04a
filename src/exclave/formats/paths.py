"""Where each object lies at a site. Page: ``docs/spec/layout.md``.

Everything of one state stands under its fingerprint, so many states can share a site::

    FP/charter/00000001                     charter notes, one chain
    FP/card/SHA256                          public key cards
    FP/warrant/SHA256                       fully signed warrants that were used
    FP/REGISTER/epoch/00000001              epoch notes
    FP/REGISTER/box/SHA256                  sealed annexes, sealed shares, ancestor boxes
    FP/REGISTER/ledger/00000001/checkpoint  head of one epoch's log (the only object that is ever replaced)
    FP/REGISTER/ledger/00000001/tile/…      C2SP tlog-tiles
    FP/REGISTER/pack/ab/SHA256              packs
    FP/REGISTER/list/SHA256                 nodes of object lists
"""

from __future__ import annotations

from exclave.ids import Digest, Epoch, Fingerprint, Key, RegisterId


def charter_key(state: Fingerprint, number: int) -> Key:
    return Key(f"{state}/charter/{number:08d}")


def charter_prefix(state: Fingerprint) -> str:
    return f"{state}/charter/"


def card_key(state: Fingerprint, digest: Digest) -> Key:
    return Key(f"{state}/card/{digest.hex()}")


def warrant_key(state: Fingerprint, digest: Digest) -> Key:
    return Key(f"{state}/warrant/{digest.hex()}")


def register_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/"


def epoch_key(state: Fingerprint, register: RegisterId, epoch: Epoch) -> Key:
    return Key(f"{state}/{register}/epoch/{epoch:08d}")


def epoch_prefix(state: Fingerprint, register: RegisterId) -> str:
    return f"{state}/{register}/epoch/"


def box_key(state: Fingerprint, register: RegisterId, digest: Digest) -> Key:
    return Key(f"{state}/{register}/box/{digest.hex()}")


def ledger_prefix(state: Fingerprint, register: RegisterId, epoch: Epoch) -> str:
    """Prefix of one epoch's C2SP log, ending in ``/``."""
    return f"{state}/{register}/ledger/{epoch:08d}/"


def pack_key(state: Fingerprint, register: RegisterId, name: Digest) -> Key:
    text = name.hex()
    return Key(f"{state}/{register}/pack/{text[:2]}/{text}")


def list_key(state: Fingerprint, register: RegisterId, name: Digest) -> Key:
    return Key(f"{state}/{register}/list/{name.hex()}")


def ledger_origin(state: Fingerprint, register: RegisterId, epoch: Epoch) -> str:
    """The C2SP origin line (and log key name) of one epoch's log."""
    return f"exclave/{state}/{register}/{epoch}"
