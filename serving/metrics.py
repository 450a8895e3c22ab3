"""What the server counts, for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "serving_requests", "Requests answered", ["method", "path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "serving_request_seconds", "Time to the answer", ["path"], buckets=SECONDS, registry=self.registry
        )
        self.open_requests = Gauge("serving_open_requests", "Requests not answered yet", registry=self.registry)
        self.waiting_rows = Gauge("serving_waiting_rows", "Rows that wait for a batch", registry=self.registry)
        self.served = Gauge("serving_versions", "Versions that are served", ["model"], registry=self.registry)
        self.batch_rows = Histogram(
            "serving_batch_rows", "Rows of a batch", ["model", "signature"], buckets=ROWS, registry=self.registry
        )

    def batches(self, model, signature):
        """Returns the function to call with the number of rows of each batch."""
        return self.batch_rows.labels(model, signature).observe


class Instrumented:
    """ASGI middleware that counts requests and their time by route, so that the paths asked for make no new series."""

    def __init__(self, app, metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        metrics, start, status = self._metrics, time.perf_counter(), 500

        async def watch(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with metrics.open_requests.track_inprogress():
            try:
                await self._app(scope, receive, watch)
            finally:
                path = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
                metrics.requests.labels(method, path, status).inc()
                metrics.seconds.labels(path).observe(time.perf_counter() - start)
