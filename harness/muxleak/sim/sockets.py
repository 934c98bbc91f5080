"""The sockets below the simulated transports, the resolver, and the system's errors.

Programs ask a transport's socket for names and set options on it, of which SO_LINGER alone has an
effect here.
Inside the simulation an address is a pair; programs see that of IPv6 with its four parts.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Address = tuple[str, int]

LOOPBACK = "127.0.0.1"
_LOOPBACK_6 = "::1"
_ANY = {"", "0.0.0.0", "::"}  # noqa: S104 - recognised, not bound
_PORTS = {"http": 80, "https": 443}


class SimSocket:
    """Stands in the place of a transport's socket; knows its addresses and keeps its options.

    Args:
        sockname: the socket's own address.
        peername: the address of the other end; None if it is not connected.
        kind: `socket.SOCK_STREAM` or `socket.SOCK_DGRAM`.
    """

    def __init__(
        self, sockname: Any, peername: Any = None, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> None:
        self.family = socket.AF_INET6 if ":" in sockname[0] else socket.AF_INET
        self.type = kind
        stream = kind == socket.SOCK_STREAM
        self.proto = socket.IPPROTO_TCP if stream else socket.IPPROTO_UDP
        self._names = sockname, peername
        self._options: dict[Any, Any] = {}
        if stream and peername is not None:
            self._options[socket.IPPROTO_TCP, socket.TCP_NODELAY] = 1  # asyncio sets it

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

    def setsockopt(self, level: int, option: int, value: Any, *_length: object) -> None:
        """Keep an option; none but SO_LINGER has an effect here."""
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, *_length: object) -> Any:
        """Return an option that was set; 0 otherwise."""
        return self._options.get((level, option), 0)

    @property
    def resets(self) -> bool:
        """True if the program has set SO_LINGER to zero seconds: its close is a reset."""
        value = self._options.get((socket.SOL_SOCKET, socket.SO_LINGER))
        return value is not None and struct.unpack_from("ii", value) == (1, 0)

    def get_inheritable(self) -> bool:
        """Return False, as for every socket of asyncio's."""
        return False

    def gettimeout(self) -> float:
        """Return 0: it never blocks."""
        return 0

    def settimeout(self, value: float | None) -> None:
        """Accept 0.

        Raises:
            ValueError: any other value, as with asyncio.
        """
        if value != 0:
            raise ValueError("settimeout(): only 0 timeout is allowed on transport sockets")

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of sockets
        """Accept False.

        Raises:
            ValueError: True, as with asyncio.
        """
        if flag:
            raise ValueError("setblocking(): transport sockets cannot be blocking")


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
        target = full((address, number))
        kinds = [(socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)]
        return [(family, each, proto, "", target) for each, proto in kinds if kind in {0, each}]


def full(address: Address) -> tuple[Any, ...]:
    """Return an address as the system gives it: with flow and scope for IPv6."""
    return (*address, 0, 0) if ":" in address[0] else address


def loopback(address: str) -> str:
    """Return the loopback address of the same family."""
    return _LOOPBACK_6 if ":" in address else LOOPBACK


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
