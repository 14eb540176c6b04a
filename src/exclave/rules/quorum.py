"""Opening a register with M of N custodians, and making the shares. Page: ``docs/spec/shares.md``.

The secret is the 32-byte seed of an epoch's opening key. It exists in one place: on the machine that a warrant
names, from when enough answers are combined there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from exclave.crypto.hpke import OVERHEAD_BYTES, SEED_BYTES, OpeningKey, SealingKey
from exclave.crypto.shares import Share, combine, commitment, split
from exclave.errors import BadShare, CorruptObject, MalformedError, QuorumMissing, WarrantExpired, WarrantForeign
from exclave.formats.answer import ResealedShare, reseal_info
from exclave.formats.card import Card
from exclave.formats.epochnote import MAX_EPOCH, EpochShare, ancestor_info, share_info
from exclave.formats.warrant import SHARELESS_ACTS
from exclave.ids import Digest, Epoch, Label, RegisterId, sha256
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.rules.warrants import AuthorisedWarrant, VerifiedAnswer, VerifiedRequest

MAX_TRIALS = 3000
"""Most subsets of shares that are tried when a dealer gave out shares that do not fit together."""
_RECORD_BYTES = 4 + SEED_BYTES


@dataclass(frozen=True, slots=True)
class OpenedEpoch:
    """An epoch's opening key, proven to be the one of its note."""

    key: OpeningKey
    used: tuple[Label, ...]
    """Custodians whose shares made it."""
    bad: tuple[Label, ...]
    """Custodians who sent a wrong share; it was left out. Tell them."""


def make_epoch_shares(
    seed: bytes,
    custodians: Sequence[Card],
    threshold: int,
    *,
    register: RegisterId,
    epoch: Epoch,
    random: Callable[[int], bytes],
) -> tuple[tuple[EpochShare, ...], tuple[bytes, ...]]:
    """The share lines of an epoch note and, in the same order, the sealed boxes they name.

    Custodians are numbered in the order of their names. Nobody but the maker can tell whether the shares fit
    together before they are combined once: have them combined before anything depends on them.
    """
    if len(seed) != SEED_BYTES:
        raise MalformedError(f"an opening key's seed has {SEED_BYTES} bytes")
    cards = sorted(custodians, key=lambda card: card.name)
    if len({card.name for card in cards}) != len(cards):
        raise MalformedError("two custodians have one name")
    lines: list[EpochShare] = []
    boxes: list[bytes] = []
    for card, share in zip(cards, split(seed, threshold, len(cards), random), strict=True):
        box = SealingKey(card.sealing).seal(share.data, share_info(register, epoch, share.index, card.name))
        promise = commitment(register, epoch, share.index, share.data)
        lines.append(EpochShare(card.name, share.index, promise, sha256(box)))
        boxes.append(box)
    return tuple(lines), tuple(boxes)


def reseal_share(
    box: bytes, key: OpeningKey, custodian: Label, epoch: VerifiedEpoch, request: VerifiedRequest
) -> ResealedShare:
    """On the custodian's side: his share out of ``box``, sealed anew to the machine of the request.

    Raises ``WarrantForeign`` if the request is not for this register or opens nothing, ``CorruptObject`` if ``box``
    is not the one of the note, ``BadShare`` (naming him) if it does not open or is not what was committed to.
    """
    if epoch.register not in request.warrant.registers:
        raise WarrantForeign(f"the request does not name register {epoch.register}")
    if request.warrant.act in SHARELESS_ACTS:
        raise WarrantForeign(f"a warrant to {request.warrant.act} opens nothing, so it gets no shares")
    line = epoch.note.share_of(custodian)
    if line is None:
        raise BadShare(f"{custodian} has no share in epoch {epoch.number} of {epoch.register}", custodian=custodian)
    if sha256(box) != line.box:
        raise CorruptObject(f"the sealed share of {custodian} is not the one that the epoch note names")
    try:
        share = key.open(box, share_info(epoch.register, epoch.number, line.index, custodian))
    except CorruptObject as error:
        raise BadShare(f"the sealed share of {custodian} does not open with this key", custodian=custodian) from error
    if commitment(epoch.register, epoch.number, line.index, share) != line.commitment:
        raise BadShare(f"the share of {custodian} is not the one that was committed to", custodian=custodian)
    info = reseal_info(request.digest, epoch.register, epoch.number, line.index)
    sealed = SealingKey(request.machine.sealing).seal(share, info)
    return ResealedShare(epoch.register, epoch.number, line.index, sealed)


def open_epoch(
    answers: Iterable[VerifiedAnswer], epoch: VerifiedEpoch, warrant: AuthorisedWarrant, machine: OpeningKey
) -> OpenedEpoch:
    """On the machine of the warrant: the epoch's opening key, from enough answers.

    Wrong shares are named in the result and left out; answers of people who are custodians neither in the warrant's
    charter nor in the epoch's are passed over. Raises ``QuorumMissing`` if too few good ones remain (naming
    who sent which), ``CorruptObject`` if no set of good shares makes the key of the note, ``WarrantForeign``,
    ``WarrantExpired`` if the warrant was only looked at as history.
    """
    _check_opening(epoch, warrant, machine)
    people = {c.card for charter in (warrant.charter, epoch.charter) for c in charter.charter.custodians}
    good: dict[Label, Share] = {}
    bad: set[Label] = set()
    for answer in answers:
        if answer.custodian.digest not in people:
            continue
        custodian = answer.answer.custodian
        sent = [s for s in answer.answer.shares if (s.register, s.epoch) == (epoch.register, epoch.number)]
        if answer.answer.warrant != warrant.digest:
            raise WarrantForeign(f"the answer of {custodian} is to another warrant", custodian=custodian)
        for resealed in sent:
            try:
                good[custodian] = _open_share(resealed, custodian, epoch, warrant.digest, machine)
            except BadShare:
                bad.add(custodian)
    # A custodian who corrected himself in a second answer is not a bad one.
    bad -= good.keys()
    if len(good) < epoch.note.threshold:
        raise _too_few(epoch, sorted(good), sorted(bad))
    key, used, misfits = _combine(good, epoch)
    return OpenedEpoch(key, used, tuple(sorted(bad | misfits)))


def seal_ancestors(
    former: Mapping[Epoch, bytes],
    to: SealingKey,
    register: RegisterId,
    epoch: Epoch,
    *,
    without: Collection[Epoch] = (),
) -> bytes:
    """The ancestor box of ``epoch``: the seeds of all epochs before it, sealed to its own opening key.

    ``without``: epochs whose keys an order to delete takes away; the epoch's note names them.
    """
    if epoch > MAX_EPOCH or sorted((*former, *without)) != list(range(1, epoch)) or epoch < 2:
        raise MalformedError(f"the ancestors of epoch {epoch} are all epochs from 1 to {epoch - 1}")
    if any(len(seed) != SEED_BYTES for seed in former.values()):
        raise MalformedError(f"an opening key's seed has {SEED_BYTES} bytes")
    plaintext = b"".join(number.to_bytes(4, "big") + former[number] for number in sorted(former))
    return to.seal(plaintext, ancestor_info(register, epoch))


def open_ancestors(box: bytes, key: OpeningKey, epoch: VerifiedEpoch, chain: EpochChain) -> dict[Epoch, OpeningKey]:
    """The opening keys of all epochs before ``epoch`` but those that its note leaves out, each proven to be that of its
    own note. Else ``CorruptObject``."""
    if epoch.note.ancestor is None or sha256(box) != epoch.note.ancestor:
        raise CorruptObject(f"the ancestor box is not the one that epoch {epoch.number} names")
    numbers = [number for number in range(1, epoch.number) if number not in epoch.note.without]
    count = len(numbers)
    if len(box) != OVERHEAD_BYTES + count * _RECORD_BYTES:
        raise CorruptObject(f"the ancestor box of epoch {epoch.number} has not one record for each former epoch")
    plaintext = key.open(box, ancestor_info(epoch.register, epoch.number))
    keys: dict[Epoch, OpeningKey] = {}
    for place, wanted in enumerate(numbers):
        record = plaintext[place * _RECORD_BYTES : (place + 1) * _RECORD_BYTES]
        number = Epoch(int.from_bytes(record[:4], "big"))
        former, opened = chain.find(Epoch(wanted)), OpeningKey(record[4:])
        if number != wanted or former is None or opened.public.raw != former.note.opening:
            raise CorruptObject(f"the ancestor box of epoch {epoch.number} holds a wrong key for epoch {wanted}")
        keys[number] = opened
    return keys


def _check_opening(epoch: VerifiedEpoch, warrant: AuthorisedWarrant, machine: OpeningKey) -> None:
    if warrant.checked_at is None:
        raise WarrantExpired("a warrant of the past opens nothing now")
    if warrant.warrant.act in SHARELESS_ACTS or not warrant.covers(epoch.register):
        raise WarrantForeign(f"the warrant does not allow opening register {epoch.register}")
    if warrant.machine is not None and warrant.machine.sealing != machine.public.raw:
        raise WarrantForeign("the warrant is for another machine: its opening key is not the one given here")


def _open_share(
    resealed: ResealedShare, custodian: Label, epoch: VerifiedEpoch, warrant: Digest, machine: OpeningKey
) -> Share:
    line = epoch.note.share_of(custodian)
    if line is None or line.index != resealed.index:
        raise BadShare(f"{custodian} sent a share that is not his", custodian=custodian)
    try:
        data = machine.open(resealed.sealed, reseal_info(warrant, epoch.register, epoch.number, line.index))
    except CorruptObject as error:
        raise BadShare(f"the share of {custodian} does not open", custodian=custodian) from error
    if commitment(epoch.register, epoch.number, line.index, data) != line.commitment:
        raise BadShare(f"the share of {custodian} is not the one that was committed to", custodian=custodian)
    return Share(line.index, data)


def _combine(good: Mapping[Label, Share], epoch: VerifiedEpoch) -> tuple[OpeningKey, tuple[Label, ...], set[Label]]:
    """The key, who made it, and whose share keeps its commitment but does not fit: there the dealer was wrong."""
    size = epoch.note.threshold
    for names in islice(combinations(sorted(good), size), MAX_TRIALS):
        seed = combine([good[name] for name in names])
        key = OpeningKey(seed)
        if key.public.raw != epoch.note.opening:
            continue
        base = [good[name] for name in names[1:]]
        misfits = {n for n in good if n not in names and combine([*base, good[n]]) != seed}
        return key, names, misfits
    raise CorruptObject(f"the shares of epoch {epoch.number} of {epoch.register} do not make its opening key")


def _too_few(epoch: VerifiedEpoch, good: Sequence[Label], bad: Sequence[Label]) -> QuorumMissing:
    need = epoch.note.threshold - len(good)
    others = [s.custodian for s in epoch.note.shares if s.custodian not in good and s.custodian not in bad]
    wrong = f"; wrong: {', '.join(bad)}" if bad else ""
    return QuorumMissing(
        f"register {epoch.register}: {len(good)} of {epoch.note.threshold} shares (good: {', '.join(good) or 'none'}"
        f"{wrong}); {need} more needed from: {', '.join(others) or 'nobody left'}",
        good=", ".join(good),
        bad=", ".join(bad),
        needed=need,
        candidates=", ".join(others),
    )
