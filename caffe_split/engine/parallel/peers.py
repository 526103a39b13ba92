"""Noticing that one of several processes has ended.

A process in a collective operation may wait half an hour for a dead one, and then gets an error about a socket. So each
process keeps a connection to the first one; the system closes it when the process ends, whatever the cause. The first
process logs which one is gone, with the reason if that one could still send it; the others end without a message.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from caffe_split.errors import CaffeSplitError

# Seconds within which all processes have to connect. A machine that is off, or cut off, counts as gone after about
# 30 + 3 x 10 seconds of silence (TCP keepalive).
JOIN = 300.0
_QUIET, _EVERY, _TRIES = 30, 10, 3
# A process that fails waits this many seconds for the first one, which mostly fails for the same reason and reports it;
# and then this many for the first one to end it.
_FIRST = 1.0
_LAST = 10.0


class Store(Protocol):
    """The part of torch.distributed's stores that is used here."""

    def set(self, key: str, value: str) -> None:
        """Set `key` for all processes."""

    def get(self, key: str) -> bytes:
        """The value of `key`, once some process has set it."""


class Watch:
    """The connections of one process to the others.

    `say` writes the line that says why all end. `busy` is a lock to hold while something must not be cut short, such as
    a snapshot. Raises `CaffeSplitError` where not all processes connect.
    """

    def __init__(self, rank: int, size: int, store: Store, host: str, say: Callable[[str], None]) -> None:
        self.rank, self.size, self._say = rank, size, say
        self.busy = threading.RLock()
        self._speech = threading.Lock()
        self._said = self._leaving = False
        self._ended = threading.Event()
        self._links: dict[int, _Link] = {}
        if rank == 0:
            self._listen(store)
            work = self._hear_all
        else:
            self._call(store, host)
            work = self._hear_first
        threading.Thread(target=work, daemon=True).start()

    # -- connecting

    def _listen(self, store: Store) -> None:
        server = _server()
        token = secrets.token_hex(16)
        store.set("watch", json.dumps([server.getsockname()[1], token]))
        end = time.monotonic() + JOIN
        with server:
            while len(self._links) < self.size - 1:
                server.settimeout(max(0.01, end - time.monotonic()))
                try:
                    link = _Link(server.accept()[0])
                    hello = link.read(5.0)
                except (OSError, ValueError):
                    if time.monotonic() >= end:
                        raise CaffeSplitError(
                            f"only {len(self._links) + 1} of {self.size} processes came within {JOIN:g} s"
                        ) from None
                    continue
                # Anything else that connects to the port does not know the token.
                if isinstance(hello, dict) and hello.get("token") == token:
                    link.who = f"process {hello['rank']} of {self.size} (host {hello['host']}, pid {hello['pid']})"
                    self._links[int(hello["rank"])] = link

    def _call(self, store: Store, host: str) -> None:
        try:
            port, token = json.loads(store.get("watch"))
            link = _Link(socket.create_connection((host, port), JOIN))
            link.write({"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid(), "token": token})
        except (OSError, RuntimeError, ValueError) as error:
            raise CaffeSplitError(f"process {self.rank} does not reach the first one at {host}: {error}") from None
        link.who = f"process 0 of {self.size} (host {host})"
        self._links[0] = link

    # -- listening

    def _hear_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            for link in self._links.values():
                selector.register(link.socket, selectors.EVENT_READ, link)
            while selector.get_map():
                for key, _ in selector.select():
                    link = key.data
                    word = link.read()
                    if word is None or "bye" in word:
                        selector.unregister(link.socket)
                    if word is None:
                        self.end(f"{link.who} is gone: killed, cut off, or dead without a word")
                    elif "failed" in word:
                        self.end(f"{link.who}: {word['failed']}")

    def _hear_first(self) -> None:
        word = self._links[0].read()
        if word is not None and "bye" in word:
            return
        self._ended.set()
        if word is None and self.rank == 1:
            self.end(f"{self._links[0].who} is gone: killed, cut off, or dead without a word")
        if not self._leaving:
            self._exit()

    def end(self, reason: str) -> None:
        """Log the reason and end this process, and by that all of them, after a snapshot that has begun."""
        with self._speech:
            if self._said or self._leaving:
                return
            self._said = True
            self._say(reason)
        self._exit()

    def _exit(self) -> None:
        # Nothing but a snapshot that has begun is worth waiting for.
        self.busy.acquire(timeout=600)
        self._tell({"failed": ""})
        os._exit(1)

    def _tell(self, word: dict[str, str]) -> None:
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.write(word)

    # -- ending

    def fail(self, reason: str) -> None:
        """Report why this process ends, unless a reason has been logged. The caller has to end it afterwards."""
        if self.rank:
            # Most mistakes are the same in all processes; then the first one reports it.
            if not self._ended.wait(_FIRST):
                self._leaving = True
                self._tell({"failed": reason})
                self._ended.wait(_LAST)
            return
        with self._speech:
            if not self._said:
                self._said = True
                self._say(reason)
        self._tell({"failed": ""})

    def wait_for_end(self) -> None:
        """After an error in a collective operation, give the watch time to end this process; returns if it does not."""
        time.sleep(_LAST)

    def leave(self) -> None:
        """Tell the others that this process is done, so that its end is no failure."""
        self._leaving = self.rank == 0
        self._tell({"bye": ""})


class _Link:
    """Messages between two processes: lines of JSON over a socket. `who` describes the other process."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self.who = connection, ""
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", _QUIET), ("TCP_KEEPINTVL", _EVERY), ("TCP_KEEPCNT", _TRIES)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._rest = b""

    def write(self, word: dict[str, Any]) -> None:
        """Send a message. Raises `OSError` where the other side is gone."""
        self.socket.sendall(json.dumps(word).encode() + b"\n")

    def read(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message, waiting at most `timeout` seconds; None where the other side is gone or silent."""
        self.socket.settimeout(timeout)
        try:
            while b"\n" not in self._rest and len(self._rest) < 1 << 20:
                block = self.socket.recv(1 << 16)
                if not block:
                    return None
                self._rest += block
        except OSError:
            return None
        finally:
            self.socket.settimeout(None)
        line, _, self._rest = self._rest.partition(b"\n")
        word: dict[str, Any] = json.loads(line)
        return word


def _server() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
