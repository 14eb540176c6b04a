"""A stolen card, and what outlives it."""

from __future__ import annotations

import pytest

from exclave.errors import NotAuthorised
from exclave.identity.own_page import own_id
from exclave.identity.status_log import Good, Held, Reason, Revoked
from support.login_authenticator import SoftPasskey
from support.login_site import ORIGIN, Site

BROWSER = "b" * 43


@pytest.mark.parametrize("stop", [Revoked, Held])
def test_a_card_that_is_stopped_enrols_no_passkey(stop: type[Revoked] | type[Held]) -> None:
    """The thief logged in to the page of passkeys before the card was reported; the page is open for a quarter of an
    hour more."""
    site = Site()
    card = site.card()
    offer = site.desk.offer(own_id(BROWSER), BROWSER)
    admitted = site.cards.certificate(card.der, offer.interaction.client, now=site.now)
    site.own.complete(own_id(BROWSER), BROWSER, admitted.authentication)
    owner = site.own.owner(BROWSER)
    passkey = SoftPasskey(origin=ORIGIN, rp_id="login.demo.test")
    options = site.passkeys.enrol_options(owner, BROWSER, now=site.now)
    told = Held(site.now) if stop is Held else Revoked(site.now, Reason.KEY_COMPROMISE)
    site.store.say(card, told, site.pki.second)
    for enrol in (
        lambda: site.passkeys.enrol(owner, passkey.create(options), BROWSER, now=site.now),
        lambda: site.passkeys.enrol_options(owner, BROWSER, now=site.now),
    ):
        with pytest.raises(NotAuthorised) as refused:
            enrol()
        assert refused.value.facts["reason"] == "revoked"
    assert not site.store.keys
    site.store.say(card, Good(), site.pki.second)
    site.passkeys.enrol(owner, passkey.create(site.passkeys.enrol_options(owner, BROWSER, now=site.now)), BROWSER,
                        now=site.now)  # fmt: skip
    assert site.store.keys


def test_a_forged_certificate_under_a_good_number_is_accepted_until_the_number_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has a CA's key gives his own card's number to a certificate in another person's name. The journal knows
    issuer and number, as OCSP does (RFC 6960, section 4.1.1), so he is in; docs/threats.md says so. Stopping the number
    ends it."""
    site = Site()
    own = site.card(given_name="THIEF", code="37605030299")
    monkeypatch.setattr("exclave.demo.pki.x509.random_serial_number", lambda: own.serial)
    forged = site.pki.second.card()
    client = site.desk.offer(own_id(BROWSER), BROWSER).interaction.client
    assert site.cards.certificate(forged.der, client, now=site.now).authentication.person.subject != "EE37605030299"
    site.store.say(own, Revoked(site.now, Reason.KEY_COMPROMISE), site.pki.second)
    with pytest.raises(NotAuthorised) as refused:
        site.cards.certificate(forged.der, client, now=site.now)
    assert refused.value.facts["reason"] == "revoked"
