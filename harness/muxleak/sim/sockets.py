"""The sockets below the simulated transports, the resolver, and the system's errors.

Programs ask a transport's socket for names and set options on it; no option has an effect here.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Address = tuple[str, int]

LOOPBACK = "127.0.0.1"
_ANY = {"", "0.0.0.0", "::"}  # noqa: S104 - recognised, not bound
_PORTS = {"http": 80, "https": 443}


class SimSocket:
    """Stands in the place of a transport's socket; knows its addresses and accepts any option."""

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, sockname: Any, peername: Any = None) -> None:
        self.family = socket.AF_INET6 if ":" in sockname[0] else socket.AF_INET
        self._names = sockname, peername

    def getsockname(self) -> Any:
        """Return the socket's own address."""
        return self._names[0]

    def getpeername(self) -> Any:
        """Return the other end's address.

        Raises:
            OSError: the socket is not connected.
        """
        if self._names[1] is None:
            raise error(errno.ENOTCONN)
        return self._names[1]

    def fileno(self) -> int:
        """Return -1: there is no file."""
        return -1

    def setsockopt(self, *_options: object) -> None:
        """Accept an option, which has no effect here."""

    def getsockopt(self, *_options: object) -> int:
        """Return 0: no option is set."""
        return 0


class Names:
    """Resolves IP literals, "localhost" and the names that are declared."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._hosts = {"localhost": LOOPBACK, **hosts}

    def resolve(self, host: object, *, passive: bool = False) -> str:
        """Return the address of a host; of no host, the wildcard or loopback.

        Args:
            host: an IP literal, "localhost", a declared name, or "" or None for no host.
            passive: True for a server, which then gets the wildcard; a client gets loopback.

        Raises:
            socket.gaierror: the host is neither a literal nor declared.
        """
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        if name in _ANY:
            return name if name and passive else "0.0.0.0" if passive else LOOPBACK  # noqa: S104 - recognised, not bound
        found = self._hosts.get(name.lower(), name)
        try:
            return _literal(found)
        except ValueError:
            raise socket.gaierror(
                socket.EAI_NONAME,
                f"{name!r} is not declared in this simulation; add it to Network(hosts=...)",
            ) from None

    def info(self, host: object, port: object, kind: int, *, passive: bool) -> list[Any]:
        """Return an answer in the form of `socket.getaddrinfo`."""
        address = self.resolve(host, passive=passive)
        number = _port(port)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        target = (address, number, 0, 0) if ":" in address else (address, number)
        kinds = [(socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)]
        return [(family, each, proto, "", target) for each, proto in kinds if kind in {0, each}]


def is_any(address: str) -> bool:
    """Return True if an address is a wildcard."""
    return address in _ANY


def error(number: int) -> OSError:
    """Return the operating system's error with this number, in its subclass of `OSError`."""
    return OSError(number, os.strerror(number))


@lru_cache(maxsize=256)
def _literal(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _port(port: object) -> int:
    if isinstance(port, str | bytes):
        text = port.decode() if isinstance(port, bytes) else port
        return int(text) if text.isdigit() else _PORTS[text]
    return int(port or 0)  # type: ignore[call-overload,no-any-return]
