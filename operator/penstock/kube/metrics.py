"""What the operator measures of itself, for Prometheus, and the small HTTP server that tells it and answers probes."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

_FAST = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 300, 1_800)
_CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "penstock_api_requests_total",
            "Requests to the API server",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "penstock_api_request_seconds", "Time of requests to the API server", ("verb",), registry=self.registry
        )
        self.passes = Histogram(
            "penstock_pass_seconds",
            "Time of passes over executions, their requests included",
            buckets=_FAST,
            registry=self.registry,
        )
        self.waited = Histogram(
            "penstock_queue_wait_seconds",
            "Time that an execution waited for a pass",
            buckets=_FAST,
            registry=self.registry,
        )
        self.start = Histogram(
            "penstock_execution_start_seconds",
            "From an execution's creation, which Kubernetes knows to the second, until its first attempts were created",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.finish = Histogram(
            "penstock_execution_finish_seconds",
            "From the end of its last container, which Kubernetes knows to the second, until its end was written",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.executions = Counter(
            "penstock_executions_finished_total", "Executions that finished", ("phase",), registry=self.registry
        )
        self.live = Gauge("penstock_executions_live", "Executions that are not finished", registry=self.registry)
        self.attempts = Gauge("penstock_attempts_live", "Attempts whose end is not recorded", registry=self.registry)
        self.queue = Gauge("penstock_queue_depth", "Executions that wait for a pass", registry=self.registry)
        self.deployments = Gauge("penstock_deployments", "Deployments that are there", registry=self.registry)
        self.late = Histogram(
            "penstock_schedule_late_seconds",
            "From the time of a schedule until its execution was created",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.events = Counter(
            "penstock_events_total",
            "Events for people and their repetitions: written, failed, or dropped because too many waited",
            ("outcome",),
            registry=self.registry,
        )
        self.history_waiting = Gauge(
            "penstock_history_waiting",
            "Executions with something that is not in the history yet; 0 where there is none",
            registry=self.registry,
        )
        self.history_lag = Gauge(
            "penstock_history_lag",
            "Seconds for which the oldest execution has waited that is not in the history yet",
            registry=self.registry,
        )
        self.history_refused = Gauge(
            "penstock_history_refused",
            "Executions that cannot be recorded, as the log says, and are therefore not removed",
            registry=self.registry,
        )
        self.leading = Gauge("penstock_leader", "1 if this replica leads", registry=self.registry)
        self.steps = Counter(
            "penstock_steps_finished_total", "Steps and items that finished", ("phase",), registry=self.registry
        )

    def on_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request to the API server was answered."""
        self.requests.labels(verb, resource, str(code)).inc()
        self.request_seconds.labels(verb).observe(seconds)

    def described(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Name, type, labels and meaning of each metric, as people look for them."""
        found = []
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                suffix = "_total" if family.type == "counter" else ""
                labels = tuple(metric._labelnames)
                found.append((family.name + suffix, family.type, labels, family.documentation))
        return sorted(found)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


async def serve(port: int, metrics: Metrics, healthy: Callable[[], bool], ready: Callable[[], bool]) -> web.AppRunner:
    """Serve /healthz, /readyz and /metrics; `cleanup()` of the result ends it."""

    async def answer(good: bool) -> web.Response:
        return web.Response(text="ok\n" if good else "not ok\n", status=200 if good else 503)

    async def healthz(_: web.Request) -> web.Response:
        return await answer(healthy())

    async def readyz(_: web.Request) -> web.Response:
        return await answer(ready())

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": _CONTENT})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
