"""What the server tells Prometheus at /metrics."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from sandbox.results import Result

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One registry of its own; `gauges` are read whenever somebody asks."""

    def __init__(self, level: str, gauges: dict[str, Callable[[], int]]) -> None:
        self._registry = registry = CollectorRegistry()
        self._runs = Counter(
            "sandbox_runs", "Programs and cells, by how they ended", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "sandbox_run_seconds",
            "Wall time of a program or cell",
            buckets=BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "sandbox_refused",
            "Requests answered with an error, by HTTP status",
            ["code"],
            registry=registry,
        )
        self._errors = Counter(
            "sandbox_errors", "Failures of the sandbox itself", registry=registry
        )
        info = Gauge("sandbox_level", "1 for the isolation found", ["level"], registry=registry)
        info.labels(level).set(1)
        for name, read in gauges.items():
            gauge = Gauge(f"sandbox_{name}", f"Jobs or sessions: {name}", registry=registry)
            gauge.set_function(read)

    def ran(self, result: Result) -> None:
        self._runs.labels(result.status).inc()
        self._seconds.observe(result.seconds)

    def refused(self, code: int) -> None:
        self._refused.labels(str(code)).inc()

    def failed(self) -> None:
        self._errors.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
