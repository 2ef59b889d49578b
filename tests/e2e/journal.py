"""A log outside of the cluster that steps append to: it knows what has run even where nothing of it is left.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from e2e.cluster.settings import NODE_ADDRESS

WRITE = 'wget -q -O /dev/null "http://{address}/$PENSTOCK_EXECUTION/$PENSTOCK_STEP/$PENSTOCK_ATTEMPT"'


class _Server(ThreadingHTTPServer):
    # The default of 5 makes a burst of steps wait for a second.
    request_queue_size = 200


class Journal:
    """Takes a line from every step that runs.

    Attributes:
        entries: the execution, step and attempt of each start, in their order.
        write: shell command of a step that appends its line, or fails.
    """

    def __init__(self, address: str, entries: list[tuple[str, str, int]]) -> None:
        self.entries = entries
        self.write = WRITE.format(address=address)

    def of(self, execution: str) -> list[tuple[str, int]]:
        """The steps and attempts of an execution, in the order of their starts."""
        return [(step, attempt) for name, step, attempt in list(self.entries) if name == execution]


@contextmanager
def open_journal() -> Iterator[Journal]:
    """A journal on the address of the cluster's own node, which pods reach."""
    entries: list[tuple[str, str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, execution, step, attempt = self.path.split("/")
            entries.append((execution, step, int(attempt)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server((NODE_ADDRESS, 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Journal(f"{NODE_ADDRESS}:{server.server_port}", entries)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
