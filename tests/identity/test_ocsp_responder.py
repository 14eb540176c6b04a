"""What the responder answers: whose certificates, of what date, for how long, and from memory."""

from __future__ import annotations

import logging

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.ocsp import parse_request
from exclave.errors import UnavailableError
from exclave.identity.answer_window import known_until, window
from exclave.identity.contract import Authority, IdentityState, IssuerInfo
from exclave.identity.responder import Outcome, Reply
from exclave.identity.status_log import CertificateStatus, Good, Held, Reason, Revoked, Serial
from exclave.ids import Digest, Instant, Label
from support.ocsp_place import DAY, NOW, Place, delegate, make_place, request_for
from support.ocsp_requests import written

HOME, STANDBY, EXILE = IdentityState.HOME, IdentityState.STANDBY, IdentityState.EXILE
S = 1_000_000
FAR = Instant(NOW + 100 * DAY)


@pytest.fixture
def place() -> Place:
    return make_place()


def read(reply: Reply) -> ocsp.OCSPResponse:
    return ocsp.load_der_ocsp_response(reply.data)


def seconds(moment: object) -> int:
    return int(moment.timestamp())  # type: ignore[attr-defined]


def issuer(*, live: bool = True, as_of: int = NOW, next_update: int = 0) -> IssuerInfo:
    return IssuerInfo(Digest(b"i" * 32), Label("ca"), (b"",), live, Instant(as_of), Instant(next_update), True)


def authority(state: IdentityState, as_of: int = NOW) -> Authority:
    return Authority(state, Label("embassy"), 1, Instant(as_of))


@pytest.mark.parametrize(
    ("state", "as_of", "info", "this_s", "next_s"),
    [
        (EXILE, NOW - DAY, issuer(), 0, 43_200),
        (EXILE, NOW - DAY, issuer(live=False, as_of=NOW - DAY, next_update=NOW - 9), 0, 43_200),
        (EXILE, 0, issuer(live=False, as_of=0), 0, 43_200),
        (HOME, 0, issuer(), 0, 43_200),
        (HOME, 0, issuer(as_of=0), 0, 43_200),
        (HOME, 0, issuer(as_of=NOW - 150 * S), 0, 43_200),
        (HOME, 0, issuer(as_of=NOW - 151 * S), -151, 43_049),
        (STANDBY, NOW - 5 * S, issuer(as_of=NOW - 600 * S), -600, 42_600),
        (EXILE, 0, issuer(as_of=NOW - DAY), 0, 43_200),
        (HOME, 0, issuer(live=False, as_of=NOW - 60 * S), -60, 43_140),
        (HOME, 0, issuer(live=False, as_of=NOW - 60 * S, next_update=NOW + 600 * S), -60, 600),
        (HOME, 0, issuer(live=False, as_of=NOW + 60 * S, next_update=NOW + 600 * S), 0, 600),
        (HOME, 0, issuer(live=False, as_of=NOW - DAY, next_update=NOW), None, None),
        (HOME, 0, issuer(live=False, as_of=0), None, None),
        (STANDBY, NOW - 5 * S, issuer(), -5, 43_195),
        (STANDBY, NOW + 5 * S, issuer(), 0, 43_200),
        (STANDBY, NOW - 43_199 * S, issuer(), -43_199, 1),
        (STANDBY, NOW - 43_200 * S, issuer(), None, None),
        (STANDBY, 0, issuer(), None, None),
        (STANDBY, NOW - 5 * S, issuer(live=False, as_of=NOW - 60 * S), -60, 43_140),
        (STANDBY, NOW - 90 * S, issuer(live=False, as_of=NOW - 60 * S, next_update=NOW + 600 * S), -90, 600),
        (STANDBY, NOW, issuer(live=False, as_of=NOW - DAY, next_update=NOW - S), None, None),
    ],
)
def test_what_an_answer_may_claim(
    state: IdentityState, as_of: int, info: IssuerInfo, this_s: int | None, next_s: int | None
) -> None:
    """thisUpdate and nextUpdate, in seconds from now, for every state and kind of issuer; None: nothing is claimed."""
    made = window(authority(state, as_of), info, now=NOW, key_ends=FAR)
    told = (None, None) if made is None else ((made.this_update - NOW) // S, (made.next_update - NOW) // S)
    assert told == (this_s, next_s)
    if made is not None:
        assert made.this_update == known_until(authority(state, as_of), info, now=NOW) <= NOW < made.next_update


@given(st.sampled_from([HOME, STANDBY]), st.booleans(), *[st.integers(0, 2 * NOW)] * 3)
def test_nothing_claims_more_than_was_replicated(
    state: IdentityState, live: bool, replicated: int, confirmed: int, now: int
) -> None:
    """In standby not later than the last entry; nowhere later than the clock or the last list."""
    info = issuer(live=live, as_of=confirmed)
    known = known_until(authority(state, replicated), info, now=Instant(now))
    assert known <= now
    assert known <= replicated or state is HOME
    assert known <= confirmed or live


def test_no_answer_outlives_the_certificate_that_signs_it() -> None:
    """nextUpdate ends with the delegate; in its last second nothing is claimed any more."""
    made = window(authority(EXILE), issuer(), now=NOW, key_ends=Instant(NOW + 30 * S))
    assert made is not None
    assert made.next_update == NOW + 30 * S
    assert window(authority(EXILE), issuer(), now=NOW, key_ends=NOW) is None


def test_each_kind_of_status(place: Place) -> None:
    """Good, revoked with its reason and time, held as certificateHold, and unknown for what was never issued."""
    responder, ca = place.responder(), place.pki.first
    never = place.pki.first.card()
    good, revoked, held, unknown = (
        responder.answer(request_for(card, ca)) for card in (place.good, place.revoked, place.held, never)
    )
    assert [r.outcome for r in (good, revoked, held, unknown)] == ["good", "revoked", "held", "unknown"]
    assert read(good).certificate_status is ocsp.OCSPCertStatus.GOOD
    assert read(revoked).revocation_reason is x509.ReasonFlags.key_compromise
    assert seconds(read(revoked).revocation_time_utc) == (NOW - DAY) // S
    assert read(held).revocation_reason is x509.ReasonFlags.certificate_hold
    assert read(unknown).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    assert read(good).extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32


@pytest.mark.parametrize("sha1", [True, False])
def test_both_issuers_under_both_hashes(place: Place, sha1: bool) -> None:
    """Each issuer's answer is signed by its own delegate."""
    responder = place.responder()
    for card, ca, issuer_ in (
        (place.good, place.pki.first, place.first),
        (place.other, place.pki.second, place.second),
    ):
        answer = read(responder.answer(request_for(card, ca, sha1=sha1)))
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
        own = x509.load_der_x509_certificate(place.delegates.ocsp_keys[issuer_][1])
        assert answer.certificates == [own]
        assert own.issuer == ca.certificate.subject


def test_nobodys_certificates_are_unauthorized(place: Place) -> None:
    """RFC 9919: an issuer whom nobody here answers for."""
    strange = make_place()
    reply = place.responder().answer(request_for(strange.good, strange.pki.first))
    assert reply.outcome is Outcome.UNAUTHORIZED
    assert read(reply).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


def test_of_several_issuers_only_one_is_spoken_for(place: Place) -> None:
    """An answer is signed by leave of one issuer; of the others' certificates it says unknown, each CertID repeated."""
    from asn1crypto import ocsp as asn1

    strange = make_place()
    ids = [
        parse_request(request_for(card, ca)).cert_ids[0].der
        for card, ca in (
            (strange.good, strange.pki.first), (place.good, place.pki.first), (place.other, place.pki.second),
            (place.revoked, place.pki.first), (place.good, place.pki.first),
        )
    ]  # fmt: skip
    reply = place.responder().answer(written(*ids))
    assert reply.outcome is Outcome.REVOKED
    assert not reply.cacheable
    told = asn1.OCSPResponse.load(reply.data)["response_bytes"]["response"].parsed["tbs_response_data"]["responses"]
    assert [one["cert_status"].name for one in told] == ["unknown", "good", "unknown", "revoked", "good"]
    assert [one["cert_id"].dump() for one in told] == ids


def test_what_cannot_be_read_is_malformed(place: Place) -> None:
    """Five bytes back, whatever came."""
    for data in (b"", b"\x30", b"\x00" * 9000, b"GET / HTTP/1.1\r\n\r\n"):
        reply = place.responder().answer(data)
        assert reply.outcome is Outcome.MALFORMED
        assert read(reply).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_home_says_nothing_while_it_returns(place: Place) -> None:
    """tryLater, even for an answer that was kept."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    responder.answer(asked)
    place.become(IdentityState.RETURNING)
    reply = responder.answer(asked)
    assert reply.outcome is Outcome.RETURNING
    assert read(reply).response_status is ocsp.OCSPResponseStatus.TRY_LATER


def test_standby_dates_its_answers_as_they_were_replicated(place: Place) -> None:
    """And when they have run out it claims nothing: tryLater, not an old answer that sloppy clients would take."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first)
    place.become(STANDBY, as_of=Instant(NOW - 300 * S))
    answer = read(responder.answer(asked))
    assert seconds(answer.this_update_utc) == NOW // S - 300
    assert seconds(answer.produced_at_utc) == NOW // S
    place.become(STANDBY, as_of=Instant(NOW - 13 * 3600 * S))
    assert responder.answer(asked).outcome is Outcome.STALE


def test_good_is_not_said_where_the_issued_ones_are_not_known(place: Place) -> None:
    """A log that was read from CRLs alone: revoked stays revoked, all else is unknown."""
    from dataclasses import replace

    log = replace(place.store.logs[place.first], issued=None)
    place.store.add("esteid-2018", place.pki.first.der, log, live=False)
    responder = place.responder()
    assert responder.answer(request_for(place.good, place.pki.first)).outcome is Outcome.UNKNOWN
    assert responder.answer(request_for(place.revoked, place.pki.first)).outcome is Outcome.REVOKED


@pytest.mark.parametrize("why", ["none", "expired", "not yet", "another key"])
def test_without_a_delegate_it_is_an_internal_error(place: Place, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """And people are told, once a minute."""
    keys, ca = place.delegates.ocsp_keys, place.pki.first
    match why:
        case "none":
            del keys[place.first]
        case "expired":
            keys[place.first] = delegate(ca, begin=Instant(NOW - 50 * DAY), days=45)
        case "not yet":
            keys[place.first] = delegate(ca, begin=Instant(NOW + DAY))
        case _:
            keys[place.first] = (keys[place.second][0], keys[place.first][1])
    responder = place.responder()
    with caplog.at_level(logging.ERROR, "exclave.ocsp"):
        for _ in range(5):
            reply = responder.answer(request_for(place.good, ca))
    assert reply.outcome is (Outcome.FAILED if why == "another key" else Outcome.NO_DELEGATE)
    assert read(reply).response_status is ocsp.OCSPResponseStatus.INTERNAL_ERROR
    assert len(caplog.records) == 1
    assert str(place.good.serial) not in caplog.text
    assert responder.answer(request_for(place.other, place.pki.second)).outcome is Outcome.GOOD


def test_a_token_or_store_that_does_not_answer_is_try_later(place: Place) -> None:
    """No traceback: the client may ask again."""

    class Silent:
        algorithm = place.delegates.ocsp_keys[place.first][0].algorithm
        public_der = place.delegates.ocsp_keys[place.first][0].public_der

        def sign(self, message: bytes) -> bytes:
            raise UnavailableError("the token does not answer")

    place.delegates.ocsp_keys[place.first] = (Silent(), place.delegates.ocsp_keys[place.first][1])
    reply = place.responder().answer(request_for(place.good, place.pki.first))
    assert reply.outcome is Outcome.UNAVAILABLE
    assert read(reply).response_status is ocsp.OCSPResponseStatus.TRY_LATER


def test_an_issuer_that_cannot_be_read_does_not_silence_the_others(place: Place) -> None:
    """A damaged certificate in the store leaves out its own issuer."""
    from dataclasses import replace

    place.store.infos[place.second] = replace(place.store.infos[place.second], certificates=(b"\x30\0",))
    place.store.version += 1
    responder = place.responder()
    assert responder.answer(request_for(place.good, place.pki.first)).outcome is Outcome.GOOD
    assert responder.answer(request_for(place.other, place.pki.second)).outcome is Outcome.UNAUTHORIZED


def test_archive_cutoff_on_request_of_the_operator(place: Place) -> None:
    """Since the issuer exists: nothing is ever forgotten."""
    answer = read(place.responder(archive_cutoff=True).answer(request_for(place.good, place.pki.first)))
    (told,) = list(answer.single_extensions)
    assert told.oid.dotted_string == "1.3.6.1.5.5.7.48.1.6"
    begin = place.pki.first.certificate.not_valid_before_utc
    assert told.value.public_bytes()[2:] == f"{begin:%Y%m%d%H%M%SZ}".encode()


# Answers that are given again


def test_an_answer_without_nonce_is_given_again_for_a_minute(place: Place) -> None:
    """The same bytes to the same bytes; then a new one."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    first = responder.answer(asked)
    assert first.cacheable
    place.now = Instant(NOW + 59 * S)
    assert responder.answer(asked).data is first.data
    place.now = Instant(NOW + 60 * S)
    again = responder.answer(asked)
    assert again.data != first.data
    assert seconds(read(again).this_update_utc) == NOW // S + 60


def test_a_nonce_is_never_repeated(place: Place) -> None:
    """Each is signed anew, at its own time."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first)
    assert not responder.answer(asked).cacheable
    place.now = Instant(NOW + S)
    assert seconds(read(responder.answer(asked)).this_update_utc) == NOW // S + 1


@pytest.mark.parametrize("stop", [Revoked(NOW, Reason.KEY_COMPROMISE), Held(NOW)])
def test_a_revocation_is_told_with_the_next_request(place: Place, stop: Revoked | Held) -> None:
    """What was kept is dropped when the store says otherwise."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    assert responder.answer(asked).outcome is Outcome.GOOD
    place.store.stop(place.first, place.good.serial, stop)
    assert responder.answer(asked).outcome in (Outcome.REVOKED, Outcome.HELD)


def test_other_news_does_not_drop_what_is_still_right(place: Place) -> None:
    """A feed that brings something every second does not turn every answer into a signature."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    first = responder.answer(asked)
    place.store.stop(place.first, place.held.serial, Revoked(NOW, Reason.SUPERSEDED))
    assert responder.answer(asked).data is first.data
    asked_of_store = place.store.asked
    assert responder.answer(asked).data is first.data
    assert place.store.asked == asked_of_store, "the news was looked at twice"


@pytest.mark.parametrize(("state", "epoch"), [(STANDBY, 1), (EXILE, 2), (HOME, 1)])
def test_nothing_is_kept_across_a_change_of_authority(place: Place, state: IdentityState, epoch: int) -> None:
    """Another state or epoch: signed anew."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    first = responder.answer(asked)
    place.become(state, epoch=epoch)
    assert responder.answer(asked).data != first.data


def test_what_is_kept_is_bounded(place: Place) -> None:
    """Neither many certificates, nor long requests, nor serials that nobody issued fill the memory."""
    responder, ca = place.responder(cached_answers=2), place.pki.first
    for card in (place.good, place.revoked, place.held, ca.card()):
        responder.answer(request_for(card, ca, nonce=None))
    assert len(responder._kept) == 2
    one = parse_request(request_for(place.good, ca)).cert_ids[0].der
    for data in (written(one, one), written(one, before=b"\xa1\x82\x01\x00\x82\x81\xfd" + b"a" * 253)):
        assert not responder.answer(data).cacheable


def test_an_unknown_one_that_was_issued_since_is_good_at_once(place: Place) -> None:
    """A new card works with its first use."""
    from dataclasses import replace

    responder, card = place.responder(), place.pki.first.card()
    asked = request_for(card, place.pki.first, nonce=None)
    assert responder.answer(asked).outcome is Outcome.UNKNOWN
    log = place.store.logs[place.first]
    place.store.add(
        "esteid-2018", place.pki.first.der, replace(log, issued=(log.issued or frozenset()) | {card.serial})
    )
    assert responder.answer(asked).outcome is Outcome.GOOD


def test_a_change_between_reading_the_generation_and_the_rows_is_not_missed(place: Place) -> None:
    """The store moves on while an answer is made: the kept one counts as older than the move."""
    responder, asked = place.responder(), request_for(place.good, place.pki.first, nonce=None)
    status = place.store.status
    racing = iter([True])

    def while_others_write(issuer_: Digest, serial: Serial) -> CertificateStatus:
        found = status(issuer_, serial)
        if next(racing, False):
            place.store.stop(place.first, place.good.serial, Revoked(NOW, Reason.KEY_COMPROMISE))
        return found

    place.store.status = while_others_write  # type: ignore[method-assign]
    assert isinstance(status(place.first, Serial(place.good.serial)), Good)
    assert responder.answer(asked).outcome is Outcome.GOOD
    assert responder.answer(asked).outcome is Outcome.REVOKED
