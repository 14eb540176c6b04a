"""Files that a person writes in TOML: whatever stands there, the answer is what to correct, and never a traceback."""

from __future__ import annotations

import pytest

from exclave.errors import ConfigError
from exclave.formats import config, dnsplan, hostconfig, identityconfig, keyring, watchconfig

PARSERS = {
    "exclave.toml": (config.parse_config, config.MAX_CONFIG_BYTES),
    "names.toml": (dnsplan.parse_dns_plan, dnsplan.MAX_PLAN_BYTES),
    "host.toml": (hostconfig.parse_host_config, hostconfig.MAX_CONFIG_BYTES),
    "identity.toml": (identityconfig.parse_identity_config, identityconfig.MAX_CONFIG_BYTES),
    "place.toml": (identityconfig.parse_place_config, identityconfig.MAX_CONFIG_BYTES),
    "pkcs11.toml": (keyring.parse_token_config, keyring.MAX_TOKEN_CONFIG_BYTES),
    "a watch's configuration": (watchconfig.parse_watch_config, watchconfig.MAX_WATCH_BYTES),
}
WRONG = {
    "no TOML": b"no = = toml",
    "no UTF-8": b'name = "\xff"',
    "brackets in brackets": b"a = " + b"[" * 2000,
    "a name that nobody knows": b"nobody_knows = 1",
    "an empty table": b"[[site]]",
}


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("what", WRONG)
def test_wrong(name: str, what: str) -> None:
    """Each file that is wrong is refused by its name, with a hint."""
    parse, _ = PARSERS[name]
    with pytest.raises(ConfigError) as caught:
        parse(WRONG[what])
    assert caught.value.message.startswith(f"{name}: ")
    assert caught.value.hint


@pytest.mark.parametrize("name", PARSERS)
def test_too_long(name: str) -> None:
    """A file over its limit is not parsed at all."""
    parse, limit = PARSERS[name]
    with pytest.raises(ConfigError, match=f"{name}: it is longer than {limit} bytes"):
        parse(b"#" * (limit + 1))


PLACES = {
    '[state]\nname = "x"\nhome = "EE"\nthreshold = 1\nquorums = 2': "state: unknown key `quorums`",
    "surprise = 1": "unknown key `surprise`",
    '[[register]]\nname = "gazette"\nrpos = 60': "register gazette: unknown key `rpos`",
    '[[site]]\nname = "lux"\n[[site]]\nurls = "x"': "site lux: the key `url` is missing",
    '[[custodian]]\nname = "aino"\ncountry = "FI"\ncard = "c"\n[[custodian]]\nages = 7': (
        "custodian number 2: unknown key `ages`"
    ),
    '[[site]]\nname = "lux"\nurl = 7': "site lux: url must be a text, not a whole number",
    '[[register]]\nname = "land"\nlegal_basis = { lux = 7 }': (
        "register land: a value in legal_basis must be a text, not a whole number"
    ),
    '[[register]]\nname = "land"\n[[register.dataset]]\nname = "acts"\nkind = "tape"': (
        "register land, dataset acts: kind cannot be 'tape'"
    ),
    "[state]\nalarm_days = [1, true]": "state: alarm_days number 2 must be a whole number, not true or false",
    "state = 5": "state must be a table, not a whole number",
}


@pytest.mark.parametrize("text", PLACES)
def test_place(text: str) -> None:
    """A mistake is told by the table's kind and name, or its number where it has none."""
    with pytest.raises(ConfigError) as caught:
        config.parse_config(text.encode())
    assert caught.value.message == f"exclave.toml: {PLACES[text]}"


def test_possible_words_are_told() -> None:
    """Of a key that is one of a few words, these are told."""
    with pytest.raises(ConfigError) as caught:
        identityconfig.parse_place_config(b'role = "moon"')
    assert caught.value.message == "place.toml: role cannot be 'moon'; it is one of home, embassy"
