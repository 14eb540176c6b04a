"""The demo's chapters about identities: at home, abroad, and when home comes back from the dead."""

from __future__ import annotations

import time

import httpx

from exclave.demo import identity
from exclave.demo.stage import Stage
from exclave.ids import Instant, Label, instant_text, now
from exclave.runners.ports import free_port
from exclave.runners.process import stop


def found_identities(s: Stage) -> None:
    """Home logs citizens in and answers about their cards; the embassy stands by with keys of its own."""
    w = s.world
    identity.open_centre(w)
    places = (
        ("--dir", str(w.home), "--home", str(s.places.home), "--status", f"127.0.0.1:{w.home_status}", "--login",
         f"127.0.0.1:{w.home_login}"),
        ("--dir", str(w.exile), "--place", "south", "--register", s.ids["identity"], *s.sites("south", "north"),
         *s.pinned, "--status", f"127.0.0.1:{w.exile_status}", "--login", f"127.0.0.1:{w.exile_login}"),
    )  # fmt: skip
    cards = [s.commands.run("identity", "init", *place).result["card"] for place in places]
    identity.write_settings(w, cards[1])
    w.secret = s.commands.run(
        "identity", "service", "add", identity.CLIENT, "--name", "et=Maksuamet", "--name", "en=Tax board",
        "--redirect-uri", "https://tax.demo.test/callback", "--dir", str(w.home),
    ).result["secret"]  # fmt: skip
    s.commands.run("identity", "enter", "--dir", str(w.home))
    identity.serve(w, w.home, s.places.run / "home", "identity", w.home_login)
    identity.serve(w, w.exile, s.places.run / "embassy", "identity", w.exile_login)
    identity.wait_served(w.home_login)
    identity.wait_served(w.exile_login)
    identity.wait_entries(w.home_login, 4)
    identity.wait_entries(w.exile_login, 4)
    identity.make_kit(w, s.commands)
    identity.start_world(w, s.places.run / "world")
    first = identity.wait_tries(w, "login", lambda one: one["ok"], 30)
    asked = identity.wait_tries(w, "status", lambda one: one["ok"], 30)
    s.tell(f"A citizen logs in to the tax board: {first.get('result')}; her card is {asked.get('result')}.")
    s.report.promise("a relying service logs a citizen in at home", bool(first.get("ok")), str(first.get("result")))


def identities_abroad(s: Stage, decided: Instant) -> None:
    """The same relying service, the same names, another country."""
    w, since = s.world, decided / 1e6
    login = identity.wait_tries(w, "login", lambda one: one["ok"] and one["ended"] > since, 60)
    asked = identity.wait_tries(w, "status", lambda one: one["ok"] and one["ended"] > since, 60)
    gap = s.commands.run("identity", "gap", str(w.exile), "--card", str(w.exile / "machine.card")).result
    after = {
        kind: round(one["ended"] - since, 3) if one else None for kind, one in (("login", login), ("status", asked))
    }
    s.report.identity = {
        "outage_s": identity.outage(w, s.lost / 1e6),
        "first_login_s": after["login"], "first_status_s": after["status"],
        "gap": gap, "gap_statement": (w.exile / "state" / "gap.note").read_text(),
    }  # fmt: skip
    s.tell(f"  the tax board, which changed nothing, logs {login.get('result')} in again, {after['login']} s after the"
           f" last signature; her card is {asked.get('result')}; revocation gap {gap['gap_s']} s")  # fmt: skip
    s.report.promise(
        f"fresh certificate status and log-in within {identity.FRESH_WITHIN_S:.0f} s of the last signature",
        bool(login and asked) and max(after["login"] or 0, after["status"] or 0) <= identity.FRESH_WITHIN_S,
        f"log-in {after['login']} s, status {after['status']} s",
    )
    s.report.promise("the revocation gap is stated and signed", bool(gap["checked"]), f"{gap['gap_s']} s")
    _revoke_abroad(s)


def _revoke_abroad(s: Stage) -> None:
    """A card was stolen; the custodians sign, and nobody accepts it any more."""
    w = s.world
    path, issuer = identity.stolen_csv(w)
    order, warrant = w.folder / "stolen.order", w.folder / "revoke.warrant"
    s.commands.run("identity", "order", "status", "--act", "revoke", "--csv", str(path), "--issuer", issuer, "--reason",
                   "keyCompromise", "--since", instant_text(now()), "--out", str(order))  # fmt: skip
    where = [*s.sites("south", "north"), *s.pinned]
    s.commands.run(
        "warrant", "request", str(warrant), "--act", "revoke", "--object", str(order), "--register", s.ids["identity"],
        "--place", "south", "--key", str(w.exile / "machine.key"), "--reason", "A card was stolen", *where,
    )  # fmt: skip
    signed = s.commands.together(*(
        ("warrant", "sign", str(warrant), "--yes", "--object", str(order), "--key", str(s.places.custodian_key(name)),
         *where) for name in ("kaja", "luc", "aino")
    ))  # fmt: skip
    answers = [part for done in signed for part in ("--answer", str(done.result["path"]))]
    before = identity.stolen_status(w)
    s.commands.run(
        "identity", "revoke", "--dir", str(w.exile), "--warrant", str(warrant), "--order", str(order), *answers
    )
    begun = time.monotonic()
    status, refused = identity.stolen_status(w), identity.stolen_log_in(w)
    took = time.monotonic() - begun
    s.tell(f"  the stolen card was {before}, and is {status} now; with it one hears: {refused}")
    s.report.act("a stolen card, revoked abroad, is used", (before, status) == ("good", "revoked") and bool(refused)
                 and took < 10, f"certificate status and log-in refuse it {took:.2f} s after")  # fmt: skip


def revived_identities(s: Stage) -> None:
    """Home's old identity services come up again from the copy, with old revocations and old secrets."""
    w, old = s.world, s.places.root / "revived" / "home" / "identity"
    place = old / "place.toml"
    login, status = free_port(), free_port()
    text = place.read_text().replace(str(s.places.sites / "home"), str(s.places.root / "revived" / "site"))
    text = text.replace(str(s.places.home / "hosts"), str(s.places.root / "revived" / "home" / "hosts"))
    place.write_text(text.replace(str(w.home_login), str(login)).replace(str(w.home_status), str(status)))
    identity.serve(w, old, s.places.run / "world", "revived-identity", login)
    identity.wait_served(login)
    told = httpx.get(f"http://127.0.0.1:{login}/health/ready", trust_env=False, timeout=10)
    tokens = httpx.post(f"http://127.0.0.1:{login}/oidc/token", trust_env=False, timeout=10)
    asked = httpx.get(f"http://127.0.0.1:{status}/crl/esteid.crl", trust_env=False, timeout=10)
    s.tell(f"Home's old identity services come up again and answer nothing: {told.json()['problem']}")
    closed = (told.status_code, tokens.status_code) == (503, 503) and asked.status_code != 200
    s.report.act("a revived copy of home would log people in", closed, told.json()["problem"])
    stop(s.places.run / "world", Label("revived-identity"), grace_s=5.0)


def through_the_crisis(s: Stage) -> None:
    """What the citizen met, from before the loss until now."""
    s.world.stop_file.touch()
    told = s.report.identity
    for kind in ("login", "status"):
        met = identity.tries(s.world, kind)
        good = sum(one["ok"] for one in met)
        told[f"{kind}s"], told[f"{kind}s_ok_ratio"] = len(met), round(good / max(len(met), 1), 5)
        told[f"{kind}_tries"] = sum(one["tries"] for one in met)
    s.report.promise(
        f"log-ins go on under the same name: {100 * identity.OK_RATIO:.1f} % good at least",
        told["logins_ok_ratio"] >= identity.OK_RATIO,
        f"{told['logins']} log-ins, {100 * told['logins_ok_ratio']:.1f} % good with retries;"
        f" outage {told['outage_s']} s",
    )  # fmt: skip
