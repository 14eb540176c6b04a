"""Operations from a machine in a namespace, to a host behind a bad line: functions that ``Host.call`` runs."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from exclave.ids import Label
from exclave.sites.directory import DirectorySite
from exclave.sites.opening import open_site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryPolicy
from support.fault_case import endure, play
from support.fault_table import Row
from support.fault_world import World
from support.real_hosts import copy
from support.seaweed import open_buckets
from support.shaped_link import Link, Shape
from support.struck import Struck

LINES = {
    "delay": Shape(delay_s=0.1),
    "loss": Shape(loss=0.05),
    "bandwidth": Shape(bytes_per_s=100_000),
    "partition": Shape(cut=True),
}
"""What a line is from a call on, until the case is judged. All but the last are only slow."""
_ONCE = Patience(RetryPolicy(attempts=1, rest_s=60, longest_rest_s=60), small_timeout_s=2, large_timeout_s=2)
_WHOLE = Shape()


def wait_for_buckets(endpoint: str, seconds: float = 60) -> None:
    """Until the engine takes a PUT in each."""
    deadline = time.monotonic() + seconds
    for store in open_buckets(endpoint):
        while True:
            try:
                obstore.put(store, "ready", b"")
                break
            except (BaseError, FileNotFoundError):
                assert time.monotonic() < deadline, "the engine does not come up"
                time.sleep(0.05)


def fill_site(url: str, folder: Path) -> None:
    """What ``folder`` holds, at a site that holds nothing."""
    source, site = DirectorySite(str(folder)), open_site(url)
    for item in source.list(""):
        copy(source, site, item.key)


def over_a_line(made: World, operation: str, label: Label, url: str, at: int, line: str, link: Link) -> Row:
    """``operation``, from folders that stand as it begins, with the site ``label`` at the far end of ``link``."""
    cut = LINES[line].cut
    site = open_site(url, patience=_ONCE) if cut else open_site(url)
    bad = Struck(site, "real", at, destroy=lambda: link.shape(LINES[line]))
    plain = {**made.plain(), label: open_site(url)}

    def back() -> None:
        link.shape(_WHOLE)

    try:
        if cut:
            return play(made, operation, label, bad, plain, back=back, whole=operation == "rebuild")
        return endure(made, operation, label, bad, plain)
    finally:
        back()


def seconds_to_connect(address: str, port: int, patience_s: float) -> float:
    """How long it takes; infinity if it does not come about within ``patience_s``."""
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), patience_s):
            return time.monotonic() - began
    except TimeoutError:
        return float("inf")


def seconds_to_fill(url: str, folder: Path) -> float:
    """How long it takes to bring what ``folder`` holds to an empty site."""
    began = time.monotonic()
    fill_site(url, folder)
    return time.monotonic() - began
