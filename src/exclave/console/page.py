"""The console's pages as HTML: values in, text out. Everything that is shown goes through ``_text``."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping

from exclave.ids import Instant, RegisterId, instant_text
from exclave.operations.status import RegisterStatus, SiteStatus, StateStatus
from exclave.verify.state import Finding

# Colours have a contrast of 4.5 or more on their background, light and dark (WCAG 2.2, 1.4.3); none stands for itself.
STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#15181d;--soft:#525a66;--line:#d5dae1;
--good:#0b6b37;--good-soft:#e3f4ea;--bad:#a8171c;--bad-soft:#fdeaea;--link:#0b57b0}
@media (prefers-color-scheme:dark){:root{--paper:#101317;--card:#191e24;--ink:#e9ecf0;--soft:#a3adba;--line:#333b45;
--good:#6fdc9b;--good-soft:#12301f;--bad:#ff9d9d;--bad-soft:#3a1719;--link:#8cc0ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.5 system-ui,sans-serif}
main{max-width:74rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .75rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0;overflow-wrap:anywhere}
h2.part{margin:2rem 0 .75rem}
a{color:var(--link)}
.brand{margin:0 0 .25rem;color:var(--soft);font-size:.9rem}
.verdict{margin:0 0 1rem;padding:.7rem 1rem;border-radius:.5rem;border-left:.35rem solid;font-weight:600}
.good{color:var(--good);background:var(--good-soft)}
.bad{color:var(--bad);background:var(--bad-soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1rem;margin-top:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;min-width:0}
.head{display:flex;flex-wrap:wrap;gap:.5rem;justify-content:space-between;align-items:center}
.badge{padding:.1rem .6rem;border:1px solid;border-radius:1rem;font-size:.85rem;font-weight:600;white-space:nowrap}
.why{margin:.5rem 0 0;color:var(--bad);overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.6rem 1rem;margin:.9rem 0 0}
.card>dl:first-child,.card>.scroll:first-child{margin-top:0}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;overflow-wrap:anywhere}
.wide{grid-column:1/-1}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin-top:.9rem}
table{border-collapse:collapse;width:100%;font-size:.95rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .75rem .4rem 0;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.85rem}
tbody th{font-weight:600}
td:last-child{overflow-wrap:anywhere}
footer{margin-top:2rem;color:var(--soft);font-size:.9rem}
"""
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def status_page(status: StateStatus, looked_at: Instant) -> str:
    """How old the last version of each register is at each site, the charter, and what was found wrong."""
    registers = sorted(status.registers, key=lambda r: (r.protected, r.name))  # what needs somebody comes first
    names = {r.id: r.name for r in registers}
    body = (
        f'<p class="brand">Exclave, {_when(looked_at)}</p><h1>{_name(status.state)}</h1>'
        f'{_verdict(status)}<h2 class="part">Registers</h2>'
        f'<div class="cards">{"".join(map(_register, registers))}</div>'
        f'<h2 class="part">Findings</h2>{_findings(status.findings, names)}'
        f'<h2 class="part">Charter</h2>{_charter(status)}'
        f"<footer>Read from the sites and verified at the time above; ages are of that moment. "
        f'<a href="/">Look again</a> · <a href="/status.json">The same as JSON</a></footer>'
    )
    return _page(f"{'' if status.ok else 'Attention: '}{status.state}", body)


def failure_page(what: str, message: str, hint: str = "") -> str:
    """A page that says what failed and what to do."""
    more = f"<p>{_text(hint)}</p>" if hint else ""
    body = (
        f'<p class="brand">Exclave</p><h1>{_text(what)}</h1><p class="verdict bad" role="alert">{_text(message)}</p>'
        f'{more}<p><a href="/">Back to the status</a></p>'
    )
    return _page(what, body)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)} – Exclave</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _verdict(status: StateStatus) -> str:
    bad = sum(not r.protected for r in status.registers)
    grave = sum(f.grave for f in status.findings)
    if not (bad or grave or status.alarms):
        count = len(status.registers)
        told = "The register is protected." if count == 1 else f"All {count} registers are protected."
        return f'<p class="verdict good" role="status">{told}</p>'
    parts = [f"{bad} of {_count(len(status.registers), 'register')} not protected"] if bad else []
    parts += [_count(grave, "grave finding")] if grave else []
    parts += status.alarms
    return f'<p class="verdict bad" role="status">Needs attention: {_text("; ".join(parts))}.</p>'


def _charter(status: StateStatus) -> str:
    rows = (
        ("In force", f"number {status.charter}"),
        ("Custodians", f"any {status.threshold} of {status.custodians}"),
        ("Witnesses", status.quorum),
    )
    told = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in rows)
    pinned = f'<div class="wide"><dt>Fingerprint</dt><dd><code>{_text(status.fingerprint)}</code></dd></div>'
    return f'<div class="card"><dl>{told}{pinned}</dl></div>'


def _register(register: RegisterStatus) -> str:
    badge = ("good", "protected") if register.protected else ("bad", "not protected")
    why = f'<p class="why">{_text(register.problem)}</p>' if register.problem else ""
    there = register.sequence > 0
    writer = f"{_name(register.writer)}{' (this home)' if register.mine else ''}"
    rows = (
        ("Age of last version", _text(age_text(register.age_s)) if there else "no version"),
        ("May be lost (RPO)", _text(age_text(register.rpo_s))),
        ("Back within (RTO)", _text(age_text(register.rto_s))),
        ("Holds the state of", _when(register.time) if there else "–"),
        ("Last version", _text(register.sequence) if there else "–"),
        ("Epoch and writer", f"{_text(register.epoch)}, {writer}" if register.epoch else "not known"),
    )
    told = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in rows)
    return (
        f'<section class="card"><div class="head"><h2>{_name(register.name)}</h2>'
        f'<span class="badge {badge[0]}">{badge[1]}</span></div>{why}<dl>{told}</dl>'
        f"{_table(('Site', 'Last version there', 'Age'), (_site(s, register) for s in register.sites))}</section>"
    )


def _site(site: SiteStatus, register: RegisterStatus) -> tuple[str, str, str]:
    if not site.sequence:
        return _name(site.site), "none", "–"
    behind = register.sequence - site.sequence
    late = f" ({_text(behind)} behind)" if behind else " (not whole)" if register.spoilt(site) else ""
    return _name(site.site), f"{_text(site.sequence)}{late}", _text(age_text(site.age_s))


def _findings(findings: Iterable[Finding], names: Mapping[RegisterId, str]) -> str:
    rows = [(_name(f.site), _finding(f, names)) for f in sorted(findings, key=lambda f: not f.grave)]
    if not rows:
        return '<p class="card">None.</p>'
    return f'<div class="card">{_table(("Site", "What was found"), rows)}</div>'


def _finding(found: Finding, names: Mapping[RegisterId, str]) -> str:
    weight = '<span class="badge bad">grave</span>' if found.grave else '<span class="badge">note</span>'
    where = f"{_name(names.get(found.register, found.register))}: " if found.register else ""
    return f"{weight} {where}{_text(found.detail)}<br><code>{_text(found.fault)}: {_text(found.what)}</code>"


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """``rows`` hold HTML. The first cell of a row is its header."""
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def age_text(seconds: float) -> str:
    """``42 s``, ``12 min``, ``5 h 20 min``, ``3 d 4 h``: as exact as a person wants it."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{rest} s"


def _when(instant: Instant) -> str:
    full = instant_text(instant)
    return f'<time datetime="{full}">{full[:10]} {full[11:19]} UTC</time>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(value: str) -> str:
    """Somebody's own words: isolated, so that their writing direction does not turn the rest around."""
    return f"<bdi>{_text(value)}</bdi>"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
