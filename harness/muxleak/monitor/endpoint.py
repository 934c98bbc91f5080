"""A debug endpoint that serves a few pages over HTTP, for clients on the same machine."""

# The endpoint runs inside the service that it describes, so it must not change the figures, and a
# client must not be able to harm the service:
#
# - It makes no task. A protocol answers each request in the callback that completes it.
# - It listens by the method of the loop's class. The ledger's hooks are on the loop object, so
#   they do not see the endpoint's server and connections, and no count includes them.
# - A client can hold at most `MAX_CONNECTIONS` connections, each for `TIMEOUT` seconds, and send at
#   most `MAX_REQUEST` bytes for a request. Every connection serves one request and is closed.
# - There is no password, so the monitor listens on loopback unless `public` is True.

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

MAX_REQUEST = 8192  # bytes of the request line and the headers
MAX_CONNECTIONS = 16
TIMEOUT = 10.0  # seconds from the beginning of a connection to its end
TEXT = "text/plain; charset=utf-8"
_VERSION = b"HTTP/"


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


class Endpoint:
    """Serves pages by path; GET only, one request for each connection.

    Args:
        loop: the running loop.
        pages: maps each path to a function that returns the page.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pages: Pages) -> None:
        self._loop = loop
        self._pages = pages
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Transport] = set()

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
        return _Connection(self._loop, self._pages, self._connections)


class _Connection(asyncio.Protocol):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, pages: Pages, connections: set[asyncio.Transport]
    ) -> None:
        self._loop, self._pages, self._connections = loop, pages, connections
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connections.add(transport)
        self._limit = self._loop.call_later(TIMEOUT, transport.abort)
        if len(self._connections) > MAX_CONNECTIONS:
            self._answer(_refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"))

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._received += data
        head, end, _ = bytes(self._received).partition(b"\r\n\r\n")
        if len(head) > MAX_REQUEST:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._answer(_refusal(status, f"expected at most {MAX_REQUEST} bytes"))
        elif end:
            self._answer(self._page(head.partition(b"\r\n")[0]))

    def connection_lost(self, _error: Exception | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        if self._transport is not None:
            self._connections.discard(self._transport)

    def _page(self, line: bytes) -> Page:
        words = line.split(b" ")
        if len(words) != 3 or not words[2].startswith(_VERSION):  # noqa: PLR2004 - method, target, version
            return _refusal(HTTPStatus.BAD_REQUEST, "expected a request such as GET / HTTP/1.1")
        if words[0] != b"GET":
            status = HTTPStatus.METHOD_NOT_ALLOWED
            return _refusal(status, "expected GET")._replace(headers=("Allow: GET",))
        path = ""
        with contextlib.suppress(ValueError):
            path = urlsplit(words[1].decode("latin-1")).path
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
        if self._transport is not None:
            self._transport.write("\r\n".join([*head, "", ""]).encode() + page.text)
            self._transport.close()


def _refusal(status: HTTPStatus, why: str) -> Page:
    return Page(f"{status.value} {status.phrase}: {why}\n".encode(), status=status)
