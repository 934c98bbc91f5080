"""A VLESS and mux.cool server and client on asyncio.

The package knows nothing of testing. `Lifecycle` holds the decisions about the life of a
connection, with the right answers. `muxleak_vless.bugs` holds wrong answers, and
`muxleak_vless.versions` the compositions of them that the versions of sing-vmess are.
"""

import logging

from muxleak_vless.address import Address, NetworkType
from muxleak_vless.client import Client
from muxleak_vless.context import Context
from muxleak_vless.errors import ProtocolError, VlessError
from muxleak_vless.inbound import Inbound, User
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.limits import Limits
from muxleak_vless.outbound import Outbound
from muxleak_vless.session import MuxSession
from muxleak_vless.stream import Handler, Stream

__all__ = [
    "Address",
    "Client",
    "Context",
    "Handler",
    "Inbound",
    "Lifecycle",
    "Limits",
    "MuxSession",
    "NetworkType",
    "Outbound",
    "ProtocolError",
    "Stream",
    "User",
    "VlessError",
]

# As any library: without a configured handler, logging would print warnings to stderr.
logging.getLogger("muxleak_vless").addHandler(logging.NullHandler())
