"""A statement as citizens read it: plain text, and one small page without scripts that any web server serves.

Everything that stands in it is in the signed note; the page itself is not signed, and says how to check.
"""

from __future__ import annotations

import html

from exclave.formats.publicstatement import PublicStatement, RegisterLine, Role
from exclave.ids import Instant, instant_text
from exclave.rules.statement import is_within

_STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#15181d;--soft:#525a66;--line:#d5dae1;--good:#0b6b37;
--good-soft:#e3f4ea;--bad:#a8171c;--bad-soft:#fdeaea}
@media (prefers-color-scheme:dark){:root{--paper:#101317;--card:#191e24;--ink:#e9ecf0;--soft:#a3adba;--line:#333b45;
--good:#6fdc9b;--good-soft:#12301f;--bad:#ff9d9d;--bad-soft:#3a1719}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1.05rem/1.55 system-ui,sans-serif}
main{max-width:46rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:1.8rem 0 .6rem}
.what{color:var(--soft);margin:0 0 1.2rem}
.verdict{margin:0 0 1rem;padding:.8rem 1rem;border-radius:.5rem;border-left:.35rem solid;font-weight:600}
.good{color:var(--good);background:var(--good-soft)}
.bad{color:var(--bad);background:var(--bad-soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1rem;margin:.8rem 0}
section h3{font-size:1.05rem;margin:0 0 .3rem;overflow-wrap:anywhere}
section p{margin:.2rem 0}
.late{color:var(--bad)}
dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem 1rem;margin:0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{font:.88em ui-monospace,monospace;overflow-wrap:anywhere}
footer{margin-top:1.5rem;color:var(--soft);font-size:.95rem}
"""
_ROLES = {
    Role.WITNESS: "a witness whom the state's charter names",
    Role.CUSTODIAN: "a custodian of the state",
    Role.WRITER: "the machine that writes the registers (the state itself)",
}


def _when(instant: Instant) -> str:
    full = instant_text(instant)
    return f"{full[:10]} {full[11:16]} UTC"


def _many(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _how_long(seconds: int) -> str:
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            return _many(seconds // unit, name, f"{name}s")
    return _many(seconds, "second", "seconds")


def _places(copies: int, countries: int) -> str:
    return f"{_many(copies, 'place', 'places')} in {_many(countries, 'country', 'countries')}"


def _line(line: RegisterLine, verified: Instant) -> tuple[str, bool]:
    """What is said of one register, and whether it is as it should be."""
    if not line.sequence:
        return "No version was found whole at as many places as the state's own rule asks for.", False
    where = _places(line.copies, line.countries)
    told = f"Data up to {_when(line.time)} (version {line.sequence}), found whole at {where}."
    if is_within(line.time, line.rpo_s, verified):
        return told, True
    return f"{told} Later than promised: it may be at most {_how_long(line.rpo_s)} old.", False


def _sealed(said: PublicStatement) -> tuple[str, bool] | None:
    total = said.total
    if total is None:
        return None
    if not total.time:
        found = "Not all of them were found whole at as many places as the state's own rule asks for."
    else:
        found = f"All their data up to {_when(total.time)}, each at {_places(total.copies, total.countries)} or more."
    many = _many(total.registers, "register", "registers")
    within = f"{total.within_rpo} of {total.registers} within the time promised."
    return f"{many} not named in public. {found} {within}", total.within_rpo == total.registers


def _good(said: PublicStatement) -> bool:
    sealed = _sealed(said)
    told = [_line(line, said.verified)[1] for line in said.lines] + ([sealed[1]] if sealed is not None else [])
    return bool(told) and all(told)


def statement_text(said: PublicStatement) -> str:
    """Plain text."""
    lines = [
        said.name, "What is kept safe, and up to when", "",
        f"Verified at the places themselves: {_when(said.verified)}",
        f"The next statement comes by:       {_when(said.next_by)}",
        "If that time has passed and there is no newer one, this one tells nothing about now.", "",
    ]  # fmt: skip
    for line in said.lines:
        lines += [line.title or f"Register {line.register}", f"  {_line(line, said.verified)[0]}", ""]
    if sealed := _sealed(said):
        lines += ["Sealed registers", f"  {sealed[0]}", ""]
    lines += [
        f"Verified by {said.signer}, {_ROLES[said.role]}.",
        f"State {said.state}", f"Charter {said.charter}", "",
        "Check it: exclave verify --statement statement.note --fingerprint THE-PRINTED-ONE --site NAME=ADDRESS …",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def statement_page(said: PublicStatement) -> str:
    """One HTML page, whole in itself."""
    good = _good(said)
    verdict = "Not everything is as promised: see below."
    if good:
        verdict = "Everything that is named here is where it has to be, and as new as promised."
    elif not said.lines and said.total is None:
        verdict = "It says nothing of any register."
    parts = []
    for line in said.lines:
        parts.append(_section(line.title or f"Register {line.register}", *_line(line, said.verified)))
    if sealed := _sealed(said):
        parts.append(_section("Sealed registers", *sealed))
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{value}</dd>"
        for name, value in (
            ("Verified by", f"<bdi>{html.escape(said.signer)}</bdi>, {html.escape(_ROLES[said.role])}"),
            (
                "How",
                "signatures and history; every object that a version needs is there; samples of the bytes were read",
            ),
            ("State", f"<code>{said.state}</code>"),
            ("Charter", str(said.charter)),
            ("Signed note", '<a href="statement.note">statement.note</a>'),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(said.name)}: what is kept safe</title><style>{_STYLE}</style></head><body><main>"
        f"<h1><bdi>{html.escape(said.name)}</bdi></h1>"
        '<p class="what">What is kept safe, and up to when</p>'
        f'<p class="verdict {"good" if good else "bad"}" role="status">{verdict}</p>'
        f"<p>Verified at the places themselves on <strong>{_time(said.verified)}</strong>. The next statement comes by "
        f"<strong>{_time(said.next_by)}</strong>: if that time has passed and you see no newer one, this page tells "
        f"nothing about now.</p><h2>Registers</h2>{''.join(parts) or '<p>None is named in public.</p>'}"
        f"<h2>Who says so</h2><section><dl>{facts}</dl></section>"
        "<footer>This page is not signed; the note is. With the state's fingerprint, as it is printed in the law"
        " gazette, and the sites' names and addresses anybody can check it: <code>exclave verify --statement"
        " statement.note --fingerprint THE-PRINTED-ONE --site NAME=ADDRESS</code>, with <code>--site</code> as often as"
        " there are sites.</footer>"
        "</main></body></html>\n"
    )


def _section(title: str, told: str, good: bool) -> str:
    late = "" if good else ' class="late"'
    return f"<section><h3><bdi>{html.escape(title)}</bdi></h3><p{late}>{html.escape(told)}</p></section>"


def _time(instant: Instant) -> str:
    return f'<time datetime="{instant_text(instant)}">{_when(instant)}</time>'
