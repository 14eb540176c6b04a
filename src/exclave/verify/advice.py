"""A verification's findings in a person's words: what was checked, what it means, and what to do next.

Pure: from a report to sentences. Each kind of grave fault is explained once, with the sites that show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exclave.errors import (
    CorruptObject,
    Fenced,
    Forked,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    RolledBack,
    WrongFingerprint,
)
from exclave.ids import RegisterId
from exclave.verify.report import EmbassyReport, many

_MEANING: Mapping[str, tuple[str, str]] = {
    WrongFingerprint.code: (
        "what lies there is of another state",
        "compare the fingerprint with the printed one, and the site's address with the charter's",
    ),
    Forked.code: (
        "two histories bear the writer's signature, so somebody else has his key, or his machine was set back;"
        " only what both have in common counts",
        "stop writing, keep all copies as they are, and let the custodians decide which is right; then `exclave rekey`",
    ),
    Fenced.code: (
        "a writer without the pen went on writing; what he added counts nowhere",
        "find the machine that still writes and stop it; nothing is to be repaired for the versions that count",
    ),
    RolledBack.code: (
        "an older state is shown there than others prove: the host put back an old copy, or never got the new one",
        "ask the host what happened; `exclave site sync` brings the site up to date from the others",
    ),
    QuorumMissing.code: (
        "too few witnesses vouch for the newest entries, so these do not count yet",
        "bring the witnesses back and run the next backup, which asks them again; until then restore from what counts",
    ),
    MissingObject.code: (
        "objects are gone there that must be there",
        "`exclave scrub` or `exclave site rebuild` brings them back from the other sites",
    ),
    CorruptObject.code: (
        "objects there are not what they must be: a disk died or somebody changed them",
        "`exclave scrub` repairs them from the other sites; if it is much, do not rely on that host any more",
    ),
    NotAuthorised.code: (
        "something there was not signed by those who may",
        "ask the custodians whether they know of it; nothing of it is in force",
    ),
}
"""By code: what it means, and what to do. Codes that are not here are told by their own findings."""

_LATER = "try again later, or from another network."


def advice(report: EmbassyReport, names: Mapping[RegisterId, str]) -> Iterator[str]:
    """Sentences for a person, if not all is well; ``names``: what registers are called."""
    grave: dict[str, list[str]] = {}
    for found in report.findings:
        if found.grave:
            sites = grave.setdefault(found.fault, [])
            where = "no site alone" if found.site == "?" else found.site
            if where not in sites:
                sites.append(where)
    if not grave and report.settled:
        return
    yield _checked(report)
    for code, (meaning, todo) in _MEANING.items():
        if code in grave:
            yield f"{code} ({', '.join(grave[code])}): {meaning}. Next: {todo}."
    yield from _still_whole(report, names)
    if report.unread or not report.answered:
        hints = dict.fromkeys((f.site, f.hint) for f in report.findings if f.hint)
        yield "Nothing is known of what could not be read." + ("" if hints else f" Next: {_LATER}")
        yield from (f"Next{'' if site == '?' else f', for {site}'}: {hint}" for site, hint in hints)
    if report.not_erased:
        yield "Next: the operators of the sites that still show what was erased run `exclave delete run`."


def _checked(report: EmbassyReport) -> str:
    sites = dict.fromkeys(site.site for register in report.registers for site in register.sites)
    packs = f"every byte of {many(report.packs_read, 'pack')}" if report.packs_read else "no packs (only their sizes)"
    if not report.answered:
        return "Checked: nothing, because no site could be read."
    if not report.charter:
        return "Checked: nothing, because no chain of charters leads from the fingerprint to what the sites show."
    return (
        f"Checked at {many(len(sites), 'site')}: charters up to number {report.charter}, epochs, ledgers and lists of"
        f" {many(len(report.registers), 'register')}, and {packs}."
    )


def _still_whole(report: EmbassyReport, names: Mapping[RegisterId, str]) -> Iterator[str]:
    """Whether anything is lost: where the newest version that counts lies whole."""
    for register in report.registers:
        if register.latest is None:
            continue
        where = [site.site for site in register.sites if site.latest_complete == register.latest]
        called = names.get(register.register, register.register)
        if where:
            yield f"{called}: version {register.latest}, the newest that counts, lies whole at {', '.join(where)}."
        else:
            yield (
                f"{called}: version {register.latest}, the newest that counts, is NOT whole at any of these sites."
                " Next: name further sites; a restore takes each object from where it is good."
            )
