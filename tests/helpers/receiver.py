"""A receiver of notifications on this machine: a web server that keeps what is posted to it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "XyZ-1234-a-path-is-a-secret"
REFUSING = "refuses-with-500"


class Receiver(ThreadingHTTPServer):
    """Answers to posted JSON; with an error if the path says so.

    Attributes:
        messages: what came, in order, each with the `time` at which it came.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[dict[str, Any]] = []

    def address(self, path: str = TOKEN) -> str:
        """Return the address of the server for apprise."""
        return f"json://127.0.0.1:{self.server_address[1]}/{path}"

    @property
    def titles(self) -> list[str]:
        """The titles of the messages so far, without the name of the run."""
        return [" ".join(message["title"].split()[:2]) for message in self.messages]

    def wait(self, count: int, seconds: float = 30.0) -> None:
        """Wait until so many messages have come."""
        deadline = time.monotonic() + seconds
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.messages) >= count, self.messages


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Receiver)
        if REFUSING not in self.path:
            self.server.messages.append({**content, "time": time.time()})
        self.send_response(500 if REFUSING in self.path else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run such a server."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
