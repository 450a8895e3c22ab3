"""uvicorn, for clients that dawdle and for an end that drops nothing.

uvicorn waits without limit for the head of a request and for a client that does not read, and closes idle connections
the moment it is told to end, even if a request is on its way. These two classes see to that.
"""

import asyncio
import contextlib
import selectors

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.limits import error_body

HEAD_SECONDS = 10.0  # for the head of a request to arrive, at most, from its first byte or from the connection
IDLE_SECONDS = 30  # between two requests
WRITE_SECONDS = 30.0  # for a client to read what is waiting
GRACE_SECONDS = 1.0  # for requests on their way when the server is told to end
MOMENT_SECONDS = 0.01
DRAIN_SECONDS = 120  # for what was accepted to be answered
MAX_HEAD_BYTES = 32 * 2**10
BACKLOG = 2048


class Protocol(H11Protocol):
    """One connection, with a bounded time for everything that depends on the client."""

    max_connections = 1024
    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._head_timer = None
        self._write_timer = None
        self._ending = False

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "Too many connections.", [(b"retry-after", b"1")])
            return
        self._start_head_timer()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._stop_timers()

    def data_received(self, data):
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._busy:
            self._stop_head_timer()
            if self._ending:
                self.cycle.keep_alive = False
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_head_timer()

    @property
    def _busy(self):
        return self.cycle is not None and not self.cycle.response_complete

    def send_400_response(self, msg):
        self._refuse(400, msg)

    def _refuse(self, status, message, headers=()):
        """Answers without a request to answer, and closes."""
        body = error_body(message)
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        # The state of the connection may allow no answer any more: then closing it is the answer.
        with contextlib.suppress(h11.LocalProtocolError):
            answer = h11.Response(status_code=status, headers=[*head, (b"connection", b"close"), *headers])
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _start_head_timer(self):
        self._head_timer = self.loop.call_later(self.head_seconds, self._on_slow_head)

    def _stop_head_timer(self):
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_slow_head(self):
        self._head_timer = None
        if not self._busy and not self.transport.is_closing():
            self._refuse(408, f"The request did not arrive within {self.head_seconds:g} s.")

    def pause_writing(self):
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self):
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self):
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _stop_timers(self):
        self._stop_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def shutdown(self):
        self._ending = True
        if self._busy:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(GRACE_SECONDS, self._close_if_idle)

    def _close_if_idle(self):
        if self._busy or self.transport.is_closing():
            return
        if self._has_unread():
            self.loop.call_later(MOMENT_SECONDS, self._close_if_idle)
        else:
            self.transport.close()

    def _has_unread(self):
        """Whether something has arrived that the event loop has not read yet."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.transport.get_extra_info("socket"), selectors.EVENT_READ)
            return bool(selector.select(0))


class Server(uvicorn.Server):
    """uvicorn's server, which tells when it is about to end, and takes first what waits to be accepted.

    Args:
        config: `uvicorn.Config`.
        on_exit: Called when it ends, before it stops to listen.
    """

    def __init__(self, config, on_exit):
        super().__init__(config)
        self._on_exit = on_exit

    async def shutdown(self, sockets=None):
        self._on_exit()
        for listener in sockets or ():
            await self._accept_waiting(listener)
        await super().shutdown(sockets)

    async def _accept_waiting(self, listener):
        """Accepts the connections that the system has made: they would be reset with the listening socket."""
        with contextlib.suppress(OSError):  # there is none left
            while True:
                connection, _ = listener.accept()
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self):
        return self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def run(app, socket, *, on_exit, max_connections, seconds):
    """Serves an ASGI application on a bound socket until a signal ends it, and what was accepted is answered.

    Args:
        app: The application.
        socket: Bound, not yet listening.
        on_exit: Called when a signal ends it, before it stops to listen.
        max_connections: At a time; more are refused with 503.
        seconds: For the head of a request to arrive, and for a client to read what waits for it, at most.

    The signal is raised again, for the handlers that were there before, when everything is answered.
    """
    bounds = {
        "max_connections": max_connections,
        "head_seconds": min(seconds, HEAD_SECONDS),
        "write_seconds": min(seconds, WRITE_SECONDS),
    }
    config = uvicorn.Config(
        app,
        http=type("BoundedProtocol", (Protocol,), bounds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    with contextlib.suppress(asyncio.CancelledError):
        Server(config, on_exit).run(sockets=[socket])
