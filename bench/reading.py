"""A reading room: pages beside nginx serving the same files, searches over 100,000 acts, and readers during a flood.

    python bench/reading.py [--acts 100000] [--seconds 8] [--quick] [--folder /var/tmp/reading]

Acts are the demo's prose, with a tail of names, places and numbers that stand in few of them. Each act has two texts on
average, as in the demo; every text has a proof of ``--proof-bytes`` (true ones are longer, and are asked for less
often). Pages: ``wrk`` asks for acts at random, of our nginx with its limits and headers, and of an nginx that does
nothing but serve the same folder; rounds alternate, figures are medians. Searches: one after the other, a mix of rare
and common words, phrases and beginnings. The flood: ``wrk`` searches from 5,000 addresses of 20 networks as fast as it
can, and says how many times the capacity that was; meanwhile readers of eight other networks open acts and search.
All on this machine: with few processors, load and server take them from each other.

Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exclave.demo import words
from exclave.errors import UsageError
from exclave.formats.edition import BundleLine, Edition, make_bundle
from exclave.ids import Instant, Sequence, sha256
from exclave.runners.ports import free_port
from exclave.serve.reading_admission import Limits
from exclave.serve.reading_nginx import StaticLimits
from exclave.serve.reading_run import find_nginx
from exclave.serve.reading_search import Searcher, parse_query
from support.gazette_room import REGISTER, START, STATE, Press, RunningRoom, act_files, running_room

GOAL_PAGES, GOAL_SEARCH_MS, GOAL_FLOOD_MS, FLOOD = 0.7, 100.0, 500.0, 20
NETWORKS, ADDRESSES, READERS = 20, 250, 8
PLAIN = """daemon off; pid {folder}/plain.pid; error_log {folder}/plain.log; worker_processes 1; {user}
events {{ worker_connections 4096; }}
http {{
    access_log off; default_type text/html; sendfile on; tcp_nopush on; gzip_static on;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{ listen 127.0.0.1:{port}; root {root}; location / {{ try_files $uri.html =404; }} }}
}}
"""
PAGES_LUA = """local acts = {{}}
for line in io.lines("{acts}") do acts[#acts + 1] = line end
math.randomseed({seed})
request = function()
  return wrk.format("GET", "/act/" .. acts[math.random(#acts)],
    {{["X-Forwarded-For"] = "198.51.100." .. math.random(250), ["Accept-Encoding"] = "gzip"}})
end
"""
FLOOD_LUA = """local queries = {{}}
for line in io.lines("{queries}") do queries[#queries + 1] = line end
math.randomseed({seed})
request = function()
  return wrk.format("GET", "/search?q=" .. queries[math.random(#queries)], {{["X-Forwarded-For"] =
    "10.9." .. math.random({networks}) .. "." .. math.random({addresses})}})
end
local counts = {{}}
response = function(status) counts[status] = (counts[status] or 0) + 1 end
"""


def edition(count: int, proof_bytes: int) -> tuple[Press, list[str], random.Random]:
    """``count`` acts in bundles of 2,000, and the names of all acts."""
    draw = random.Random("reading")
    prose = {"et": words.estonian(1), "en": words.english(1)}
    names: list[str] = []
    press, lines = Press(), []
    for start in range(0, count, 2000):
        files: list[tuple[str, bytes | None, bytes]] = []
        for number in range(start, min(start + 2000, count)):
            name = f"{1990 + number % 36}/{number // 36 + 1:04d}"
            names.append(name)
            language = draw.choice(("et", "et", "en"))
            texts = [text(draw, prose[language], language, number) for _ in range(draw.choice((1, 1, 2, 4)))]
            made = act_files(name, texts[0].split("\n")[0], texts, language=language, day=day(draw))
            files += [(path, data, draw.randbytes(proof_bytes)) for path, data in made.items()]
        bundle = make_bundle(Sequence(1), START, files).encode()
        press.objects[sha256(bundle)] = bundle
        lines.append(BundleLine(sha256(bundle), len(bundle), len(files)))
    press.editions.append(Edition(STATE, REGISTER, Sequence(1), Instant(START), None, "State Gazette", tuple(lines)))
    return press, names, draw


def text(draw: random.Random, prose: words.Prose, language: str, number: int) -> str:
    """Some 5 kB: a title, sections, and in each section one sentence that few other acts have."""
    topic = draw.choice(words.TOPICS)
    title = f"{topic[1]} Act no. {number}" if language == "en" else f"{topic[0].capitalize()}seadus nr {number}"
    sections = [f"{prose.section(draw, n)}\n(9) {rare(draw)}" for n in range(1, draw.randint(3, 8))]
    return "\n\n".join((title, *sections, ""))


def rare(draw: random.Random) -> str:
    person = f"{draw.choice(words.GIVEN_NAMES)} {draw.choice(words.FAMILY_NAMES)}"
    firm = f"{draw.choice(words.COMPANY_STEMS)} {draw.choice(words.COMPANY_FIELDS)}"
    return f"{person}, {draw.choice(words.STREETS)} {draw.randint(1, 200)}, {firm}, {draw.randint(10**6, 10**7)}."


def day(draw: random.Random) -> str:
    return f"{draw.randint(1990, 2025)}-{draw.randint(1, 12):02}-0{{}}"


def queries(draw: random.Random, count: int) -> list[str]:
    """What readers look for: names and numbers, topics, phrases, beginnings, now and then a word that is everywhere."""
    found = []
    for _ in range(count):
        kind = draw.random()
        if kind < 0.35:
            found.append(f"{draw.choice(words.GIVEN_NAMES)} {draw.choice(words.FAMILY_NAMES)}")
        elif kind < 0.5:
            found.append(f"{draw.choice(words.COMPANY_STEMS)} {draw.randint(1, 200)}")
        elif kind < 0.7:
            found.append(f"{draw.choice(words.TOPICS)[1]} {draw.choice(words.EN_HEADINGS)}")
        elif kind < 0.8:
            found.append(f'"{draw.choice(words.EN_SUBJECTS)} {draw.choice(words.EN_VERBS)}"')
        elif kind < 0.9:
            found.append(draw.choice(words.TOPICS)[0][: draw.randint(3, 6)] + "*")
        else:
            found.append(draw.choice(("registrar", "Amet", "act", "shall law", "seadus otsuse", '"of the"')))
    return [query for query in found if _understood(query)]


def _understood(query: str) -> bool:
    try:
        parse_query(query)
    except UsageError:
        return False
    return True


@contextmanager
def plain_nginx(room: RunningRoom) -> Iterator[int]:
    """nginx that serves the same pages and does nothing else."""
    port, folder = free_port(), room.folder / "plain"
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    config = PLAIN.format(folder=folder, port=port, root=room.folder / "current", user=user)
    (folder / "nginx.conf").write_text(config)
    process = subprocess.Popen([find_nginx(), "-p", str(folder), "-e", f"{folder}/e", "-c", f"{folder}/nginx.conf"])
    time.sleep(1)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wrk(port: int, script: Path, seconds: int, connections: int) -> dict[str, float]:
    """Requests in a second and their p99 in milliseconds."""
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), f"http://127.0.0.1:{port}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    total = float(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    return {"per_s": rate, "refused": float(refused[1]) / total if refused else 0.0}


def pages(room: RunningRoom, script: Path, seconds: int, rounds: int) -> dict[str, float]:
    ours, plain = [], []
    with plain_nginx(room) as port:
        for _ in range(rounds):
            ours.append(wrk(room.port, script, seconds, 32)["per_s"])
            plain.append(wrk(port, script, seconds, 32)["per_s"])
    one, other = statistics.median(ours), statistics.median(plain)
    return {"ours_per_s": one, "nginx_per_s": other, "ratio": one / other}


def searches(room: RunningRoom, asked: list[str]) -> dict[str, float]:
    """Of the index alone, each query once: nothing is remembered. Processor time tells of a busy machine."""
    searcher = Searcher(str(room.folder / "current" / "search.sqlite"))
    taken, used, broken, unranked = [], [], 0, 0
    for query in dict.fromkeys(asked):
        began, cpu = time.perf_counter(), time.thread_time()
        found = searcher.search(parse_query(query), 1)
        taken.append((time.perf_counter() - began) * 1000)
        used.append((time.thread_time() - cpu) * 1000)
        broken += not found.complete
        unranked += not found.ranked
    searcher.close()
    return {
        "queries": len(taken), "p50_ms": percentile(taken, 0.5), "p99_ms": percentile(taken, 0.99),
        "max_ms": max(taken), "cpu_p99_ms": percentile(used, 0.99), "newest_first": unranked, "broken_off": broken,
    }  # fmt: skip


def capacity(room: RunningRoom, script: Path, seconds: int) -> float:
    """Searches a second that are answered with nobody held up."""
    return wrk(room.port, script, seconds, 4)["per_s"]


def flood(room: RunningRoom, script: Path, asked: list[str], names: list[str], seconds: int) -> dict[str, float]:
    """Readers of ``READERS`` other networks in the middle of it, each with an act and a search every half second."""
    argv = ["wrk", "-t1", "-c128", f"-d{seconds + 2}s", "-s", str(script), f"http://127.0.0.1:{room.port}"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    taken: dict[str, list[float]] = {"act": [], "search": []}
    failed: list[int] = []
    time.sleep(1)
    until = time.monotonic() + seconds

    def reader(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            for kind, path in (
                ("act", f"/act/{draw.choice(names)}"),
                ("search", f"/search?q={quote(draw.choice(asked))}"),
            ):
                began = time.perf_counter()
                answer = room.get(path, X_Forwarded_For=f"203.0.{number}.9")
                taken[kind].append((time.perf_counter() - began) * 1000)
                if answer.status != 200:
                    failed.append(answer.status)
                time.sleep(0.25)

    readers = [threading.Thread(target=reader, args=(number,)) for number in range(READERS)]
    for one in readers:
        one.start()
    for one in readers:
        one.join()
    out = process.communicate(timeout=60)[0]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    both = taken["act"] + taken["search"]
    return {
        "attack_per_s": rate, "reader_requests": len(both), "reader_failed": len(failed),
        "act_p99_ms": percentile(taken["act"], 0.99), "search_p99_ms": percentile(taken["search"], 0.99),
        "p99_ms": percentile(both, 0.99),
    }  # fmt: skip


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--acts", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--proof-bytes", type=int, default=4000)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/exclave-reading"))
    parser.add_argument("--quick", action="store_true", help="5,000 acts, short loads: below two minutes")
    options = parser.parse_args()
    if options.quick:
        options.acts, options.seconds, options.rounds = min(options.acts, 5_000), 3, 1
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "room").mkdir(parents=True)
    try:
        print(json.dumps({"acts": options.acts, **measure(folder, options)}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    press, names, draw = edition(options.acts, options.proof_bytes)
    began, cpu = time.monotonic(), time.process_time()
    builder = press.builder(folder / "room", "http://127.0.0.1")
    builder.build(press.editions[-1])
    builder.close()
    built = {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
    print(f"building {options.acts:,} acts: {built['wall_s']:.0f} s, {built['cpu_s']:.0f} s processor")
    asked = queries(draw, 2000)
    scripts = write_scripts(folder, names, asked)
    wide = Limits(client_per_s=1e5, client_burst=1e6, network_per_s=1e5, network_burst=1e6, waiting_of_network=64)
    generous = StaticLimits(10**6, 10**6, 10**6, 10**6, 10**4, 10**4)
    with running_room(press, folder / "room", limits=wide, static=generous) as room:
        static = pages(room, scripts["pages"], options.seconds, options.rounds)
        found = searches(room, asked)
        able = capacity(room, scripts["flood"], options.seconds)
    with running_room(press, folder / "room", limits=Limits(), static=generous) as room:
        flooded = flood(room, scripts["flood"], asked, names, 2 * options.seconds)
    tell(static, found, flooded, able)
    return {
        "build": built, "pages": static, "search": found, "capacity_per_s": able, "flood": flooded,
        "flood_times_capacity": flooded["attack_per_s"] / able,
    }  # fmt: skip


def tell(static: dict[str, float], found: dict[str, float], flooded: dict[str, float], able: float) -> None:
    """The table for people."""
    times = flooded["attack_per_s"] / able
    print(
        f"pages:   {static['ours_per_s']:.0f}/s, nginx alone {static['nginx_per_s']:.0f}/s: {static['ratio']:.2f} ×"
        f" (goal ≥ {GOAL_PAGES})"
    )
    print(
        f"search:  p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, most {found['max_ms']:.1f} ms,"
        f" processor p99 {found['cpu_p99_ms']:.1f} ms (goal p99 < {GOAL_SEARCH_MS:.0f} ms)"
    )
    print(
        f"flood:   {flooded['attack_per_s']:.0f} searches/s, {times:.0f} × the capacity of {able:.0f}/s"
        f" (goal {FLOOD} ×): reader p99 {flooded['p99_ms']:.0f} ms, acts {flooded['act_p99_ms']:.0f} ms;"
        f" {flooded['reader_failed']:.0f} of {flooded['reader_requests']:.0f} failed"
        f" (goal p99 < {GOAL_FLOOD_MS:.0f} ms)"
    )


def write_scripts(folder: Path, names: list[str], asked: list[str]) -> dict[str, Path]:
    (folder / "acts").write_text("\n".join(names) + "\n")
    (folder / "queries").write_text("\n".join(quote(query) for query in asked) + "\n")
    made = {
        "pages": PAGES_LUA.format(acts=folder / "acts", seed=1),
        "flood": FLOOD_LUA.format(queries=folder / "queries", seed=2, networks=NETWORKS, addresses=ADDRESSES),
    }
    for name, script in made.items():
        (folder / f"{name}.lua").write_text(script)
    return {name: folder / f"{name}.lua" for name in made}


if __name__ == "__main__":
    main()
