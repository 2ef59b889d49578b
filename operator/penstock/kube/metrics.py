"""What the operator measures of itself, for Prometheus, and the small HTTP server that tells it and answers probes."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self.passes = Counter("penstock_passes_total", "Passes over executions", registry=self.registry)
        self.executions = Counter(
            "penstock_executions_finished_total", "Executions that finished", ("phase",), registry=self.registry
        )
        self.live = Gauge("penstock_executions_live", "Executions that are not finished", registry=self.registry)
        self.attempts = Gauge("penstock_attempts_live", "Attempts whose end is not recorded", registry=self.registry)
        self.queue = Gauge("penstock_queue_depth", "Executions that wait for a pass", registry=self.registry)
        self.leading = Gauge("penstock_leader", "1 if this replica leads", registry=self.registry)
        self.steps = Counter(
            "penstock_steps_finished_total", "Steps and items that finished", ("phase",), registry=self.registry
        )

    def on_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request to the API server was answered."""
        self.requests.labels(verb, resource, str(code)).inc()
        self.request_seconds.labels(verb).observe(seconds)

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
