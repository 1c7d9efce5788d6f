"""A tracking server, and a proxy that causes errors and delays."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A tracking server that can be killed, stopped and started again."""

    def __init__(self, folder: Path, empty_store: Path | None = None) -> None:
        self.folder = folder
        if empty_store is not None:
            shutil.copy(empty_store, folder / "server.db")
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.options = ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
        self.environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self.folder / "artifacts"), *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | self.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text())

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


class Proxy:
    """Forwards requests to a server, with delays and errors.

    Attributes:
        fails: whether it answers with an error itself.
        error: the status of the error.
        delay: seconds to wait before each request.
        limit: the largest body in bytes that it passes on.
        too_large: the status of its answer to a larger one; None cuts the connection.
        port: the port of the proxy.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.fails, self.error, self.delay = False, 500, 0.0
        self.limit: float = float("inf")
        self.too_large: int | None = 413
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(proxy.delay)
                if len(body) > proxy.limit:
                    if proxy.too_large is None:
                        self.close_connection = True
                    else:
                        self.answer(proxy.too_large, b"<html></html>", "text/html")
                    return
                if proxy.fails:
                    self.answer(proxy.error, b"" if proxy.error < 500 else b"{}", "application/json")
                    return
                server = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                try:
                    server.request(self.command, self.path, body, headers)
                    answer = server.getresponse()
                    self.answer(answer.status, answer.read(), answer.headers.get("Content-Type", "text/plain"))
                except OSError:
                    self.close_connection = True
                finally:
                    server.close()

            def answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
