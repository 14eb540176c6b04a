"""A charter's rules as a person reads them, and what one charter changes of another. Pure.

The words are for whoever signs; what holds is the text. Numbers are exact, so that nothing is lost between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exclave.formats.charter import CharterRegister, CharterSite, ParsedCharter
from exclave.formats.timestamp import Authority
from exclave.ids import Country, Instant, RegisterId, instant_text, sha256
from exclave.rules.policy import fewest_liars, in_words, most_absent, witnesses_in

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))
_CARD_DIGITS = 16


def rules_of(charter: ParsedCharter) -> tuple[str, ...]:
    """The rules that hold for all registers: who must agree, whose cosignatures and timestamps count, what ends."""
    custodians = ", ".join(f"{c.label} ({c.country})" for c in charter.custodians)
    authorities = [f"{a.label} ({_authority(a)})" for a in charter.authorities]
    return (
        f"{charter.threshold} of {_many(len(charter.custodians), 'custodian')} must agree: {custodians}.",
        f"Home is {charter.home}.",
        *(f"Site {site.label}: {_site(site)}." for site in charter.sites),
        *witness_rules(charter),
        f"Timestamps on ledgers are believed of: {', '.join(authorities)}."
        if authorities
        else "No timestamp authority is named.",
    )


def witness_rules(charter: ParsedCharter) -> tuple[str, ...]:
    """When a version counts, and how many witnesses may lie or be away."""
    policy, names = charter.policy, {w.label for w in charter.witnesses}
    if not names:
        return ("No witnesses: only the sites, beside each other, show that nothing was taken back.",)
    if policy.quorum is None:
        return ("A version counts without cosignatures; what witnesses remember is only compared.",)
    liars, spare = fewest_liars(policy), most_absent(policy)
    watching = sorted(names - witnesses_in(policy))
    return (
        f"A version counts when cosigned by {in_words(policy)}.",
        f"For two histories to count, at least {_many(liars, 'witness', 'witnesses')} would have to lie."
        if liars
        else "Honest witnesses could vouch for two histories, each for another: ask for more than half of a group.",
        f"Whichever they are, {spare or 'none'} of them may be away; if more are, new versions may not count.",
        *([f"Not part of the quorum: {', '.join(watching)}."] if watching else []),
    )


def register_rules(register: CharterRegister, home: Country) -> tuple[str, ...]:
    """The rules of one register: copies, RPO and RTO, how long versions are kept, how a deletion is stopped."""
    rule, deletion = register.placement, register.deletion
    objections = _many(deletion.objections, "custodian's objection", "custodians' objections")
    return (
        f"May lie at {', '.join(register.at)}{_bases_end(register)}.",
        f"At least {_many(rule.copies, 'copy', 'copies')} in {_many(rule.countries, 'country', 'countries')},"
        f" {rule.outside_home} outside {home}, run by {_many(rule.administrators, 'administrator')}.",
        f"At most {span(register.rpo_s)} of changes may be lost (RPO);"
        f" it runs again within {span(register.rto_s)} (RTO).",
        f"{_kept(register)}.",
        f"An order to delete waits {span(deletion.delay_s)} in the open; {objections}"
        f" {'stops' if deletion.objections == 1 else 'stop'} it.",
        "No legal hold by the charter."
        if register.hold is None
        else f"Legal hold: nothing is deleted while it stands ({register.hold}).",
    )


def registers_alike(charter: ParsedCharter) -> Mapping[tuple[str, ...], tuple[RegisterId, ...]]:
    """The rules of all registers, each set of rules once, with the registers that it holds for."""
    found: dict[tuple[str, ...], tuple[RegisterId, ...]] = {}
    for register in charter.registers:
        rules = register_rules(register, charter.home)
        found[rules] = (*found.get(rules, ()), register.id)
    return found


def changes(before: ParsedCharter, after: ParsedCharter, names: Mapping[RegisterId, str]) -> tuple[str, ...]:
    """What ``after`` changes of ``before``, a line for each; empty if nothing but epochs and annexes.

    ``names``: what registers are called here; others are shown by their ids.
    """
    old, new = dict(_facts(before, names)), dict(_facts(after, names))
    told = [f"gone: {about}. It was: {' '.join(old[about])}" for about in old if about not in new]
    for about, sentences in new.items():
        if about not in old:
            told.append(f"new: {about}. {' '.join(sentences)}")
            continue
        was = [sentence for sentence in old[about] if sentence not in sentences]
        now = [sentence for sentence in sentences if sentence not in old[about]]
        if was or now:
            told.append(f"changed: {about}. Before: {' '.join(was) or '-'} Now: {' '.join(now) or '-'}")
    return tuple(told)


def _facts(charter: ParsedCharter, names: Mapping[RegisterId, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Everything that can change, by what it is about."""
    yield "the state", (f"It is called {charter.state_name}.", f"Home is {charter.home}.")
    yield "threshold", (f"{_many(charter.threshold, 'custodian')} must agree.",)
    for person in charter.custodians:
        yield f"custodian {person.label}", (f"Of {person.country}, key card {_short(person.card)}.",)
    for site in charter.sites:
        yield f"site {site.label}", (f"{_site(site)}.",)
    for witness in charter.witnesses:
        yield f"witness {witness.label}", (f"Key card {_short(witness.card)}.",)
    yield "cosignatures", witness_rules(charter)
    for authority in charter.authorities:
        root = _short(sha256(authority.root))
        yield f"timestamp authority {authority.label}", (f"{_authority(authority)}, root {root}.",)
    for register in charter.registers:
        public = f"Public as {register.public_name}." if register.public_name is not None else "Its name is sealed."
        about = f"register {register_name(register.id, names)}"
        yield about, (public, *register_rules(register, charter.home))


def register_name(register: RegisterId, names: Mapping[RegisterId, str]) -> str:
    """``gazette (ID)``; the id alone where no name is known. Whole, so that no two are taken for one."""
    return f"{names[register]} ({register})" if register in names else register


def span(seconds: int) -> str:
    """``30 days``, ``90 minutes``, ``45 seconds``: exact, in the largest unit that leaves nothing over."""
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return _many(seconds // size, unit)
    return _many(seconds, "second")


def _kept(register: CharterRegister) -> str:
    keep = register.keep
    then = (
        (keep.daily_days, "each day", "day"),
        (keep.monthly_months, "each month", "month"),
        (keep.yearly_years, "each year", "year"),
    )
    later = [f"the first of {each} for {_many(count, unit)}" for count, each, unit in then if count]
    every = f"Every version is kept for {_many(register.retention_days, 'day')}"
    return every + (f"; {', '.join(later)}" if later else "")


def _bases_end(register: CharterRegister) -> str:
    ends = [f"at {label} on {_day(until)}" for label, until in register.until]
    return f"; the legal basis ends {', '.join(ends)}" if ends else ""


def _site(site: CharterSite) -> str:
    lease = "" if site.lease_until is None else f", its host is bound until {_day(site.lease_until)}"
    return f"in {site.country}, run by {site.operator}{lease}"


def _authority(authority: Authority) -> str:
    policy = "any policy" if authority.policy is None else f"policy {authority.policy}"
    return f"{policy}, {authority.url}"


def _day(instant: Instant) -> str:
    """The day, with the time only where it is not midnight (UTC)."""
    text = instant_text(instant)
    return text[:10] if text.endswith("T00:00:00.000000Z") else text


def _short(digest: bytes) -> str:
    return digest.hex()[:_CARD_DIGITS] + "…"


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
