"""The demo's chapters about hosts: a thief with home's credentials, what is told in public, a site that is rebuilt."""

from __future__ import annotations

import shutil
from concurrent.futures import Future

from exclave.demo import attacks, hosts
from exclave.demo.commands import Told
from exclave.demo.stage import Stage


def hosts_abroad(s: Stage) -> None:
    """Three hosts of three kinds; the gateway opens when the state has a fingerprint."""
    hosts.open_bucket(s.hosts, s.places.run / "hosts")
    hosts.hand_out_certificates(s.hosts)
    s.tell(
        "Three hosts abroad: north keeps a folder, south runs the gateway, west rents out a bucket with Object Lock."
    )
    _shorten(s, "west")


def gateway_opens(s: Stage, fingerprint: str) -> None:
    """South's operator enters the state's fingerprint and certificates, and starts the gateway."""
    arguments = hosts.open_gateway(s.hosts, fingerprint, s.places.run / "hosts")
    s.tell(s.brief_command(arguments) + " &")
    _shorten(s, "south")


def _shorten(s: Stage, site: str) -> None:
    """From now on a variable stands for each long address."""
    for user in hosts.USERS:
        name, url = f"{site.upper()}_{user.upper()}", s.hosts.url(site, user)
        s.tell(s.brief(f"{name}='{url}'"))
        s.short[f"'{site}={url}'"] = f"{site}=${name}"
        s.short[f"'{url}'"] = f"${name}"


def bucket_tried(s: Stage) -> Future[Told]:
    """Everything that a thief could do there, tried on objects of the probe's own: racers make the engine wait long."""
    return s.commands.beside("site", "probe", s.hosts.url("west", "home"), "--no-enter")


def bucket_probed(s: Stage, probing: Future[Told]) -> None:
    """What the probe found; no register was put there before."""
    told = probing.result().result
    roles = {role["name"]: role["given"] for role in told["roles"]}
    kept = sum(promise["kept"] for promise in told["promises"])
    s.tell(f"  west: {kept} of {len(told['promises'])} promises kept; "
           + "; ".join(f"{name}: {'yes' if given else 'NO'}" for name, given in roles.items()))  # fmt: skip
    s.report.promise("west keeps objects and heads, and nobody can delete there", told["ok"] and all(roles.values()),
                     f"{kept} of {len(told['promises'])} promises of a site, tried")  # fmt: skip
    s.report.sites = [
        {"name": "home", "kind": "folder", "country": "EE"}, {"name": "north", "kind": "folder", "country": "FI"},
        {"name": "south", "kind": "gateway", "country": "LU"},
        {"name": "west", "kind": "bucket with Object Lock", "country": "SE"},
    ]  # fmt: skip


def watched(s: Stage) -> None:
    """What an auditor sees who asks nobody but the sites."""
    told = s.commands.run("watch", "--once", *s.home).result
    fresh = [cell for register in told["registers"] for cell in register["cells"] if cell["state"] == "fresh"]
    s.tell(f"  {len(fresh)} copies are fresh and proven, none is late")
    s.report.promise("the watch finds a proven, fresh copy of each register at each site",
                     len(fresh) == 4 * len(told["registers"]), f"{len(fresh)} copies")  # fmt: skip


def thief_abroad(s: Stage) -> None:
    """Somebody has home's certificate for the gateway, and home's keys for the bucket."""
    thief = hosts.Hosts(
        s.places.root, {"home": s.places.root / "revived" / "home" / "hosts"}, s.fingerprint, s.hosts.gateway,
        s.hosts.weed,
    )  # fmt: skip
    land = s.ids["land"]
    objects = [p.relative_to(s.places.sites / "south") for p in
               attacks.packs(s.places.sites / "south", s.fingerprint, land)]  # fmt: skip
    head = attacks.checkpoint_of(s.places.sites / "south", s.fingerprint, land)
    old = (s.places.root / "old-checkpoint").read_bytes()
    at_gateway = attacks.rob_gateway(
        thief.url("south", "home"), [str(o) for o in objects], str(head.relative_to(s.places.sites / "south")), old
    )
    s.tell("A thief has home's certificate for south and home's keys for west.")
    s.tell(f"  south: {'; '.join(f'{act}: {answer}' for act, answer in at_gateway.items())}")
    for act, answer in at_gateway.items():
        s.report.act(f"a thief with home's certificate {act} at the gateway", answer.startswith("refused"), answer)
    at_bucket = attacks.rob_bucket(thief.s3_client("home"), hosts.BUCKET, f"ee/{s.fingerprint}/{land}/pack/")
    s.tell(f"  west: {at_bucket}")
    s.report.act("a thief with home's keys empties the bucket", at_bucket.startswith("refused"), at_bucket)


def own_credentials(s: Stage) -> None:
    """Failover writes home's addresses of the sites; home's files with keys are gone, and the embassy has its own."""
    config = s.places.exile / "exclave.toml"
    config.write_text(config.read_text().replace(str(s.places.home / "hosts"), str(s.places.embassy / "hosts")))


def north_rebuilt(s: Stage) -> None:
    """Enough of north's tricks: its disk is wiped, and the other sites fill it again. Home and its keys are gone."""
    north = s.places.sites / "north"
    north.rename(s.places.root / "north-before")  # at once: the embassy's services write there each second
    north.mkdir()
    s.clearing.append(s.beside(shutil.rmtree, s.places.root / "north-before"))
    s.tell("North's operator gives up and wipes the disk. The other sites fill it again; home is not needed for that.")
    told = s.commands.run("site", "rebuild", "north", *s.sites("north", "south", "west"), *s.pinned).result
    s.tell(f"  north: {told['objects']} objects, {told['bytes'] / 2**20:.1f} MiB brought, all read, verified alone")
    s.report.promise("a lost site is rebuilt from the others, without home", told["ok"] and told["verified"],
                     f"{told['objects']} objects, {told['bytes'] / 2**20:.1f} MiB")  # fmt: skip


def stated(s: Stage) -> None:
    """The witness tells the public what it found at the sites; anybody compares that with them."""
    said = s.places.embassy / "said"
    key = s.places.embassy / "witness" / "embassy-witness.key"
    where = [*s.sites("north", "south", "west"), *s.pinned]
    made = s.commands.run("statement", "make", str(said), "--key", str(key), "--publish", *where).result
    told = s.commands.run("verify", "--statement", str(said / "statement.note"), *where, expect=(0, 1)).result
    held = bool(told.get("ok"))
    s.report.statement = {"made": made, "holds": held}
    s.tell((said / "statement.txt").read_text().strip())
    s.report.promise("a signed statement to the public, true by what the sites show", held, str(said / "index.html"))
