"""What serving tells Prometheus: requests, latencies, the version served, swaps, duties still open.

Every name is declared here, in a registry of its own. No label ever holds an id.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class ServingMetrics:
    """Counters and gauges of one serving process.

    Parameters
    ----------
    served : called at each scrape; returns the number of the version served, and how many were swapped in.
    status : called at each scrape; returns the ``status --json`` record, whose requests by state and age of
        the oldest open one become gauges.
    recalls : called at each scrape; returns model -> recall of its approximate index.

    Examples
    --------
    >>> metrics = ServingMetrics(
    ...     lambda: (12, 3), lambda: {"requests": {"pending": 2}, "oldest_pending_seconds": 1.5}
    ... )
    >>> metrics.observe("/v1/status", 200, 0.003)
    >>> exposition = metrics.exposition()
    >>> b"recunlearn_served_version 12.0" in exposition
    True
    >>> b'recunlearn_requests{state="pending"} 2.0' in exposition
    True
    """

    def __init__(
        self,
        served: Callable[[], tuple[int, int]],
        status: Callable[[], Mapping[str, Any]],
        recalls: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "recunlearn_http_requests",
            "Answers by route and status",
            ["route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "recunlearn_http_request_seconds",
            "Time to answer, by route",
            ["route"],
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self._readings = _Readings(served, status, recalls)
        self._registry.register(self._readings)

    def observe(self, route: str, status: int, elapsed: float) -> None:
        """Count one answer. ``route``: the pattern, never the path (a path holds ids); seconds elapsed."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(elapsed)

    def exposition(self) -> bytes:
        """Return everything in Prometheus's text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        # One of several worker processes: add up what all of them counted.
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no annotations
        registry.register(self._readings)
        return generate_latest(registry)


class _Readings(Collector):
    """What is read when it is scraped: the version served, requests by state, the age of the oldest."""

    def __init__(
        self,
        served: Callable[[], tuple[int, int]],
        status: Callable[[], Mapping[str, Any]],
        recalls: Callable[[], Mapping[str, float]],
    ) -> None:
        self._served, self._status, self._recalls = served, status, recalls

    def describe(self) -> Iterable[Metric]:
        """Say nothing at registration: reading the ledger then would be too early."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the snapshot and the ledger."""
        version, swaps = self._served()
        yield GaugeMetricFamily("recunlearn_served_version", "Number of the version served", value=version)
        yield CounterMetricFamily("recunlearn_swaps", "Versions swapped in since the start", value=swaps)
        recalls = GaugeMetricFamily(
            "recunlearn_index_recall",
            "Share of the exact top ten that the index of the version served finds, asked when it was built",
            labels=["model"],
        )
        for model, recall in self._recalls().items():
            recalls.add_metric([model], recall)
        yield recalls
        yield from duties(self._status())


def duties(status: Mapping[str, Any]) -> Iterable[Metric]:
    """Yield the gauges of what is open: of a ``status --json`` record, for whoever serves metrics."""
    states = GaugeMetricFamily("recunlearn_requests", "Deletion requests by state", labels=["state"])
    for state, number in {**status["requests"], **status.get("other_requests", {})}.items():
        states.add_metric([state], number)
    yield states
    yield GaugeMetricFamily(
        "recunlearn_oldest_pending_seconds",
        "Age of the oldest request that is not erased",
        value=status["oldest_pending_seconds"] or 0.0,
    )
    yield GaugeMetricFamily(
        "recunlearn_overdue_requests",
        "Requests and unreadable records that are open for longer than they may be",
        value=status.get("due", {}).get("overdue", 0),
    )
    yield GaugeMetricFamily(
        "recunlearn_requests_waiting_for_stores",
        "Requests that are published here, and not confirmed by every store yet",
        value=status.get("waiting_for_stores", 0),
    )
    yield GaugeMetricFamily(
        "recunlearn_old_version_readers",
        "Processes that still map a version that was purged",
        value=len(status.get("old_readers", ())),
    )
