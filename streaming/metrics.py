"""What the worker tells Prometheus: lag, latencies to fenced and to erased, batches, duties still open.

Every name is declared here, in a registry of its own; ``docs/howto/operate.md`` lists them. No label ever
holds an id of a user or an item.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.engine import CycleReport
from ..engine.metrics import duties
from .source import EventSource, Record
from .watch import Watch

_FENCED = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
_ERASED = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
_SIZES = (1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000)
_SOLVE = (0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)
_LAG_SECONDS = 1.0

Status = Callable[[], Mapping[str, Any]]
"""Returns the record that ``recunlearn status --json`` prints."""


class WorkerMetrics(Watch):
    """Counters, histograms and gauges of one worker.

    Parameters
    ----------
    status : called at each scrape, on the scraper's thread.
    announcements_wait : tells whether something could not be announced.

    Examples
    --------
    >>> from prometheus_client import generate_latest
    >>> status = {"version": 3, "requests": {"failed": 1}, "oldest_pending_seconds": 0}
    >>> metrics = WorkerMetrics(lambda: status)
    >>> metrics.took_in([Record("users-0", 7, b"{}", timestamp_ms=1000)], 1, 0)
    >>> b"recunlearn_recorded_total 1.0" in generate_latest(metrics.registry)
    True
    """

    def __init__(self, status: Status, announcements_wait: Callable[[], bool] = lambda: False) -> None:
        self.registry = CollectorRegistry()
        self.polled_at = time.monotonic()
        self._lag_at = 0.0
        self._recorded = self._counter("recunlearn_recorded", "Requests recorded and fenced")
        self._set_aside = self._counter("recunlearn_set_aside", "Records that could not be read")
        self._erased = self._counter("recunlearn_erased", "Requests erased")
        self._failed = self._counter("recunlearn_failed_attempts", "Requests that a model could not forget")
        self._to_fenced = self._histogram(
            "recunlearn_to_fenced_seconds", "From the event's time in the source to its user fenced", _FENCED
        )
        self._to_erased = self._histogram(
            "recunlearn_to_erased_seconds", "From a request received to erased", _ERASED
        )
        self._sizes = self._histogram("recunlearn_batch_requests", "Requests in a batch", _SIZES)
        self._phases = Histogram(
            "recunlearn_batch_seconds", "Wall time of a batch, by phase", ["phase"],
            buckets=_SOLVE, registry=self.registry,
        )  # fmt: skip
        self._solving = Gauge(
            "recunlearn_batch_at_hand", "Requests in the batch that is being worked off; 0: none",
            registry=self.registry,
        )  # fmt: skip
        self._lag = Gauge(
            "recunlearn_lag_records", "Records in the source that were not read, by partition", ["partition"],
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Readings(status, announcements_wait))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> "_ManyAtOnce":
        return _ManyAtOnce(name, text, buckets=buckets, registry=self.registry)

    def polled(self, source: EventSource) -> None:
        """Note that the source is being read and, once a second, how far it is behind."""
        self.polled_at = now = time.monotonic()
        if now - self._lag_at >= _LAG_SECONDS:
            self._lag_at = now
            for partition, records in source.lag().items():
                self._lag.labels(partition).set(records)

    def took_in(self, records: Sequence[Record], recorded: int, dead_letters: int) -> None:
        """Count an intake, and how long each of its records took to be fenced."""
        now = time.time()
        self._recorded.inc(recorded)
        self._set_aside.inc(dead_letters)
        stamps = [record.timestamp_ms for record in records if record.timestamp_ms is not None]
        self._to_fenced.observe_all(np.maximum(0.0, now - np.array(stamps, np.float64) / 1000))

    def began(self, size: int) -> None:
        """Note the batch at hand."""
        self._sizes.observe(size)
        self._solving.set(size)

    def ended(self, report: CycleReport, ages: Sequence[float]) -> None:
        """Count what became of a batch."""
        self._solving.set(0)
        self._erased.inc(report.erased)
        self._failed.inc(report.failed)
        for phase, seconds in report.seconds.items():
            self._phases.labels(phase).observe(seconds)
        self._to_erased.observe_all(np.array(ages, np.float64))


class _ManyAtOnce(Histogram):
    """A histogram that takes a whole portion in as many steps as there are buckets."""

    def observe_all(self, amounts: NDArray[np.float64]) -> None:
        """Do what :meth:`observe` does for each of ``amounts``; O(n log buckets), each bucket locked once."""
        self._sum.inc(float(amounts.sum()))
        places = np.searchsorted(self._upper_bounds, amounts)  # of the first bound that is not less
        for bucket, count in zip(self._buckets, np.bincount(places).tolist(), strict=False):
            bucket.inc(count)


class _Readings(Collector):
    """What is read when it is scraped: version, requests by state, age of the oldest open one."""

    def __init__(self, status: Status, announcements_wait: Callable[[], bool]) -> None:
        self._status, self._announcements_wait = status, announcements_wait

    def describe(self) -> Iterable[Metric]:
        """Say nothing at registration: reading the ledger then would be too early."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the ledger."""
        status = self._status()
        yield GaugeMetricFamily(
            "recunlearn_published_version", "Number of the published version", value=status["version"]
        )
        yield from duties(status)
        yield GaugeMetricFamily(
            "recunlearn_announcements_wait",
            "1: something could not be announced yet",
            value=float(self._announcements_wait()),
        )
