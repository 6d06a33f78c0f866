"""What went wrong in putting the cache in place, on a page of its own, as node-cache has it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubewire.dns.metrics import Book, Metric

ERRORS = Metric(
    "coredns_nodecache_setup_errors_total",
    "The number of errors during periodic network setup for node-cache", ("errortype",),
)  # fmt: skip
KINDS = ("configmap", "interface_add", "interface_check", "iptables", "iptables_lock")


def book() -> Book:
    """Counters, all of them 0."""
    made = Book()
    for kind in KINDS:
        made.add(ERRORS, kind, n=0)
    return made


class Page:
    """Serves /metrics from a thread. A context; without an address it does nothing."""

    def __init__(self, address: tuple[str, int] | None, counters: Book) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = ("\n".join(counters.lines()) + "\n").encode()
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(body if self.path == "/metrics" else b"404\n")

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(address, Handler) if address else None

    def __enter__(self) -> None:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
