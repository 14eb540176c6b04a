"""What the watch found, for Prometheus: moments rather than ages, so that a watch that stands still looks old.

Everything is judged anew at the moment of the scrape. That the watch itself is alive tells
``exclave_watch_last_look_timestamp_seconds``: alert when it is older than a few looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exclave.errors import UsageError
from exclave.ids import Instant, RegisterId
from exclave.operations.watch_round import ChannelHealth, Round
from exclave.rules.watch import State

_BADNESS = {state: place for place, state in enumerate(State)}
_STATES = ", ".join(f"{place} {state}" for state, place in _BADNESS.items())


class WatchMetrics(Collector):
    """The last round as metrics. ``show`` is called after each round, ``collect`` by whoever scrapes."""

    def __init__(
        self, clock: Callable[[], Instant], names: Mapping[RegisterId, str], health: Mapping[str, ChannelHealth]
    ) -> None:
        self._clock, self._names, self._health = clock, names, health
        self._lock = threading.Lock()
        self._last: tuple[Round, int, float] | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def show(self, found: Round, rounds: int, seconds: float) -> None:
        """``rounds`` so far; ``seconds`` that this one took."""
        with self._lock:
            self._last = (found, rounds, seconds)

    def describe(self) -> list[Metric]:
        """None beforehand: registering does not scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            last = self._last
        if last is None:
            return
        found, rounds, seconds = last
        yield _gauge("watch_last_look_timestamp_seconds", "When the last look began; alert if it is old.",
                     found.look.at / 1e6)  # fmt: skip
        yield _gauge("watch_look_seconds", "How long the last look took.", seconds)
        yield CounterMetricFamily("exclave_watch_looks", "Looks since the watch began.", value=rounds)
        yield _gauge("watch_state_readable", "1 if the state itself could be read.", int(found.look.problem is None))
        yield _gauge("watch_alarms", "Alarms that stand, of registers that are not paused.", len(found.alarms))
        yield _gauge("watch_packs_read", "Packs read whole and hashed in the last look.", found.look.packs_read)
        yield from self._registers(found)
        yield from self._channels()

    def _registers(self, found: Round) -> Iterator[Metric]:
        each, copy = ["register", "id"], ["register", "id", "site"]
        rpo = GaugeMetricFamily("exclave_register_rpo_seconds", "How old its data may become.", labels=each)
        until = GaugeMetricFamily(
            "exclave_register_safe_until_timestamp_seconds",
            "Data up to this moment is proven at enough sites by the placement rule; 0: none.", labels=each,
        )  # fmt: skip
        state = GaugeMetricFamily("exclave_register_state", f"State of a register: {_STATES}.", labels=each)
        paused = GaugeMetricFamily("exclave_register_paused", "1 if its alarms are held back.", labels=each)
        good = GaugeMetricFamily(
            "exclave_copy_last_good_timestamp_seconds",
            "Moment whose state the last version proven at a site holds; 0: none.", labels=copy,
        )  # fmt: skip
        proven = GaugeMetricFamily(
            "exclave_copy_proven_timestamp_seconds", "When it was last found there.", labels=copy
        )  # fmt: skip
        version = GaugeMetricFamily("exclave_copy_version", "Number of that version; 0: none.", labels=copy)
        copies = GaugeMetricFamily("exclave_copy_state", f"State of a register at a site: {_STATES}.", labels=copy)
        for one in found.look.judge(self._clock()):
            labels = [self._names.get(one.register, one.register), one.register]
            rpo.add_metric(labels, one.rpo_s)
            until.add_metric(labels, one.time / 1e6)
            state.add_metric(labels, _BADNESS[one.state])
            paused.add_metric(labels, int(one.register in found.paused))
            for cell in one.cells:
                there = [*labels, cell.site]
                good.add_metric(there, cell.time / 1e6)
                proven.add_metric(there, cell.proven / 1e6)
                version.add_metric(there, cell.sequence)
                copies.add_metric(there, _BADNESS[cell.state])
        yield from (rpo, until, state, paused, good, proven, version, copies)

    def _channels(self) -> Iterator[Metric]:
        well = GaugeMetricFamily(
            "exclave_watch_channel_last_success_timestamp_seconds", "When a channel last took a message; 0: never.",
            labels=["channel"],
        )  # fmt: skip
        failed = CounterMetricFamily(
            "exclave_watch_channel_failures", "Deliveries that failed; they are tried again.", labels=["channel"]
        )  # fmt: skip
        for name, health in self._health.items():
            well.add_metric([name], health.succeeded / 1e6)
            failed.add_metric([name], health.failures)
        yield from (well, failed)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"exclave_{name}", help_text, value=value)


def serve_metrics(metrics: WatchMetrics, address: str) -> int:
    """Serves them over HTTP at ``host:port``, in a thread that ends with the process; the port."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--metrics takes host:port, not {address[:80]!r}")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OSError as error:
        raise UsageError(f"cannot listen at {address}: {error.strerror}") from error
    return int(server.server_port)


def write_metrics(metrics: WatchMetrics, path: Path) -> None:
    """For node_exporter's textfile collector: a reader sees the former file or this one, whole."""
    try:
        write_to_textfile(str(path), metrics.registry)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
