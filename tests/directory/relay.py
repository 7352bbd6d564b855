"""A door before a real server that counts messages, and can lose an answer on its way."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

__all__ = ["Relay"]


class Relay:
    """Passes on what comes; *round_trips* counts what clients sent and then waited for."""

    def __init__(self, host: str, port: int) -> None:
        self.round_trips = 0
        self.losing = threading.Event()  # answers are lost, and with the next their connection
        self.closed = False  # nobody new is let in
        self._server = (host, port)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._asking: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._let_in, daemon=True).start()

    def cut(self) -> None:
        """End all connections to clients; the server's sides stay open until it has answered."""
        for client, _ in tuple(self._pairs):  # not those who come back meanwhile
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._door.close()
        for pair in self._pairs:
            for each in pair:
                each.close()

    def _let_in(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                if self.closed:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._pairs.append((client, server))
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if client not in self._asking:  # a long message comes in pieces
                    self._asking.add(client)
                    self.round_trips += 1
                server.sendall(data)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.losing.is_set():
                    self.losing.clear()
                    client.shutdown(socket.SHUT_RDWR)
                    return
                self._asking.discard(client)
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
