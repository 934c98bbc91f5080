"""A debug endpoint that serves a few pages over HTTP, for clients on the same machine."""

# The endpoint runs inside the service that it describes, so it must not change the figures, and a
# client must not be able to harm the service:
#
# - It makes no task. A protocol answers each request in the callback that completes it.
# - It listens by the method of the loop's class. The ledger's hooks are on the loop object, so
#   they do not see the endpoint's server and connections, and no count includes them.
# - Clients hold at most `MAX_CONNECTIONS` connections, each for `TIMEOUT` seconds however slowly it
#   sends or reads, and a request has at most `MAX_REQUEST` bytes. Every connection serves one
#   request and is closed. Where all are taken, a new one ends the oldest that has not sent its
#   request yet: connections that are held open do not keep a scraper out, which sends at once.
# - There is no password, so the monitor listens on loopback unless `public` is True.
# - A web page must not read the figures through the browser of a user of this machine. Browsers
#   keep pages from the answers of another origin, and pages evade that by DNS rebinding: their own
#   name leads to this address. Then the browser sends their name as Host, or their address as
#   Origin. So both must name this endpoint: `localhost`, the address that it was bound to or that
#   the client connected to, or a name that the service has given. A request without a Host is none
#   of a browser.

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

MAX_REQUEST = 8192  # bytes of the request line and the headers
MAX_CONNECTIONS = 16
TIMEOUT = 10.0  # seconds from the beginning of a connection to its end
TEXT = "text/plain; charset=utf-8"
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s@/?#\\\[\]:,]+))(?::\d*)?", re.ASCII)
_END = b"\r\n\r\n"


class Page(NamedTuple):
    """The content of a response."""

    text: bytes
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[str, ...] = ()


Pages = Mapping[str, Callable[[], Page]]


def is_loopback(host: str) -> bool:
    """Return True if only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(authority: str) -> str:
    """Return the host of "host", "host:port", "[address]:port" or an address, in one form.

    Names are in lower case, addresses as `ipaddress` writes them; "" if the text is none of these.
    """
    found = _AUTHORITY.fullmatch(authority)
    host = authority if found is None else found[1] or found[2]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "" if found is None else host.lower().rstrip(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class _Request(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]

    @classmethod
    def parse(cls, head: bytes) -> "_Request | None":
        """Read the request line and the headers; return None if they are malformed."""
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):  # noqa: PLR2004 - method, target, version
            return None
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            name = name.lower()
            # Of two values, another program may take the one that is not checked here.
            twice = name in headers and name in {"host", "origin"}
            if not colon or twice or not name or name != name.strip():
                return None
            headers[name] = value.strip()
        return cls(words[0], words[1], headers)

    def foreign(self, own: Iterable[str]) -> str:
        """Return the host, or the origin, by which the client means another server; or ""."""
        own = set(own)
        claims = {each: self.headers[each] for each in ("host", "origin") if each in self.headers}
        found = dict(claims)
        if "origin" in found:
            found["origin"] = found["origin"].partition("://")[2]
        if not self.target.startswith("/") and "://" in self.target:
            claims["target"] = self.target
            found["target"] = self.target.partition("://")[2].partition("/")[0]
        return next(
            (claims[each] or "none" for each in found if host_of(found[each]) not in own), ""
        )


class Endpoint:
    """Serves pages by path; GET only, one request for each connection.

    Args:
        loop: the running loop.
        pages: maps each path to a function that returns the page.
        hosts: names by which clients may call it, besides its addresses and localhost.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pages: Pages, hosts: Iterable[str] = ()
    ) -> None:
        self._loop = loop
        self._pages = pages
        self._hosts = {"localhost", *map(host_of, hosts)} - {""}
        self._server: asyncio.AbstractServer | None = None
        # In the order of their beginning.
        self._connections: dict[asyncio.Transport, _Connection] = {}

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Start to listen.

        Args:
            host: address to bind.
            port: 0 for any free one.

        Returns:
            The host and port in use.

        Raises:
            OSError: the address cannot be bound.
        """
        self._hosts |= {host_of(host)} - {""}
        # The method of the class, past the hooks on the loop object.
        create_server: Any = type(self._loop).create_server
        self._server = server = await create_server(self._loop, self._protocol, host, port)
        address = server.sockets[0].getsockname()
        return address[0], address[1]

    def close(self) -> None:
        """Stop listening and abort the open connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for transport in list(self._connections):
            transport.abort()

    def _protocol(self) -> asyncio.Protocol:
        return _Connection(self._loop, self._pages, self._hosts, self._connections)


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pages: Pages,
        hosts: set[str],
        connections: "dict[asyncio.Transport, _Connection]",
    ) -> None:
        self._loop, self._pages, self._connections = loop, pages, connections
        self._hosts = hosts
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._limit = self._loop.call_later(TIMEOUT, transport.abort)
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
            self._answer(_refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"))
        self._connections[transport] = self

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._answered:
            return
        start = max(len(self._received) - len(_END) + 1, 0)
        self._received += data
        end = self._received.find(_END, start)
        if max(end, len(self._received) if end < 0 else 0) > MAX_REQUEST:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._answer(_refusal(status, f"expected at most {MAX_REQUEST} bytes"))
        elif end >= 0:
            self._answer(self._page(bytes(self._received[:end])))

    def connection_lost(self, _error: Exception | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        if self._transport is not None:
            self._connections.pop(self._transport, None)
        self._transport = None

    def _make_room(self) -> bool:
        """End the oldest connection without a whole request; return False if there is none."""
        for transport, each in self._connections.items():
            if not each._answered:  # noqa: SLF001 - another object of this class
                each._answered = True  # noqa: SLF001 - the same
                del self._connections[transport]
                transport.abort()
                return True
        return False

    def _page(self, head: bytes) -> Page:
        request = _Request.parse(head)
        if request is None:
            return _refusal(HTTPStatus.BAD_REQUEST, "expected a request such as GET / HTTP/1.1")
        own = self._hosts
        if self._transport is not None:
            own = {*own, host_of(self._transport.get_extra_info("sockname")[0])}
        if foreign := request.foreign(own):
            why = f"expected a host of {', '.join(sorted(own))}, got {foreign[:60]!r}"
            return _refusal(HTTPStatus.FORBIDDEN, f"{why}; add it to Monitor.listen(hosts=[...])")
        if request.method != "GET":
            status = HTTPStatus.METHOD_NOT_ALLOWED
            return _refusal(status, "expected GET")._replace(headers=("Allow: GET",))
        path = ""
        with contextlib.suppress(ValueError):
            path = urlsplit(request.target).path
        make = self._pages.get(path)
        if make is None:
            return _refusal(HTTPStatus.NOT_FOUND, f"expected one of {', '.join(self._pages)}")
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - the service goes on, and the response shows the error
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, repr(error))

    def _answer(self, page: Page) -> None:
        head = [
            f"HTTP/1.1 {page.status.value} {page.status.phrase}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {len(page.text)}",
            "Connection: close",
            *page.headers,
        ]
        self._answered = True
        self._received.clear()
        if self._transport is not None:
            self._transport.write("\r\n".join([*head, "", ""]).encode() + page.text)
            self._transport.close()


def _refusal(status: HTTPStatus, why: str) -> Page:
    return Page(f"{status.value} {status.phrase}: {why}\n".encode(), status=status)
