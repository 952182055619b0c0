"""The host's end of an emulated board's serial line: a local socket, with a time limit for everything."""

import socket
import struct
import time
from types import TracebackType

from firmware_export.emulate.errors import EmulationError, EmulationTimeoutError

HEAD = struct.Struct(">BI")
"""Of a frame: its kind, the number of bytes that follow; big-endian as CBOR is."""
FRAME_LIMIT_BYTES = 1 << 20


class Uart:
    """Bytes to and from the board, in order and none lost; all calls wait, `limit_s` at most.

    Open it before QEMU starts, give QEMU `option`, then talk: the first call waits for the connection.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._connection: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)

    def __enter__(self) -> "Uart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def option(self) -> str:
        """QEMU's value of ``-serial``."""
        return f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """End the line; what the board sends from now on is lost."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises: EmulationTimeoutError, EmulationError where the board has ended."""
        try:
            connection = self._connected()
            connection.settimeout(self.limit_s)
            connection.sendall(data)
        except TimeoutError as exc:
            raise EmulationTimeoutError(f"uart: {len(data):,} bytes were not taken within {self.limit_s:g} s") from exc
        except OSError as exc:
            raise EmulationError(f"uart: the line is closed ({exc})") from exc

    def receive(self, size: int) -> bytes:
        """Wait for exactly `size` bytes. Raises: EmulationTimeoutError, EmulationError where the board has ended."""
        received, end = bytearray(), time.monotonic() + self.limit_s
        try:
            connection = self._connected()
            while len(received) < size:
                connection.settimeout(max(end - time.monotonic(), 1e-6))
                part = connection.recv(size - len(received))
                if not part:
                    raise EmulationError(f"uart: the line ended after {len(received):,} of {size:,} bytes")
                received += part
        except TimeoutError as exc:
            got = f"got {len(received):,} of {size:,} bytes within {self.limit_s:g} s"
            raise EmulationTimeoutError(f"uart: {got}") from exc
        except OSError as exc:
            raise EmulationError(f"uart: the line is closed ({exc})") from exc
        return bytes(received)

    def send_frame(self, kind: bytes, body: bytes = b"") -> None:
        """Send one frame; `kind` is one byte."""
        self.send(HEAD.pack(kind[0], len(body)) + body)

    def receive_frame(self) -> tuple[bytes, bytes]:
        """Wait for one frame: kind and body. Raises: EmulationError for one that claims to be too long."""
        kind, size = HEAD.unpack(self.receive(HEAD.size))
        if size > FRAME_LIMIT_BYTES:
            raise EmulationError(f"uart: a frame of {size:,} bytes, allowed {FRAME_LIMIT_BYTES:,}; the line is broken")
        return bytes([kind]), self.receive(size)

    def _connected(self) -> socket.socket:
        if self._connection is None:
            self._listener.settimeout(self.limit_s)
            self._connection, _ = self._listener.accept()
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection
