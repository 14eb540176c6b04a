"""Names: asked of name servers and changed there by signed updates (RFC 2136, RFC 8945).

Page: docs/spec/names.md. What is to change is decided in ``rules/names.py``; this only asks and sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.resolver
import dns.tsig
import dns.update

from exclave.errors import HeadMoved, NotAuthorised, UnavailableError, UsageError
from exclave.formats.dnsplan import MAX_KEY_FILE_BYTES, DnsPlan, TsigKey, parse_address, parse_tsig_key
from exclave.keys.private_file import read_private
from exclave.rules.names import Change, RecordSet, Spot

_MOVED = {dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}
_FORBIDDEN = {dns.rcode.NOTAUTH, dns.rcode.REFUSED}
_MISTAKEN = {dns.rcode.NOTZONE, dns.rcode.FORMERR, dns.rcode.NOTIMP}
_LOST = (dns.exception.DNSException, OSError, EOFError)
MAX_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What one server says of one record set."""

    server: str
    spot: Spot
    found: RecordSet | None
    """None if there is none, or no answer. From a resolver, ``ttl_s`` is what is left of it."""
    problem: str = ""
    """Why there is no answer; empty if there is one."""


def load_tsig_key(path: str) -> TsigKey:
    """The key in a file of mode 600. ``KeyFileExposed``, ``UsageError``, ``MalformedError``."""
    return parse_tsig_key(read_private(path, MAX_KEY_FILE_BYTES))


def first_server(plan: DnsPlan, key: TsigKey) -> str:
    """The first of the plan's servers that takes the key for updates of the zone: the one to go on with.

    An update without changes is sent, whose prerequisite is that the zone has a SOA record. ``NotAuthorised`` if a
    server refuses the key; ``UnavailableError`` if none answers.
    """
    silent: list[str] = []
    for server in plan.servers:
        message = _update(plan, key)
        message.present(plan.zone + ".", "SOA")
        try:
            _send(plan, server, message)
        except UnavailableError as error:
            silent.append(error.message)
            continue
        return server
    raise UnavailableError(
        f"no name server of {plan.zone} answers: {'; '.join(silent)}",
        hint="Bring one of them up, or correct servers in names.toml; running it again goes on from here.",
    )


def read_sets(plan: DnsPlan, key: TsigKey, server: str, spots: Iterable[Spot]) -> dict[Spot, RecordSet]:
    """The record sets as that authoritative server has them, over TCP, signed both ways. Missing ones are left out.

    ``UnavailableError`` if it does not answer, or is not authoritative for the zone.
    """
    found: dict[Spot, RecordSet] = {}
    for spot in spots:
        query = dns.message.make_query(spot[0] + ".", spot[1], flags=0)
        query.use_tsig(_tsig(key))
        answer = _exchange(plan, server, query)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not answer.flags & dns.flags.AA:
            raise _failure(plan, server, answer, "the question")
        held = _set_of(answer, spot)
        if held is not None:
            found[spot] = held
    return found


def apply_changes(plan: DnsPlan, key: TsigKey, server: str, changes: Sequence[Change]) -> None:
    """All changes in one update, which the server carries out wholly or not at all (RFC 2136, section 3.4).

    Its prerequisites are that each set still has the values that it had. ``HeadMoved`` if one does not,
    ``NotAuthorised`` if the key may not, ``UnavailableError`` if the server does not answer: then it may have been
    done.
    """
    message = _update(plan, key)
    for change in changes:
        message.present(change.before.name + ".", _rdataset(change.before, ttl_s=0))  # RFC 2136, section 2.4.2
        if change.after.type == "CNAME":
            # An added CNAME takes the old one's place (section 3.4.2.2). Deleting it first makes Knot 3.2 drop both.
            message.add(change.after.name + ".", _rdataset(change.after, ttl_s=change.after.ttl_s))
        else:
            message.replace(change.after.name + ".", _rdataset(change.after, ttl_s=change.after.ttl_s))
    _send(plan, server, message)


def ask_all(plan: DnsPlan, spots: Sequence[Spot], servers: Sequence[str]) -> tuple[Asked, ...]:
    """Each server about each set, as a citizen's machine asks: by UDP, then TCP. Never raises for a server's sake."""
    pairs = [(server, spot) for server in servers for spot in spots]
    if not pairs:
        return ()
    with ThreadPoolExecutor(min(len(pairs), MAX_ASKED_AT_ONCE)) as pool:
        return tuple(pool.map(lambda pair: _ask(pair[0], pair[1], plan.timeout_s), pairs))


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a host is, by one resolver."""

    addresses: tuple[str, ...]
    """IPv4, then IPv6; sorted."""
    ttl_s: int
    """The least one on the way, aliases included."""


def system_resolvers() -> tuple[str, ...]:
    """What this machine asks (``/etc/resolv.conf``), as ``look_up`` takes them. ``UsageError`` if it says nothing."""
    try:
        found = dns.resolver.Resolver().nameservers
    except dns.resolver.NoResolverConfiguration as error:
        raise UsageError("this machine has no resolver configured (/etc/resolv.conf)") from error
    return tuple(f"[{server}]:53" if ":" in str(server) else f"{server}:53" for server in found)


def look_up(host: str, resolver: str, *, timeout_s: float = 3.0) -> Addresses:
    """Both kinds of addresses. ``UnavailableError`` if the resolver does not answer, or with an error."""
    found: list[str] = []
    ttls: list[int] = []
    for kind in ("A", "AAAA"):
        address, port = parse_address(resolver)
        query = dns.message.make_query(dns.name.from_text(host), kind)
        try:
            answer, _ = dns.query.udp_with_fallback(query, address, timeout=timeout_s, port=port)
        except _LOST as error:
            raise UnavailableError(f"the resolver {resolver} does not answer: {_say(error)}") from error
        if answer.rcode() != dns.rcode.NOERROR:
            raise UnavailableError(f"the resolver {resolver} says {dns.rcode.to_text(answer.rcode())} of {host}")
        for held in answer.answer:
            if held.rdtype in (dns.rdatatype.from_text(kind), dns.rdatatype.CNAME):
                ttls.append(held.ttl)
            if held.rdtype == dns.rdatatype.from_text(kind):
                found += sorted(str(rdata.to_text()) for rdata in held)
    return Addresses(tuple(found), min(ttls, default=0))


def _ask(server: str, spot: Spot, timeout_s: float) -> Asked:
    host, port = parse_address(server)
    query = dns.message.make_query(spot[0] + ".", spot[1])
    try:
        answer, _ = dns.query.udp_with_fallback(query, host, timeout=timeout_s, port=port)
    except _LOST as error:
        return Asked(server, spot, None, _say(error))
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Asked(server, spot, None, dns.rcode.to_text(answer.rcode()))
    return Asked(server, spot, _set_of(answer, spot))


def _send(plan: DnsPlan, server: str, message: dns.update.UpdateMessage) -> None:
    answer = _exchange(plan, server, message)
    if answer.rcode() != dns.rcode.NOERROR:
        raise _failure(plan, server, answer, "the update")


def _exchange(plan: DnsPlan, server: str, message: dns.message.Message) -> dns.message.Message:
    """Over TCP. dnspython takes no answer, good or bad, that is not signed with the key: anybody could have said it."""
    host, port = parse_address(server)
    try:
        return dns.query.tcp(message, host, timeout=plan.timeout_s, port=port)
    except (dns.tsig.PeerBadTime, dns.tsig.BadTime) as error:
        raise NotAuthorised(
            f"the name server {server} has another time than this machine", hint="Set both clocks, then try again."
        ) from error
    except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadKey, dns.tsig.BadAlgorithm) as error:
        raise _forbidden(plan, server, _say(error)) from error
    except _LOST as error:
        raise UnavailableError(
            f"the name server {server} gives no answer that counts: {_say(error)}",
            hint="Run it again when it does: it looks first at what was done. Unsigned: is the zone right?",
        ) from error


def _failure(
    plan: DnsPlan, server: str, answer: dns.message.Message, what: str
) -> HeadMoved | NotAuthorised | UsageError | UnavailableError:
    code, text = answer.rcode(), dns.rcode.to_text(answer.rcode())
    if code in _MOVED:
        return HeadMoved(f"a record of {plan.zone} is no longer what it was when it was read ({text})")
    if code in _FORBIDDEN:
        return _forbidden(plan, server, text)
    if code in _MISTAKEN:
        return UsageError(f"the name server {server} does not take {what} for {plan.zone} ({text})")
    return UnavailableError(f"the name server {server} cannot do {what} for {plan.zone} now ({text})")


def _forbidden(plan: DnsPlan, server: str, text: str) -> NotAuthorised:
    return NotAuthorised(
        f"the name server {server} does not let this key change {plan.zone} ({text})",
        hint="Compare the key file with the server's key and its access list.",
    )


def _update(plan: DnsPlan, key: TsigKey) -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage(plan.zone + ".", keyring=_tsig(key))


def _tsig(key: TsigKey) -> dns.tsig.Key:
    return dns.tsig.Key(key.name + ".", key.secret, key.algorithm + ".")


def _rdataset(held: RecordSet, *, ttl_s: int) -> dns.rdataset.Rdataset:
    kind = dns.rdatatype.from_text(held.type)
    made = dns.rdataset.Rdataset(dns.rdataclass.IN, kind, ttl=ttl_s)
    for value in held.values:
        if held.type == "TXT":
            made.add(dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, kind, [value.encode("ascii")]))
        else:
            made.add(dns.rdata.from_text(dns.rdataclass.IN, kind, value + "." if held.type == "CNAME" else value))
    return made


def _set_of(answer: dns.message.Message, spot: Spot) -> RecordSet | None:
    kind = dns.rdatatype.from_text(spot[1])
    held = answer.get_rrset(answer.answer, dns.name.from_text(spot[0]), dns.rdataclass.IN, kind)
    if held is None:
        return None
    return RecordSet(spot[0], spot[1], held.ttl, tuple(sorted(_value(rdata) for rdata in held)))


def _value(rdata: dns.rdata.Rdata) -> str:
    """As the plan writes it; other text stands for what no plan can say."""
    if rdata.rdtype == dns.rdatatype.CNAME:
        return str(rdata.to_text()).lower().removesuffix(".")
    if rdata.rdtype == dns.rdatatype.TXT and isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(rdata.strings).decode("ascii", "backslashreplace")
    return str(rdata.to_text())


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
