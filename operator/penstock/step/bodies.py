"""Bodies of requests that give outputs to the store: bytes of a file, the stream of a folder, a short text."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import select
import socket
import threading
from collections.abc import Generator, Iterator

from penstock.step.archive import ArchiveError, Packing
from penstock.step.wire import TransferError

CHANGED = "changed while it was read: end what writes to it before the step ends"
_BUFFER = 256 * 1024


class Piece:
    """Some bytes of an open file, as the body of a request."""

    def __init__(self, descriptor: int, offset: int, length: int, stop: threading.Event) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._stop = stop
        self.length = length

    def chunks(self, start: int = 0) -> Iterator[memoryview]:
        """The bytes from a position in it, in a buffer that is used again."""
        buffer = memoryview(bytearray(min(_BUFFER, self.length)))
        position, end = self._offset + start, self._offset + self.length
        while position < end:
            if self._stop.is_set():
                raise TransferError("another part failed", transient=True)
            with readable():
                count = os.preadv(self._descriptor, [buffer[: min(_BUFFER, end - position)]], position)
            if count == 0:
                raise TransferError(CHANGED, transient=False)
            yield buffer[:count]
            position += count

    def md5(self) -> str:
        """As Content-MD5 has it."""
        found = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            found.update(chunk)
        return base64.b64encode(found.digest()).decode()

    def md5_and_sha256(self) -> tuple[str, str]:
        """The same and the hexadecimal SHA-256, read once."""
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        for chunk in self.chunks():
            md5.update(chunk)
            sha256.update(chunk)
        return base64.b64encode(md5.digest()).decode(), sha256.hexdigest()

    def send(self, connection: socket.socket) -> None:
        """Send all of it."""
        # A plain one and nothing else: TLS, and what counts for a progress bar, have their own ways to send.
        sent = self._send_file(connection) if type(connection) is socket.socket else 0
        for chunk in self.chunks(sent):
            connection.sendall(chunk)

    def _send_file(self, connection: socket.socket) -> int:
        """Let the kernel send what it has of the file, without a copy; returns how many bytes: all, or none if it
        cannot do so with this file.
        """
        writable = select.poll()
        writable.register(connection, select.POLLOUT)
        timeout = connection.gettimeout()
        sent = 0
        while sent < self.length:
            if self._stop.is_set():
                raise TransferError("another part failed", transient=True)
            try:
                count = os.sendfile(connection.fileno(), self._descriptor, self._offset + sent, self.length - sent)
            except BlockingIOError:
                if not writable.poll(None if timeout is None else timeout * 1000):
                    raise TimeoutError from None
                continue
            except OSError as error:
                if sent == 0 and error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    return 0
                if error.errno == errno.EIO:
                    raise TransferError(f"cannot be read: {error.strerror}", transient=False) from None
                raise
            if count == 0:
                raise TransferError(CHANGED, transient=False)
            sent += count
        return sent


class Again:
    """The stream of a folder, made again for each time that it is sent."""

    def __init__(self, packing: Packing, length: int) -> None:
        self._packing = packing
        self.length = length

    def send(self, connection: socket.socket) -> None:
        """Send all of it, if it is as long as it was."""
        left = self.length
        with contextlib.closing(pack(self._packing)) as stream:
            for data in stream:
                left -= len(data)
                if left < 0:
                    break
                connection.sendall(data)
        if left:
            raise TransferError(CHANGED, transient=False)


class Text:
    """A short body."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self.length = len(self._data)

    def send(self, connection: socket.socket) -> None:
        """Send all of it."""
        connection.sendall(self._data)


def pack(packing: Packing) -> Generator[bytes, None, None]:
    """The stream of a folder, with errors as those of a transfer."""
    with readable():
        try:
            yield from packing
        except ArchiveError as error:
            raise TransferError(str(error), transient=False) from None


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Errors of reading as those of a transfer."""
    try:
        yield
    except OSError as error:
        raise TransferError(f"cannot be read: {error.strerror}", transient=False) from None
