"""A VLESS and mux.cool server and client on asyncio. Knows nothing of testing."""

import logging

from vless.address import Address, Network
from vless.client import Client
from vless.context import Context
from vless.errors import ProtocolError, VlessError
from vless.inbound import Inbound, User
from vless.lifecycle import Lifecycle
from vless.limits import Limits
from vless.outbound import Outbound
from vless.session import MuxSession
from vless.stream import Handler, Stream

__all__ = [
    "Address",
    "Client",
    "Context",
    "Handler",
    "Inbound",
    "Lifecycle",
    "Limits",
    "MuxSession",
    "Network",
    "Outbound",
    "ProtocolError",
    "Stream",
    "User",
    "VlessError",
]

# As of any library: who wants its messages configures logging; nobody else is told on stderr.
logging.getLogger("vless").addHandler(logging.NullHandler())
