"""``exclave charter``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_named_sites, open_sites
from exclave.cli.keys import load_key
from exclave.cli.output import (
    HomeFolder,
    Json,
    Sites,
    confirmed,
    counted,
    not_signed,
    note,
    print_json,
    say,
    table,
    typed,
    when,
)
from exclave.cli.warrant import require_yes
from exclave.formats.charter import ParsedCharter
from exclave.ids import Digest, Label, RegisterId, now, parse_digest, parse_fingerprint, parse_register_id, sha256
from exclave.operations import charter_propose, charter_publish, charter_sign
from exclave.operations.charter_draft import Draft, annex_summary, lost_power, read_draft
from exclave.operations.deletion import holds_lifted
from exclave.operations.home import Home
from exclave.operations.witness_policy import policy_file
from exclave.rules.charter_words import changes, register_name, registers_alike, rules_of, witness_rules
from exclave.verify.state import StateView, read_state

app = typer.Typer(help="The charter: custodians, sites, registers and rules, signed by the custodians.",
                  no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
DraftFolder = Annotated[Path, typer.Argument(help="The draft's folder.")]


def _view(home: Home) -> StateView | None:
    """The state as its sites show it; None before the first charter."""
    if not (home.folder / "state" / "fingerprint").exists():
        return None
    return read_state(open_sites(home), home.fingerprint())


def _chosen(given: list[str] | None) -> dict[RegisterId, Digest]:
    pairs = [text.partition("=") for text in given or ()]
    return {typed(parse_register_id, register): typed(parse_digest, digest) for register, _, digest in pairs}


@app.command(epilog="Example: exclave charter propose draft-1")
def propose(
    draft: DraftFolder,
    home: HomeFolder = Path(),
    drop: Annotated[list[str] | None, typer.Option(help="Id of a register that leaves the charter.")] = None,
    epoch: Annotated[
        list[str] | None,
        typer.Option(help="REGISTER_ID=DIGEST: the epoch note that the charter shall name, if two were granted."),
    ] = None,
    json: Json = False,
) -> None:
    """Draft the next charter from exclave.toml; new registers get keys whose shares only custodians can open."""
    opened = open_home(home)
    view = _view(opened)
    made = charter_propose.propose(opened, draft.absolute(), view, now=now(), drop=drop or (), epochs=_chosen(epoch))
    warnings = (*lost_power(made, view), *holds_lifted(view, open_sites(opened) if view else {}, made.charter))
    if json:
        print_json({"draft": draft, "number": made.charter.number, "digest": made.fingerprint, "warnings": warnings,
                    "registers": {str(n): r for n, r in opened.register_ids().items()}})  # fmt: skip
        return
    say(made.charter.encode())
    _show_words(made, view)
    say(f"Drafted as charter {made.charter.number} in {draft}; SHA-256 of its text:\n  {made.fingerprint}")
    for warning in warnings:
        say(f"Warning: {warning}.")
    say(f"Have {made.charter.threshold} custodians read charter.txt and the annexes, and run `exclave charter sign`.")


@app.command(epilog="Example: exclave charter sign draft-1 --key kaja.key")
def sign(
    draft: DraftFolder,
    key: Annotated[Path, typer.Option(help="The custodian's key file.")],
    site: Sites = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint; for later charters.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the text was read before.")] = False,
    json: Json = False,
) -> None:
    """Sign a draft as a custodian, after one's own shares were opened and compared with their commitments.

    Later charters than the first are compared with the epochs in force, so name sites that show them.
    """
    require_yes(yes=yes, json=json)
    read = read_draft(draft)
    view = read_state(open_named_sites(site), typed(parse_fingerprint, fingerprint)) if site else None
    if not yes:
        say(read.charter.encode())
        for name, annex in read.annexes.items():
            note(f"Annex of {name}:")
            print_json(annex_summary(annex))
        _show_words(read, view)
        if not confirmed("Sign this charter?", "nothing was signed"):
            raise not_signed()
    signed = charter_sign.sign(draft, load_key(key), view)
    if json:
        print_json(signed)
        return
    say(f"{signed.custodian} signed charter {signed.charter[:16]}…; {_compared(signed, view)}.")
    _show_quorums(signed)


def _show_words(draft: Draft, view: StateView | None) -> None:
    """A draft's rules in words, and what it changes of the charter in force, if that is at hand."""
    say("In words:")
    for sentence in rules_of(draft.charter):
        say(f"  {sentence}")
    _show_registers(draft.charter, draft.names)
    if view is None or draft.charter.number == 1:
        say("")
        return
    former = view.chain.newest.charter
    changed = changes(former, draft.charter, draft.names)
    say(f"Against charter {former.number}, which is in force{':' if changed else ', no rule changes.'}")
    for line in changed:
        say(f"  {line}")
    say("")


def _show_registers(charter: ParsedCharter, names: Mapping[RegisterId, str]) -> None:
    for rules, registers in registers_alike(charter).items():
        named = ", ".join(register_name(register, names) for register in registers)
        say(f"  {'Register' if len(registers) == 1 else 'Registers'} {named}:")
        for sentence in rules:
            say(f"    {sentence}")


def _compared(signed: charter_sign.Signed, view: StateView | None) -> str:
    """What was looked at before the signature: shares, epochs."""
    told = [f"{counted(len(signed.shares), 'share', 'shares')} opened and compared"] if signed.shares else []
    if signed.epochs:
        told += [] if signed.shares else ["no new shares in this charter"]
        where = ", ".join(view.shown if view else ())
        epochs = counted(len(signed.epochs), "epoch", "epochs")
        told.append(f"{epochs} compared with {'that' if len(signed.epochs) == 1 else 'those'} in force at {where}")
    return "; ".join(told) or "it gives no share to this custodian"


def _show_quorums(signed: charter_sign.Signed) -> None:
    if len(signed.quorums) == 1:
        say(f"{_there(signed.signatures, signed.threshold)}.")
        return
    for quorum, whose in zip(signed.quorums, ("the former charter", "this charter"), strict=True):
        names = f" ({', '.join(quorum.signed)})" if quorum.signed else ""
        rest = "" if quorum.met else f"; {', '.join(quorum.may_sign)} may still sign"
        count = _there(len(quorum.signed), quorum.threshold)
        say(f"Custodians of {whose}: {count}{names}{rest}.")


def _there(signatures: int, threshold: int) -> str:
    return f"{signatures} of at least {threshold} signatures {'is' if signatures == 1 else 'are'} there"


@app.command(epilog="Example: exclave charter publish draft-1")
def publish(draft: DraftFolder, home: HomeFolder = Path(), json: Json = False) -> None:
    """Put a draft that enough custodians signed to all sites; from then on it is in force."""
    opened = open_home(home)
    done = charter_publish.publish(opened, draft, open_sites(opened), _view(opened))
    if json:
        print_json(done)
        return
    say(f"Charter {done.number} is in force, signed by {', '.join(done.signers)}; at: {', '.join(done.sites)}.")
    for label, why in done.failed.items():
        say(f"  {label} did not take it: {why}")
    if done.number == 1:
        say(f"The state's fingerprint; print it and keep it in many places:\n  {done.fingerprint}")
    else:
        say(f"The state's fingerprint stays what it was:\n  {done.fingerprint}")


@app.command(epilog="Example: exclave charter show --site lux=dir:/mnt/luxembourg --fingerprint 3f9a…")
def show(
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint; default: the home's.")
    ] = "",
    json: Json = False,
) -> None:
    """Show the charter in force, verified from the fingerprint on."""
    names: dict[RegisterId, str] = {}
    if site:
        view = read_state(open_named_sites(site), typed(parse_fingerprint, fingerprint))
    else:
        opened = open_home(home)
        view = read_state(open_sites(opened), opened.fingerprint())
        names = {number: str(name) for name, number in opened.register_ids().items()}
    newest = view.chain.newest
    if json:
        print_json({"fingerprint": view.state, "charters": len(view.chain.charters), "signers": sorted(newest.signers),
                    "charter": newest.charter, "findings": view.findings})  # fmt: skip
        return
    public = {r.id: r.public_name for r in newest.charter.registers if r.public_name is not None}
    _show(newest.charter, len(view.chain.charters), sorted(newest.signers), {**public, **names})
    for found in view.findings:
        note(f"{found.site}: {found.what}: {found.detail}")


def _show_policy(charter: ParsedCharter) -> None:
    if charter.authorities:
        table(
            ("timestamp authority", "policy", "address", "SHA-256 of its root"),
            ((a.label, a.policy or "any", a.url, sha256(a.root).hex()[:16] + "…") for a in charter.authorities),
        )
        say("")
    if charter.witnesses:
        table(("witness", "key card"), ((w.label, w.card.hex()[:16] + "…") for w in charter.witnesses))
    for sentence in witness_rules(charter):
        say(sentence)
    say("")


@app.command(epilog="Example: exclave charter policy --register gazette > gazette.policy")
def policy(
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint; default: the home's.")
    ] = "",
    register: Annotated[
        str, typer.Option(help="Name the log of this register (its id, or at home its name); default: no log.")
    ] = "",
    classic: Annotated[bool, typer.Option("--classic", help="Ed25519 alone, for tools without ML-DSA-44.")] = False,
    json: Json = False,
) -> None:
    """Write the witness policy in force as a C2SP tlog-policy file, by which tools of others check checkpoints."""
    names: Mapping[Label, RegisterId] = {}
    if site:
        view = read_state(open_named_sites(site), typed(parse_fingerprint, fingerprint))
    else:
        opened = open_home(home)
        view, names = read_state(open_sites(opened), opened.fingerprint()), opened.register_ids()
    number = names.get(Label(register)) or (typed(parse_register_id, register) if register else None)
    text = policy_file(view, number, classic=classic).encode()
    if json:
        print_json({"policy": text, "charter": view.chain.newest.charter.number})
        return
    say(text.rstrip("\n"))


def _show(charter: ParsedCharter, count: int, signers: list[str], names: Mapping[RegisterId, str]) -> None:
    say(f"{charter.state_name}: charter {charter.number} of {when(charter.issued)}, the newest of {count}")
    say(f"Signed by {', '.join(signers)}; {charter.threshold} of {len(charter.custodians)} custodians must agree.\n")
    table(
        ("custodian", "country", "key card"),
        ((c.label, c.country, c.card.hex()[:16] + "…") for c in charter.custodians),
    )
    say("")
    _show_policy(charter)
    table(
        ("site", "country", "operator", "lease until"),
        ((s.label, s.country, s.operator, when(s.lease_until or 0)) for s in charter.sites),
    )
    say("")
    table(
        ("register", "name", "at"),
        ((r.id[:12] + "…", r.public_name or "(sealed)", " ".join(r.at)) for r in charter.registers),
    )
    say("\nIn words:")
    _show_registers(charter, names)
