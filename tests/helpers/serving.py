"""A server of predictions, in a process of its own or in this one, and requests to it."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runner.runs.predictor import Predictor
from runner.runs.server.app import Server
from runner.runs.server.description import about_run
from runner.runs.server.limits import Limits
from runner.saved.run import find


class Answer(NamedTuple):
    status: int
    content: Any
    headers: dict[str, str]


class Serving:
    """`python -m runner.serve` on a free port.

    Attributes:
        lines: what it has printed until it was ready.
        port: that it listens on.
    """

    def __init__(self, run: Path | str, *arguments: str) -> None:
        command = [sys.executable, "-m", "runner.serve", f"run={run}", "port=0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        assert self.process.stderr is not None
        self.lines: list[str] = []
        while not (self.lines and self.lines[-1].startswith("requests")):
            self.lines.append(self.process.stderr.readline())
            assert self.lines[-1], self.lines
        address = re.search(r"127\.0\.0\.1:(\d+)", self.lines[-1])
        assert address is not None
        self.port = int(address[1])

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def end(self, number: signal.Signals = signal.SIGINT, seconds: float = 10) -> tuple[int, str]:
        """Send a signal; return the exit code and what was printed since."""
        self.process.send_signal(number)
        _, printed = self.process.communicate(timeout=seconds)
        return self.process.returncode, printed

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(
        self, body: Any = None, kind: str = "application/json", path: str = "/invocations", **headers: str
    ) -> Answer:
        """Post a body, or get a page if there is none."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        method = headers.pop("method", "GET" if content is None else "POST")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, content, {"content-type": kind, **sent})
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.headers.get_content_type() == "application/json"
            given = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, json.loads(text) if is_json else text, given)
        finally:
            connection.close()

    def send(self, sent: bytes) -> bytes:
        """Send bytes, and return all that comes until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(sent)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @property
    def megabytes(self) -> float:
        """The resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024


def asked(run: Path | str, body: Any, kind: str = "application/json", query: str = "", accept: str = "*/*") -> Answer:
    """Post a body to the application in this process, without a socket."""
    saved = find(str(run))
    predictor = Predictor(saved)
    server = Server(predictor, Limits(max_new_tokens=100), about_run(saved, predictor))
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", kind.encode()), (b"accept", accept.encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "query_string": query.encode(),
        "headers": headers,
    }
    try:
        asyncio.run(server.app(scope, receive, send))
    finally:
        server.close()
    given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    text = sent[1]["body"].decode()
    return Answer(sent[0]["status"], json.loads(text) if "json" in given["content-type"] else text, given)
