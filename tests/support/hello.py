"""ClientHellos made by OpenSSL, and by hand where OpenSSL wouldn't."""

from __future__ import annotations

import ssl


def client_hello(name: str | None) -> bytes:
    """The first flight of a TLS client that wants `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """The extension's value."""
    return vector(2, b"".join(bytes((kind,)) + vector(2, name) for name in names))


def crafted_hello(*extensions: tuple[int, bytes], record: int = 22, message: int = 1) -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    body += vector(2, b"".join(number.to_bytes(2, "big") + vector(2, value) for number, value in extensions))
    return bytes((record,)) + b"\x03\x01" + vector(2, bytes((message,)) + vector(3, body))
