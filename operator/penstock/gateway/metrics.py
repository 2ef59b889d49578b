"""What the gateway measures of itself, for Prometheus. Nothing here names a namespace, a deployment or a caller."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300)


class Metrics:
    """All metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "penstock_gateway_requests_total", "Answers", ("method", "route", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "penstock_gateway_request_seconds",
            "Time until an answer began, waiting for executions included",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.started = Counter(
            "penstock_gateway_executions_started_total", "Executions that calls have started", registry=self.registry
        )
        self.waiting = Gauge(
            "penstock_gateway_callers_waiting", "Callers that wait for an execution", registry=self.registry
        )
        self.leftovers = Counter(
            "penstock_gateway_leftovers_total",
            "Uploaded files of calls that came to nothing and could not be removed",
            registry=self.registry,
        )

    async def show(self, _: Request) -> Response:
        """Answer with all of it, in Prometheus' text format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE)


class Measured:
    """An application whose answers are counted by route: what is in a path or a query is no label.

    Args:
        app: the application.
        metrics: where to count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope.get("route") else "other"
                self._metrics.requests.labels(method, route, str(message["status"])).inc()
                self._metrics.seconds.labels(method, route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counted)
