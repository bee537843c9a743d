"""Which address to connect to, and how a socket is set up."""

from __future__ import annotations

import socket
from typing import Any, List, Optional, Tuple

# (family, socket address): enough to open a TCP connection.
Address = Tuple[int, Tuple[Any, ...]]

CONNECT_S_MAX = 10.0


def in_order(found: List[Tuple[Any, ...]], avoided: Optional[Address]) -> List[Address]:
    """What getaddrinfo found, in its order, but the node that was just lost or left comes last."""
    addresses: List[Address] = [(family, address) for family, _, _, _, address in found]
    return [a for a in addresses if a != avoided] + [a for a in addresses if a == avoided]


def connect(host: str, port: int, avoided: Optional[Address]) -> Tuple[socket.socket, Address]:
    """Blocks until one of the name's addresses is connected; `OSError` of the last one if none is."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = OSError(f"{host} has no address")
    for family, address in in_order(found, avoided):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_S_MAX)
            sock.connect(address)
            prepare(sock)
            return sock, (family, address)
        except OSError as failed:
            sock.close()
            error = failed
    raise error


def prepare(sock: socket.socket) -> None:
    """Small frames leave at once, and nothing on the socket blocks."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
