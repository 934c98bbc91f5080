"""Counts accepted connections that are stuck: open, silent, and of use to nobody."""

# A leak may keep the transport of its own connection open: a relay whose destination does not read
# or does not answer, a handler that never closes. Its tasks then belong to an open connection, and
# no count of tasks left shows them. The number of open connections shows them, but it also grows
# with a service's traffic, and stays high with clients that poll for minutes. So a connection
# counts only on evidence that it serves nobody. It is *stuck* if from one sample to the next
#
# - its peer has ended its direction or has gone, or the server does not read from it: reading is
#   paused, or the transport is closing and cannot get rid of its last bytes; and
# - no byte has passed in either direction.
#
# A long poll is neither: its client is there, and the server reads, to see it leave. A client that
# has ended its direction and still receives an answer moves bytes. A peer that leaves while the
# server does not read cannot say so, since the bytes before its end are still on the way; hence the
# second half of the first condition. A peer that lost its power is not found: its end never comes.
#
# Those of them whose peer has ended are counted apart as *abandoned*, since no other connection has
# to end before they can be called a leak (`service`): a connection that stays open by design, such
# as a WebSocket, has a peer that is there. A server that does not read may do so by design.
#
# Evidence comes from the system: one `poll` with no wait for all connections tells whose peer has
# ended, also where reading is paused; and TCP_INFO of Linux has the bytes that were received and
# acknowledged, for those alone that the first condition holds for. Where a system has neither, or
# a transport has no socket, the rest of the rule decides. None of these calls blocks.

import select
import socket
from collections import deque
from struct import Struct
from typing import Any

from muxleak.introspect.descriptors import count_open
from muxleak.introspect.foreign import ask
from muxleak.ledger.counters import FEW, Resource

SITE = "accepted connections"
DESCRIPTORS = "open descriptors"
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_ENDED = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0)
_BYTES = Struct("=QQ")  # acknowledged and received
_AT = 120  # their place in the structure, the same on every architecture
_SIZE = _AT + _BYTES.size


class _Accepted:
    """An accepted connection: its transport, and the bytes at the last sample if it was suspect."""

    __slots__ = ("suspect", "transport")

    def __init__(self, transport: Resource) -> None:
        self.transport = transport
        self.suspect: tuple[int, ...] | None = None

    def stuck(self, transport: Any, *, ended: bool) -> bool:
        """Return True if the connection is suspect as at the last sample, and no byte has passed.

        Args:
            transport: the transport itself.
            ended: True if its peer has ended its direction or has gone.
        """
        # Not by `ask`, here and in `_ended`: this is done for every connection at every sample.
        if not ended:
            try:
                ended = not transport.is_reading()
            except Exception:  # noqa: BLE001 - a foreign transport may raise anything, or has none
                ended = False
        if not ended:
            self.suspect = None
            return False
        before, self.suspect = self.suspect, _bytes_of(transport)
        return self.suspect == before


class StuckConnections:
    """The accepted connections that are stuck, sampled as a row of tasks is.

    Args:
        window: number of samples that are kept.

    Attributes:
        site: the name in alarms.
        left: connections that were stuck at the last sample.
        samples: `left` at each of the last samples.
        abandoned: those whose peer has ended, at each of the last samples.
        climbing: True while an alarm is on.
    """

    site = SITE

    def __init__(self, window: int) -> None:
        self.left = 0
        self.samples: deque[int] = deque(maxlen=window)
        self.abandoned: deque[int] = deque(maxlen=window)
        self.climbing = False
        self._open: list[_Accepted] = []
        self._limit = FEW

    def add(self, transport: Resource) -> None:
        """Count the transport of an accepted connection; amortised O(1)."""
        self._open.append(_Accepted(transport))
        if len(self._open) > self._limit:
            self._prune()

    def sample(self) -> None:
        """Count the stuck connections, a few calls for each open one."""
        self._prune()
        transports = [each.transport.thing() for each in self._open]
        ended = _ended(transports)
        # All of them are looked at, since each remembers its bytes for the next sample.
        stuck = [
            id(transport)
            for each, transport in zip(self._open, transports, strict=True)
            if each.stuck(transport, ended=id(transport) in ended)
        ]
        self.left = len(stuck)
        self.abandoned.append(len(ended.intersection(stuck)))

    def _prune(self) -> None:
        self._open = [each for each in self._open if each.transport.alive()]
        self._limit = 2 * len(self._open) + FEW


class OpenDescriptors:
    """The open descriptors of the process that belong to no transport of the loop.

    They are sampled as a row of tasks is. A socket without a transport, a pipe or a file that each
    connection opens and nobody closes shows in no other count.

    Args:
        window: number of samples that are kept.

    Attributes:
        site: the name in alarms.
        left: the number at the last sample.
        samples: `left` at each of the last samples.
        climbing: True while an alarm is on.
    """

    site = DESCRIPTORS

    def __init__(self, window: int) -> None:
        self.left = 0
        self.samples: deque[int] = deque(maxlen=window)
        self.abandoned: deque[int] = deque(maxlen=window)
        self.climbing = False

    def sample(self, transports: int) -> None:
        """Count them; one call of the system, a third of a microsecond for each.

        Args:
            transports: number of open transports.
        """
        self.left = count_open() - transports


def _ended(transports: list[Any]) -> set[int]:
    """Return the ids of the transports whose peer has ended its direction or has gone."""
    if not hasattr(select, "poll"):
        return set()
    poll, ids = select.poll(), {}
    for transport in transports:
        try:
            number = transport.get_extra_info("socket").fileno()
            poll.register(number, _ENDED)
        except Exception:  # noqa: BLE001, S112 - as above; a closed socket has the number -1
            continue
        ids[number] = id(transport)
    return {ids[number] for number, events in poll.poll(0) if events & (_ENDED | select.POLLERR)}


def _bytes_of(transport: Any) -> tuple[int, ...]:
    """Return the bytes acknowledged and received; an empty tuple where the system does not say."""
    if _TCP_INFO is not None:
        sock = ask(transport, "get_extra_info", "socket")
        found = ask(sock, "getsockopt", socket.IPPROTO_TCP, _TCP_INFO, _SIZE)
        if isinstance(found, bytes) and len(found) == _SIZE:
            return _BYTES.unpack_from(found, _AT)
    return ()
