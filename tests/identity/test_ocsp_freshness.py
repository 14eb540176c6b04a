"""How old a status may be, for each policy of a relying service."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import ConfigError
from exclave.ids import Instant
from exclave.rules.freshness import CLOCK_SKEW_S, Freshness, Verdict, judge_freshness

NOW = Instant(1_790_000_000_000_000)
ACCEPT, WARNING, REFUSE = Verdict.ACCEPT, Verdict.ACCEPT_WITH_WARNING, Verdict.REFUSE


def judged(policy: str, age_s: float, max_age_s: int = 900, grace_s: int = 3600) -> Freshness:
    this_update = Instant(NOW - int(age_s * 1_000_000))
    return judge_freshness(policy, this_update=this_update, now=NOW, max_age_s=max_age_s, grace_s=grace_s)


@pytest.mark.parametrize(
    ("policy", "age_s", "verdict", "says"),
    [
        ("fail-closed", 0, ACCEPT, ""),
        ("fail-closed", 900, ACCEPT, ""),
        ("fail-closed", 900.000001, REFUSE, "refused, fail-closed: "),
        ("fail-closed", 86_400, REFUSE, "86400 s old, 900 s are asked for"),
        ("fail-closed", -CLOCK_SKEW_S, ACCEPT, ""),
        ("fail-closed", -CLOCK_SKEW_S - 1, REFUSE, "301 s in the future"),
        ("grace", 900, ACCEPT, ""),
        ("grace", 901, WARNING, "accepted, grace for 3599 s more: "),
        ("grace", 4500, WARNING, "accepted, grace for 0 s more: "),
        ("grace", 4501, REFUSE, "refused, beyond 3600 s of grace: "),
        ("grace", -CLOCK_SKEW_S - 1, REFUSE, "in the future"),
        ("fail-open", 900, ACCEPT, ""),
        ("fail-open", 901, WARNING, "accepted, fail-open: "),
        ("fail-open", 10**8, WARNING, "100000000 s old"),
        ("fail-open", -CLOCK_SKEW_S - 1, WARNING, "in the future"),
    ],
)
def test_the_policy_decides_once_the_status_is_old(policy: str, age_s: float, verdict: Verdict, says: str) -> None:
    """Each policy at and around its limits, with what the log says."""
    freshness = judged(policy, age_s)
    assert freshness.verdict is verdict
    assert freshness.accepted is (verdict is not REFUSE)
    assert says in freshness.text
    assert bool(freshness.text) is (verdict is not ACCEPT)


@pytest.mark.parametrize(("policy", "verdict"), [("fail-closed", REFUSE), ("grace", REFUSE), ("fail-open", WARNING)])
def test_status_that_was_never_confirmed(policy: str, verdict: Verdict) -> None:
    """Only fail-open accepts it, and says so in words instead of an age of decades."""
    never = judge_freshness(policy, this_update=Instant(0), now=NOW, max_age_s=900, grace_s=3600)
    assert never.verdict is verdict
    assert "never confirmed" in never.text


def test_without_grace_the_policy_grace_is_fail_closed() -> None:
    """Zero seconds of grace accept nothing that fail-closed refuses."""
    assert judged("grace", 901, grace_s=0).verdict is REFUSE


@pytest.mark.parametrize("arguments", [("grace", 0, -1, 0), ("grace", 0, 0, -1), ("whatever", 10_000, 900, 0)])
def test_impossible_rules_are_refused(arguments: tuple[str, int, int, int]) -> None:
    """A negative limit and an unknown policy are configuration errors, never an acceptance."""
    with pytest.raises(ConfigError):
        judged(*arguments)


@given(st.integers(-10_000, 10**7), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_laxer_policy_accepts_whatever_a_stricter_one_does(age_s: int, max_age_s: int, grace_s: int) -> None:
    """fail-closed within grace within fail-open; and what is older is never accepted where younger is refused."""
    order = [judged(policy, age_s, max_age_s, grace_s).accepted for policy in ("fail-closed", "grace", "fail-open")]
    assert order == sorted(order)
    if age_s > -CLOCK_SKEW_S:
        older = judged("grace", age_s + 1, max_age_s, grace_s)
        assert not older.accepted or order[1]
