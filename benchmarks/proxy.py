"""A TCP proxy that counts round trips: how often the client speaks after the server spoke."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class CountingProxy:
    """Forwards to *host* and *port*; :attr:`trips` counts over all its connections.

    :attr:`delay` is how many seconds each message is held back, either way.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.trips = 0
        self.delay = 0.0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                said = [False]
                threading.Thread(
                    target=self._forward, args=(client, server, said, True), daemon=True
                ).start()
                threading.Thread(
                    target=self._forward, args=(server, client, said, False), daemon=True
                ).start()

    def _forward(
        self, here: socket.socket, there: socket.socket, said: list[bool], by_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                if by_client and not said[0]:
                    self.trips += 1
                said[0] = by_client
                if self.delay:
                    time.sleep(self.delay)
                there.sendall(data)
        for each in (here, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def counting_proxy(host: str, port: int) -> Iterator[CountingProxy]:
    """A proxy for the length of a block."""
    proxy = CountingProxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
