"""The socket and the connections of the server."""

import asyncio
import logging
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.errors import ConfigError, Problem

SECONDS_TO_FINISH = 8
"""After a signal, those in which requests at work are finished."""

IDLE_SECONDS = 60
"""How long a connection may stay open between two requests."""

BACKLOG = 1024
"""Connections that wait to be accepted."""


class Joined:
    """A transport that sends head and body of an answer together: uvicorn writes them one after the other.

    Each call of the system gives up Python's lock, and a thread that computes gives it back only after a while.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._parts = transport, loop, list[bytes]()

    def write(self, data: bytes) -> None:
        """Send data once the present step of the loop is done."""
        if data:
            if not self._parts:
                self._loop.call_soon(self.flush)
            self._parts.append(data)

    def flush(self) -> None:
        """Send what was written."""
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Close the connection, after what was written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(H11Protocol):
    """A connection that is closed if the head of a request does not arrive in time: uvicorn would wait forever.

    So is one whose client does not read the answer. The body is the application's to wait for.
    """

    seconds = 30.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self.transport = Joined(transport, self.loop)  # type: ignore[assignment]
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data; wait for the rest of a head."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if the client has not read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def bind(host: str, port: str) -> socket.socket:
    """Bind a socket, before a model is loaded.

    Raises:
        ConfigError: host or port is wrong, or in use.
    """
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        text = f"port={port} is not a port"
        raise ConfigError(
            Problem("port", text, "write a whole number from 1 to 65535, or 0 for a free one", topic="range")
        )
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        text = f"host={host} is not an address of this machine"
        raise ConfigError(Problem("host", text, "write 127.0.0.1, or 0.0.0.0 for all", topic="unavailable")) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)  # two sockets may be bound to a port, one may listen; clients wait for the model
    except OSError as error:
        listener.close()
        if "assign" in str(error.strerror):
            text = f"host={host} is not an address of this machine"
            raise ConfigError(
                Problem("host", text, "write 127.0.0.1, or 0.0.0.0 for all", topic="unavailable")
            ) from error
        other = int(port) + 1 if 1024 <= int(port) < 65535 else 8000
        text = f"port={port} is in use or not permitted"
        raise ConfigError(Problem("port", text, f"write port={other}, or another", topic="unavailable")) from error
    return listener


def listen(app: Any, listener: socket.socket, timeout: int) -> None:
    """Serve until a signal, then finish the requests at work; the signal is raised again at the end.

    Args:
        app: the ASGI application.
        listener: a bound socket.
        timeout: see `make_server`.
    """
    make_server(app, timeout).run([listener])


def make_server(app: Any, timeout: float) -> uvicorn.Server:
    """Make the server of an application.

    Args:
        app: the ASGI application.
        timeout: seconds in which the head of a request must arrive.
    """
    # It logs each request that is not HTTP, and the tasks that it cancels at the end.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=type("TimedConnection", (Connection,), {"seconds": timeout}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    return uvicorn.Server(config)
