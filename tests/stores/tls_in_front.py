"""TLS before a PostgreSQL whose build has none, as PgBouncer does it: plain connections are refused."""

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_REFUSAL = b"SFATAL\0C28000\0MTLS is required\0\0"


class TlsInFront:
    """Listens on a free port of 127.0.0.1 and passes on what comes by TLS."""

    def __init__(self, behind: int, certificate: Path) -> None:
        self._behind, self._context = behind, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="tls", daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(30)
            while (request := struct.unpack("!ii", client.recv(8, socket.MSG_WAITALL))[1]) == _GSS_REQUEST:
                client.sendall(b"N")
            if request != _SSL_REQUEST:
                client.sendall(b"E" + struct.pack("!i", len(_REFUSAL) + 4) + _REFUSAL)
                return
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(("127.0.0.1", self._behind)) as server,
            ):
                back = threading.Thread(target=_pass_on, args=(server, secure), daemon=True)
                back.start()
                _pass_on(secure, server)
                back.join()

    def __enter__(self) -> "TlsInFront":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Pass on until the source ends, then end the target."""
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
